# The life of a slot: claim, pin, unpin, condemn, reap. The shared reference count of a slot is the
# sum of pins[row][slot] over the live rows, plus one until it is deleted.
#
# The two sides of the count meet as in Dekker's algorithm: a reader adds its pin and then loads the
# word; a reaper condemns the word and then loads the pins. Every access named [pin] is seq_cst, so
# that in the one order of all of them either the reader sees CONDEMNED or the reaper sees the pin.
# Nothing weaker is enough: with an acquire load after the add, both may miss.
#
# A block becomes reusable in free_slot() or reuse_slot(). One that others may have seen has gone
# through RECLAIMING before: by try_reap(), if it was deleted, or by offer() and take_offered(), if
# it is evicted; both after pinned_at_all() found no pin. A slot that was never exposed is freed by
# its owner without a scan, or comes back by unclaim(), and recovery frees what a dead process left
# in RECLAIMING.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    assign, cas_acq_rel, cas_seq_cst, ctz64, fetch_add_seq_cst_u32, fetch_or_release,
    fetch_or_seq_cst, fetch_sub_seq_cst_u32, load_acquire, load_relaxed, load_seq_cst,
    load_seq_cst_u32, store_relaxed, store_release, store_seq_cst, unlikely,
)
from refstore.engines.native.error_codes cimport ERR_BUSY, ERR_NOT_FOUND, ERR_PINS, with_blocker
from refstore.engines.native.layout cimport (
    CLAIMED, CLASSES, CONDEMNED, COUNT_RESCUES, FLAG_UNSEALED, FREE, GENERATION_LAST, KEPT,
    LIVE_STATES, LIVE_WORDS, OFFERED, PUBLISHING, RECLAIMING, RETIRED, RUN_BLOCKS, SEALED, Slot,
    WRITING,
)
from refstore.engines.native.view cimport (
    bits_at, class_bits_at, count, pin_cells, pins_are_committed, RECENT, run_is_there, runs_used,
    slots_used, View,
)
from refstore.engines.native.bitmap cimport hint_restore, hint_set
from refstore.engines.native.memory cimport ensure_pins_committed
from refstore.engines.native.waiting cimport announce_room

cdef enum:
    REAPED = -1  # the result of a reap; 0: there was none; else row + 1 of who pins the block
    PIN_LIMIT = 0x40000000      # far from where a 32-bit cell would wrap to "no pins"


# The slot word, as layout.pxd draws it

cdef inline uint64_t make_word(uint64_t generation, uint64_t state, uint64_t row) noexcept nogil:
    return generation << 16 | state << 12 | row


cdef inline uint64_t word_state(uint64_t word) noexcept nogil:
    return word >> 12 & 15


cdef inline uint64_t word_row(uint64_t word) noexcept nogil:
    return word & 4095


cdef inline uint64_t word_generation(uint64_t word) noexcept nogil:
    return word >> 16


cdef inline bint is_live(uint64_t word, uint64_t generation) noexcept nogil:
    # whether there is such an object
    return word_generation(word) == generation and LIVE_STATES >> word_state(word) & 1 != 0


cdef inline bint is_sealed(uint64_t word) noexcept nogil:
    # as before, and it is not being published
    return word_state(word) == SEALED or word_state(word) == OFFERED


cdef inline bint is_readable(uint64_t word, uint64_t generation) noexcept nogil:
    # Whether a pin that stands holds the object. PUBLISHING is whole, and only the index leads to
    # it; what is OFFERED goes unless it is rescued.
    return word_generation(word) == generation and (
        word_state(word) == SEALED or word_state(word) == PUBLISHING)


cdef inline bint is_claim(uint64_t word) noexcept nogil:
    return word_state(word) == CLAIMED


cdef inline bint is_spare(uint64_t word) noexcept nogil:
    # whether there is nothing in such a slot, so that nobody has its block
    return word_state(word) == FREE or word_state(word) == RETIRED


# State transitions

cdef inline bint claim(View *v, uint64_t i, uint64_t state) noexcept nogil:
    # Takes a FREE slot for this row; the new state is WRITING or HELD.
    cdef Slot *slot = &v.slots[i]
    cdef uint64_t word = load_acquire(&slot.word)                        # [free]
    if word_state(word) != FREE:
        return False
    return cas_acq_rel(&slot.word, &word, make_word(word_generation(word), state, v.row))  # [free]


