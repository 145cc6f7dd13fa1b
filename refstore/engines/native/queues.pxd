# The queues of evict="s3fifo", which is S3-FIFO: what is put comes into the small queue, and into
# the main one if its name was evicted lately, so that it is one of the ghosts. What leaves the
# small queue unused is evicted; what was used goes to the main one. What leaves that is evicted if
# it was not used since it came in, else it comes in again, with one use less.
#
# An entry is a hint: a slot and a part of the generation that it had. Entries get lost when a
# process dies between the seal and the entry, or when memory is short; those of what was deleted
# stay until they leave. What has no entry is found as where there are no queues, by its age.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from refstore.engines.native.atomics cimport (
    assign, cas_relaxed, fetch_add_relaxed, load_acquire, load_relaxed, load_relaxed_u32,
    store_relaxed,
)
from refstore.engines.native.layout cimport (
    Bucket, BUCKET_CELLS, EVICTABLE, IN_MAIN, PAGE, SEALED, USE_ONE, USES,
)
from refstore.engines.native.view cimport bits_at, is_ready, slots_used, View
from refstore.engines.native.memory cimport commit_unit
from refstore.engines.native.ages cimport change_use
from refstore.engines.native.slots cimport word_generation, word_state

cdef enum:
    SMALL_QUEUE = 0
    MAIN_QUEUE = 1
    SMALL_SHARE = 10            # of all entries one in so many is in the small queue
    STEPS = 4096                # entries looked at for one put, before others are asked


# Memory, page by page

cdef inline bint has_memory(View *v, uint64_t at, bint makes) noexcept nogil:
    # whether the page of that offset is committed; `makes`: or can be
    cdef uint64_t page = (at - v.g.queues) // PAGE
    if not makes:
        return is_ready(bits_at(v, v.g.queues_ready), page)
    return commit_unit(v, bits_at(v, v.g.queues_ready), page, v.g.queues + page * PAGE, PAGE) == 0


# Queues. Every access is relaxed, since nothing is believed of an entry but where to look.

cdef inline uint64_t cell_at(View *v, int queue, uint64_t n) noexcept nogil:
    # offset of the n-th entry that ever came in
    return v.g.queues + (<uint64_t>queue * v.g.queue_cells + n % v.g.queue_cells) * 8


cdef inline uint64_t length(View *v, int queue) noexcept nogil:
    cdef uint64_t begin = load_relaxed(&v.pool.queue_begin[queue])      # relaxed: a hint
    cdef uint64_t end = load_relaxed(&v.pool.queue_end[queue])          # relaxed: a hint
    return min(end - begin, v.g.queue_cells) if end > begin else 0


cdef inline void push(View *v, int queue, uint64_t i, uint64_t generation) noexcept nogil:
    cdef uint64_t n = fetch_add_relaxed(&v.pool.queue_end[queue], 1)    # relaxed: a hint
    cdef uint64_t at = cell_at(v, queue, n)
    if has_memory(v, at, True):
        store_relaxed(bits_at(v, at), (i + 1) << 36 | generation << 28 >> 28)   # relaxed: a hint


cdef inline uint64_t pop(View *v, int queue) noexcept nogil:
    # The oldest entry, or 0: there is none, or it was lost.
    cdef uint64_t begin = load_relaxed(&v.pool.queue_begin[queue])      # relaxed: a hint
    cdef uint64_t end, n
    while True:
        end = load_relaxed(&v.pool.queue_end[queue])                    # relaxed: a hint
        if end < begin:
            cas_relaxed(&v.pool.queue_begin[queue], &begin, end)        # relaxed: it was damaged
        if end <= begin:
            return 0
        n = max(begin, end - min(end, v.g.queue_cells))     # those before are overwritten
        if cas_relaxed(&v.pool.queue_begin[queue], &begin, n + 1):      # relaxed: a hint
            return load_relaxed(bits_at(v, cell_at(v, queue, n))) \
                if has_memory(v, cell_at(v, queue, n), False) else 0    # relaxed: a hint


# Ghosts: names by their hashes, with their numbers. As many are believed as the main queue has
# entries, the last ones.

cdef inline Bucket *ghosts_of(View *v, uint64_t hashed, bint makes) noexcept nogil:
    cdef uint64_t at = v.g.ghosts + (hashed & (v.g.buckets - 1)) * sizeof(Bucket)
    return <Bucket*>(v.base + at) if has_memory(v, at, makes) else NULL


