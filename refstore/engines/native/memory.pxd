# Memory is committed before it is touched. A bit says that its unit is; setting it again is
# harmless, and so is committing twice, so a death in between costs one more system call and nothing
# else.
#
# The data is committed in chunks, and whole huge pages of it in another way than the rest: of each
# the first chunk alone, upon which the kernel is asked to collapse the page into a huge one
# (MADV_COLLAPSE), which clears all that was missing at once. That takes a quarter of the time that
# single pages take, and whoever reads it maps 2 MiB with each fault. Then the rest is committed
# like any other memory, which is a look if the kernel did as asked, and all of the work if it did
# not.
#
# Extents are not laid at multiples of a huge page: what that gains is never more than the share of
# the object that it wastes.

from libc.errno cimport EINTR
from libc.stdint cimport uint32_t, uint64_t

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    ctz64, fetch_and_acquire, fetch_or_seq_cst, load_seq_cst,
)
from refstore.engines.native.error_codes cimport ERR_NO_MEMORY, ERR_NOT_FOUND, ERR_SIGNALS
from refstore.engines.native.layout cimport CHUNK, HUGE_PAGE, Label, Meta, PAGE, SLOTS_PER_STEP
from refstore.engines.native.system cimport allocate, MADV_COLLAPSE, madvise
from refstore.engines.native.view cimport (
    bits_at, file_of, is_ready, pins_ready_of, slots_used, View,
)

cdef enum:
    HUGE_CHUNKS = HUGE_PAGE // CHUNK
    HUGE_PAGES = HUGE_PAGE // PAGE
    STEP = 8                    # huge pages, 3 to 20 ms: between two looks at signals
    LONGEST_PAUSE = 1023        # blocks without a huge page, when the kernel keeps refusing them


# Ranges of the chunks' bits, a word at a time. seq_cst as everywhere with [ready] bits: those of
# pins need it.

cdef inline uint64_t next_unready(uint64_t *bits, uint64_t i, uint64_t end) noexcept nogil:
    cdef uint64_t missing
    while i < end:
        missing = ~load_seq_cst(&bits[i >> 6]) >> (i & 63)               # [ready]
        if missing:
            return min(end, i + <uint64_t>ctz64(missing))
        i = (i | 63) + 1
    return end


cdef inline uint64_t next_ready(uint64_t *bits, uint64_t i, uint64_t end) noexcept nogil:
    cdef uint64_t there
    while i < end:
        there = load_seq_cst(&bits[i >> 6]) >> (i & 63)                  # [ready]
        if there:
            return min(end, i + <uint64_t>ctz64(there))
        i = (i | 63) + 1
    return end


cdef inline uint64_t bits_within(uint64_t i, uint64_t end) noexcept nogil:
    # of the word of bit i, those from there up to `end`
    cdef uint64_t n = min(64 - (i & 63), end - i)
    return ~<uint64_t>0 >> (64 - n) << (i & 63)


cdef inline void set_ready(uint64_t *bits, uint64_t i, uint64_t end) noexcept nogil:
    while i < end:
        fetch_or_seq_cst(&bits[i >> 6], bits_within(i, end))             # [ready]
        i = (i | 63) + 1


cdef inline void clear_ready(uint64_t *bits, uint64_t i, uint64_t end) noexcept nogil:
    while i < end:
        fetch_and_acquire(&bits[i >> 6], ~bits_within(i, end))           # [ready]
        i = (i | 63) + 1


# An extent, or the pages of a run

cdef inline uint64_t first_chunk(uint64_t first_page) noexcept nogil:
    return first_page * PAGE // CHUNK


cdef inline uint64_t end_chunk(uint64_t end_page) noexcept nogil:
    return (end_page * PAGE + CHUNK - 1) // CHUNK


cdef inline bint is_committed(View *v, uint64_t first_page, uint64_t pages) noexcept nogil:
    cdef uint64_t end = end_chunk(first_page + pages)
    return next_unready(bits_at(v, v.g.data_ready), first_chunk(first_page), end) == end


cdef inline int commit_chunks(View *v, int fd, uint64_t i, uint64_t end) noexcept nogil:
    cdef uint64_t nbytes = min(end * CHUNK, v.g.pages * PAGE) - i * CHUNK
    cdef int got = commit(fd, v.g.data + i * CHUNK, nbytes)
    if got == 0:
        failpoint()
        set_ready(bits_at(v, v.g.data_ready), i, end)
    return got


