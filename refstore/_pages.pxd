# Whole pages: who has them, and the one lock under which they change hands. What _bins.pxd keeps of them is a hint:
# when the lock's holder has died, the next one makes it anew from the slots, and so does a holder who finds that it
# contradicts itself.
#
# Under the lock: no system call, no fault (the tags are committed first), no copy. It is never taken by get,
# release, or the small path.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from refstore._atomics cimport (
    assign, cas_acq_rel, cpu_relax, load_acquire, load_relaxed, popcount64, store_relaxed_u32,
    store_release,
)
from refstore._bins cimport (
    are_used, bin_of, BROKEN, find_free, find_high, heads_bin, insert_free, is_listed, mark_unused,
    mark_used, next_page, NO_RUN, remove_free,
)
from refstore._debug cimport failpoint
from refstore._layout cimport (
    block_nbytes, CLASSES, CONDEMNED, ERR_DEAD, ERR_FULL, ERR_HELD, ERR_MORE, extent_first,
    extent_pages, HELD, MAX_ROWS, PAGE, PageTag, Pool, PUBLISHING, RETIRED, round_up, Run,
    RUN_BLOCKS, SEALED, Slot, word_state,
)
from refstore._store cimport (
    commit, damage, file_of, map_end, run_is_sound, runs_used, slots_used, Store, top_of,
)
from refstore._sys cimport byte_is_locked, now_ms, sched_yield, sleep_us

cdef enum:
    HELD_AFTER_MS = 2       # holders are quicker, unless they are stopped or wait for a core
    MAP_STEP = 65536        # the page map is committed in steps of this many bytes
    PAGE_BITS = PAGE * 8    # used bits in a page of them


cdef inline int lock(Store *s, uint64_t *word) noexcept nogil:
    # Holders are quick, so a short spin; then ask whether the holder lives. Who waits longer does it without the GIL,
    # hence with nothing in hand: that is up to the caller's caller.
    cdef:
        uint64_t expected = 0
        uint64_t since = 0
        int _
    while True:
        for _ in range(128):
            expected = 0
            if cas_acq_rel(word, &expected, s.row + 1):                  # [lock]
                return 0
            cpu_relax()
        if since == 0:
            since = now_ms()
            sched_yield()
            continue
        if expected > MAX_ROWS:
            if word == &s.pool.lock:
                return damage(s, b"the space lock names row %d, and there is none", expected - 1)
            return damage(s, b"a name's lock names row %d, and there is none", expected - 1)
        if expected and not byte_is_locked(file_of(s), expected - 1) and load_acquire(word) == expected:
            s.blocked_by = expected
            return ERR_DEAD
        if expected and now_ms() - since >= HELD_AFTER_MS:
            s.blocked_by = expected
            return ERR_HELD
        sleep_us(50)


cdef inline void unlock(uint64_t *word) noexcept nogil:
    store_release(word, 0)                                               # [lock]


cdef inline int commit_map(Store *s, uint64_t has, uint64_t end) noexcept nogil:
    # Tags and used bits of the pages from `has` up to `end`. Idempotent.
    cdef uint64_t bits_at = has // PAGE_BITS * PAGE
    cdef uint64_t bits_end = (end + PAGE_BITS - 1) // PAGE_BITS * PAGE
    cdef int got = commit(file_of(s), s.g.page_map + has * sizeof(PageTag), (end - has) * sizeof(PageTag))
    if got == 0 and (has % PAGE_BITS == 0 or bits_end - bits_at > PAGE):        # else they came with those before
        got = commit(file_of(s), s.g.used_bits + bits_at, bits_end - bits_at)
    return got


