# Room for one object: a slot with a block. Small blocks come from runs, without a lock unless a new
# run must be cut. Large ones are whole pages, under the space lock, unless an extent that this
# process freed lately has the right size and is no large part of the store. A process keeps taking
# blocks of the run it last found, so that two processes share neither slots nor words.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from refstore.engines.native.atomics cimport (
    assign, cas_acq_rel, clz64, ctz64, fetch_and_acquire, load_acquire, load_relaxed, store_relaxed,
    store_relaxed_u32, store_release, store_release_u32,
)
from refstore.engines.native.error_codes cimport (
    ERR_DAMAGED, ERR_FULL, ERR_INDEX, ERR_MORE, ERR_NO_MEMORY, ERR_UNCOMMITTED,
)
from refstore.engines.native.layout cimport (
    CLASSES, HELD, PAGE, Run, RUN_BLOCKS, Slot, SMALL_LIMIT, WRITING,
)
from refstore.engines.native.view cimport (
    bits_at, class_bits_at, class_nbytes, damage, extent_first, extent_pages, file_of, make_extent,
    RECENT, run_is_sound, run_is_there, run_slot, run_twin, runs_used, slot_is_of, View,
)
from refstore.engines.native.bitmap cimport hint_range, hint_set, hint_take
from refstore.engines.native.memory cimport commit, commit_data, is_committed
from refstore.engines.native.lock cimport lock, unlock
from refstore.engines.native.slots cimport claim, make_word, unclaim, word_generation
from refstore.engines.native.bins cimport name_owner
from refstore.engines.native.pages cimport (
    ensure_map_committed, extent_is_sane, free_pages, take_pages,
)
from refstore.engines.native.runs cimport (
    is_large_part, need_empty_slot, RUNS_PER_STEP, take_empty_slot, take_or_make_room,
)

# Sizes

