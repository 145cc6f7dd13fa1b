# Whole pages: who has them, and the one lock under which they change hands. Free runs of pages stand in bins by
# length; tags at both ends of each let a freed extent coalesce at once with its neighbours. All of it is a
# hint: when the lock's holder has died, the next one makes it anew from the slots.
#
# Under the lock: no system call, no fault (the tags are committed first), no copy. It is never taken by get,
# release, or the small path.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from refstore._atomics cimport (
    assign, cas_acq_rel, clz64, cpu_relax, ctz64, load_acquire, load_relaxed, store_relaxed_u32,
    store_release,
)
from refstore._debug cimport failpoint
from refstore._layout cimport (
    BIN_WORDS, BINS, CLASSES, ERR_DEAD, ERR_FULL, ERR_HELD, ERR_MORE, EXACT_BINS,
    extent_first, extent_pages, HELD, PageTag, Pool, RETIRED, round_up, Run, RUN_BLOCKS, word_state,
)
from refstore._store cimport commit, file_of, map_end, runs_used, slots_used, Store, tag_at
from refstore._sys cimport byte_is_locked, now_ms, sched_yield, sleep_us

cdef enum:
    HELD_AFTER_MS = 2       # holders are quicker, unless they are stopped or wait for a core
    LOOK_AT = 64            # free runs looked at in one bin before the best so far is taken
    MAP_STEP = 65536        # the page map is committed in steps of this many bytes


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
        if expected and not byte_is_locked(file_of(s), expected - 1) and load_acquire(word) == expected:
            s.blocked_by = expected
            return ERR_DEAD
        if expected and now_ms() - since >= HELD_AFTER_MS:
            s.blocked_by = expected
            return ERR_HELD
        sleep_us(50)


cdef inline void unlock(uint64_t *word) noexcept nogil:
    store_release(word, 0)                                               # [lock]


cdef inline int bin_of(uint64_t pages) noexcept nogil:
    cdef uint64_t floor
    if pages <= EXACT_BINS:
        return <int>pages - 1 if pages else 0
    floor = <uint64_t>(63 - clz64(pages))
    return <int>(EXACT_BINS + (floor - 5) * 8 + ((pages - (<uint64_t>1 << floor)) >> (floor - 3)))


cdef inline void insert_free(Store *s, uint64_t first, uint64_t pages) noexcept nogil:
    cdef:
        int b = bin_of(pages)
        uint32_t old = s.pool.bin_head[b]
        PageTag *tag = tag_at(s, first)
    assign(tag.head, <uint32_t>pages)
    assign(tag_at(s, first + pages - 1).tail, <uint32_t>pages)
    assign(tag.prev, 0)
    assign(tag.next, old)
    if old:
        assign(tag_at(s, old - 1).prev, <uint32_t>first + 1)
    assign(s.pool.bin_head[b], <uint32_t>first + 1)
    assign(s.pool.bin_bits[b >> 6], s.pool.bin_bits[b >> 6] | (<uint64_t>1 << (b & 63)))


cdef inline void remove_free(Store *s, uint64_t first) noexcept nogil:
    cdef:
        PageTag *tag = tag_at(s, first)
        uint64_t pages = tag.head
        int b = bin_of(pages)
    if tag.prev:
        assign(tag_at(s, tag.prev - 1).next, tag.next)
    else:
        assign(s.pool.bin_head[b], tag.next)
        if tag.next == 0:
            assign(s.pool.bin_bits[b >> 6], s.pool.bin_bits[b >> 6] & ~(<uint64_t>1 << (b & 63)))
    if tag.next:
        assign(tag_at(s, tag.next - 1).prev, tag.prev)
    assign(tag_at(s, first + pages - 1).tail, 0)
    assign(tag.head, 0)
    assign(tag.next, 0)
    assign(tag.prev, 0)


cdef inline int64_t best_in_bin(Store *s, int b, uint64_t pages, uint64_t most) noexcept nogil:
    # the shortest run of at least `pages`, the lowest of equals, of the first `most`; -1 if there is none
    cdef:
        uint32_t at = s.pool.bin_head[b]
        int64_t best = -1
        uint64_t best_pages = 0
        uint64_t has, looked = 0
    while at and looked < most:
        has = tag_at(s, at - 1).head
        if has >= pages and (best < 0 or has < best_pages or (has == best_pages and <int64_t>at - 1 < best)):
            best = <int64_t>at - 1
            best_pages = has
        at = tag_at(s, at - 1).next
        looked += 1
    return best


