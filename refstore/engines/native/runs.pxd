# What allocation falls back on when slots or pages are short: bare slots, and empty runs whose pages and slots
# serve others from now on.
#
# A run is pages cut into up to 64 blocks of one class, each stocked in a FREE slot of its own, with one bit per
# block that says "probably free". A class owns nothing for good: a run whose slots are all FREE is dissolved when
# its pages or its slots are needed, and when slots are short a FREE slot leaves its block behind as an orphan.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from .atomics cimport (
    assign, cas_acq_rel, ctz64, fetch_and_acquire, fetch_or_release, load_acquire, load_relaxed,
    load_relaxed_u32, popcount64, store_relaxed_u32, store_release,
)
from .layout cimport (
    CLASSES, ERR_FULL, ERR_FULL_SLOTS, extent_first, extent_pages, HELD, PAGE, RETIRED, Run,
    RUN_BLOCKS, Slot, SLOTS_PER_STEP, word_row, word_state,
)
from .view cimport bits_at, run_is_sound, runs_used, slots_used, Store, top_of
from .bitmap cimport hint_set, hint_take, summary_of
from .memory cimport commit, file_of, reach_pins
from .lock cimport lock, unlock
from .slots cimport claim, unclaim
from .rebuild cimport rebuild
from .pages cimport free_pages, take_pages

cdef enum:
    RUNS_PER_STEP = 64


# Bare slots

cdef inline void hint_range(uint64_t *words, uint64_t n_words, uint64_t first, uint64_t end) noexcept nogil:
    # `first` is a multiple of 64; a word at a time
    cdef uint64_t i = first, bits
    while i < end:
        bits = ~<uint64_t>0 if end - i >= 64 else (<uint64_t>1 << (end - i)) - 1
        fetch_or_release(&words[i >> 6], bits)                                              # [hint]
        fetch_or_release(&summary_of(words, n_words)[i >> 12], <uint64_t>1 << (i >> 6 & 63))  # [summary]
        i += 64


cdef inline int grow_slots(Store *s) noexcept nogil:
    cdef:
        uint64_t used = slots_used(s)
        uint64_t end = min(used + SLOTS_PER_STEP, s.slot_limit)
        int got
    if used >= s.slot_limit:
        return ERR_FULL_SLOTS
    got = commit(file_of(s), s.g.slots + used * sizeof(Slot), SLOTS_PER_STEP * sizeof(Slot))
    if got != 0:
        return got
    if cas_acq_rel(&s.header.slots_used, &used, end):                    # [grow] the slots below are there
        reach_pins(s, used)     # if there is memory for it; else the first pin says so
        hint_range(bits_at(s, s.g.bare_bits), s.g.slot_words, used, end)
    return 0


cdef inline int take_bare(Store *s, uint64_t state, uint64_t *slot) noexcept nogil:
    cdef int64_t i
    cdef int got
    while True:
        i = hint_take(bits_at(s, s.g.bare_bits), s.g.slot_words, s.row * 5 % s.g.slot_words)
        if i < 0:
            got = grow_slots(s)
            if got != 0:
                return got
            continue
        if <uint64_t>i >= slots_used(s) or not claim(s, <uint64_t>i, state):
            continue
        if s.slots[i].run == 0 and s.slots[i].extent == 0:
            slot[0] = <uint64_t>i
            return 0
        unclaim(s, <uint64_t>i)      # a stale hint; this sets the right one


cdef inline uint64_t held_elsewhere(Store *s) noexcept nogil:
    # The word of a slot that another process has in hand, which `blocked_by` names; 0: there is none.
    cdef uint64_t i, word
    for i in range(slots_used(s)):
        word = load_acquire(&s.slots[i].word)                            # [free]
        if word_state(word) == HELD and word_row(word) != s.row:
            s.blocked_by = word_row(word) + 1
            return word
    return 0


# Under the pool lock: space changes hands

cdef inline bint harvest(Store *s) noexcept nogil:
    # Extents of deleted objects go from their FREE slots back to the page map. True if there were any. Each turn takes
    # a hint away, and gives none of its kind.
    cdef:
        int64_t i
        uint64_t extent, state
        bint any_came = False
    while True:
        i = hint_take(bits_at(s, s.g.stock_bits), s.g.slot_words, 0)
        if i < 0:
            return any_came
        if <uint64_t>i >= slots_used(s):
            continue
        # a retired slot changes only under this lock
        state = word_state(load_acquire(&s.slots[i].word))               # [free]
        if state != RETIRED and not claim(s, <uint64_t>i, HELD):
            continue
        extent = s.slots[i].extent
        if extent:
            any_came = True
            assign(s.slots[i].extent, 0)
            if s.slots[i].offset == s.g.data + extent_first(extent) * PAGE:
                free_pages(s, extent_first(extent), extent_pages(extent))
            else:               # never used, or the extent is damaged and those pages are somebody's
                rebuild(s)
        if state != RETIRED:
            unclaim(s, <uint64_t>i)


cdef inline bint slot_is_of(Store *s, uint64_t i, uint64_t run, uint64_t block) noexcept nogil:
    return s.slots[i].run == run + 1 and s.slots[i].block == block


cdef inline uint64_t run_slot(Store *s, uint64_t r, uint64_t block) noexcept nogil:
    # slot + 1 of a block, or 0
    cdef uint64_t i = load_relaxed_u32(&s.runs[r].slots[block])  # relaxed: a hint, checked against the slot
    return i if i <= slots_used(s) else 0


