# What went wrong, as the exception that says it; the sentences are in _messages.py and
# _full_messages.py.

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from refstore.engines.native.atomics cimport load_acquire
from refstore.engines.native.error_codes cimport (
    blocker_of, ERR_BUSY, ERR_CLAIMED, ERR_DAMAGED, ERR_EXISTS, ERR_FULL_SLOTS, ERR_INDEX,
    ERR_NO_MEMORY, ERR_NOT_FOUND, ERR_PINS, ERR_RECOVERY, ERR_TOO_LARGE, kind_of_error,
)
from refstore.engines.native.layout cimport KEPT, MAX_ROWS, PAGE, Row
from refstore.engines.native.view cimport (
    block_nbytes, file_of, next_live_row, row_at, slots_used, View,
)
from refstore.engines.native.stats cimport Census, take_census
from refstore.engines.native.holders cimport has_ended, maker_of, may_be_held, pins_on, top_holders
from refstore.engines.native.points cimport path_of

cdef inline object busy(View *v, uint64_t row, str what):
    from refstore import _messages
    cdef Row *holder = row_at(v, row % MAX_ROWS)
    if not holder.recoverer and has_ended(holder):
        return _messages.busy_for_children(path_of(v), holder.pid, what)
    return _messages.busy(path_of(v), holder.recoverer if holder.recoverer else holder.pid, what)


cdef inline object no_recovery(View *v):
    from refstore import _limits
    return _limits.no_descriptor(path_of(v),
                                 "cleaning up after a process that died in the middle of a change")


cdef inline str damage_found(View *v):
    text = (<bytes>v.damaged).decode()
    return text % v.damaged_number if "%" in text else text


cdef inline object blocked(View *v, int error, str what):
    # Of what ends any operation that needs a lock; None if it is another error. `what` waits, as in
    # "trim()".
    from refstore import _messages
    if error == ERR_RECOVERY:
        return no_recovery(v)
    if error == ERR_DAMAGED:
        return _messages.damaged_file(path_of(v), damage_found(v))
    if kind_of_error(error) == ERR_BUSY:
        return busy(v, blocker_of(error), what)
    return None


cdef inline str why_full(View *v, uint64_t needed, int error):
    from refstore import _full_messages
    if error == ERR_FULL_SLOTS:
        return _full_messages.no_slot(v.header.max_objects)
    if error == ERR_NO_MEMORY:
        return _full_messages.NO_MEMORY
    if error == ERR_INDEX:
        return "the name index is full around this name"
    if needed > v.header.capacity:
        return _full_messages.OVER_CAPACITY
    if error == ERR_TOO_LARGE:
        return _full_messages.OVER_WITH_META
    return _full_messages.NO_EXTENT


cdef inline int census_of(View *v, Census *census) except -2:
    # 0, or -1 as take_census()
    from refstore import _limits
    cdef uint64_t spare = _limits.spare_memory(file_of(v))
    memset(census, 0, sizeof(Census))
    return take_census(v, census, spare)


cdef inline uint64_t add_up_waiting(View *v, uint64_t *kept) noexcept nogil:
    # bytes of what is being made; kept[row]: of what that row keeps for children that have none
    cdef:
        uint64_t i, word, made = 0
        int64_t row
    for i in range(slots_used(v)):
        word = load_acquire(&v.slots[i].word)                            # [seal]
        if not may_be_held(v, i, word):
            continue
        if maker_of(v, i, word):
            made += block_nbytes(&v.slots[i])
        row = next_live_row(v, 0)
        while row >= 0:
            if row_at(v, <uint64_t>row).has_children and pins_on(v, <uint64_t>row, i) & KEPT:
                kept[row] += block_nbytes(&v.slots[i])
            row = next_live_row(v, <uint64_t>row + 1)
    return made


cdef inline object full(View *v, uint64_t needed, int error):
    return full_for(v, needed, error, False)


cdef inline object full_for(View *v, uint64_t needed, int error, bint has_waited):
    # `has_waited`: this process is named first, which may have held up itself.
    from refstore import _full_messages
    cdef Census census
    cdef uint64_t[MAX_ROWS] kept
    cdef uint64_t row, made
    census_of(v, &census)
    memset(kept, 0, sizeof(kept))
    holders, own = top_holders(v, has_waited)
    made = add_up_waiting(v, kept) if holders else 0
    keepers = [(row_at(v, row).pid, kept[row]) for row in range(<uint64_t>MAX_ROWS) if kept[row]]
    room = _full_messages.Room(v.header.capacity, census.free, census.largest_free, census.pinned,
                               census.pinned_nbytes, census.condemned, made, keepers,
                               v.evicts)
    return _full_messages.full(path_of(v), needed, why_full(v, needed, error), room, holders, own,
                               file_of(v))


cdef inline object room_error(View *v, int error, uint64_t nbytes, bint has_waited):
    from refstore import _messages
    return blocked(v, error, _messages.a_put(nbytes)) \
        or full_for(v, nbytes, kind_of_error(error), has_waited)


cdef inline object put_error(View *v, int error, uint64_t nbytes, object name):
    from refstore import _messages
    if kind_of_error(error) == ERR_EXISTS:
        return _messages.exists(path_of(v), name)
    if kind_of_error(error) == ERR_CLAIMED:
        from refstore import _waiting_messages
        return _waiting_messages.claimed(path_of(v), name, row_at(v, blocker_of(error)).pid)
    what = _messages.a_put(nbytes) if name is None else f"publishing {name!r}"
    return blocked(v, error, what) or full(v, nbytes, kind_of_error(error))


cdef inline object get_error(View *v, int error, object key, bint of_other_store):
    from refstore import _messages
    from refstore._errors import RefstoreError
    if kind_of_error(error) == ERR_PINS:
        return RefstoreError(f"this process holds 2**30 pins on {key!r}: release some")
    if kind_of_error(error) == ERR_NOT_FOUND:
        return _messages.not_found(path_of(v), key, of_other_store=of_other_store)
    # a page, to count this process's pins in
    return blocked(v, error, f"the deletion of {key!r}") \
        or full(v, PAGE if error == ERR_NO_MEMORY else 0, error)