cdef inline int64_t find_free(Store *s, uint64_t pages) noexcept nogil:
    cdef:
        int b = bin_of(pages)
        int64_t best = best_in_bin(s, b, pages, LOOK_AT)
        int w = (b + 1) >> 6
        uint64_t bits
    if best >= 0:
        return best
    bits = s.pool.bin_bits[w] >> ((b + 1) & 63) << ((b + 1) & 63)
    while True:
        if bits:
            return best_in_bin(s, w * 64 + ctz64(bits), pages, LOOK_AT)
        w += 1
        if w >= BIN_WORDS:
            return best_in_bin(s, b, pages, s.g.pages)      # before the store counts as full
        bits = s.pool.bin_bits[w]


cdef inline int64_t find_high(Store *s, uint64_t pages) noexcept nogil:
    # Of the free runs that are long enough, the highest among the first few of each bin; -1 if there is none.
    cdef:
        int b = bin_of(pages)
        int64_t best = -1
        int looked
        uint64_t at
    while b < BINS:
        if s.pool.bin_bits[b >> 6] >> (b & 63) == 0:
            b = (b | 63) + 1
            continue
        at = s.pool.bin_head[b]
        looked = 0
        while at and looked < LOOK_AT:
            if tag_at(s, at - 1).head >= pages and <int64_t>at - 1 > best:
                best = <int64_t>at - 1
            at = tag_at(s, at - 1).next
            looked += 1
        b += 1
    return best


cdef inline int64_t take_pages_high(Store *s, uint64_t pages) noexcept nogil:
    # For runs, which may stay for long with one block in use: from the upper end, so that they do not come to lie
    # between the large blocks and cut up their room.
    cdef int64_t first = find_high(s, pages)
    cdef uint64_t has
    if first < 0:
        return take_pages(s, pages)
    has = tag_at(s, <uint64_t>first).head
    remove_free(s, <uint64_t>first)
    if has > pages:
        insert_free(s, <uint64_t>first, has - pages)
    return first + <int64_t>(has - pages)


cdef inline int64_t take_pages(Store *s, uint64_t pages) noexcept nogil:
    # First page of an extent, or ERR_FULL, or ERR_MORE. Used memory first: a fresh page costs forty warm ones.
    cdef:
        int64_t first = find_free(s, pages)
        uint64_t has
        Pool *pool = s.pool
    if first >= 0:
        has = tag_at(s, first).head
        remove_free(s, <uint64_t>first)
        if has > pages:
            insert_free(s, <uint64_t>first + pages, has - pages)
    else:
        if pool.top + pages > s.g.pages:
            return ERR_FULL
        if pool.top + pages > load_acquire(&pool.map_committed):         # [map]
            return ERR_MORE
        first = <int64_t>pool.top
        assign(pool.top, pool.top + pages)
    return first


cdef inline void free_pages(Store *s, uint64_t first, uint64_t pages) noexcept nogil:
    cdef uint64_t left, right
    if first > 0:
        left = tag_at(s, first - 1).tail
        if left:
            remove_free(s, first - left)
            first -= left
            pages += left
    if first + pages == s.pool.top:
        assign(s.pool.top, first)
        return
    right = tag_at(s, first + pages).head
    if right:
        remove_free(s, first + pages)
        pages += right
    insert_free(s, first, pages)