cdef inline uint64_t hold_run(Store *s, uint64_t r, bint *whole, bint *agrees) noexcept nogil:
    # Claims the slots of a run, as an allocator would, until one is not to be had; returns which blocks' it holds.
    # `agrees`: the record with itself.
    cdef:
        Run *run = &s.runs[r]
        uint64_t j, i, held = 0
    agrees[0] = whole[0] = run_is_sound(s, run, run.live)
    if not whole[0]:
        return 0
    for j in range(<uint64_t>run.blocks):
        i = run_slot(s, r, j)
        if run.orphaned >> j & 1 == (i != 0):       # one of the two is wrong: some slot may have the block
            agrees[0] = whole[0] = False
            break
        if i == 0:
            continue
        i -= 1
        if word_state(load_acquire(&s.slots[i].word)) == RETIRED and slot_is_of(s, i, r, j):
            continue
        if claim(s, i, HELD):
            held |= <uint64_t>1 << j
            if slot_is_of(s, i, r, j):
                fetch_and_acquire(&run.free, ~(<uint64_t>1 << j))        # [hint] only what we hold
                continue
        whole[0] = False
        break
    return held


cdef inline bint dissolve(Store *s, uint64_t r) noexcept nogil:
    # All or nothing: the run's pages and slots serve others from now on.
    cdef:
        Run *run = &s.runs[r]
        uint64_t size_class = (run.live - 1) % CLASSES
        uint64_t j, i
        bint whole, agrees
        uint64_t held = hold_run(s, r, &whole, &agrees)
    if whole:
        store_release(&run.live, 0)                                      # [run]
    for j in range(<uint64_t>RUN_BLOCKS):
        i = run_slot(s, r, j)
        if held >> j & 1:
            if whole:
                assign(s.slots[i - 1].run, 0)
            unclaim(s, i - 1)
        elif whole and i and slot_is_of(s, i - 1, r, j):
            assign(s.slots[i - 1].run, 0)       # retired
    if whole:
        assign(run.twin, 0)
        assign(s.pool.class_pages[size_class], s.pool.class_pages[size_class] - run.pages)
        assign(s.pool.orphans, s.pool.orphans - <uint64_t>popcount64(run.orphaned))
        free_pages(s, run.first, run.pages)
        hint_set(bits_at(s, s.g.run_bits), s.g.run_words, r)
    if not agrees:
        rebuild(s)
    return whole


cdef inline bint dissolve_if_empty(Store *s, uint64_t r) noexcept nogil:
    cdef uint64_t empty
    if s.runs[r].live == 0:
        return False
    empty = load_relaxed(&s.runs[r].free) | s.runs[r].orphaned     # relaxed: a guess; dissolve claims each
    return <uint32_t>popcount64(empty) >= s.runs[r].blocks and dissolve(s, r)


cdef inline bint dissolve_empty(Store *s) noexcept nogil:
    cdef uint64_t r
    cdef bint any_dissolved = False
    for r in range(runs_used(s)):
        if dissolve_if_empty(s, r):
            any_dissolved = True
    return any_dissolved


cdef inline void dissolve_some(Store *s) noexcept nogil:
    # A bounded part of dissolve_empty; the next call goes on where this one ends.
    cdef uint64_t _, n = runs_used(s)
    for _ in range(min(n, <uint64_t>RUNS_PER_STEP)):
        assign(s.pool.dissolve_next, (s.pool.dissolve_next + 1) % n)
        dissolve_if_empty(s, s.pool.dissolve_next)


cdef inline bint steal_slots(Store *s) noexcept nogil:
    # Slots are short: FREE ones leave their blocks, which stay with their runs as orphans.
    cdef:
        uint64_t r, j, i, bits
        uint64_t stolen = 0
    for r in range(runs_used(s)):
        if s.runs[r].live == 0:
            continue
        bits = load_relaxed(&s.runs[r].free)  # relaxed: a guess; the claim decides
        while bits and stolen < RUN_BLOCKS:
            j = <uint64_t>ctz64(bits)
            bits &= bits - 1
            i = run_slot(s, r, j)
            if i == 0 or not claim(s, i - 1, HELD):
                continue
            if not slot_is_of(s, i - 1, r, j):
                unclaim(s, i - 1)
                continue
            fetch_and_acquire(&s.runs[r].free, ~(<uint64_t>1 << j))      # [hint]
            store_relaxed_u32(&s.runs[r].slots[j], 0)   # relaxed: a hint, checked against the slot
            assign(s.runs[r].orphaned, s.runs[r].orphaned | <uint64_t>1 << j)
            assign(s.pool.orphans, s.pool.orphans + 1)
            assign(s.slots[i - 1].run, 0)
            unclaim(s, i - 1)
            stolen += 1
    return stolen > 0


cdef inline int free_some_slots(Store *s) noexcept nogil:
    cdef int got = lock(s, &s.pool.lock)
    if got != 0:
        return got
    if not harvest(s) and not dissolve_empty(s):
        steal_slots(s)
    unlock(&s.pool.lock)
    return 0


cdef inline int need_bare(Store *s, uint64_t state, uint64_t *slot) noexcept nogil:
    cdef int got = take_bare(s, state, slot)
    cdef int _
    for _ in range(3):
        if got != ERR_FULL_SLOTS:
            break
        got = free_some_slots(s)
        if got != 0:
            break
        got = take_bare(s, state, slot)
    return got


cdef inline int64_t take_or_make_room(Store *s, uint64_t pages, bint for_run) noexcept nogil:
    cdef int64_t first
    harvest(s)
    if top_of(s) + pages > s.g.pages:
        # From here on every piece counts: an empty run between large blocks costs more than it saves.
        dissolve_some(s)
    first = take_pages(s, pages, for_run)
    if first == ERR_FULL and dissolve_empty(s):
        first = take_pages(s, pages, for_run)
    return first