cdef inline int reach_map(Store *s, uint64_t pages) noexcept nogil:
    # Commits the map for `pages` more than are in use. Outside the lock; idempotent, so no lock is needed.
    cdef:
        Pool *pool = s.pool
        uint64_t has = load_acquire(&pool.map_committed)                 # [map]
        # relaxed: a guess; take_pages looks again under the lock
        uint64_t wants = min(load_relaxed(&pool.top), s.g.pages) + pages
        uint64_t end
        int got
    while has < min(wants, s.g.pages):      # it only grows
        end = min(round_up(wants * sizeof(PageTag), MAP_STEP) // sizeof(PageTag), s.g.pages + 1)
        got = commit_map(s, has, end)
        if got != 0:
            return got
        cas_acq_rel(&pool.map_committed, &has, end)                      # [map] the map below is there
        has = load_acquire(&pool.map_committed)                          # [map]
    return 0


cdef inline bint extent_is_sane(Store *s, uint64_t first, uint64_t pages) noexcept nogil:
    return pages > 0 and first + pages <= s.g.pages and first + pages <= map_end(s)


# The map anew, from the slots

cdef inline bint has_bytes(uint64_t state) noexcept nogil:
    # whether the slot's offset and size are those of an object
    return state == SEALED or state == CONDEMNED or state == PUBLISHING


cdef inline Run *run_of(Store *s, uint64_t i) noexcept nogil:
    # the run that slot `i` has a block of, or NULL
    cdef Run *run
    if s.slots[i].run == 0 or s.slots[i].run > runs_used(s):
        return NULL
    run = &s.runs[s.slots[i].run - 1]
    return run if run_is_sound(s, run, run.live) else NULL


cdef inline void forget_half_made(Store *s) noexcept nogil:
    # Slots that a dead holder had in hand, and retired ones, belong to a run only if the run counts.
    cdef uint64_t i, state
    for i in range(slots_used(s)):
        state = word_state(load_acquire(&s.slots[i].word))
        if s.slots[i].run and (state == HELD or state == RETIRED):
            if run_of(s, i) == NULL:
                assign(s.slots[i].run, 0)


cdef inline void forget_owners(Store *s) noexcept nogil:
    # Which slot has which block is known by the slots alone.
    cdef uint64_t r, j
    for r in range(runs_used(s)):
        assign(s.runs[r].orphaned, ~<uint64_t>0)
        for j in range(<uint64_t>RUN_BLOCKS):
            store_relaxed_u32(&s.runs[r].slots[j], 0)  # relaxed: a hint; the sweep restores bits dropped meanwhile
    assign(s.pool.orphans, 0)
    memset(s.pool.class_pages, 0, sizeof(s.pool.class_pages))
    failpoint()


cdef inline void own_block(Run *run, uint64_t block, uint64_t i) noexcept nogil:
    if block < run.blocks and run.slots[block] == 0:
        store_relaxed_u32(&run.slots[block], <uint32_t>(i + 1))  # relaxed: as above
        assign(run.orphaned, run.orphaned & ~(<uint64_t>1 << block))


cdef inline void own_blocks(Store *s, bint in_use) noexcept nogil:
    # Of the slots that hold an object, first, and then of all: one that is sealed meanwhile, which takes no lock, is in
    # one of the two looks. A block where an object's bytes lie is not to be had, whatever else the slot says.
    cdef:
        uint64_t i, at, size
        Run *run
        Slot *slot
    for i in range(slots_used(s)):
        slot = &s.slots[i]
        run = run_of(s, i)
        if run == NULL or slot.extent or in_use and not has_bytes(word_state(load_acquire(&slot.word))):  # [seal]
            continue
        size = block_nbytes(slot)
        at = slot.offset - s.g.data - run.first * <uint64_t>PAGE
        if in_use and size and at < run.pages * <uint64_t>PAGE:
            own_block(run, min(at // size, <uint64_t>RUN_BLOCKS), i)
        own_block(run, slot.block, i)


cdef inline uint64_t use_pages(Store *s, uint64_t first, uint64_t pages) noexcept nogil:
    # Marks those of them that the map reaches; returns where they end. What lies past it stays as it is marked.
    cdef uint64_t end = min(map_end(s), s.g.pages)
    if first >= end:
        return 0
    end = min(end, first + pages)
    mark_used(s, first, end)
    return end


cdef inline uint64_t use_block(Store *s, Slot *slot) noexcept nogil:
    # Pages by what the slot owns, and by where the bytes of its object lie: one of them may be damaged.
    cdef bint holds = has_bytes(word_state(load_acquire(&slot.word)))    # [seal] before what it says of its bytes
    cdef uint64_t end = 0, at = slot.offset - s.g.data, nbytes
    if slot.extent:
        end = use_pages(s, extent_first(slot.extent), extent_pages(slot.extent))
    nbytes = min(slot.nbytes, s.g.pages * PAGE) + slot.spill_nbytes
    if slot.extent or slot.run:
        nbytes = min(nbytes, block_nbytes(slot))
    if nbytes and holds and at < s.g.pages * PAGE:
        end = max(end, use_pages(s, at // PAGE, (at % PAGE + nbytes + PAGE - 1) // PAGE))
    return end


cdef inline uint64_t use_run(Store *s, Run *run) noexcept nogil:
    # If a slot has a block of it; else it is none any more, and half made or half dissolved.
    cdef uint64_t size_class = (run.live - 1) % CLASSES
    if run_is_sound(s, run, run.live):
        assign(run.orphaned, run.orphaned & ~<uint64_t>0 >> (RUN_BLOCKS - run.blocks))
        if <uint64_t>popcount64(run.orphaned) < run.blocks:
            assign(s.pool.orphans, s.pool.orphans + <uint64_t>popcount64(run.orphaned))
            assign(s.pool.class_pages[size_class], s.pool.class_pages[size_class] + run.pages)
            return use_pages(s, run.first, run.pages)
    store_release(&run.live, 0)                                          # [run]
    assign(run.twin, 0)
    return 0


cdef inline uint64_t use_all(Store *s) noexcept nogil:
    # Marks all pages that are owned; returns the end of the last.
    cdef uint64_t i, end = 0
    own_blocks(s, True)
    own_blocks(s, False)
    for i in range(slots_used(s)):
        end = max(end, use_block(s, &s.slots[i]))
    for i in range(runs_used(s)):
        end = max(end, use_run(s, &s.runs[i]))
    return end


cdef inline void rebuild(Store *s) noexcept nogil:
    # The lock is ours, or its holder died and its row's kernel lock is ours. Slots keep their space meanwhile, whatever
    # others do to them: only a holder of this lock changes who owns pages.
    cdef uint64_t end, page = 0, until
    mark_unused(s, 0, min(map_end(s), s.g.pages))
    forget_half_made(s)
    forget_owners(s)
    memset(s.tags, 0, map_end(s) * sizeof(PageTag))
    failpoint()
    memset(s.pool.bin_bits, 0, sizeof(s.pool.bin_bits))
    failpoint()
    memset(s.pool.bin_head, 0, sizeof(s.pool.bin_head))
    failpoint()
    end = use_all(s)
    assign(s.pool.top, end)
    while page < end:           # it gets on with each turn
        page = next_page(s, page, end, False)
        until = next_page(s, page, end, True)
        if until > page:
            insert_free(s, page, until - page)
        page = until


# Pages change hands

cdef inline int64_t take_piece(Store *s, uint64_t run, uint64_t first, uint64_t pages) noexcept nogil:
    # `first` or BROKEN: pages out of the free run that begins at `run`; what is left of it stays free.
    cdef uint64_t end = run + s.tags[run].head
    if not are_used(s, first, pages, False):
        return BROKEN
    mark_used(s, first, first + pages)
    remove_free(s, run)
    if first > run:
        insert_free(s, run, first - run)
    if end > first + pages:
        insert_free(s, first + pages, end - first - pages)
    return <int64_t>first


cdef inline int64_t take_top(Store *s, uint64_t pages) noexcept nogil:
    # Pages that were never used, ERR_FULL, ERR_MORE or BROKEN.
    cdef uint64_t first = s.pool.top
    if first > top_of(s):
        return BROKEN
    if first + pages > s.g.pages:
        return ERR_FULL
    if first + pages > map_end(s):
        return ERR_MORE
    if not are_used(s, first, pages, False):
        return BROKEN
    mark_used(s, first, first + pages)
    assign(s.pool.top, first + pages)
    return <int64_t>first


cdef inline int64_t try_take(Store *s, uint64_t pages, bint for_run) noexcept nogil:
    # Used memory first: a fresh page costs forty warm ones. Runs may stay for long with one block in use: theirs come
    # from the upper end, so that they do not come to lie between the large blocks and cut up their room.
    cdef int64_t run = find_high(s, pages) if for_run else find_free(s, pages)
    if run == BROKEN:
        return BROKEN
    if run == NO_RUN and for_run:
        run = find_free(s, pages)
    if run < 0:
        return take_top(s, pages) if run == NO_RUN else run
    return take_piece(s, <uint64_t>run, <uint64_t>run + (s.tags[run].head - pages if for_run else 0), pages)


cdef inline bint has_gap(Store *s, uint64_t pages) noexcept nogil:
    # whether by the used bits there is room for so many
    cdef uint64_t end = min(map_end(s), s.g.pages), page = 0, until
    while page < end:           # it gets on with each turn
        page = next_page(s, page, end, False)
        until = next_page(s, page, end, True)
        if (until if until < end else s.g.pages) - page >= pages and page < end:
            return True
        page = until
    return False


cdef inline int64_t take_pages(Store *s, uint64_t pages, bint for_run) noexcept nogil:
    # First page of an extent, or ERR_FULL, or ERR_MORE.
    cdef int64_t first = try_take(s, pages, for_run)
    if first == BROKEN or first == ERR_FULL and has_gap(s, pages):
        rebuild(s)
        first = try_take(s, pages, for_run)
    if first == BROKEN:
        return damage(s, b"the map of free pages is wrong as soon as it is made anew, up to page %d", top_of(s))
    return first


cdef inline bint return_pages(Store *s, uint64_t first, uint64_t pages) noexcept nogil:
    # False if the map contradicts itself, and then it is half changed.
    cdef uint64_t left, right, head
    if first + pages > top_of(s) or s.pool.top != top_of(s) or not are_used(s, first, pages, True):
        return False
    mark_unused(s, first, first + pages)
    left = s.tags[first - 1].tail if first else 0
    if left:
        if left > first or not is_listed(s, first - left) or s.tags[first - left].head != left:
            return False
        remove_free(s, first - left)
        first -= left
        pages += left
    if first + pages == s.pool.top:
        assign(s.pool.top, first)
        return True
    right = s.tags[first + pages].head
    if right:
        if not is_listed(s, first + pages):
            return False
        remove_free(s, first + pages)
        pages += right
    head = s.pool.bin_head[bin_of(pages)]
    if head and not heads_bin(s, head - 1, bin_of(pages)):
        return False
    insert_free(s, first, pages)
    return True


cdef inline void free_pages(Store *s, uint64_t first, uint64_t pages) noexcept nogil:
    # They belong to nobody any more: no slot and no live run has them.
    if not return_pages(s, first, pages):
        rebuild(s)
