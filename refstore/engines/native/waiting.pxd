# How processes wait for each other without a server: a futex word that says that something changed,
# and beside it a deadline until which somebody may be asleep on it.
#
# A process that changes something makes the change, then changes the word, then reads the
# deadline, then wakes. A waiter sets the deadline, then reads the word, then checks what it waits
# for, then sleeps, which the kernel refuses if the word has changed by then. As in slots.pxd the
# two sides follow Dekker's algorithm: all accesses named [wait] are seq_cst, so that either the
# waiter sees the change, or the other side sees that somebody waits.
#
# A count of sleepers would stay too high when one is killed, and cost a system call for ever; a
# deadline passes by itself. Each sleep is bounded, so a wake-up that got lost with its process, or
# in a word that wrapped around, delays a waiter by one bounded sleep. A waker wakes all sleepers,
# since any one may wait for another name of the stripe.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from refstore.engines.native.debug cimport real_nap_ms
from refstore.engines.native.atomics cimport (
    cas_seq_cst_u32, fetch_add_seq_cst_u32, load_seq_cst_u32,
)
from refstore.engines.native.layout cimport NameLock
from refstore.engines.native.system cimport (
    coarse_ms, futex_wait, futex_wake, is_answer, now_ns, sleep_us,
)
from refstore.engines.native.view cimport View

cdef extern from *:
    const uint64_t FOREVER "UINT64_MAX"         # a deadline

cdef enum:
    NAP_MS = 1000               # of one sleep
    LIVENESS_NAP_MS = 50        # where the death of another process matters
    NO_FUTEX_NAP_US = 50000     # where the kernel has no futex for us
    TICK_MS = 16                # unit of deadlines in the file: 32 bits of it are two years


cdef struct Nap:
    # a sleep to come, on one word
    const uint32_t *word
    uint32_t seen
    uint64_t end                # ns of CLOCK_MONOTONIC until which the others know of it


cdef inline uint32_t sleep_tick() noexcept nogil:
    cdef uint32_t tick = <uint32_t>(coarse_ms() // TICK_MS)
    return tick if tick else 1          # 0: nobody sleeps


cdef inline bint is_ahead(uint32_t until, uint32_t tick) noexcept nogil:
    # ticks come round
    return <uint32_t>(until - tick) >> 31 == 0


cdef inline uint64_t register_sleeper(uint32_t *until, uint64_t usual_nap_ms) noexcept nogil:
    # From here on whoever changes the word wakes us, for so long. Two ticks more: the clock is
    # coarse. Returns when that ends, by now_ns().
    cdef uint64_t nap_ms = real_nap_ms(usual_nap_ms), end = now_ns() + nap_ms * 1000000
    cdef uint32_t wanted = sleep_tick() + <uint32_t>(nap_ms // TICK_MS) + 2
    cdef uint32_t seen = load_seq_cst_u32(until)                         # [wait]
    while (seen == 0 or not is_ahead(seen, wanted)) \
            and not cas_seq_cst_u32(until, &seen, wanted if wanted else 1):      # [wait]
        pass
    return end


cdef inline void wake_sleepers(uint32_t *word, uint32_t *until) noexcept nogil:
    # The word has changed. A deadline that has passed is taken away, so that nobody looks at the
    # clock again.
    cdef uint32_t seen = load_seq_cst_u32(until)                         # [wait]
    if seen == 0:
        return
    if is_ahead(seen, sleep_tick()):
        futex_wake(word)
    else:
        cas_seq_cst_u32(until, &seen, 0)                                 # [wait]


cdef inline void announce_any(View *v) noexcept nogil:
    if load_seq_cst_u32(&v.header.any_until):                            # [wait]
        fetch_add_seq_cst_u32(&v.header.any, 1)                          # [wait]
        wake_sleepers(&v.header.any, &v.header.any_until)


cdef inline void announce(View *v, NameLock *stripe) noexcept nogil:
    # A name of the stripe leads elsewhere, or to nothing, from here on.
    fetch_add_seq_cst_u32(&stripe.changes, 1)                            # [wait]
    if load_seq_cst_u32(&stripe.awake_until):                            # [wait]
        wake_sleepers(&stripe.changes, &stripe.awake_until)
    announce_any(v)


cdef inline void announce_room(View *v) noexcept nogil:
    # A block or a slot came free. Where nobody waits this is one load of a line that nobody writes.
    if load_seq_cst_u32(&v.pool.room_until):                             # [wait]
        fetch_add_seq_cst_u32(&v.pool.room, 1)                           # [wait]
        wake_sleepers(&v.pool.room, &v.pool.room_until)


cdef inline void begin_nap(Nap *nap, uint32_t *word, uint32_t *until,
                           uint64_t nap_ms) noexcept nogil:
    # Before the look: whoever changes after this what is looked for ends the sleep that follows.
    nap.end = register_sleeper(until, nap_ms)
    nap.word = word
    nap.seen = load_seq_cst_u32(word)                                    # [wait]


cdef inline void take_nap(const Nap *nap, uint64_t deadline) noexcept nogil:
    # Without the GIL, and with nothing in hand. Who was stopped since begin_nap() does not sleep
    # longer than others know of.
    cdef uint64_t end = min(nap.end, deadline), now
    if is_answer(futex_wait(nap.word, nap.seen, end)):
        return
    now = now_ns()
    if now < end:
        sleep_us(<int64_t>min((end - now) // 1000 + 1, <uint64_t>NO_FUTEX_NAP_US))