cdef inline int reach_map(Store *s, uint64_t pages) noexcept nogil:
    # Commits tags for `pages` more than are in use. Outside the lock; idempotent, so no lock is needed.
    cdef:
        Pool *pool = s.pool
        uint64_t has = load_acquire(&pool.map_committed)                 # [map]
        # relaxed: a guess; take_pages looks again under the lock
        uint64_t wants = load_relaxed(&pool.top) + pages
        uint64_t end
        int got
    while has < min(wants, s.g.pages):
        end = min(round_up(wants * sizeof(PageTag), MAP_STEP) // sizeof(PageTag), s.g.pages + 1)
        got = commit(file_of(s), s.g.page_map + has * sizeof(PageTag), (end - has) * sizeof(PageTag))
        if got != 0:
            return got
        cas_acq_rel(&pool.map_committed, &has, end)                      # [map] the tags below are there
        has = load_acquire(&pool.map_committed)                          # [map]
    return 0


cdef inline bint extent_is_sane(Store *s, uint64_t first, uint64_t pages) noexcept nogil:
    return pages > 0 and first + pages <= s.g.pages and first + pages <= map_end(s)


cdef inline void forget_half_made(Store *s) noexcept nogil:
    # Slots that a dead holder had in hand, and retired ones, belong to a run only if the run counts.
    cdef uint64_t i, state
    for i in range(slots_used(s)):
        state = word_state(load_acquire(&s.slots[i].word))
        if s.slots[i].run and (state == HELD or state == RETIRED):
            if s.slots[i].run > runs_used(s) or s.runs[s.slots[i].run - 1].live == 0:
                assign(s.slots[i].run, 0)


cdef inline void forget_owners(Store *s) noexcept nogil:
    # Which slot has which block is known by the slots alone.
    cdef uint64_t i, j
    for i in range(runs_used(s)):
        assign(s.runs[i].blocks, min(s.runs[i].blocks, <uint32_t>RUN_BLOCKS))
        assign(s.runs[i].orphans, s.runs[i].blocks)
        for j in range(<uint64_t>RUN_BLOCKS):
            store_relaxed_u32(&s.runs[i].slots[j], 0)  # relaxed: a hint; the sweep restores bits dropped meanwhile
    assign(s.pool.orphans, 0)
    memset(s.pool.class_pages, 0, sizeof(s.pool.class_pages))
    failpoint()


cdef inline void own_block(Store *s, uint64_t i) noexcept nogil:
    cdef Run *run = &s.runs[s.slots[i].run - 1]
    if s.slots[i].block < run.blocks and run.slots[s.slots[i].block] == 0:
        store_relaxed_u32(&run.slots[s.slots[i].block], <uint32_t>(i + 1))  # relaxed: as above
        assign(run.orphans, run.orphans - 1)


cdef inline uint64_t mark_used(Store *s) noexcept nogil:
    # Writes the length of each owned extent into the tag of its first page; returns the end of the last.
    cdef:
        uint64_t i, extent, size_class, end = 0
        Run *run
    for i in range(slots_used(s)):
        extent = s.slots[i].extent
        if extent and extent_is_sane(s, extent_first(extent), extent_pages(extent)):
            assign(s.tags[extent_first(extent)].head, <uint32_t>extent_pages(extent))
            end = max(end, extent_first(extent) + extent_pages(extent))
        elif s.slots[i].run and s.slots[i].run <= runs_used(s):
            own_block(s, i)
    for i in range(runs_used(s)):
        run = &s.runs[i]
        if run.live and run.orphans < run.blocks and extent_is_sane(s, run.first, run.pages):
            assign(s.pool.orphans, s.pool.orphans + run.orphans)
            size_class = (run.live - 1) % CLASSES
            assign(s.pool.class_pages[size_class], s.pool.class_pages[size_class] + run.pages)
            assign(s.tags[run.first].head, run.pages)
            end = max(end, <uint64_t>run.first + run.pages)
        else:
            store_release(&run.live, 0)                                  # [run]
    return end


cdef inline void rebuild(Store *s) noexcept nogil:
    # The holder of the lock died, and its row's kernel lock is ours. Slots keep their space meanwhile, whatever
    # others do to them: only a holder of this lock changes who owns pages.
    cdef uint64_t end, page = 0, until
    forget_half_made(s)
    forget_owners(s)
    memset(s.tags, 0, map_end(s) * sizeof(PageTag))
    failpoint()
    memset(s.pool.bin_bits, 0, sizeof(s.pool.bin_bits))
    failpoint()
    memset(s.pool.bin_head, 0, sizeof(s.pool.bin_head))
    failpoint()
    end = mark_used(s)
    assign(s.pool.top, end)
    while page < end:
        until = page
        while until < end and s.tags[until].head == 0:
            until += 1
        if until > page:
            insert_free(s, page, until - page)
        if until == end:
            break
        page = until + s.tags[until].head
        assign(s.tags[until].head, 0)
