# What a store says of itself and of its objects: the same to processes that are attached and to
# those that only look. Nothing here writes, pins or locks.

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from refstore.engines.native.atomics cimport load_acquire, load_seq_cst
from refstore.engines.native.error_codes cimport ERR_NOT_FOUND
from refstore.engines.native.layout cimport (
    CLAIMED, CONDEMNED, COUNT_RECOVERIES, CREATED_PER_SECOND, EVICTABLE, FLAG_UNSEALED, MAX_ROWS,
    Origin, ORIGINS, PUBLISHING, Slot, WRITING,
)
from refstore.engines.native.view cimport (
    block_nbytes, damage, file_of, next_live_row, origin_at, pins_in, row_at, slots_used, View,
)
from refstore.engines.native.slots cimport is_live, word_generation, word_row, word_state
from refstore.engines.native.names cimport find, Found, Name, read_name
from refstore.engines.native.stats cimport (
    Census, count_all, count_processes, count_waiting, is_visible,
)
from refstore.engines.native.check cimport find_problems
from refstore.engines.native.holders cimport (
    add_up, all_holders, as_holder, called, holders_of, name_seen, pins_seen, process_info,
    process_seen, RETRIES, Share, with_label,
)
from refstore.engines.native.errors cimport census_of, get_error
from refstore.engines.native.arrays cimport kind_of

cdef tuple KINDS               # a C variable: not in the stub
from refstore import _messages
from refstore.payload.headers import KINDS

cdef enum ReportLimit:
    MOST_REPLACED = 1000        # looks at an object that is another one by the next look


cdef class Reports:
    # The calls that report.

    cdef object in_use(self, View **v):
        # What keeps the view as it is while a call uses it, whatever is closed meanwhile; an
        # exception once this is closed.
        raise _messages.closed()        # as what was never open

    def _census(self):
        # the fields of StoreStats, in its order
        cdef View *v = NULL
        cdef Census census
        from refstore import _limits
        stays = self.in_use(&v)
        if census_of(v, &census) != 0:
            raise MemoryError("no memory to count the store's pages")
        fd = file_of(v)
        return (v.header.capacity, census.used, census.free, census.largest_free,
                census.objects, census.pinned, census.condemned,
                _limits.resident(fd), _limits.free_on(fd), count_waiting(v),
                *[count_all(v, counter) for counter in range(COUNT_RECOVERIES + 1)],
                count_processes(v))

    def _info(self, key):
        # the fields of ObjectInfo, in its order
        cdef View *v = NULL
        cdef Found found
        cdef int rounds
        stays = self.in_use(&v)
        for rounds in range(<int>MOST_REPLACED):
            require_object(v, key, &found)
            info = info_of(v, found.slot)
            if info is not None and info[0] is not None \
                    and (<ObjectRef>info[0]).generation == found.generation and info[11] == LIVE:
                return info
            # it is gone since: a name leads elsewhere, or nowhere, and a ref finds nothing
        raise get_error(v, damage(v, b"slot %d is found, but holds no object", found.slot), key,
                        False)

    def _objects(self, prefix):
        cdef Listing listing = Listing.__new__(Listing)
        cdef View *v = NULL
        self.in_use(&v)
        listing.of = self
        listing.prefix = prefix
        return listing

    def _holders(self, key):
        # the fields of Holder, in its order, and its slot, of each holder of the object, or of any
        cdef:
            View *v = NULL
            Found found
            list seen = None
            dict people = {}
        stays = self.in_use(&v)
        if key is None:
            seen = all_holders(v)
        elif type(key) is not ObjectRef:
            require_object(v, key, &found)
            seen = holders_of(v, found.slot, found.generation)
        elif not is_foreign(v, key):
            seen = holders_of(v, (<ObjectRef>key).slot, (<ObjectRef>key).generation)
        if seen is None:
            raise get_error(v, ERR_NOT_FOUND, key, is_foreign(v, key))
        for row in {holder[0] for holder in seen}:
            people[row] = process_info(v, row)
        return [as_holder(people[held[0]], held,
                          None if held[2] is None else make_ref(v.tag, held[1], held[2]))
                for held in seen]

    def _processes(self):
        # the fields of ProcessInfo, in its order, of each process that has a row
        cdef:
            View *v = NULL
            Share[MAX_ROWS] shares
            int64_t row
            list found = []
        stays = self.in_use(&v)
        row = next_live_row(v, 0)
        memset(shares, 0, sizeof(shares))
        add_up(v, shares)
        while row >= 0:
            found.append(process_seen(v, <uint64_t>row, &shares[row]))
            row = next_live_row(v, <uint64_t>row + 1)
        return found

    def _problems(self):
        cdef View *v = NULL
        stays = self.in_use(&v)
        return find_problems(v)