cdef inline void give_hint(View *v, uint64_t i, uint64_t extent, uint64_t run, uint64_t block,
                           int size_class) noexcept nogil:
    # Tells allocators where slot `i`, just FREE, is to be found. The word is FREE before this is
    # called: an allocator that takes the hint first and then sees the slot in use drops the hint.
    cdef uint64_t before
    if extent or run:
        v.is_full = False
    if extent:
        hint_set(bits_at(v, v.g.spare_bits), v.g.slot_words, i)
        v.recent[i % RECENT] = <uint32_t>(i + 1)
    elif run:
        if not run_is_there(v, run) or block >= RUN_BLOCKS or size_class >= CLASSES:
            return              # a damaged slot serves nobody
        before = fetch_or_release(&v.runs[run - 1].free, <uint64_t>1 << block)       # [hint]
        if before == 0 and v.current[size_class] != run:
            hint_set(class_bits_at(v, size_class), v.g.run_words, run - 1)
    else:
        hint_set(bits_at(v, v.g.empty_bits), v.g.slot_words, i)


cdef inline void unclaim(View *v, uint64_t i) noexcept nogil:
    # A slot that this process, or a dead one, claimed and never exposed: FREE again with its block,
    # in the same generation.
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t generation = word_generation(load_relaxed(&slot.word))  # relaxed: ours
        uint64_t extent = slot.extent
        uint64_t run = slot.run
        uint64_t block = slot.block
        int size_class = slot.size_class
    store_release(&slot.word, make_word(generation, FREE, 0))            # [free]
    give_hint(v, i, extent, run, block, size_class)


cdef inline void free_slot(View *v, uint64_t i) noexcept nogil:
    # Ends a generation. We own the word: WRITING, CLAIMED or RECLAIMING with our row, or with that
    # of a dead process that we recover.
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t generation = word_generation(load_relaxed(&slot.word))  # relaxed: ours
        uint64_t extent = slot.extent
        uint64_t run = slot.run
        uint64_t block = slot.block
        int size_class = slot.size_class
    # the release of the word below carries it to whoever claims the slot
    store_relaxed(&slot.mask, 0)  # relaxed: see above
    if generation == GENERATION_LAST:
        store_release(&slot.word, make_word(generation, RETIRED, 0))     # [free]
        if not extent and not run:
            return              # else the hint brings its space back
    else:
        store_release(&slot.word, make_word(generation + 1, FREE, 0))    # [free]
    give_hint(v, i, extent, run, block, size_class)
    announce_room(v)


cdef inline bint reuse_slot(View *v, uint64_t i) noexcept nogil:
    # As free_slot() and a claim at once, for who evicts in order to put. False: that was the last
    # generation.
    cdef uint64_t generation = word_generation(load_relaxed(&v.slots[i].word))  # relaxed: ours
    if generation == GENERATION_LAST:
        free_slot(v, i)
        return False
    store_relaxed(&v.slots[i].mask, 0)  # relaxed: as in free_slot()
    store_release(&v.slots[i].word, make_word(generation + 1, WRITING, v.row))  # [free]
    return True


cdef inline uint64_t pinned_by(View *v, uint64_t i) noexcept nogil:
    # Row + 1 of a live row that pins slot `i`, another's before ours, or 0. Rows that never touched
    # this generation are skipped: a row's bit is in the mask before a pin of its is valid, and
    # stays there until the slot is reclaimed.
    cdef:
        uint64_t mask = load_seq_cst(&v.slots[i].mask)                   # [pin]
        uint64_t n = load_seq_cst(&v.header.live_words)                  # [pin]
        uint64_t w, rows, row
        uint64_t ours = 0
        uint32_t *cells
    for w in range(min(n, <uint64_t>LIVE_WORDS)):
        rows = load_seq_cst(&v.header.live[w]) & mask                    # [pin]
        while rows:
            row = w * 64 + <uint64_t>ctz64(rows)
            rows &= rows - 1
            cells = pin_cells(v, row, i)
            if cells and load_seq_cst_u32(cells):                        # [pin]
                if row != v.row:
                    return row + 1
                ours = row + 1
            failpoint()
    return ours


cdef inline uint64_t pinned_at_all(View *v, uint64_t i) noexcept nogil:
    # As pinned_by(), for a caller that has changed the word so that later pins notice it, and that
    # acts if the result is 0.
    cdef uint64_t blocker = 0, moves = load_seq_cst(&v.header.moves)     # [pin]
    cdef uint64_t before = moves + 1
    while moves != before and blocker == 0:
        # A fork moves pins to a row that we may have passed already, and its parent may then let go
        # of its own; it counts itself in between. Each turn but the first means that somebody has
        # forked.
        before = moves
        blocker = pinned_by(v, i)
        moves = load_seq_cst(&v.header.moves)                            # [pin]
    failpoint()
    return blocker


