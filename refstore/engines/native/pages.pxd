# Allocation of whole pages, under the space lock. The map of free pages in bins.pxd is a hint: who
# takes the lock over from a dead process rebuilds it from the slots, and so does a holder who finds
# that it contradicts itself.
#
# Under the lock: no system call, no fault (the tags are committed first), no copy. A get, a release
# and a delete never take it. The put of a small object takes it only if its class has no free
# block, so that a run must be cut, or if there is no empty slot.

from libc.stdint cimport int64_t, uint64_t

from refstore.engines.native.atomics cimport assign, cas_acq_rel, load_acquire, load_relaxed
from refstore.engines.native.error_codes cimport ERR_FULL, ERR_MORE
from refstore.engines.native.layout cimport PAGE, PageTag, Pool
from refstore.engines.native.geometry cimport round_up
from refstore.engines.native.view cimport damage, file_of, map_end, top_of, View
from refstore.engines.native.memory cimport commit
from refstore.engines.native.bins cimport (
    are_used, bin_of, BROKEN, find_free, find_high, heads_bin, insert_free, is_listed, mark_unused,
    mark_used, next_page, NO_RUN, remove_free,
)
from refstore.engines.native.rebuild cimport rebuild

cdef enum:
    MAP_STEP = 65536        # the page map is committed in steps of this many bytes
    PAGE_BITS = PAGE * 8    # used bits in a page of them


cdef inline int commit_map(View *v, uint64_t has, uint64_t end) noexcept nogil:
    # Tags and used bits of the pages from `has` up to `end`. Idempotent.
    cdef uint64_t bits_at = has // PAGE_BITS * PAGE
    cdef uint64_t bits_end = (end + PAGE_BITS - 1) // PAGE_BITS * PAGE
    cdef int got = commit(file_of(v), v.g.page_map + has * sizeof(PageTag),
                          (end - has) * sizeof(PageTag))
    # else they came with those before
    if got == 0 and (has % PAGE_BITS == 0 or bits_end - bits_at > PAGE):
        got = commit(file_of(v), v.g.used_bits + bits_at, bits_end - bits_at)
    return got


cdef inline int ensure_map_committed(View *v, uint64_t pages) noexcept nogil:
    # Commits the map for `pages` more than are in use. Outside the lock; idempotent, so no lock is
    # needed.
    cdef:
        Pool *pool = v.pool
        uint64_t has = load_acquire(&pool.map_committed)                 # [map]
        # take_pages looks again under the lock
        uint64_t wants = min(load_relaxed(&pool.top), v.g.pages) + pages  # relaxed: a guess
        uint64_t end
        int got
    while has < min(wants, v.g.pages):      # it only grows
        end = min(round_up(wants * sizeof(PageTag), MAP_STEP) // sizeof(PageTag), v.g.pages + 1)
        got = commit_map(v, has, end)
        if got != 0:
            return got
        cas_acq_rel(&pool.map_committed, &has, end)  # [map] the map below is there
        has = load_acquire(&pool.map_committed)                          # [map]
    return 0


cdef inline bint extent_is_sane(View *v, uint64_t first, uint64_t pages) noexcept nogil:
    return pages > 0 and first + pages <= v.g.pages and first + pages <= map_end(v)


cdef inline int64_t take_piece(View *v, uint64_t run, uint64_t first,
                               uint64_t pages) noexcept nogil:
    # `first` or BROKEN: pages out of the free run that begins at `run`; what is left of it stays
    # free.
    cdef uint64_t end = run + v.tags[run].head
    if not are_used(v, first, pages, False):
        return BROKEN
    mark_used(v, first, first + pages)
    remove_free(v, run)
    if first > run:
        insert_free(v, run, first - run)
    if end > first + pages:
        insert_free(v, first + pages, end - first - pages)
    return <int64_t>first


cdef inline int64_t take_top(View *v, uint64_t pages) noexcept nogil:
    # Pages that were never used, ERR_FULL, ERR_MORE or BROKEN.
    cdef uint64_t first = v.pool.top
    if first > top_of(v):
        return BROKEN
    if first + pages > v.g.pages:
        return ERR_FULL
    if first + pages > map_end(v):
        return ERR_MORE
    if not are_used(v, first, pages, False):
        return BROKEN
    mark_used(v, first, first + pages)
    assign(v.pool.top, first + pages)
    return <int64_t>first


cdef inline int64_t try_take(View *v, uint64_t pages, bint for_run) noexcept nogil:
    # Used memory first: a fresh page costs forty warm ones. Runs may stay for long with one block
    # in use: theirs come from the upper end, so that they do not come to lie between the large
    # blocks and cut up their room.
    cdef int64_t run = find_high(v, pages) if for_run else find_free(v, pages)
    if run == BROKEN:
        return BROKEN
    if run == NO_RUN and for_run:
        run = find_free(v, pages)
    if run < 0:
        return take_top(v, pages) if run == NO_RUN else run
    return take_piece(v, <uint64_t>run,
                      <uint64_t>run + (v.tags[run].head - pages if for_run else 0), pages)


cdef inline bint has_gap(View *v, uint64_t pages) noexcept nogil:
    # whether by the used bits there is room for so many
    cdef uint64_t end = min(map_end(v), v.g.pages), page = 0, until
    while page < end:           # it gets on with each turn
        page = next_page(v, page, end, False)
        until = next_page(v, page, end, True)
        if (until if until < end else v.g.pages) - page >= pages and page < end:
            return True
        page = until
    return False


cdef inline int64_t take_pages(View *v, uint64_t pages, bint for_run) noexcept nogil:
    # First page of an extent, or ERR_FULL, or ERR_MORE.
    cdef int64_t first = try_take(v, pages, for_run)
    if first == BROKEN or first == ERR_FULL and has_gap(v, pages):
        rebuild(v)
        first = try_take(v, pages, for_run)
    if first == BROKEN:
        return damage(v, b"the map of free pages is wrong even after a rebuild, up to page %d",
                      top_of(v))
    return first


cdef inline bint return_pages(View *v, uint64_t first, uint64_t pages) noexcept nogil:
    # False if the map contradicts itself, and then it is half changed.
    cdef uint64_t left, right, head
    if first + pages > top_of(v) or v.pool.top != top_of(v) or not are_used(v, first, pages, True):
        return False
    mark_unused(v, first, first + pages)
    left = v.tags[first - 1].tail if first else 0
    if left:
        if left > first or not is_listed(v, first - left) or v.tags[first - left].head != left:
            return False
        remove_free(v, first - left)
        first -= left
        pages += left
    if first + pages == v.pool.top:
        assign(v.pool.top, first)
        return True
    right = v.tags[first + pages].head
    if right:
        if not is_listed(v, first + pages):
            return False
        remove_free(v, first + pages)
        pages += right
    head = v.pool.bin_head[bin_of(pages)]
    if head and not heads_bin(v, head - 1, bin_of(pages)):
        return False
    insert_free(v, first, pages)
    return True


cdef inline void free_pages(View *v, uint64_t first, uint64_t pages) noexcept nogil:
    # They belong to nobody any more: no slot and no live run has them.
    if not return_pages(v, first, pages):
        rebuild(v)