# Keys of calls: a ref or a name

cdef inline bint is_live_object(View *v, uint64_t i, uint64_t generation) noexcept nogil:
    return i < slots_used(v) and is_live(load_acquire(&v.slots[i].word), generation)  # [seal]


cdef inline bint is_foreign(View *v, object key):
    return type(key) is ObjectRef and (<ObjectRef>key).tag != v.tag


cdef inline bint find_object(View *v, object key, Found *found) except -1:
    # Where a live object is, if it is there: a snapshot. It takes no pin, for which there may
    # be no memory.
    cdef Name name
    if type(key) is ObjectRef:
        found.slot = (<ObjectRef>key).slot
        found.generation = (<ObjectRef>key).generation
        return (<ObjectRef>key).tag == v.tag and is_live_object(v, found.slot, found.generation)
    read_name(v, key, &name, True)
    return find(v, &name, found, False) == 0


cdef inline int require_object(View *v, object key, Found *found) except -1:
    if not find_object(v, key, found):
        raise get_error(v, ERR_NOT_FOUND, key, is_foreign(v, key))
    return 0


# Descriptions of objects

@cython.final
cdef class Listing:
    # What objects() iterates over: slot by slot, each described when its turn comes.
    cdef Reports of
    cdef object prefix
    cdef uint64_t next

    def __iter__(self):
        return self

    def __next__(self):
        cdef View *v = NULL
        stays = self.of.in_use(&v)      # still
        while self.next < slots_used(v):
            info = info_of(v, self.next)
            self.next += 1
            if info is not None and (self.prefix is None or info[1] is not None
                                     and info[1].startswith(self.prefix)):
                return info
        raise StopIteration


cdef str LIVE = "live"
cdef str PENDING_DELETE = "pending delete"
cdef str IS_WRITTEN = "writing"
cdef str IS_CLAIMED = "claimed"


cdef inline str state_seen(View *v, uint64_t i, uint64_t word):
    # None if nothing is there
    cdef uint64_t state = word_state(word)
    if is_visible(v, i, word):
        return LIVE
    if state == CONDEMNED:
        return PENDING_DELETE
    if state == WRITING or state == PUBLISHING:
        return IS_WRITTEN
    return IS_CLAIMED if state == CLAIMED else None


cdef tuple info_of(View *v, uint64_t i):
    # The fields of ObjectInfo, in its order, of what is in slot `i`; None if nothing is there.
    cdef uint64_t word
    cdef int _
    for _ in range(RETRIES):
        word = load_seq_cst(&v.slots[i].word)                            # [seal] [pin]
        state = state_seen(v, i, word)
        if state is None:
            return None
        info = fields_seen(v, i, word, state)
        word = load_seq_cst(&v.slots[i].word)                            # [seal]
        if info[0] is None or (<ObjectRef>info[0]).generation == word_generation(word):
            return info
    return None


cdef tuple fields_seen(View *v, uint64_t i, uint64_t word, str state):
    # The caller looks at the word again.
    cdef:
        Slot *slot = &v.slots[i]
        bint is_object = state is LIVE \
            or state is PENDING_DELETE and slot.flags & FLAG_UNSEALED == 0
        bint is_made = state is IS_WRITTEN or state is IS_CLAIMED
        uint64_t block = block_nbytes(slot)
        uint64_t pins = 0
    for _, cell in pins_seen(v, i, 0):
        pins += pins_in(cell)
    return (
        make_ref(v.tag, i, word_generation(word)) if is_object else None,
        None if state is IS_WRITTEN else name_seen(v, i),
        KINDS[kind_of(v, i)] if is_object else None,
        min(slot.nbytes, block),
        block, pins, *origin_seen(v, slot, word_row(word) + 1 if is_made else 0),
        v.header.made_at + slot.created / <double>CREATED_PER_SECOND,
        is_object and slot.owned_by != 0, slot.last_use & EVICTABLE != 0, state)


cdef tuple origin_seen(View *v, Slot *slot, uint64_t row):
    # pid and command of who put it; `row`: + 1, of who is making it, else 0
    cdef uint64_t k = <uint64_t>slot.put_by - 1
    cdef Origin *origin
    if row:
        return (row_at(v, (row - 1) % MAX_ROWS).pid,
                called(row_at(v, (row - 1) % MAX_ROWS)))
    if k >= ORIGINS:
        return (0, "")
    origin = origin_at(v, k)
    return (origin.pid, with_label(origin.label[:sizeof(origin.label)],
                                   origin.command[:sizeof(origin.command)]))