cdef inline int64_t try_reap(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # `word` was CONDEMNED when loaded. The CAS on the whole word fails for a reaper that slept
    # through a reuse.
    cdef uint64_t blocker = pinned_at_all(v, i)
    if blocker:
        return <int64_t>blocker
    # [pin] whoever had a pin has given it up, and reads no more
    if not cas_seq_cst(&v.slots[i].word, &word,
                       make_word(word_generation(word), RECLAIMING, v.row)):
        return 0
    free_slot(v, i)
    return REAPED


cdef inline bint pins_condemned(View *v) noexcept nogil:
    # whether blocks would come back if this process let go of what it pins
    cdef uint64_t i
    for i in range(slots_used(v)):
        if pins_are_committed(v, i) and load_seq_cst_u32(&v.pins[i]) & ~KEPT:  # [pin]
            if word_state(load_acquire(&v.slots[i].word)) == CONDEMNED:  # [pin]
                return True
    return False


cdef inline int64_t unpin(View *v, uint64_t i) noexcept nogil:
    # As a reap's result.
    cdef uint64_t word
    cdef uint32_t before = fetch_sub_seq_cst_u32(&v.pins[i], 1)          # [pin]
    if before == 1:             # and not kept
        word = load_seq_cst(&v.slots[i].word)                            # [pin]
        if unlikely(word_state(word) == CONDEMNED):
            return reap_condemned(v, i)
    elif before & ~KEPT == 0:
        fetch_add_seq_cst_u32(&v.pins[i], 1)        # [pin] the count was damaged: it must not wrap
    return 0


cdef inline int pin(View *v, uint64_t i, uint64_t generation) noexcept nogil:
    cdef:
        Slot *slot
        uint64_t word
        uint32_t before
        int got
    if i >= v.slot_limit:
        return ERR_NOT_FOUND
    if not pins_are_committed(v, i):
        got = ensure_pins_committed(v, i)
        if got != 0:
            return got
    slot = &v.slots[i]
    before = fetch_add_seq_cst_u32(&v.pins[i], 1)                        # [pin]
    if before >= PIN_LIMIT and before & ~KEPT >= PIN_LIMIT:
        return with_blocker(ERR_PINS, unpin(v, i))
    word = load_seq_cst(&slot.word)                                      # [pin] [seal]
    failpoint()
    if is_readable(word, generation):
        # The mask is emptied only between generations, so between two loads of a word of one
        # generation the bit that we see or set belongs to that generation.
        if load_acquire(&slot.mask) & v.row_bit == 0:                    # [pin]
            fetch_or_seq_cst(&slot.mask, v.row_bit)                      # [pin]
        word = load_seq_cst(&slot.word)                                  # [pin]
        if is_readable(word, generation):
            return 0
    return pin_offered(v, i, generation)


cdef inline int pin_offered(View *v, uint64_t i, uint64_t generation) noexcept nogil:
    # What is offered for eviction and read is rescued: the word goes back to SEALED, by us or by
    # who offered it, and the pin stands. Our mark is there before: the next offer's scan looks for
    # it.
    cdef Slot *slot = &v.slots[i]
    cdef uint64_t word = load_seq_cst(&slot.word)                        # [pin] [seal]
    while is_live(word, generation):
        fetch_or_seq_cst(&slot.mask, v.row_bit)                          # [pin]
        if word_state(word) != OFFERED:
            word = load_seq_cst(&slot.word)                              # [pin]
            if is_readable(word, generation):
                return 0
        elif cas_seq_cst(&slot.word, &word, make_word(generation, SEALED, 0)):   # [pin]
            count(v, COUNT_RESCUES, 1)
            return 0
    # not just undone: a reaper may have seen this pin and left the block to us
    return with_blocker(ERR_NOT_FOUND, unpin(v, i))


cdef inline void pin_own(View *v, uint64_t i) noexcept nogil:
    # a pin on a slot that we are still writing: valid at once, since nobody can condemn it
    fetch_add_seq_cst_u32(&v.pins[i], 1)                                 # [pin]
    fetch_or_seq_cst(&v.slots[i].mask, v.row_bit)                        # [pin]


cdef inline int condemn(View *v, uint64_t i, uint64_t generation, bint name_is_ours) noexcept nogil:
    # Live -> CONDEMNED, of a slot below slots_used. From now on no get finds it; the caller
    # unindexes and reaps. `name_is_ours`: we hold the lock of its name, so nobody publishes it, and
    # a word that says so is wrong.
    cdef uint64_t word = load_seq_cst(&v.slots[i].word)                  # [pin]
    while word_generation(word) == generation:
        if word_state(word) == PUBLISHING and not name_is_ours:
            return ERR_BUSY         # its publisher is half way; wait for the name's lock
        if not is_live(word, generation):
            return ERR_NOT_FOUND
        if cas_seq_cst(&v.slots[i].word, &word, make_word(generation, CONDEMNED, 0)):    # [pin]
            return 0
    return ERR_NOT_FOUND


cdef inline bint withdraw(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # OFFERED -> SEALED: by who offered the object, or recovers it. False if it was rescued, or
    # deleted.
    return cas_seq_cst(&v.slots[i].word, &word,
                       make_word(word_generation(word), SEALED, 0))      # [pin]


cdef inline uint64_t offer(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # Stops new pins on an object: `word` was SEALED when loaded. Returns the word, which is OFFERED
    # to this process, or 0 if somebody pins it or was quicker. To be taken or withdrawn before the
    # GIL is given up, since another thread of this process would offer by the same word.
    cdef uint64_t offered = make_word(word_generation(word), OFFERED, v.row)
    if not cas_seq_cst(&v.slots[i].word, &word, offered):                # [pin]
        return 0
    if pinned_at_all(v, i) == 0:
        return offered
    withdraw(v, i, offered)
    return 0


cdef inline bint take_offered(View *v, uint64_t i, uint64_t offered) noexcept nogil:
    # OFFERED -> RECLAIMING, ours. A store would not do: it may have been rescued since the scan.
    return cas_seq_cst(&v.slots[i].word, &offered,
                       make_word(word_generation(offered), RECLAIMING, v.row))   # [pin]


cdef inline int64_t reap_condemned(View *v, uint64_t i) noexcept nogil:
    cdef uint64_t word = load_seq_cst(&v.slots[i].word)                  # [pin]
    return try_reap(v, i, word) if word_state(word) == CONDEMNED else 0


cdef inline void abandon(View *v, uint64_t i) noexcept nogil:
    # What was being written is not wanted, but views of it may live, and pins with them: it goes
    # with the last.
    cdef uint64_t generation = word_generation(load_relaxed(&v.slots[i].word))  # relaxed: ours
    assign(v.slots[i].flags, v.slots[i].flags | FLAG_UNSEALED)
    store_seq_cst(&v.slots[i].word, make_word(generation, CONDEMNED, 0))  # [pin]


cdef inline void seal(View *v, uint64_t i) noexcept nogil:
    # the bytes are whole
    cdef uint64_t generation = word_generation(load_relaxed(&v.slots[i].word))  # relaxed: ours
    store_release(&v.slots[i].word, make_word(generation, SEALED, 0))    # [seal]


cdef inline void end_writing(View *v, uint64_t i, uint64_t word, uint64_t state) noexcept nogil:
    # WRITING, PUBLISHING or CLAIMED ends, by its owner or by whoever recovers it. A reap follows if
    # it becomes CONDEMNED.
    cas_seq_cst(&v.slots[i].word, &word,
                make_word(word_generation(word), state, 0))              # [seal] [pin]


cdef inline void restore_hint(View *v, uint64_t i, Slot *slot) noexcept nogil:
    cdef uint64_t run = slot.run
    cdef uint64_t bit = <uint64_t>1 << (slot.block & 63)
    if slot.extent:
        hint_restore(bits_at(v, v.g.spare_bits), v.g.slot_words, i)
    elif run:
        if not run_is_there(v, run) or slot.size_class >= CLASSES:
            return
        if load_acquire(&v.runs[run - 1].free) & bit == 0:               # [hint]
            fetch_or_seq_cst(&v.runs[run - 1].free, bit)                 # [hint]
        hint_restore(class_bits_at(v, slot.size_class), v.g.run_words, run - 1)
    elif word_state(load_acquire(&slot.word)) == FREE:                   # [free]
        hint_restore(bits_at(v, v.g.empty_bits), v.g.slot_words, i)


cdef inline void restore_run_hints(View *v) noexcept nogil:
    cdef uint64_t i
    for i in range(runs_used(v)):
        if load_acquire(&v.runs[i].live) == 0:                           # [run]
            hint_restore(bits_at(v, v.g.run_bits), v.g.run_words, i)
