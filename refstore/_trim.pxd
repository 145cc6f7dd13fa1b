# Free memory back to the operating system. Each free run is taken like any extent before its pages go, so nobody
# is given a page that is about to vanish; system calls happen outside the lock.

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc

from refstore._alloc cimport dissolve_empty, harvest, need_bare
from refstore._atomics cimport fetch_and_acquire
from refstore._layout cimport (
    BINS, CHUNK, ERR_DEAD, extent_first, extent_pages, HELD, make_extent, PAGE,
)
from refstore._pages cimport free_pages, lock, remove_free, unlock
from refstore._rows cimport recover_row
from refstore._slots cimport unclaim
from refstore._store cimport bits_at, file_of, is_ready, Store
from refstore._sys cimport punch_hole

cdef enum:
    MOST_RUNS = 65536           # free runs looked at in one call


cdef inline int lock_or_recover(Store *s) noexcept nogil:
    cdef int got = lock(s, &s.pool.lock)
    while got == ERR_DEAD:
        recover_row(s, s.blocked_by - 1)
        got = lock(s, &s.pool.lock)
    return got


cdef inline uint64_t list_free(Store *s, uint64_t *extents) noexcept nogil:
    # under the lock: all free runs, and what lies committed past the last used page
    cdef:
        uint64_t n = 0, at, end
        int b
    for b in range(BINS):
        at = s.pool.bin_head[b]
        while at and n < MOST_RUNS - 1:
            extents[n] = make_extent(at - 1, s.tags[at - 1].head)
            at = s.tags[at - 1].next
            n += 1
    at = s.pool.top
    end = min(s.pool.map_committed, s.g.pages)
    if end > at:
        extents[n] = make_extent(at, end - at)
        n += 1
    return n


cdef inline bint take_listed(Store *s, uint64_t extent) noexcept nogil:
    # under the lock: true if the extent is still free as it was, and now taken
    cdef uint64_t first = extent_first(extent)
    if first == s.pool.top:
        s.pool.top += extent_pages(extent)
    elif first < s.pool.top and s.tags[first].head == extent_pages(extent):
        remove_free(s, first)
    else:
        return False
    return True


cdef inline uint64_t punch(Store *s, uint64_t first_page, uint64_t pages) noexcept nogil:
    # the whole chunks inside an extent of ours; returns the bytes given back
    cdef:
        uint64_t *ready = bits_at(s, s.g.data_ready)
        uint64_t i = (first_page * PAGE + CHUNK - 1) // CHUNK
        uint64_t end = (first_page + pages) * PAGE // CHUNK
        uint64_t given = 0
    while i < end:
        if is_ready(ready, i):
            fetch_and_acquire(&ready[i >> 6], ~(<uint64_t>1 << (i & 63)))
            if punch_hole(file_of(s), s.g.data + i * CHUNK, CHUNK) == 0:
                given += CHUNK
        i += 1
    return given


cdef inline int64_t trim_free(Store *s) noexcept nogil:
    # Bytes given back, or an error with nothing lost.
    cdef:
        uint64_t *extents = <uint64_t*>malloc(MOST_RUNS * sizeof(uint64_t))
        uint64_t n, k, slot
        int64_t given = 0
        int got
        bint taken
    if extents == NULL:
        return 0
    got = need_bare(s, HELD, &slot)
    if got == 0:
        got = lock_or_recover(s)
        if got == 0:
            harvest(s)
            dissolve_empty(s)
            n = list_free(s, extents)
            unlock(&s.pool.lock)
            for k in range(n):
                got = lock_or_recover(s)
                if got != 0:
                    break
                taken = take_listed(s, extents[k])
                if taken:
                    s.slots[slot].extent = extents[k]
                unlock(&s.pool.lock)
                if not taken:
                    continue
                given += <int64_t>punch(s, extent_first(extents[k]), extent_pages(extents[k]))
                got = lock_or_recover(s)
                if got != 0:
                    break
                free_pages(s, extent_first(extents[k]), extent_pages(extents[k]))
                s.slots[slot].extent = 0
                unlock(&s.pool.lock)
        unclaim(s, slot)
    free(extents)
    return given if got == 0 else got