cdef inline int make_huge(View *v, int fd, uint64_t i, uint64_t end, bint *refused) noexcept nogil:
    # The chunks are whole huge pages, none of them committed.
    cdef int got
    cdef uint64_t k = i
    while k < end:
        got = commit_chunks(v, fd, k, k + 1)        # the kernel collapses no page that is empty
        if got != 0:
            return got
        k += HUGE_CHUNKS
    refused[0] = madvise(v.base + v.g.data + i * CHUNK, (end - i) * CHUNK, MADV_COLLAPSE) != 0
    failpoint()
    # before any other: what the kernel has collapsed and has no bit, no trim would find
    while i < end:
        got = commit_chunks(v, fd, i, i + HUGE_CHUNKS)
        if got != 0:
            return got
        i += HUGE_CHUNKS
    return 0


cdef inline int commit_data(View *v, int fd, uint64_t first_page, uint64_t pages, bint wants_huge,
                            bint *refused) noexcept nogil:
    # `refused`: set if huge pages are wanted and the kernel has none.
    cdef:
        uint64_t *bits = bits_at(v, v.g.data_ready)
        uint64_t end = end_chunk(first_page + pages)
        uint64_t i = next_unready(bits, first_chunk(first_page), end)
        uint64_t until, huge
        int got = 0
    while i < end and got == 0:
        until = next_ready(bits, i, end)
        huge = (i + HUGE_CHUNKS - 1) // HUGE_CHUNKS * HUGE_CHUNKS
        if wants_huge and not refused[0] and huge + HUGE_CHUNKS <= until:
            got = make_huge(v, fd, huge, until // HUGE_CHUNKS * HUGE_CHUNKS, refused)
        else:
            # no more than one huge page at a time: when memory runs out, the kernel takes back what
            # has no bit yet
            until = min(until, (i // HUGE_CHUNKS + 1) * HUGE_CHUNKS)
            got = commit_chunks(v, fd, i, until)
        i = next_unready(bits, i, end)
    return got


# With the GIL: whether to ask for huge pages. Where they are always refused, hardly ever.

cdef inline uint64_t step_end(uint64_t page, uint64_t end) noexcept nogil:
    # up to where to commit at one go, so that no huge page is cut
    return min(end, (page // HUGE_PAGES + STEP) * HUGE_PAGES)


cdef inline bint wants_huge_pages(View *v, uint64_t first_page, uint64_t end_page) noexcept:
    if (first_page + HUGE_PAGES - 1) // HUGE_PAGES >= end_page // HUGE_PAGES:
        return False
    if v.huge_pause:
        v.huge_pause -= 1
        return False
    return True


cdef inline void note_refusal(View *v, bint refused) noexcept:
    v.huge_refusals = v.huge_refusals + 1 if refused else 0
    v.huge_pause = min((<uint32_t>1 << min(v.huge_refusals, <uint32_t>10)) - 1,
                       <uint32_t>LONGEST_PAUSE)


# Without the GIL: memory of the tables

cdef inline int commit(int fd, uint64_t at, uint64_t nbytes) noexcept nogil:
    cdef int failed = allocate(fd, at, nbytes)
    if failed == 0:
        return 0
    return ERR_SIGNALS if failed == EINTR else ERR_NO_MEMORY


cdef inline int commit_unit(View *v, uint64_t *bits, uint64_t i, uint64_t at,
                            uint64_t nbytes) noexcept nogil:
    cdef int got
    if is_ready(bits, i):
        return 0
    got = commit(file_of(v), at, nbytes)
    if got != 0:
        return got
    failpoint()
    # seq_cst: a reaper that condemns after our first pin must see this bit
    fetch_or_seq_cst(&bits[i >> 6], <uint64_t>1 << (i & 63))             # [ready] [pin]
    return 0


cdef inline int commit_pins(View *v, uint64_t row, uint64_t step) noexcept nogil:
    return commit_unit(v, pins_ready_of(v, row), step,
                       v.g.pins + row * v.g.pins_stride + step * PAGE, PAGE)


cdef inline int commit_labels(View *v, uint64_t slot) noexcept nogil:
    cdef uint64_t step = slot // SLOTS_PER_STEP
    return commit_unit(v, bits_at(v, v.g.labels_ready), step,
                       v.g.labels + step * SLOTS_PER_STEP * sizeof(Label),
                       SLOTS_PER_STEP * sizeof(Label))


cdef inline int commit_metas(View *v, uint64_t slot) noexcept nogil:
    cdef uint64_t step = slot // SLOTS_PER_STEP
    return commit_unit(v, bits_at(v, v.g.metas_ready), step,
                       v.g.metas + step * SLOTS_PER_STEP * sizeof(Meta),
                       SLOTS_PER_STEP * sizeof(Meta))


cdef inline int ensure_pins_committed(View *v, uint64_t slot) noexcept nogil:
    # Our own cell of `slot` may be touched from now on. Called only when the private note says "not
    # yet".
    cdef uint64_t step = slot // SLOTS_PER_STEP
    cdef int got
    if slot >= slots_used(v):
        return ERR_NOT_FOUND
    got = commit_pins(v, v.row, step)
    if got != 0:
        return got
    v.pins_ready[step] = 1
    return 0
