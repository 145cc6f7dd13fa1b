# What went wrong, as the exception that says it; the sentences are in messages.py.

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from refstore._layout cimport (
    block_nbytes, ERR_BUSY, ERR_DAMAGED, ERR_EXISTS, ERR_FULL_SLOTS, ERR_INDEX, ERR_NO_MEMORY,
    ERR_NOT_FOUND, ERR_PINS, ERR_RECOVERY, KEPT, MAX_ROWS, PAGE, Row,
)
from refstore._atomics cimport load_acquire
from refstore._holders cimport has_ended, maker_of, may_be_held, pins_on, top_holders
from refstore._stats cimport Census, take_census
from refstore._store cimport file_of, next_live_row, row_at, slots_used, Store

cdef inline str path_of(Store *s):
    import os
    return os.fsdecode(<bytes>s.path)


cdef inline object busy(Store *s, str what):
    from refstore import messages
    cdef uint64_t row = s.blocked_by - 1 if s.blocked_by else 0
    cdef Row *holder = row_at(s, row % MAX_ROWS)
    if not holder.recoverer and has_ended(holder):
        return messages.busy_for_children(path_of(s), holder.pid, what)
    return messages.busy(path_of(s), holder.recoverer if holder.recoverer else holder.pid, what)


cdef inline object no_recovery(Store *s):
    from refstore import limits
    return limits.no_descriptor(path_of(s), "cleaning up after a process that died in the middle of a change")


cdef inline str damage_found(Store *s):
    text = (<bytes>s.damaged).decode()
    return text % s.damaged_number if "%" in text else text


cdef inline object blocked(Store *s, int error, str what):
    # Of what ends any operation that needs a lock; None if it is another error. `what` waits, as in "trim()".
    from refstore import messages
    if error == ERR_RECOVERY:
        return no_recovery(s)
    if error == ERR_DAMAGED:
        return messages.damaged_file(path_of(s), damage_found(s))
    if error == ERR_BUSY:
        return busy(s, what)
    return None


cdef inline str why_full(Store *s, uint64_t needed, int error):
    from refstore import messages
    if error == ERR_FULL_SLOTS:
        return messages.no_slot(s.header.max_objects)
    if error == ERR_NO_MEMORY:
        return messages.NO_MEMORY
    if error == ERR_INDEX:
        return "the name index is full around this name"
    if needed > s.header.capacity:
        return messages.OVER_CAPACITY
    return messages.NO_EXTENT


cdef inline int census_of(Store *s, Census *census) except -2:
    # 0, or -1 as take_census()
    from refstore import limits
    cdef uint64_t spare = limits.spare_memory(file_of(s))
    memset(census, 0, sizeof(Census))
    return take_census(s, census, spare)


cdef inline uint64_t add_up_waiting(Store *s, uint64_t *kept) noexcept nogil:
    # bytes of what is being made; kept[row]: of what that row keeps for children that have none
    cdef:
        uint64_t i, word, made = 0
        int64_t row
    for i in range(slots_used(s)):
        word = load_acquire(&s.slots[i].word)                            # [seal]
        if not may_be_held(s, i, word):
            continue
        if maker_of(s, i, word):
            made += block_nbytes(&s.slots[i])
        row = next_live_row(s, 0)
        while row >= 0:
            if row_at(s, <uint64_t>row).has_children and pins_on(s, <uint64_t>row, i) & KEPT:
                kept[row] += block_nbytes(&s.slots[i])
            row = next_live_row(s, <uint64_t>row + 1)
    return made


cdef inline object full(Store *s, uint64_t needed, int error):
    from refstore import messages
    cdef Census census
    cdef uint64_t[MAX_ROWS] kept
    cdef uint64_t row, made
    census_of(s, &census)
    memset(kept, 0, sizeof(kept))
    holders = top_holders(s)
    made = add_up_waiting(s, kept) if holders else 0
    keepers = [(row_at(s, row).pid, kept[row]) for row in range(<uint64_t>MAX_ROWS) if kept[row]]
    room = messages.Room(s.header.capacity, census.free, census.largest_free, census.pinned,
                         census.pinned_nbytes, census.condemned, made, keepers)
    return messages.full(path_of(s), needed, why_full(s, needed, error), room, holders, file_of(s))


cdef inline object put_error(Store *s, int error, uint64_t nbytes, object name):
    from refstore import messages
    if error == ERR_EXISTS:
        return messages.exists(path_of(s), name)
    what = f"a put of {nbytes} bytes" if name is None else f"publishing {name!r}"
    return blocked(s, error, what) or full(s, nbytes, error)


cdef inline object get_error(Store *s, int error, object key, bint of_other_store):
    from refstore import messages
    from refstore.errors import RefstoreError
    if error == ERR_PINS:
        return RefstoreError(f"this process holds 2**30 pins on {key!r}: release some")
    if error == ERR_NOT_FOUND:
        return messages.not_found(path_of(s), key, of_other_store=of_other_store)
    # a page, to count this process's pins in
    return blocked(s, error, f"the deletion of {key!r}") or full(s, PAGE if error == ERR_NO_MEMORY else 0, error)
