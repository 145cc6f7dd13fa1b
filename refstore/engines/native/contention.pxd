# Retries an operation that another process blocks: recovers the blocker if it is dead, else waits
# for it without the GIL. So the operation has nothing in hand by then: it begins again.

from libc.stdint cimport uint64_t

from refstore.engines.native.debug cimport busy_timeout_ms
from refstore.engines.native.error_codes cimport (
    blocked_by, blocker_of, ERR_BUSY, ERR_CLAIMED, ERR_DEAD, ERR_HELD, ERR_SIGNALS, kind_of_error,
)
from refstore.engines.native.system cimport now_ms, now_ns, sleep_us
from refstore.engines.native.view cimport row_is_dead, View
from refstore.engines.native.recovery cimport recover_row, retry_after_dead_blocker
from refstore.engines.native.points cimport look_for_signals

cdef enum:
    BUSY_TIMEOUT_MS = 5000
    RETRY_EVERY_US = 200


cdef inline bint may_retry(View *v, int *error, uint64_t *since) except -1:
    return may_retry_until(v, error, since, 0)


cdef inline int recover_claimant(View *v, int *error) noexcept nogil:
    # Of a dead process, whose claim is in the way: 0, that is let go; ERR_HELD, another process is
    # about to do that; or another error.
    cdef uint64_t row = blocker_of(error[0])
    cdef int got = recover_row(v, row)
    error[0] = blocked_by(ERR_HELD, row) if got == 0 else min(got, 0)
    return kind_of_error(error[0])


cdef inline bint may_retry_until(View *v, int *error, uint64_t *since,
                                 uint64_t deadline) except -1:
    # Whether an operation that ended so is worth another try; if not, `error` is what to report of
    # it, or still 0. `since`: 0 before the first wait. `deadline`, by now_ns(): until then a
    # stopped process is waited for, if that is longer. What a signal handler raises comes through;
    # a child that it forks must not go on with what its parent is at.
    cdef uint64_t life = v.life
    cdef int kind = kind_of_error(error[0])
    if kind == ERR_DEAD:
        error[0] = retry_after_dead_blocker(v, blocker_of(error[0]))
        return error[0] == 0
    if kind == ERR_SIGNALS:
        look_for_signals(v, life, "amid system calls for memory")
        error[0] = 0
        return True
    if kind == ERR_CLAIMED:
        if not row_is_dead(v, blocker_of(error[0])):
            return False
        kind = recover_claimant(v, error)
        if kind == 0:
            return True
    if kind != ERR_HELD:
        return False
    if since[0] == 0:
        since[0] = now_ms()
    elif now_ms() - since[0] >= <uint64_t>busy_timeout_ms(BUSY_TIMEOUT_MS) \
            and now_ns() >= deadline:
        error[0] = blocked_by(ERR_BUSY, blocker_of(error[0]))
        return False
    with nogil:
        sleep_us(RETRY_EVERY_US)
    look_for_signals(v, life, "waiting for another process")
    error[0] = 0
    return True
