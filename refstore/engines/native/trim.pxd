# Free memory back to the operating system. Each free run is taken like any extent before its pages
# go, so nobody is given a page that is about to vanish; system calls happen outside the lock.

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc

from refstore.engines.native.debug cimport IS_DEBUG
from refstore.engines.native.atomics cimport assign
from refstore.engines.native.error_codes cimport ERR_SIGNALS
from refstore.engines.native.layout cimport BINS, CHUNK, HELD, HUGE_PAGE, PAGE
from refstore.engines.native.system cimport punch_hole
from refstore.engines.native.view cimport (
    bits_at, extent_first, extent_pages, file_of, make_extent, map_end, top_of, View,
)
from refstore.engines.native.memory cimport clear_ready, next_ready, next_unready
from refstore.engines.native.lock cimport lock, unlock
from refstore.engines.native.slots cimport unclaim
from refstore.engines.native.bins cimport (
    are_used, BROKEN, heads_bin, insert_free, is_listed, mark_used, name_owner,
)
from refstore.engines.native.rebuild cimport rebuild
from refstore.engines.native.pages cimport free_pages, take_piece
from refstore.engines.native.runs cimport gather_free_pages, need_empty_slot

cdef enum:
    MAX_RUNS = 65536           # free runs looked at in one call
    TRIM_PIECE = HUGE_PAGE // PAGE   # pages taken at a time
    # bytes between two looks at signals, some 3 ms; fewer for the tests, whose stores are small
    TRIM_STEP = 256 << 20
    TRIM_STEP_OF_TESTS = 64 << 10


cdef inline int64_t list_free(View *v, uint64_t *extents) noexcept nogil:
    # Under the lock: all free runs, and what lies committed past the last used page; how many, or
    # BROKEN.
    cdef:
        int64_t n = 0
        uint64_t at, end
        int b
    for b in range(BINS):
        at = v.pool.bin_head[b]
        if at and not heads_bin(v, at - 1, b):
            return BROKEN
        while at and n < MAX_RUNS - 1:
            if not is_listed(v, at - 1):
                return BROKEN
            extents[n] = make_extent(at - 1, v.tags[at - 1].head)
            at = v.tags[at - 1].next
            n += 1
    at = v.pool.top
    if at > top_of(v):
        return BROKEN
    end = min(map_end(v), v.g.pages)
    if end > at:
        extents[n] = make_extent(at, end - at)
        n += 1
    return n


cdef inline bint carve(View *v, uint64_t extent, uint64_t first, uint64_t pages) noexcept nogil:
    # Under the lock: takes a piece out of an extent, if that is still free as it was listed.
    cdef uint64_t at = extent_first(extent), end = extent_first(extent) + extent_pages(extent)
    if at == top_of(v) and end <= map_end(v):
        if not are_used(v, at, first + pages - at, False):
            return False
        mark_used(v, first, first + pages)
        assign(v.pool.top, first + pages)
        if first > at:
            insert_free(v, at, first - at)
        return True
    return at < top_of(v) and is_listed(v, at) and v.tags[at].head == extent_pages(extent) \
        and take_piece(v, at, first, pages) >= 0


cdef inline uint64_t punch(View *v, uint64_t first_page, uint64_t pages) noexcept nogil:
    # the whole chunks inside an extent of ours; returns the bytes given back
    cdef:
        uint64_t *ready = bits_at(v, v.g.data_ready)
        uint64_t end = (first_page + pages) * PAGE // CHUNK
        uint64_t i = next_ready(ready, (first_page * PAGE + CHUNK - 1) // CHUNK, end)
        uint64_t until
        uint64_t given = 0
    while i < end:
        until = next_unready(ready, i, end)
        clear_ready(ready, i, until)
        # in one hole: a huge page goes at once, and is not split first
        if punch_hole(file_of(v), v.g.data + i * CHUNK, (until - i) * CHUNK) == 0:
            given += (until - i) * CHUNK
        i = next_ready(ready, until, end)
    return given


cdef inline int trim_piece(View *v, uint64_t slot, uint64_t extent, uint64_t first, uint64_t pages,
                           uint64_t *given) noexcept nogil:
    # One piece of a listed extent. `slot`: HELD, ours, owns the piece meanwhile.
    cdef bint taken
    cdef int got = lock(v, &v.pool.lock)
    if got != 0:
        return got
    taken = carve(v, extent, first, pages)
    if taken:
        # what finds the slot later compares the two
        assign(v.slots[slot].offset, v.g.data + first * PAGE)
        assign(v.slots[slot].extent, make_extent(first, pages))
        name_owner(v, first, slot + 1, 0)
    unlock(&v.pool.lock)
    if not taken:
        return 0
    given[0] += punch(v, first, pages)
    got = lock(v, &v.pool.lock)
    if got != 0:
        return got  # the slot still owns the piece: giving the slot back gives it back too
    assign(v.slots[slot].extent, 0)
    free_pages(v, first, pages)
    unlock(&v.pool.lock)
    return 0


cdef inline int trim_extent(View *v, uint64_t slot, uint64_t extent,
                            uint64_t *given) noexcept nogil:
    # Piece by piece, so that others find nearly all that is free.
    cdef:
        uint64_t first = extent_first(extent)
        uint64_t end = extent_first(extent) + extent_pages(extent)
        uint64_t pages
        int got
    while first < end:
        pages = min(end - first, TRIM_PIECE - first % TRIM_PIECE)
        if is_committed_within(v, first, pages):
            got = trim_piece(v, slot, extent, first, pages, given)
            if got != 0:
                return got
            if given[0] >= <uint64_t>(TRIM_STEP_OF_TESTS if IS_DEBUG else TRIM_STEP):
                return ERR_SIGNALS
        first += pages
    return 0


cdef inline bint is_committed_within(View *v, uint64_t first, uint64_t pages) noexcept nogil:
    cdef uint64_t end = (first + pages) * PAGE // CHUNK
    return next_ready(bits_at(v, v.g.data_ready), (first * PAGE + CHUNK - 1) // CHUNK, end) < end


cdef inline int trim_all(View *v, uint64_t slot, uint64_t *extents, uint64_t *given) noexcept nogil:
    cdef int64_t n, k
    cdef int got = lock(v, &v.pool.lock)
    if got != 0:
        return got
    gather_free_pages(v)
    n = list_free(v, extents)
    if n == BROKEN:
        rebuild(v)
        n = list_free(v, extents)
    unlock(&v.pool.lock)
    for k in range(n):
        got = trim_extent(v, slot, extents[k], given)
        if got != 0:
            return got
    return 0


cdef inline int trim_free(View *v, uint64_t *given) noexcept nogil:
    # The bytes given back, and 0, or an error with nothing lost: ERR_SIGNALS when there may be
    # more to give after a look at signals.
    cdef uint64_t slot
    cdef uint64_t *extents
    cdef int got = need_empty_slot(v, HELD, &slot)
    given[0] = 0
    if got != 0:
        return got
    extents = <uint64_t*>malloc(MAX_RUNS * sizeof(uint64_t))
    if extents != NULL:
        got = trim_all(v, slot, extents, given)
        free(extents)
    unclaim(v, slot)
    return got
