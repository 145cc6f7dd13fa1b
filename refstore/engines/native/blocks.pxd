# Room for one object: a slot with a block. Small blocks come from runs, lock-free; large ones are whole pages. A
# process keeps cutting from the run it last found, so two processes share neither slots nor words.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from .atomics cimport (
    assign, cas_acq_rel, ctz64, fetch_and_acquire, load_acquire, load_relaxed, store_relaxed,
    store_relaxed_u32, store_release, store_release_u32,
)
from .layout cimport (
    class_nbytes, class_of, CLASSES, ERR_BARE, ERR_DAMAGED, ERR_FULL, ERR_INDEX, ERR_MORE,
    ERR_NO_MEMORY, extent_first, extent_pages, HELD, make_extent, make_word, PAGE, Run, RUN_BLOCKS,
    run_twin, Slot, SMALL_LIMIT, word_generation, WRITING,
)
from .view cimport bits_at, class_bits_at, damage, RECENT, run_is_sound, runs_used, Store
from .bitmap cimport hint_set, hint_take
from .memory cimport commit, commit_data, file_of, is_committed
from .lock cimport lock, unlock
from .slots cimport claim, unclaim
from .pages cimport extent_is_sane, reach_map, take_pages
from .runs cimport (
    hint_range, need_bare, run_slot, RUNS_PER_STEP, slot_is_of, take_bare, take_or_make_room,
)

# Large blocks

cdef inline bint take_recent(Store *s, uint64_t pages, uint64_t *slot) noexcept nogil:
    # The extent that we freed last, if it has just the right size: the best fit there is, warm, and no lock.
    cdef uint64_t k, i
    for k in range(<uint64_t>RECENT):
        i = s.recent[k]
        if i == 0 or extent_pages(s.slots[i - 1].extent) != pages or not claim(s, i - 1, WRITING):
            continue
        if extent_pages(s.slots[i - 1].extent) == pages:
            slot[0] = i - 1
            return True
        unclaim(s, i - 1)
    return False


cdef inline int take_extent(Store *s, uint64_t pages, uint64_t *slot) noexcept nogil:
    cdef int got
    cdef int64_t first = ERR_MORE
    if take_recent(s, pages, slot):
        return 0
    got = need_bare(s, WRITING, slot)
    if got != 0:
        return got
    while first == ERR_MORE:
        first = reach_map(s, pages)
        if first == 0:
            first = lock(s, &s.pool.lock)
        if first != 0:
            break
        first = take_or_make_room(s, pages, False)
        if first >= 0:
            assign(s.slots[slot[0]].offset, s.g.data + <uint64_t>first * PAGE)
            assign(s.slots[slot[0]].extent, make_extent(<uint64_t>first, pages))
        unlock(&s.pool.lock)
        if first >= 0:
            return 0
    unclaim(s, slot[0])
    return <int>first


# Small blocks

cdef inline bint take_from_run(Store *s, int size_class, uint64_t r, uint64_t *slot) noexcept nogil:
    cdef:
        Run *run = &s.runs[r]
        uint64_t bits, before, j
        uint64_t tried = 0      # what we put back ourselves must not be taken again
        uint64_t i
    if load_acquire(&run.live) != <uint64_t>size_class + 1:              # [run]
        return False
    bits = load_relaxed(&run.free)      # relaxed: the fetch_and decides
    while bits:
        j = <uint64_t>ctz64(bits)
        before = fetch_and_acquire(&run.free, ~(<uint64_t>1 << j))       # [hint]
        tried |= <uint64_t>1 << j
        bits = before & ~tried
        if before >> j & 1 == 0:
            continue
        i = run_slot(s, r, j)
        if i == 0 or not claim(s, i - 1, WRITING):
            continue
        # the run may have been dissolved and made again since: the slot knows
        if slot_is_of(s, i - 1, r, j) and s.slots[i - 1].size_class == size_class:
            slot[0] = i - 1
            return True
        unclaim(s, i - 1)
    return False


