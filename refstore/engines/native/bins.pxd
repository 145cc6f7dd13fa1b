# Free runs of pages, in bins by length: each has tags at both ends, by which a freed extent finds
# its neighbours, and stands in the list of its bin. Beside them one bit a page says whether the
# page is used. Nothing is given away unless all of these agree, so that no wrong bit in one of them
# is enough: what disagrees is BROKEN, and rebuilt from the slots by who finds it so. All of it is
# written under the space lock. Eviction and reports read it without the lock, as a guess.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from refstore.engines.native.atomics cimport assign, clz64, ctz64
from refstore.engines.native.layout cimport BIN_WORDS, BINS, EXACT_BINS, PageTag
from refstore.engines.native.view cimport tag_at, top_of, used_bits, View
from refstore.engines.native.memory cimport bits_within

cdef enum:
    NO_RUN = -100           # beside the errors
    BROKEN = -101
    SCAN_LIMIT = 64            # free runs looked at in one bin before the best so far is taken


# Used bits, a word at a time

cdef inline bint are_used(View *v, uint64_t first, uint64_t pages, bint used) noexcept nogil:
    # whether all of these pages are used, or none of them is
    cdef uint64_t at = first, end = first + pages, mask
    while at < end:
        mask = bits_within(at, end)
        if used_bits(v)[at >> 6] & mask != (mask if used else 0):
            return False
        at = (at | 63) + 1
    return True


cdef inline void mark_used(View *v, uint64_t first, uint64_t end) noexcept nogil:
    cdef uint64_t at = first
    while at < end:
        assign(used_bits(v)[at >> 6], used_bits(v)[at >> 6] | bits_within(at, end))
        at = (at | 63) + 1


cdef inline void mark_unused(View *v, uint64_t first, uint64_t end) noexcept nogil:
    cdef uint64_t at = first
    while at < end:
        assign(used_bits(v)[at >> 6], used_bits(v)[at >> 6] & ~bits_within(at, end))
        at = (at | 63) + 1


cdef inline uint64_t next_page(View *v, uint64_t page, uint64_t end, bint used) noexcept nogil:
    # the first page from `page` on that is used, or is not; `end` if there is none before that
    cdef uint64_t at = page, bits
    while at < end:
        bits = (used_bits(v)[at >> 6] if used else ~used_bits(v)[at >> 6]) >> (at & 63)
        if bits:
            return min(at + <uint64_t>ctz64(bits), end)
        at = (at | 63) + 1
    return end


# Bins

cdef inline int bin_of(uint64_t pages) noexcept nogil:
    cdef uint64_t floor
    if pages <= EXACT_BINS:
        return <int>pages - 1 if pages else 0
    floor = <uint64_t>(63 - clz64(pages))
    return <int>(EXACT_BINS + (floor - 5) * 8 + ((pages - (<uint64_t>1 << floor)) >> (floor - 3)))


cdef inline bint is_listed(View *v, uint64_t first) noexcept nogil:
    # Whether a free run begins here, and its tags and links agree. A run names the one before it in
    # its bin, so a list of such runs that begins at a head never comes back to where it was.
    cdef:
        uint64_t top = top_of(v)
        PageTag *tag = &v.tags[first]
        uint64_t pages
    if first >= top:
        return False
    pages = tag.head
    if pages == 0 or pages > top - first or v.tags[first + pages - 1].tail != pages:
        return False
    if tag.next and (tag.next > top or v.tags[tag.next - 1].prev != first + 1):
        return False
    if tag.prev:
        return tag.prev <= top and v.tags[tag.prev - 1].next == first + 1
    return v.pool.bin_head[bin_of(pages)] == first + 1


cdef inline bint heads_bin(View *v, uint64_t first, int b) noexcept nogil:
    return is_listed(v, first) and v.tags[first].prev == 0 and bin_of(v.tags[first].head) == b


