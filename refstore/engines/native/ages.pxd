# When objects were used last, for whoever makes room by evicting the oldest. The clock moves with
# what is put, a tick for each 64th of the capacity, so a get asks no clock, and writes only to what
# it has not used within the tick. Where the policy has queues, a get counts its uses instead.
#
# All of it is hints but one bit, which says that the object may be evicted. Only who has the object
# pinned, or is making it, stores `last_use`; others change it by a CAS, so that a later object in
# the slot keeps its own.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from refstore.engines.native.atomics cimport (
    cas_relaxed_u32, fetch_add_relaxed_u32, load_relaxed_u32, store_relaxed_u32,
)
from refstore.engines.native.layout cimport EVICTABLE, Slot, TICK_MASK, USE_ONE, USES
from refstore.engines.native.view cimport View

cdef enum:
    TICKS = 64                  # while as much is put as the store holds


# Chance, for samples: any process's own sequence will do

cdef inline uint64_t random_below(View *v, uint64_t n) noexcept nogil:
    # xorshift64*; n < 2**32
    v.random ^= v.random >> 12
    v.random ^= v.random << 25
    v.random ^= v.random >> 27
    return (v.random * <uint64_t>0x2545F4914F6CDD1D >> 32) * n >> 32


# The clock

cdef inline uint64_t tick_nbytes(View *v) noexcept nogil:
    return v.header.capacity // TICKS + 1


cdef inline void start_clock(View *v, uint64_t seed) noexcept nogil:
    # Our first tick comes after a part of its bytes, by chance: processes that put little and go
    # move the clock as well, on average as much as they put.
    v.random = seed * <uint64_t>0x9E3779B97F4A7C15 | 1
    v.until_tick = <int64_t>(random_below(v, TICKS) * tick_nbytes(v) // TICKS)


cdef inline void move_clock(View *v) noexcept nogil:
    cdef uint64_t ticks = <uint64_t>-v.until_tick // tick_nbytes(v) + 1
    v.until_tick += <int64_t>(ticks * tick_nbytes(v))
    fetch_add_relaxed_u32(&v.header.tick, <uint32_t>ticks)      # relaxed: it orders nothing


cdef inline uint32_t now(View *v) noexcept nogil:
    return load_relaxed_u32(&v.header.tick)     # relaxed: as above


# Objects

cdef inline uint32_t first_use(View *v, bint evictable) noexcept nogil:
    # `last_use` of an object that is being made
    return (now(v) & TICK_MASK) | EVICTABLE if evictable else 0


cdef inline void note_use(View *v, Slot *slot, uint32_t before) noexcept nogil:
    # Of an evictable object that the caller has just pinned; `before`: its last_use. A change of
    # another's between the load and the store is lost: that it came into a queue, say, which is a
    # hint.
    cdef uint32_t after
    if v.has_queues:
        after = before if before & USES == USES else before + USE_ONE
    else:
        after = now(v) | EVICTABLE
    if after != before:
        store_relaxed_u32(&slot.last_use, after)                # relaxed: a hint


cdef inline bint change_use(Slot *slot, uint32_t before, uint32_t after) noexcept nogil:
    # by who has no pin
    return cas_relaxed_u32(&slot.last_use, &before, after)      # relaxed: a hint


cdef inline uint32_t age_of(View *v, uint32_t last_use) noexcept nogil:
    # In ticks. What was used again after we looked at the clock is young, and so is what has been
    # used since it came into a queue.
    cdef uint32_t age = (now(v) - last_use) & TICK_MASK
    return 0 if age > TICK_MASK // 2 or v.has_queues and last_use & USES else age