cdef inline bint take_stocked(Store *s, int size_class, uint64_t *slot) noexcept nogil:
    cdef int64_t r
    cdef uint64_t _
    if s.current[size_class] and take_from_run(s, size_class, s.current[size_class] - 1, slot):
        return True
    # once for each run: slots that belong to other runs than they say would give back one hint for each taken
    for _ in range(runs_used(s) + 1):
        r = hint_take(class_bits_at(s, size_class), s.g.run_words, s.row * 5 % s.g.run_words)
        if r < 0:
            return False
        if <uint64_t>r >= runs_used(s):
            continue
        s.current[size_class] = <uint32_t>(r + 1)
        if take_from_run(s, size_class, <uint64_t>r, slot):
            return True
    return False


cdef inline bint take_anywhere(Store *s, int size_class, bint committed, uint64_t *slot) noexcept nogil:
    # The store is full: runs that other processes cut from will do. The disk is full: committed ones.
    cdef uint64_t r
    for r in range(runs_used(s)):
        if committed and load_acquire(&s.runs[r].committed) == 0:        # [committed]
            continue
        # relaxed: a guess; the slot decides
        if s.runs[r].live == <uint64_t>size_class + 1 and load_relaxed(&s.runs[r].free):
            if take_from_run(s, size_class, r, slot):
                return True
    return False


cdef inline bint take_larger(Store *s, int size_class, uint64_t *slot) noexcept nogil:
    # No page is free to cut: a block of the next larger class that has one is better than none.
    cdef uint64_t r, live, best, least = <uint64_t>size_class + 2       # as Run.live counts classes
    while True:
        best = CLASSES + 1
        for r in range(runs_used(s)):
            live = s.runs[r].live       # relaxed: a guess; the slot decides
            if least <= live < best and load_relaxed(&s.runs[r].free):
                best = live
        if best > CLASSES:
            return False
        if take_anywhere(s, <int>best - 1, False, slot):
            return True
        least = best + 1


