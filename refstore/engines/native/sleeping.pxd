# How a call waits for other processes: without the GIL, a nap at a time. In between, signals are
# looked for, and whether anybody is left who could end the wait. Nothing is held meanwhile: no pin,
# no lock, no slot.

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport assign
from refstore.engines.native.layout cimport COUNT_WAITED_NS, COUNT_WAITS, Row
from refstore.engines.native.system cimport is_unlinked, MAX_WATCHED, now_ns, Watched
from refstore.engines.native.view cimport count, file_of, next_live_row, row_at, row_is_dead, View
from refstore.engines.native.waiting cimport FOREVER, Nap, take_nap
from refstore.engines.native.stripes cimport (
    look_at_all, sleep_on_all, sleeps_on_any, Stripes, watch_stripes,
)
from refstore.engines.native.points cimport is_same_process, look_for_signals, path_of
from refstore.engines.native.news cimport tell_news

cdef enum:
    LONG_NS = 1000000000        # a wait of which a program may want to know
    TOLD = 1                    # in place of when a call began to sleep


cdef inline uint64_t deadline_ns(object timeout) except? 0:
    # Of a call that begins here: ns of CLOCK_MONOTONIC, 0 if it does not wait, FOREVER.
    from refstore._arguments import deadline_of
    at = deadline_of(timeout)
    if at is None:
        return FOREVER
    return <uint64_t>(<double>at * 1e9)


cdef inline bint is_attached_alone(View *v) noexcept nogil:
    cdef int64_t row = next_live_row(v, 0)
    while row >= 0:
        if <uint64_t>row != v.row and not row_is_dead(v, <uint64_t>row):
            return False
        row = next_live_row(v, <uint64_t>row + 1)
    return True


cdef inline bint is_abandoned(View *v) noexcept nogil:
    # nobody else is attached, and nobody can attach any more
    return is_unlinked(file_of(v), v.path) and is_attached_alone(v)


cdef inline void begin_sleep(View *v, str what) noexcept:
    # With the GIL, as end_sleep(). `what` waits, as in "wait('weights')".
    cdef Row *row = row_at(v, v.row)
    cdef bytes text = what.encode("utf-8", "replace")
    memset(row.waits_for, 0, sizeof(row.waits_for))
    memcpy(row.waits_for, PyBytes_AS_STRING(text), min(<size_t>len(text), sizeof(row.waits_for)))
    failpoint()
    assign(row.waiting, row.waiting + 1)


cdef inline void end_sleep(View *v) noexcept:
    cdef Row *row = row_at(v, v.row)
    assign(row.waiting, row.waiting - 1)


cdef inline void count_sleep(View *v, uint64_t life, uint64_t began) noexcept:
    # and ends it
    if is_same_process(v, life):
        end_sleep(v)
        count(v, COUNT_WAITS, 1)
        count(v, COUNT_WAITED_NS, now_ns() - began)


cdef inline bint may_sleep(View *v, uint64_t now, uint64_t deadline, str what) except -1:
    # False once the time is over. `what` waits, as in "wait('weights')".
    if now >= deadline:
        return False
    if is_abandoned(v):
        from refstore import _waiting_messages
        raise _waiting_messages.abandoned(path_of(v), what)
    return True


cdef inline void note_asleep(uint64_t *since) noexcept nogil:
    # before a sleep of a call; `since`: 0 before its first
    if since[0] == 0:
        since[0] = now_ns()


cdef inline int tell_of_long_wait(View *v, uint64_t life, uint64_t *since, str what) except -1:
    # Once in a call, while it waits; `since`: as of note_asleep(). Python runs in here, so that the
    # caller looks for signals after it.
    tell_news(v, life)
    if since[0] == TOLD or not is_same_process(v, life):
        return 0
    if now_ns() - since[0] >= LONG_NS:
        since[0] = TOLD
        from refstore import _logging
        _logging.waits(path_of(v), what)
    return 0


cdef inline int sleep_through(View *v, uint64_t life, const Nap *nap, uint64_t deadline,
                              uint64_t *since, str what) except -1:
    # and tells of it; Python runs in here, so that the caller looks for signals after it
    cdef uint64_t began = now_ns()
    note_asleep(since)
    begin_sleep(v, what)
    with nogil:
        take_nap(nap, deadline)
    count_sleep(v, life, began)
    tell_of_long_wait(v, life, since, what)
    return 0


cdef inline bint sleep_once(View *v, uint64_t life, const Nap *nap, uint64_t deadline,
                            uint64_t *since, str what) except -1:
    # False, at once, if the time is over.
    if not may_sleep(v, now_ns(), deadline, what):
        return False
    sleep_through(v, life, nap, deadline, since, what)
    look_for_signals(v, life, "waiting for a name")
    return True


cdef inline bint sleep_on_names(View *v, uint64_t life, Stripes *s, uint64_t deadline,
                                uint64_t *since, str what) except -1:
    # The same of many names.
    cdef:
        Watched[MAX_WATCHED] words
        uint64_t now = now_ns()
        unsigned int n
        bint woken = False
    if not may_sleep(v, now, deadline, what):
        return False
    note_asleep(since)
    begin_sleep(v, what)
    if sleeps_on_any(s):
        with nogil:
            take_nap(&s.any, deadline)
            woken = now_ns() < s.any.end
    else:
        n = watch_stripes(v, s, words)
        with nogil:
            woken = sleep_on_all(s, words, n, deadline)
    if not woken:
        look_at_all(s)
    count_sleep(v, life, now)
    tell_of_long_wait(v, life, since, what)
    look_for_signals(v, life, "waiting for names")
    return True
