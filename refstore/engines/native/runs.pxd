# What allocation falls back on when slots or pages are short: empty slots, and empty runs whose
# pages and slots serve others from now on.
#
# A run is pages cut into up to 64 blocks of one class, each owned by a slot of its own, with one
# bit per block that says "probably free". A class owns nothing for good: a run whose slots are all
# FREE is dissolved when its pages or its slots are needed, and when slots are short a FREE slot
# leaves its spare block behind, unowned.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from refstore.engines.native.atomics cimport (
    assign, cas_acq_rel, ctz64, fetch_and_acquire, load_acquire, load_relaxed, popcount64,
    store_relaxed_u32, store_release,
)
from refstore.engines.native.error_codes cimport ERR_FULL, ERR_FULL_SLOTS
from refstore.engines.native.layout cimport (
    CLASSES, HELD, PAGE, RETIRED, Run, RUN_BLOCKS, Slot, SLOTS_PER_STEP,
)
from refstore.engines.native.view cimport (
    bits_at, extent_first, extent_pages, file_of, run_is_sound, run_slot, runs_used, slot_is_of,
    slots_used, top_of, View,
)
from refstore.engines.native.bitmap cimport hint_range, hint_set, hint_take
from refstore.engines.native.memory cimport commit, ensure_pins_committed
from refstore.engines.native.lock cimport lock, unlock
from refstore.engines.native.slots cimport claim, unclaim, word_row, word_state
from refstore.engines.native.rebuild cimport rebuild
from refstore.engines.native.pages cimport free_pages, take_pages

cdef enum:
    RUNS_PER_STEP = 64
    FEW = 8                     # large blocks in a store


# Empty slots

cdef inline int grow_slots(View *v) noexcept nogil:
    cdef:
        uint64_t used = slots_used(v)
        uint64_t end = min(used + SLOTS_PER_STEP, v.slot_limit)
        int got
    if used >= v.slot_limit:
        return ERR_FULL_SLOTS
    got = commit(file_of(v), v.g.slots + used * sizeof(Slot), SLOTS_PER_STEP * sizeof(Slot))
    if got != 0:
        return got
    if cas_acq_rel(&v.header.slots_used, &used, end):  # [grow] the slots below are there
        ensure_pins_committed(v, used)     # if there is memory for it; else the first pin says so
        hint_range(bits_at(v, v.g.empty_bits), v.g.slot_words, used, end)
    return 0


cdef inline int take_empty_slot(View *v, uint64_t state, uint64_t *slot) noexcept nogil:
    cdef int64_t i
    cdef int got
    while True:
        i = hint_take(bits_at(v, v.g.empty_bits), v.g.slot_words, v.row * 5 % v.g.slot_words)
        if i < 0:
            got = grow_slots(v)
            if got != 0:
                return got
            continue
        if <uint64_t>i >= slots_used(v) or not claim(v, <uint64_t>i, state):
            continue
        if v.slots[i].run == 0 and v.slots[i].extent == 0:
            slot[0] = <uint64_t>i
            return 0
        unclaim(v, <uint64_t>i)      # a stale hint; this sets the right one


cdef inline uint64_t held_elsewhere(View *v) noexcept nogil:
    # The word of a slot that another process has in hand; 0: there is none.
    cdef uint64_t i, word
    for i in range(slots_used(v)):
        word = load_acquire(&v.slots[i].word)                            # [free]
        if word_state(word) == HELD and word_row(word) != v.row:
            return word
    return 0


# Under the space lock: space changes hands

cdef inline bint reclaim_free_extents(View *v) noexcept nogil:
    # Extents of deleted objects go from their FREE slots back to the page map. True if there were
    # any. It ends: each turn takes a hint away, and what a rebuild gives back of them leads to
    # slots that have their extents still.
    cdef:
        int64_t i
        uint64_t extent, state
        bint any_came = False
    while True:
        i = hint_take(bits_at(v, v.g.spare_bits), v.g.slot_words, 0)
        if i < 0:
            return any_came
        if <uint64_t>i >= slots_used(v):
            continue
        # a retired slot changes only under this lock
        state = word_state(load_acquire(&v.slots[i].word))               # [free]
        if state != RETIRED and not claim(v, <uint64_t>i, HELD):
            continue
        extent = v.slots[i].extent
        if extent:
            any_came = True
            assign(v.slots[i].extent, 0)
            if v.slots[i].offset == v.g.data + extent_first(extent) * PAGE:
                free_pages(v, extent_first(extent), extent_pages(extent))
            else:  # never used, or the extent is damaged and those pages are somebody's
                rebuild(v)
        if state != RETIRED:
            unclaim(v, <uint64_t>i)


cdef inline uint64_t hold_run(View *v, uint64_t r, bint *whole, bint *agrees) noexcept nogil:
    # Claims the slots of a run, as an allocator would, until one is not to be had; returns which
    # blocks' it holds. `agrees`: the record with itself.
    cdef:
        Run *run = &v.runs[r]
        uint64_t j, i, held = 0
    agrees[0] = whole[0] = run_is_sound(v, run, run.live)
    if not whole[0]:
        return 0
    for j in range(<uint64_t>run.blocks):
        i = run_slot(v, r, j)
        # one of the two is wrong: some slot may have the block
        if run.unowned >> j & 1 == (i != 0):
            agrees[0] = whole[0] = False
            break
        if i == 0:
            continue
        i -= 1
        # [free]
        if word_state(load_acquire(&v.slots[i].word)) == RETIRED and slot_is_of(v, i, r, j):
            continue
        if claim(v, i, HELD):
            held |= <uint64_t>1 << j
            if slot_is_of(v, i, r, j):
                fetch_and_acquire(&run.free, ~(<uint64_t>1 << j))        # [hint] only what we hold
                continue
        whole[0] = False
        break
    return held