cdef inline uint64_t run_blocks(Store *s, int size_class) noexcept nogil:
    # One page's worth at first; then as much as the class has already, halved, so that waste stays in proportion.
    cdef uint64_t size = class_nbytes(size_class)
    cdef uint64_t blocks = max(PAGE // size, s.pool.class_pages[size_class] * PAGE // size // 2)
    return max(<uint64_t>1, min(blocks, min(<uint64_t>RUN_BLOCKS, s.slot_limit // 16 + 1)))


cdef inline int new_run(Store *s, uint64_t *r) noexcept nogil:
    # A run number whose record is committed. Taken by its hint; stock() makes sure under the lock.
    cdef:
        int64_t taken
        uint64_t used, end
        int got
    while True:
        taken = hint_take(bits_at(s, s.g.run_bits), s.g.run_words, 0)
        if taken >= 0:
            if <uint64_t>taken >= runs_used(s):
                continue
            r[0] = <uint64_t>taken
            return 0
        used = runs_used(s)
        if used >= s.g.max_runs:
            return ERR_INDEX
        end = min(used + RUNS_PER_STEP, s.g.max_runs)
        got = commit(file_of(s), s.g.runs + used * sizeof(Run), (end - used) * sizeof(Run))
        if got != 0:
            return got
        if cas_acq_rel(&s.pool.runs_used, &used, end):                   # [runs] the records below are there
            hint_range(bits_at(s, s.g.run_bits), s.g.run_words, used, end)


cdef inline void stock_slot(Store *s, uint64_t i, uint64_t r, uint64_t j, int size_class) noexcept nogil:
    cdef Slot *slot = &s.slots[i]
    assign(slot.block, <unsigned char>j)
    assign(slot.size_class, <unsigned char>size_class)
    # last: a death in between leaves a slot without a block, and never one with half of another's place
    store_release_u32(&slot.run, <uint32_t>(r + 1))                      # [stock]
    store_relaxed_u32(&s.runs[r].slots[j], <uint32_t>(i + 1))  # relaxed: a hint, checked against the slot


cdef inline uint64_t restock(Store *s, int size_class, uint32_t *held, uint64_t n) noexcept nogil:
    # Gives orphaned blocks of the class to slots that we hold; returns how many.
    cdef uint64_t r, j, used = 0
    for r in range(runs_used(s)):
        if s.runs[r].orphaned == 0 or not run_is_sound(s, &s.runs[r], <uint64_t>size_class + 1):
            continue
        for j in range(<uint64_t>s.runs[r].blocks):
            # what only one of the two says is wrong: some slot may have the block
            if s.runs[r].slots[j] == 0 and s.runs[r].orphaned >> j & 1 and used < n:
                stock_slot(s, held[used], r, j, size_class)
                assign(s.runs[r].orphaned, s.runs[r].orphaned & ~(<uint64_t>1 << j))
                assign(s.pool.orphans, s.pool.orphans - min(s.pool.orphans, <uint64_t>1))
                used += 1
    return used


cdef inline int64_t cut_run(Store *s, int size_class, uint64_t r, uint32_t *held, uint64_t n) noexcept nogil:
    # Pages for up to n blocks, fewer if that is what there is; returns the blocks cut, or an error.
    cdef:
        uint64_t size = class_nbytes(size_class)
        uint64_t pages = (n * size + PAGE - 1) // PAGE
        uint64_t least = (size + PAGE - 1) // PAGE
        uint64_t j
        int64_t first
        Run *run = &s.runs[r]
    if run.live or run.twin:
        return 0            # the hint was stale; the caller takes another number
    first = take_or_make_room(s, pages, True)
    if first == ERR_FULL and pages > least:
        pages = least
        first = take_pages(s, pages, True)
    if first < 0:
        return first
    n = min(n, pages * PAGE // size)
    assign(run.free, 0)
    assign(run.first, <uint32_t>first)
    assign(run.pages, <uint32_t>pages)
    assign(run.blocks, <uint32_t>n)
    assign(run.orphaned, 0)
    assign(run.twin, run_twin(run, <uint64_t>size_class + 1))
    store_relaxed(&run.committed, 0)    # relaxed: `live` carries it
    for j in range(<uint64_t>RUN_BLOCKS):
        store_relaxed_u32(&run.slots[j], 0)     # relaxed: as above
    for j in range(n):
        stock_slot(s, held[j], r, j, size_class)
    assign(s.pool.class_pages[size_class], s.pool.class_pages[size_class] + pages)
    store_release(&run.live, <uint64_t>size_class + 1)                   # [run] the record is whole
    return <int64_t>n


cdef inline int64_t stock(Store *s, int size_class, uint64_t r, uint32_t *held, uint64_t n) noexcept nogil:
    cdef int64_t stocked = lock(s, &s.pool.lock)
    if stocked != 0:
        return stocked
    if s.pool.orphans:
        stocked = <int64_t>restock(s, size_class, held, n)
    if stocked == 0:
        stocked = cut_run(s, size_class, r, held, n)
    else:
        hint_set(bits_at(s, s.g.run_bits), s.g.run_words, r)
    unlock(&s.pool.lock)
    return stocked


cdef inline int make_blocks(Store *s, int size_class, uint64_t *slot) noexcept nogil:
    # Stocks FREE slots with blocks of the class; the first one is claimed for the caller.
    cdef:
        uint32_t[RUN_BLOCKS] held
        uint64_t n = 0, want = run_blocks(s, size_class)
        uint64_t i, k
        uint64_t r = 0          # new_run() fails only before it has taken one, and then a hint for 0 is harmless
        int64_t stocked
        int got = need_bare(s, HELD, &i)
    while got == 0:
        held[n] = <uint32_t>i
        n += 1
        if n == want:
            break
        got = take_bare(s, HELD, &i)
    if n == 0:
        return got
    stocked = 0
    while stocked == 0 or stocked == ERR_MORE:
        stocked = new_run(s, &r)
        if stocked == 0:
            stocked = reach_map(s, (n * class_nbytes(size_class) + PAGE - 1) // PAGE)
        if stocked == 0:
            stocked = stock(s, size_class, r, held, n)
        if stocked < 0:
            hint_set(bits_at(s, s.g.run_bits), s.g.run_words, r)
    if stocked > 0:
        # relaxed: ours; HELD becomes WRITING for the caller
        store_release(&s.slots[held[0]].word,
                      make_word(word_generation(load_relaxed(&s.slots[held[0]].word)), WRITING, s.row))
        slot[0] = held[0]
        s.current[size_class] = s.slots[held[0]].run
    for k in range(1 if stocked > 0 else 0, n):
        unclaim(s, held[k])
    return 0 if stocked > 0 else <int>stocked


cdef inline int take_small(Store *s, uint64_t nbytes, uint64_t *slot) noexcept nogil:
    cdef int size_class = class_of(nbytes)
    cdef int got
    if take_stocked(s, size_class, slot):
        return 0
    got = make_blocks(s, size_class, slot)
    if got == ERR_FULL and (take_anywhere(s, size_class, False, slot) or take_larger(s, size_class, slot)):
        return 0
    return got


# Any block

cdef inline int commit_run_block(Store *s, Slot *slot) noexcept nogil:
    cdef:
        Run *run = &s.runs[slot.run - 1]
        uint64_t size = class_nbytes(slot.size_class)
        int got
    if not run_is_sound(s, run, <uint64_t>slot.size_class + 1) or (slot.block + 1) * size > run.pages * <uint64_t>PAGE:
        return damage(s, b"run %d is not that of its blocks", slot.run - 1)
    assign(slot.offset, s.g.data + run.first * <uint64_t>PAGE + slot.block * size)
    if load_acquire(&run.committed):                                     # [committed]
        return 0
    got = commit_data(s, file_of(s), run.first, run.pages, False, NULL)
    if got != 0:
        return got
    store_release(&run.committed, 1)                                     # [committed] its pages are there
    return 0


cdef inline int place_block(Store *s, uint64_t i) noexcept nogil:
    # Where the block lies follows from who owns it, and from nothing else: it may have come to the slot by other ways
    # than a put, and the file may be damaged. ERR_BARE: an extent, and memory is missing.
    cdef Slot *slot = &s.slots[i]
    cdef uint64_t extent = slot.extent
    if not extent:
        return commit_run_block(s, slot)
    if not extent_is_sane(s, extent_first(extent), extent_pages(extent)):
        return damage(s, b"the extent of slot %d lies outside of the data", i)
    assign(slot.offset, s.g.data + extent_first(extent) * PAGE)
    return 0 if is_committed(s, extent_first(extent), extent_pages(extent)) else ERR_BARE


cdef inline int take_block(Store *s, uint64_t nbytes, uint64_t *slot) noexcept nogil:
    # A slot in WRITING, ours, with a committed block of at least nbytes; without a block if that is 0. On ERR_BARE the
    # slot is ours, and its extent is to be committed.
    cdef int got
    if nbytes > s.g.pages * PAGE:
        return ERR_FULL
    if nbytes == 0:
        got = need_bare(s, WRITING, slot)
        if got == 0:
            assign(s.slots[slot[0]].offset, s.g.data)
        return got
    if nbytes <= SMALL_LIMIT:
        got = take_small(s, nbytes, slot)
        if got == ERR_INDEX:            # no run numbers left: a page or more of its own
            got = take_extent(s, (nbytes + PAGE - 1) // PAGE, slot)
    else:
        got = take_extent(s, (nbytes + PAGE - 1) // PAGE, slot)
    if got != 0:
        return got
    got = place_block(s, slot[0])
    if got == 0 or got == ERR_BARE or got == ERR_DAMAGED:
        return got              # a damaged slot stays ours: nobody is to use it again
    unclaim(s, slot[0])
    if got != ERR_NO_MEMORY or not take_anywhere(s, class_of(nbytes), True, slot):
        return got
    return place_block(s, slot[0])