cdef inline void insert_free(View *v, uint64_t first, uint64_t pages) noexcept nogil:
    cdef:
        int b = bin_of(pages)
        uint32_t old = v.pool.bin_head[b]
        PageTag *tag = tag_at(v, first)
    assign(tag.head, <uint32_t>pages)
    assign(tag_at(v, first + pages - 1).tail, <uint32_t>pages)
    assign(tag.prev, 0)
    assign(tag.next, old)
    if old:
        assign(tag_at(v, old - 1).prev, <uint32_t>first + 1)
    assign(v.pool.bin_head[b], <uint32_t>first + 1)
    assign(v.pool.bin_bits[b >> 6], v.pool.bin_bits[b >> 6] | (<uint64_t>1 << (b & 63)))


cdef inline void remove_free(View *v, uint64_t first) noexcept nogil:
    # of a run that is listed
    cdef:
        PageTag *tag = tag_at(v, first)
        uint64_t pages = tag.head
        int b = bin_of(pages)
    if tag.prev:
        assign(tag_at(v, tag.prev - 1).next, tag.next)
    else:
        assign(v.pool.bin_head[b], tag.next)
        if tag.next == 0:
            assign(v.pool.bin_bits[b >> 6], v.pool.bin_bits[b >> 6] & ~(<uint64_t>1 << (b & 63)))
    if tag.next:
        assign(tag_at(v, tag.next - 1).prev, tag.prev)
    assign(tag_at(v, first + pages - 1).tail, 0)
    assign(tag.head, 0)
    assign(tag.next, 0)
    assign(tag.prev, 0)


cdef inline void name_owner(View *v, uint64_t first, uint64_t slot, uint64_t run) noexcept nogil:
    # `slot`, `run`: + 1, one of them 0. Who looks for what to evict reads it without the lock.
    assign(tag_at(v, first).next, <uint32_t>slot)
    assign(tag_at(v, first).prev, <uint32_t>run)


cdef inline int64_t best_in_bin(View *v, int b, uint64_t pages, uint64_t most) noexcept nogil:
    # the shortest run of at least `pages`, the lowest of equals, of the first `most`
    cdef:
        uint64_t at = v.pool.bin_head[b]
        int64_t best = NO_RUN
        uint64_t best_pages = 0
        uint64_t has, looked = 0
    if at and not heads_bin(v, at - 1, b):
        return BROKEN
    while at and looked < most:         # and see is_listed()
        if not is_listed(v, at - 1):
            return BROKEN
        has = v.tags[at - 1].head
        if has >= pages \
                and (best < 0 or has < best_pages
                     or (has == best_pages and <int64_t>at - 1 < best)):
            best = <int64_t>at - 1
            best_pages = has
        at = v.tags[at - 1].next
        looked += 1
    return best


cdef inline int64_t find_free(View *v, uint64_t pages) noexcept nogil:
    # The first page of a free run that is long enough, NO_RUN or BROKEN.
    cdef:
        int b = bin_of(pages)
        int64_t best = best_in_bin(v, b, pages, SCAN_LIMIT)
        int w = (b + 1) >> 6
        uint64_t bits
    if best != NO_RUN:
        return best
    if w < BIN_WORDS:
        bits = v.pool.bin_bits[w] >> ((b + 1) & 63) << ((b + 1) & 63)
        while True:             # over the words
            if bits:
                best = best_in_bin(v, w * 64 + ctz64(bits), pages, SCAN_LIMIT)
                return best if best >= 0 else BROKEN    # any run of that bin would do
            w += 1
            if w >= BIN_WORDS:
                break
            bits = v.pool.bin_bits[w]
    return best_in_bin(v, b, pages, v.g.pages)          # before the store counts as full


cdef inline int64_t find_high(View *v, uint64_t pages) noexcept nogil:
    # Of the free runs that are long enough, the highest among the first few of each bin; NO_RUN or
    # BROKEN.
    cdef:
        int b = bin_of(pages)
        int64_t best = NO_RUN
        int looked
        uint64_t at
    while b < BINS:
        if v.pool.bin_bits[b >> 6] >> (b & 63) == 0:
            b = (b | 63) + 1
            continue
        at = v.pool.bin_head[b]
        if at and not heads_bin(v, at - 1, b):
            return BROKEN
        looked = 0
        while at and looked < SCAN_LIMIT:
            if not is_listed(v, at - 1):
                return BROKEN
            if v.tags[at - 1].head >= pages and <int64_t>at - 1 > best:
                best = <int64_t>at - 1
            at = v.tags[at - 1].next
            looked += 1
        b += 1
    return best
