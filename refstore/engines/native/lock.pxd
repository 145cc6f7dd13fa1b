# The locks in the file: a word that holds its owner's row, so that the next one can tell when it is
# dead. The space lock is for who moves pages, a name's lock for who publishes or removes under the
# name; whoever recovers a dead row gives back its locks.

from libc.stdint cimport uint64_t

from refstore.engines.native.atomics cimport cas_acq_rel, cpu_relax, load_acquire, store_release
from refstore.engines.native.error_codes cimport blocked_by, ERR_DEAD, ERR_HELD
from refstore.engines.native.layout cimport MAX_ROWS
from refstore.engines.native.system cimport byte_is_locked, now_ms, sched_yield, sleep_us
from refstore.engines.native.view cimport damage, file_of, View

cdef enum:
    HELD_AFTER_MS = 2       # holders are quicker, unless they are stopped or wait for a core


cdef inline int lock(View *v, uint64_t *word) noexcept nogil:
    # Holders are quick, so a short spin; then ask whether the holder lives. Who waits longer does
    # it without the GIL, hence with nothing in hand: that is up to the caller's caller.
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
                return damage(v, b"the space lock names row %d, which does not exist", expected - 1)
            return damage(v, b"a name's lock names row %d, which does not exist", expected - 1)
        # [lock] once more: it may have died after giving the lock back
        if expected and not byte_is_locked(file_of(v), expected - 1) \
                and load_acquire(word) == expected:
            return blocked_by(ERR_DEAD, expected - 1)
        if expected and now_ms() - since >= HELD_AFTER_MS:
            return blocked_by(ERR_HELD, expected - 1)
        sleep_us(50)


cdef inline void unlock(uint64_t *word) noexcept nogil:
    store_release(word, 0)                                               # [lock]