cdef inline bint release_run(View *v, uint64_t r) noexcept nogil:
    # All or nothing: the run's pages and slots serve others from now on.
    cdef:
        Run *run = &v.runs[r]
        uint64_t size_class = (run.live - 1) % CLASSES
        uint64_t j, i
        bint whole, agrees
        uint64_t held = hold_run(v, r, &whole, &agrees)
    if whole:
        store_release(&run.live, 0)                                      # [run]
    for j in range(<uint64_t>RUN_BLOCKS):
        i = run_slot(v, r, j)
        if held >> j & 1:
            if whole:
                assign(v.slots[i - 1].run, 0)
            unclaim(v, i - 1)
        elif whole and i and slot_is_of(v, i - 1, r, j):
            assign(v.slots[i - 1].run, 0)       # retired
    if whole:
        assign(run.twin, 0)
        assign(v.pool.class_pages[size_class], v.pool.class_pages[size_class] - run.pages)
        assign(v.pool.unowned_blocks, v.pool.unowned_blocks - <uint64_t>popcount64(run.unowned))
        free_pages(v, run.first, run.pages)
        hint_set(bits_at(v, v.g.run_bits), v.g.run_words, r)
    if not agrees:
        rebuild(v)
    return whole


cdef inline bint release_run_if_empty(View *v, uint64_t r) noexcept nogil:
    cdef uint64_t empty
    if v.runs[r].live == 0:
        return False
    empty = load_relaxed(&v.runs[r].free) | v.runs[r].unowned     # relaxed: release_run() decides
    return <uint32_t>popcount64(empty) >= v.runs[r].blocks and release_run(v, r)


cdef inline bint release_empty_runs(View *v) noexcept nogil:
    cdef uint64_t r
    cdef bint any_released = False
    for r in range(runs_used(v)):
        if release_run_if_empty(v, r):
            any_released = True
    return any_released


cdef inline void release_some_runs(View *v) noexcept nogil:
    # A bounded part of release_empty_runs; the next call goes on where this one ends.
    cdef uint64_t _, n = runs_used(v)
    for _ in range(min(n, <uint64_t>RUNS_PER_STEP)):
        assign(v.pool.release_next, (v.pool.release_next + 1) % n)
        release_run_if_empty(v, v.pool.release_next)


cdef inline bint detach_blocks(View *v) noexcept nogil:
    # Slots are short: FREE ones leave their blocks, which stay with their runs, unowned.
    cdef:
        uint64_t r, j, i, bits
        uint64_t stolen = 0
    for r in range(runs_used(v)):
        if v.runs[r].live == 0:
            continue
        bits = load_relaxed(&v.runs[r].free)  # relaxed: a guess; the claim decides
        while bits and stolen < RUN_BLOCKS:
            j = <uint64_t>ctz64(bits)
            bits &= bits - 1
            i = run_slot(v, r, j)
            if i == 0 or not claim(v, i - 1, HELD):
                continue
            if not slot_is_of(v, i - 1, r, j):
                unclaim(v, i - 1)
                continue
            fetch_and_acquire(&v.runs[r].free, ~(<uint64_t>1 << j))      # [hint]
            store_relaxed_u32(&v.runs[r].slots[j], 0)   # relaxed: a hint, checked against the slot
            assign(v.runs[r].unowned, v.runs[r].unowned | <uint64_t>1 << j)
            assign(v.pool.unowned_blocks, v.pool.unowned_blocks + 1)
            assign(v.slots[i - 1].run, 0)
            unclaim(v, i - 1)
            stolen += 1
    return stolen > 0


cdef inline int free_some_slots(View *v) noexcept nogil:
    cdef int got = lock(v, &v.pool.lock)
    if got != 0:
        return got
    if not reclaim_free_extents(v) and not release_empty_runs(v):
        detach_blocks(v)
    unlock(&v.pool.lock)
    return 0


cdef inline void gather_free_pages(View *v) noexcept nogil:
    # Under the lock: no free extent and no empty run stays as it was cut.
    reclaim_free_extents(v)
    release_empty_runs(v)


cdef inline int merge_free_pages(View *v) noexcept nogil:
    # The same; takes the lock for it.
    cdef int got = lock(v, &v.pool.lock)
    if got == 0:
        gather_free_pages(v)
        unlock(&v.pool.lock)
    return got


cdef inline int need_empty_slot(View *v, uint64_t state, uint64_t *slot) noexcept nogil:
    cdef int got = take_empty_slot(v, state, slot)
    cdef int _
    for _ in range(3):
        if got != ERR_FULL_SLOTS:
            break
        got = free_some_slots(v)
        if got != 0:
            break
        got = take_empty_slot(v, state, slot)
    return got


cdef inline bint is_large_part(View *v, uint64_t pages) noexcept nogil:
    # Of blocks that only a few of fit, it matters where they lie.
    return pages * FEW >= v.g.pages


cdef inline int64_t take_or_make_room(View *v, uint64_t pages, bint for_run) noexcept nogil:
    cdef int64_t first
    reclaim_free_extents(v)
    if top_of(v) + pages > v.g.pages or is_large_part(v, pages):
        # From here on every piece counts: an empty run between large blocks costs more than it
        # saves.
        release_some_runs(v)
    first = take_pages(v, pages, for_run)
    if first == ERR_FULL and release_empty_runs(v):
        first = take_pages(v, pages, for_run)
    return first