cdef inline uint64_t make_ghost(uint64_t hashed, uint64_t n) noexcept nogil:
    return max(hashed >> 32, <uint64_t>1) << 32 | <uint32_t>n


cdef inline uint64_t ghost_age(View *v, uint64_t cell) noexcept nogil:
    cdef uint64_t known = load_relaxed(&v.pool.ghosts_known)            # relaxed: a hint
    return <uint32_t>(known - cell) if cell else ~<uint64_t>0


cdef inline void add_ghost(View *v, uint64_t hashed) noexcept nogil:
    # in the place of the oldest in its bucket
    cdef:
        Bucket *bucket = ghosts_of(v, hashed, True)
        uint64_t n = fetch_add_relaxed(&v.pool.ghosts_known, 1)         # relaxed: a hint
        uint64_t age, most = 0
        int k, oldest = 0
    if bucket == NULL:
        return
    for k in range(BUCKET_CELLS):
        age = ghost_age(v, load_relaxed(&bucket.cells[k]))              # relaxed: a hint
        if age > most:
            most = age
            oldest = k
    store_relaxed(&bucket.cells[oldest], make_ghost(hashed, n))         # relaxed: a hint


cdef inline bint take_ghost(View *v, uint64_t hashed) noexcept nogil:
    # whether the name was evicted lately; it is a ghost no longer
    cdef Bucket *bucket = ghosts_of(v, hashed, False)
    cdef uint64_t cell
    cdef int k
    if bucket == NULL:
        return False
    for k in range(BUCKET_CELLS):
        cell = load_relaxed(&bucket.cells[k])                           # relaxed: a hint
        if cell >> 32 == make_ghost(hashed, 0) >> 32:
            store_relaxed(&bucket.cells[k], 0)                          # relaxed: a hint
            return ghost_age(v, cell) <= length(v, MAIN_QUEUE)
    return False


# Objects

cdef inline int queue_of(uint32_t last_use) noexcept nogil:
    return MAIN_QUEUE if last_use & IN_MAIN else SMALL_QUEUE


cdef inline int first_queue(View *v, uint64_t i, uint64_t hashed) noexcept nogil:
    # Of an object of ours that is about to be sealed; -1: it comes into none.
    cdef uint32_t last_use = v.slots[i].last_use
    if last_use & EVICTABLE == 0:
        return -1
    if hashed == 0 or not take_ghost(v, hashed):
        return SMALL_QUEUE
    assign(v.slots[i].last_use, last_use | IN_MAIN)
    return MAIN_QUEUE


cdef inline bint is_unused(View *v, int queue, uint64_t i, uint64_t word) noexcept nogil:
    # Of what has just left `queue`. What was used since it came in comes into the main one.
    cdef uint32_t use = load_relaxed_u32(&v.slots[i].last_use)          # relaxed: a hint
    cdef uint32_t after
    if use & USES == 0:
        return True
    after = use - USE_ONE if queue == MAIN_QUEUE else use & ~<uint32_t>USES | IN_MAIN
    if change_use(&v.slots[i], use, after):
        push(v, MAIN_QUEUE, i, word_generation(word))
    else:
        push(v, queue, i, word_generation(word))        # used at this moment
    return False


cdef inline int64_t next_victim(View *v, uint64_t *word, uint64_t *steps) noexcept nogil:
    # The slot of what is to go next, with the word that it had, or -1. It has left its queue.
    cdef:
        uint64_t small, main, entry, i
        int queue
    while steps[0] < STEPS:
        steps[0] += 1
        small = length(v, SMALL_QUEUE)
        main = length(v, MAIN_QUEUE)
        if small + main == 0:
            return -1
        queue = SMALL_QUEUE if small * SMALL_SHARE >= small + main else MAIN_QUEUE
        entry = pop(v, queue)
        i = (entry >> 36) - 1
        if entry == 0 or i >= slots_used(v):
            continue
        word[0] = load_acquire(&v.slots[i].word)  # [seal] before `last_use`
        if word_state(word[0]) == SEALED \
                and word_generation(word[0]) << 28 == entry << 28 \
                and load_relaxed_u32(&v.slots[i].last_use) & EVICTABLE \
                and is_unused(v, queue, i, word[0]):    # relaxed: an offer's CAS decides
            return <int64_t>i
    return -1