cdef inline int class_of(uint64_t nbytes) noexcept nogil:
    # 0 < nbytes <= SMALL_LIMIT; blocks are multiples of 64 B, so that each is 64-byte aligned in
    # its run
    cdef uint64_t last, floor
    if nbytes <= 512:
        return <int>((nbytes - 1) // 64)
    last = nbytes - 1
    floor = 63 - clz64(last)
    return <int>(8 + (floor - 9) * 8 + ((last - (<uint64_t>1 << floor)) >> (floor - 3)))


cdef inline uint64_t block_for(uint64_t nbytes) noexcept nogil:
    # bytes of the smallest block for so many
    if nbytes > SMALL_LIMIT:
        return (nbytes + PAGE - 1) // PAGE * PAGE
    return class_nbytes(class_of(nbytes)) if nbytes else 0


# Large blocks

cdef inline bint take_recent(View *v, uint64_t pages, uint64_t *slot) noexcept nogil:
    # The extent that we freed last, if it has just the right size: the best fit there is, warm, and
    # no lock. A large part of the store is merged with its neighbours and cut anew: it may lie
    # where nothing else fits beside it.
    cdef uint64_t k, i
    if is_large_part(v, pages):
        return False
    for k in range(<uint64_t>RECENT):
        i = v.recent[k]
        if i == 0 or extent_pages(v.slots[i - 1].extent) != pages or not claim(v, i - 1, WRITING):
            continue
        if extent_pages(v.slots[i - 1].extent) == pages:
            slot[0] = i - 1
            return True
        unclaim(v, i - 1)
    return False


cdef inline void forget_recent(View *v) noexcept nogil:
    # so that what we freed lately is merged with its neighbours, and cut anew
    memset(v.recent, 0, sizeof(v.recent))


cdef inline int give_extent(View *v, uint64_t i, uint64_t pages) noexcept nogil:
    # So many pages for a slot of ours that has no block: 0, or an error.
    cdef int64_t first = ERR_MORE
    while first == ERR_MORE:
        first = ensure_map_committed(v, pages)
        if first == 0:
            first = lock(v, &v.pool.lock)
        if first != 0:
            break
        first = take_or_make_room(v, pages, False)
        if first >= 0:
            assign(v.slots[i].offset, v.g.data + <uint64_t>first * PAGE)
            assign(v.slots[i].extent, make_extent(<uint64_t>first, pages))
            name_owner(v, <uint64_t>first, i + 1, 0)
        unlock(&v.pool.lock)
        if first >= 0:
            return 0
    return <int>first


cdef inline int take_extent(View *v, uint64_t pages, uint64_t *slot) noexcept nogil:
    cdef int got
    if take_recent(v, pages, slot):
        return 0
    got = need_empty_slot(v, WRITING, slot)
    if got != 0:
        return got
    got = give_extent(v, slot[0], pages)
    if got != 0:
        unclaim(v, slot[0])
    return got


cdef inline int cut_extent(View *v, uint64_t i, uint64_t pages) noexcept nogil:
    # Leaves a slot of ours the first pages of its extent; the rest is free. The slot first: what no
    # slot has is nobody's, if we die before the map says so.
    cdef uint64_t first = extent_first(v.slots[i].extent), has = extent_pages(v.slots[i].extent)
    cdef int got
    if has <= pages or not extent_is_sane(v, first, has):
        return 0
    got = lock(v, &v.pool.lock)
    if got != 0:
        return got
    assign(v.slots[i].extent, make_extent(first, pages))
    free_pages(v, first + pages, has - pages)
    unlock(&v.pool.lock)
    return 0


# Small blocks

cdef inline bint take_from_run(View *v, int size_class, uint64_t r, uint64_t *slot) noexcept nogil:
    cdef:
        Run *run = &v.runs[r]
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
        i = run_slot(v, r, j)
        if i == 0 or not claim(v, i - 1, WRITING):
            continue
        # the run may have been dissolved and made again since: the slot knows
        if slot_is_of(v, i - 1, r, j) and v.slots[i - 1].size_class == size_class:
            slot[0] = i - 1
            return True
        unclaim(v, i - 1)
    return False


cdef inline bint take_spare_block(View *v, int size_class, uint64_t *slot) noexcept nogil:
    cdef int64_t r
    cdef uint64_t _
    if v.current[size_class] and take_from_run(v, size_class, v.current[size_class] - 1, slot):
        return True
    # once for each run: slots that belong to other runs than they say would give back one hint for
    # each taken
    for _ in range(runs_used(v) + 1):
        r = hint_take(class_bits_at(v, size_class), v.g.run_words, v.row * 5 % v.g.run_words)
        if r < 0:
            return False
        if <uint64_t>r >= runs_used(v):
            continue
        v.current[size_class] = <uint32_t>(r + 1)
        if take_from_run(v, size_class, <uint64_t>r, slot):
            return True
    return False


cdef inline bint take_anywhere(View *v, int size_class, bint committed,
                               uint64_t *slot) noexcept nogil:
    # The store is full: runs that other processes cut from will do. The disk is full: committed
    # ones.
    cdef uint64_t r
    for r in range(runs_used(v)):
        if committed and load_acquire(&v.runs[r].committed) == 0:        # [committed]
            continue
        if v.runs[r].live == <uint64_t>size_class + 1 \
                and load_relaxed(&v.runs[r].free):  # relaxed: a guess; the slot decides
            if take_from_run(v, size_class, r, slot):
                return True
    return False


cdef inline bint take_larger(View *v, int size_class, uint64_t *slot) noexcept nogil:
    # No page is free to cut: a block of the next larger class that has one is better than none.
    cdef uint64_t r, live, best, least = <uint64_t>size_class + 2       # as Run.live counts classes
    while True:
        best = CLASSES + 1
        for r in range(runs_used(v)):
            live = v.runs[r].live       # a guess; the slot decides
            if least <= live < best and load_relaxed(&v.runs[r].free):  # relaxed: as above
                best = live
        if best > CLASSES:
            return False
        if take_anywhere(v, <int>best - 1, False, slot):
            return True
        least = best + 1


cdef inline uint64_t run_blocks(View *v, int size_class) noexcept nogil:
    # One page's worth at first; then as much as the class has already, halved, so that waste stays
    # in proportion.
    cdef uint64_t size = class_nbytes(size_class)
    cdef uint64_t blocks = max(PAGE // size, v.pool.class_pages[size_class] * PAGE // size // 2)
    return max(<uint64_t>1, min(blocks, min(<uint64_t>RUN_BLOCKS, v.slot_limit // 16 + 1)))


cdef inline int new_run(View *v, uint64_t *r) noexcept nogil:
    # A run number whose record is committed. Taken by its hint; cut_run() makes sure under the
    # lock.
    cdef:
        int64_t taken
        uint64_t used, end
        int got
    while True:
        taken = hint_take(bits_at(v, v.g.run_bits), v.g.run_words, 0)
        if taken >= 0:
            if <uint64_t>taken >= runs_used(v):
                continue
            r[0] = <uint64_t>taken
            return 0
        used = runs_used(v)
        if used >= v.g.max_runs:
            return ERR_INDEX
        end = min(used + RUNS_PER_STEP, v.g.max_runs)
        got = commit(file_of(v), v.g.runs + used * sizeof(Run), (end - used) * sizeof(Run))
        if got != 0:
            return got
        if cas_acq_rel(&v.pool.runs_used, &used, end):  # [runs] the records below are there
            hint_range(bits_at(v, v.g.run_bits), v.g.run_words, used, end)


cdef inline void keep_block_in_slot(View *v, uint64_t i, uint64_t r, uint64_t j,
                                    int size_class) noexcept nogil:
    cdef Slot *slot = &v.slots[i]
    assign(slot.block, <unsigned char>j)
    assign(slot.size_class, <unsigned char>size_class)
    # last: a death in between leaves a slot without a block, and never one with half of another's
    # place
    store_release_u32(&slot.run, <uint32_t>(r + 1))                      # [block]
    store_relaxed_u32(&v.runs[r].slots[j],
                      <uint32_t>(i + 1))  # relaxed: a hint, checked against the slot


cdef inline uint64_t give_unowned(View *v, int size_class, uint32_t *held,
                                  uint64_t n) noexcept nogil:
    # Gives unowned blocks of the class to slots that we hold; returns how many.
    cdef uint64_t r, j, used = 0
    for r in range(runs_used(v)):
        if v.runs[r].unowned == 0 or not run_is_sound(v, &v.runs[r], <uint64_t>size_class + 1):
            continue
        for j in range(<uint64_t>v.runs[r].blocks):
            # what only one of the two says is wrong: some slot may have the block
            if v.runs[r].slots[j] == 0 and v.runs[r].unowned >> j & 1 and used < n:
                keep_block_in_slot(v, held[used], r, j, size_class)
                assign(v.runs[r].unowned, v.runs[r].unowned & ~(<uint64_t>1 << j))
                assign(v.pool.unowned_blocks,
                       v.pool.unowned_blocks - min(v.pool.unowned_blocks, <uint64_t>1))
                used += 1
    return used


cdef inline int64_t cut_run(View *v, int size_class, uint64_t r, uint32_t *held,
                            uint64_t n) noexcept nogil:
    # Pages for up to n blocks, fewer if that is what there is; returns the blocks cut, or an error.
    cdef:
        uint64_t size = class_nbytes(size_class)
        uint64_t pages = (n * size + PAGE - 1) // PAGE
        uint64_t least = (size + PAGE - 1) // PAGE
        uint64_t j
        int64_t first
        Run *run = &v.runs[r]
    if run.live or run.twin:
        return 0            # the hint was stale; the caller takes another number
    first = take_or_make_room(v, pages, True)
    if first == ERR_FULL and pages > least:
        pages = least
        first = take_pages(v, pages, True)
    if first < 0:
        return first
    n = min(n, pages * PAGE // size)
    store_relaxed(&run.free, 0)         # relaxed: `live` carries it
    assign(run.first, <uint32_t>first)
    assign(run.pages, <uint32_t>pages)
    assign(run.blocks, <uint32_t>n)
    assign(run.unowned, 0)
    assign(run.twin, run_twin(run, <uint64_t>size_class + 1))
    store_relaxed(&run.committed, 0)    # relaxed: as above
    for j in range(<uint64_t>RUN_BLOCKS):
        store_relaxed_u32(&run.slots[j], 0)     # relaxed: as above
    for j in range(n):
        keep_block_in_slot(v, held[j], r, j, size_class)
    assign(v.pool.class_pages[size_class], v.pool.class_pages[size_class] + pages)
    name_owner(v, <uint64_t>first, 0, r + 1)
    store_release(&run.live, <uint64_t>size_class + 1)                   # [run] the record is whole
    return <int64_t>n


cdef inline int64_t give_blocks(View *v, int size_class, uint64_t r, uint32_t *held,
                                uint64_t n) noexcept nogil:
    cdef int64_t given = lock(v, &v.pool.lock)
    if given != 0:
        return given
    if v.pool.unowned_blocks:
        given = <int64_t>give_unowned(v, size_class, held, n)
    if given == 0:
        given = cut_run(v, size_class, r, held, n)
    else:
        hint_set(bits_at(v, v.g.run_bits), v.g.run_words, r)
    unlock(&v.pool.lock)
    return given


cdef inline int64_t give_or_cut(View *v, int size_class, uint32_t *held,
                                uint64_t n) noexcept nogil:
    # Blocks of the class for slots of ours that have none: how many, or an error.
    cdef uint64_t r = 0     # new_run() fails before it takes one, and then a hint for 0 is harmless
    cdef int64_t given = 0
    while given == 0 or given == ERR_MORE:
        given = new_run(v, &r)
        if given == 0:
            given = ensure_map_committed(v, (n * class_nbytes(size_class) + PAGE - 1) // PAGE)
        if given == 0:
            given = give_blocks(v, size_class, r, held, n)
        if given < 0:
            hint_set(bits_at(v, v.g.run_bits), v.g.run_words, r)
    return given


cdef inline int give_block(View *v, uint64_t i, uint64_t nbytes) noexcept nogil:
    # A block for a slot of ours that has none: 0, or an error.
    cdef uint32_t held = <uint32_t>i
    cdef int64_t given = ERR_FULL
    if nbytes <= SMALL_LIMIT:
        given = give_or_cut(v, class_of(nbytes), &held, 1)
    if given == ERR_FULL or given == ERR_INDEX:
        return give_extent(v, i, (nbytes + PAGE - 1) // PAGE)
    return <int>min(given, <int64_t>0)


cdef inline int make_blocks(View *v, int size_class, uint64_t *slot) noexcept nogil:
    # Gives blocks of the class to FREE slots; the first one is claimed for the caller.
    cdef:
        uint32_t[RUN_BLOCKS] held
        uint64_t n = 0, want = run_blocks(v, size_class)
        uint64_t i, k
        int64_t given
        int got = need_empty_slot(v, HELD, &i)
    while got == 0:
        held[n] = <uint32_t>i
        n += 1
        if n == want:
            break
        got = take_empty_slot(v, HELD, &i)
    if n == 0:
        return got
    given = give_or_cut(v, size_class, held, n)
    if given > 0:
        # HELD becomes WRITING for the caller
        store_release(&v.slots[held[0]].word,
                      make_word(word_generation(load_relaxed(&v.slots[held[0]].word)),
                                WRITING, v.row))                         # [free] relaxed: ours
        slot[0] = held[0]
        v.current[size_class] = v.slots[held[0]].run
    for k in range(1 if given > 0 else 0, n):
        unclaim(v, held[k])
    return 0 if given > 0 else <int>given


cdef inline int take_small(View *v, uint64_t nbytes, uint64_t *slot) noexcept nogil:
    cdef int size_class = class_of(nbytes)
    cdef int got
    if take_spare_block(v, size_class, slot):
        return 0
    got = make_blocks(v, size_class, slot)
    if got == ERR_FULL \
            and (take_anywhere(v, size_class, False, slot) or take_larger(v, size_class, slot)):
        return 0
    return got


# Any block

cdef inline int commit_run_block(View *v, Slot *slot) noexcept nogil:
    cdef:
        uint64_t r = slot.run, block = slot.block, size_class = slot.size_class
        uint64_t size = v.class_sizes[size_class]
        Run *run = &v.runs[r - 1]
        int got
    if not run_is_there(v, r) or not run_is_sound(v, run, size_class + 1) \
            or (block + 1) * size > run.pages * <uint64_t>PAGE:
        return damage(v, b"run %d is not that of its blocks", r - 1)
    assign(slot.offset, v.g.data + run.first * <uint64_t>PAGE + block * size)
    if load_acquire(&run.committed):                                     # [committed]
        return 0
    got = commit_data(v, file_of(v), run.first, run.pages, False, NULL)
    if got != 0:
        return got
    store_release(&run.committed, 1)  # [committed] its pages are there
    return 0


cdef inline int place_block(View *v, uint64_t i) noexcept nogil:
    # Where the block lies follows from who owns it, and from nothing else: it may have come to the
    # slot by other ways than a put, and the file may be damaged. ERR_UNCOMMITTED: an extent, and
    # memory is missing.
    cdef Slot *slot = &v.slots[i]
    cdef uint64_t extent = slot.extent
    if not extent:
        return commit_run_block(v, slot)
    if not extent_is_sane(v, extent_first(extent), extent_pages(extent)):
        return damage(v, b"the extent of slot %d lies outside of the data", i)
    assign(slot.offset, v.g.data + extent_first(extent) * PAGE)
    return 0 if is_committed(v, extent_first(extent), extent_pages(extent)) else ERR_UNCOMMITTED


cdef inline int place_taken(View *v, uint64_t i) noexcept nogil:
    # As place_block(), of what we have just taken. On an error but ERR_UNCOMMITTED it is given
    # back; but not on ERR_DAMAGED, since its record is wrong: it is leaked on purpose.
    cdef int got = place_block(v, i)
    if got != 0 and got != ERR_UNCOMMITTED and got != ERR_DAMAGED:
        unclaim(v, i)
    return got


cdef inline int take_spare(View *v, uint64_t nbytes, uint64_t *slot) noexcept nogil:
    # As allocate_block(), if a block of the very size came free where we look first: without a
    # lock. Else ERR_FULL.
    cdef bint found = False
    cdef int got
    if 0 < nbytes <= SMALL_LIMIT:
        found = take_spare_block(v, class_of(nbytes), slot)
    elif nbytes:
        found = take_recent(v, (nbytes + PAGE - 1) // PAGE, slot)
    if not found:
        return ERR_FULL
    got = place_taken(v, slot[0])
    return ERR_FULL if got == ERR_NO_MEMORY else got


cdef inline int allocate_block(View *v, uint64_t nbytes, uint64_t *slot) noexcept nogil:
    # A slot in WRITING, ours, with a committed block of at least nbytes; without a block if that is
    # 0. On ERR_UNCOMMITTED the slot is ours, and its extent is to be committed.
    cdef int got
    if nbytes > v.g.pages * PAGE:
        return ERR_FULL
    if nbytes == 0:
        got = need_empty_slot(v, WRITING, slot)
        if got == 0:
            assign(v.slots[slot[0]].offset, v.g.data)
        return got
    if nbytes <= SMALL_LIMIT:
        got = take_small(v, nbytes, slot)
        if got == ERR_INDEX:            # no run numbers left: a page or more of its own
            got = take_extent(v, (nbytes + PAGE - 1) // PAGE, slot)
    else:
        got = take_extent(v, (nbytes + PAGE - 1) // PAGE, slot)
    if got != 0:
        return got
    got = place_taken(v, slot[0])
    if got != ERR_NO_MEMORY or not take_anywhere(v, class_of(nbytes), True, slot):
        return got
    return place_taken(v, slot[0])
