# The calls of a store that say of objects what they are and whose.

from libc.stdint cimport int64_t, uint16_t, uint64_t

from refstore.engines.native.atomics cimport load_acquire, load_relaxed_u32, load_seq_cst
from refstore.engines.native.error_codes cimport ERR_NOT_FOUND, kind_of_error
from refstore.engines.native.layout cimport (
    CLAIMED, CONDEMNED, EVICTABLE, FLAG_UNSEALED, KEPT, Maker, MAKERS, MAX_ROWS, PUBLISHING, Slot,
    WRITING,
)
from refstore.engines.native.geometry cimport block_nbytes
from refstore.engines.native.view cimport (
    maker_at, pins_are_committed, pins_in, row_at, slots_used, View,
)
from refstore.engines.native.slots cimport word_generation, word_row, word_state
from refstore.engines.native.makers cimport PER_SECOND
from refstore.engines.native.names cimport Found
from refstore.engines.native.owners cimport give_pinned, note_owner
from refstore.engines.native.recovery cimport recover_blocker_if_dead, recover_blocker_of
from refstore.engines.native.stats cimport is_visible
from refstore.engines.native.holders cimport command_of, name_seen, pins_seen, printable, RETRIES
from refstore.engines.native.errors cimport get_error
from refstore.engines.native.contention cimport may_retry
from refstore.engines.native.arrays cimport kind_of


cdef class ListingCalls(MakingCalls):
    def _info(self, key):
        # the fields of ObjectInfo, in its order
        cdef:
            Attachment att = self.use()
            Found found
        while True:
            self.require_object(key, &found)
            info = info_of(att, found.slot)
            if info is not None and info[0] is not None \
                    and (<ObjectRef>info[0]).generation == found.generation and info[11] == LIVE:
                return info
            # it is gone since: a name leads elsewhere, or nowhere, and a ref finds nothing

    def _objects(self, prefix):
        cdef Listing listing = Listing.__new__(Listing)
        self.use()
        listing.of = self
        listing.prefix = prefix
        return listing

    def _ref_at(self, size_t address, size_t nbytes):
        cdef:
            Attachment att = self.use()
            View *v = &att.view
            uint64_t at = address - <size_t>v.base
            int64_t i
        if at >= v.g.file_size:
            at = address - <size_t>v.ro_base
        if at >= v.g.file_size or nbytes > v.g.file_size - at:
            return None
        i = pinned_block(v, at, nbytes)
        if i < 0:
            return None
        return make_ref(v.tag, <uint64_t>i,
                        word_generation(load_acquire(&v.slots[i].word)))  # [seal]

    def adopt(self, key):
        cdef Attachment att = self.use()
        self.give(att, key, <uint16_t>(att.view.row + 1))

    def disown(self, key):
        self.give(self.use(), key, 0)

    cdef int give(self, Attachment att, object key, uint16_t owner) except -1:
        cdef:
            View *v = &att.view
            Found found
            uint64_t since = 0
            int got
        if owner:
            note_owner(v)
        while True:
            got = self.pin_key(att, key, &found)
            if got >= 0:
                recover_blocker_if_dead(v, got)
                got = give_pinned(v, found.slot, found.generation, owner)
                if kind_of_error(got) == ERR_NOT_FOUND and type(key) is not ObjectRef:
                    recover_blocker_of(v, got)
                    continue        # the name leads elsewhere by now, or nowhere
            if got >= 0:
                break
            if not may_retry(v, &got, &since):
                recover_blocker_of(v, got)
                raise get_error(v, got, key, is_foreign(v, key))
        recover_blocker_if_dead(v, got)
        att.delete_unless_open()
        return 0


@cython.final
cdef class Listing:
    # What objects() iterates over: slot by slot, each described when its turn comes.
    cdef ListingCalls of
    cdef object prefix
    cdef uint64_t next

    def __iter__(self):
        return self

    def __next__(self):
        cdef Attachment att = self.of.use()     # still
        while self.next < slots_used(&att.view):
            info = info_of(att, self.next)
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


cdef tuple info_of(Attachment att, uint64_t i):
    # The fields of ObjectInfo, in its order, of what is in slot `i`; None if nothing is there.
    cdef:
        View *v = &att.view
        uint64_t word
        int _
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
        v.header.made_at + slot.created / <double>PER_SECOND,
        is_object and slot.owned_by != 0, slot.last_use & EVICTABLE != 0, state)


cdef tuple origin_seen(View *v, Slot *slot, uint64_t row):
    # pid and command of who put it; `row`: + 1, of who is making it, else 0
    cdef uint64_t k = <uint64_t>slot.put_by - 1
    cdef Maker *maker
    if row:
        return (row_at(v, (row - 1) % MAX_ROWS).pid,
                command_of(row_at(v, (row - 1) % MAX_ROWS)))
    if k >= MAKERS:
        return (0, "")
    maker = maker_at(v, k)
    return (maker.pid, printable(maker.command[:sizeof(maker.command)]))


cdef int64_t pinned_block(View *v, uint64_t at, uint64_t nbytes) noexcept:
    # The slot that we pin in whose block these bytes of the file lie, or -1; not of what is being
    # written.
    cdef uint64_t i, offset, state
    cdef bint is_object
    for i in range(slots_used(v)):
        if not pins_are_committed(v, i):
            continue
        if load_relaxed_u32(&v.pins[i]) & ~KEPT == 0:   # relaxed: ours, and we have the GIL
            continue
        state = word_state(load_acquire(&v.slots[i].word))               # [seal]
        offset = v.slots[i].offset
        if offset <= at and at - offset + nbytes <= block_nbytes(&v.slots[i]):
            is_object = state != WRITING and state != CLAIMED \
                and v.slots[i].flags & FLAG_UNSEALED == 0
            return <int64_t>i if is_object else -1
    return -1
