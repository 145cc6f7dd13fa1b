# The locks in the file: a word that holds its owner's row, so that the next one can tell when it is dead.

from libc.stdint cimport uint64_t

from .atomics cimport cas_acq_rel, cpu_relax, load_acquire, store_release
from .layout cimport ERR_DEAD, ERR_HELD, MAX_ROWS, PAGE
from .system cimport byte_is_locked, now_ms, sched_yield, sleep_us
from .view cimport damage, View
from .memory cimport file_of

cdef enum:
    HELD_AFTER_MS = 2       # holders are quicker, unless they are stopped or wait for a core
    MAP_STEP = 65536        # the page map is committed in steps of this many bytes
    PAGE_BITS = PAGE * 8    # used bits in a page of them


cdef inline int lock(View *v, uint64_t *word) noexcept nogil:
    # Holders are quick, so a short spin; then ask whether the holder lives. Who waits longer does it without the GIL,
    # hence with nothing in hand: that is up to the caller's caller.
    cdef:
        uint64_t expected = 0
        uint64_t since = 0
        int _
    while True:
        for _ in range(128):
            expected = 0
            if cas_acq_rel(word, &expected, v.row + 1):                  # [lock]
                return 0
            cpu_relax()
        if since == 0:
            since = now_ms()
            sched_yield()
            continue
        if expected > MAX_ROWS:
            if word == &v.pool.lock:
                return damage(v, b"the space lock names row %d, and there is none", expected - 1)
            return damage(v, b"a name's lock names row %d, and there is none", expected - 1)
        if expected and not byte_is_locked(file_of(v), expected - 1) and load_acquire(word) == expected:
            v.blocked_by = expected
            return ERR_DEAD
        if expected and now_ms() - since >= HELD_AFTER_MS:
            v.blocked_by = expected
            return ERR_HELD
        sleep_us(50)


cdef inline void unlock(uint64_t *word) noexcept nogil:
    store_release(word, 0)                                               # [lock]
