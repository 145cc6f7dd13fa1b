# Gaps between the pages that are in use, on a map of a byte a page which a caller draws: what fits
# where, now or if something went.

from libc.stdint cimport uint64_t
from libc.string cimport memchr, memset

from refstore.engines.native.layout cimport Slot
from refstore.engines.native.view cimport extent_first, extent_pages, runs_used, View

cdef inline void mark_pages(unsigned char *used, uint64_t end, uint64_t first,
                            uint64_t pages) noexcept nogil:
    if first < end:
        memset(used + first, 1, min(pages, end - first))


cdef inline void mark_block(View *v, const Slot *slot, unsigned char *used, uint64_t end,
                            unsigned char *has_objects) noexcept nogil:
    # A slot's block: its extent, or its run among those that mark_runs() is to mark.
    if slot.extent:
        mark_pages(used, end, extent_first(slot.extent), extent_pages(slot.extent))
    elif slot.run - <uint64_t>1 < v.g.max_runs:
        has_objects[slot.run - 1] = 1


cdef inline void mark_runs(View *v, unsigned char *used, uint64_t end,
                           const unsigned char *has_objects) noexcept nogil:
    # those of which a block is in use
    cdef uint64_t i
    for i in range(runs_used(v)):
        if has_objects[i]:
            mark_pages(used, end, v.runs[i].first, v.runs[i].pages)


cdef inline uint64_t length_of(const unsigned char *from_, uint64_t n, int value) noexcept nogil:
    # how many bytes there are before the first with that value
    cdef const unsigned char *at = <const unsigned char*>memchr(from_, value, n)
    return n if at == NULL else <uint64_t>(at - from_)


cdef inline uint64_t longest_gap(unsigned char *used, uint64_t end, uint64_t pages) noexcept nogil:
    # all pages from `end` on are free
    cdef uint64_t page = 0, gap, longest = pages - end
    while page < end:
        page += length_of(used + page, end - page, 0)
        gap = length_of(used + page, end - page, 1)
        page += gap
        longest = max(longest, gap if page < end else gap + pages - end)
    return longest


cdef inline uint64_t smallest_gap(const unsigned char *used, uint64_t pages,
                                  uint64_t least) noexcept nogil:
    # the first page of the smallest gap of so many pages, or `pages`
    cdef uint64_t page = 0, gap, best = pages, best_gap = 0
    while page < pages and best_gap != least:
        page += length_of(used + page, pages - page, 0)
        gap = length_of(used + page, pages - page, 1)
        if gap >= least and (best == pages or gap < best_gap):
            best = page
            best_gap = gap
        page += gap
    return best


cdef inline bint gaps_hold(unsigned char *used, uint64_t pages, const uint64_t *wanted,
                           uint64_t n) noexcept nogil:
    # Whether there is room for `n` extents of so many pages each, one after the other, as space is
    # given out: in the smallest gap that will do.
    cdef uint64_t k, page, total = 0
    for k in range(n):
        total += wanted[k]
    if total <= longest_gap(used, pages, pages):
        return True
    for k in range(n):
        if wanted[k]:
            page = smallest_gap(used, pages, wanted[k])
            if page == pages:
                return False
            mark_pages(used, pages, page, wanted[k])
    return True
