# Background events reported to `logging`: dead processes were recovered, objects were evicted.
# Reported by calls that look for room or have slept, at most once a second; the fast paths of put
# and get report nothing.

from libc.stdint cimport uint64_t

from refstore.engines.native.layout cimport COUNT_EVICTIONS
from refstore.engines.native.system cimport now_ns
from refstore.engines.native.view cimport counted, View
from refstore.engines.native.points cimport is_same_process, path_of, python_ran

cdef enum:
    NEWS_EVERY_NS = 1000000000


cdef inline int tell_news(View *v, uint64_t life) except -1:
    # Python runs in here if there are any.
    cdef uint64_t dead, evicted, now
    if not is_same_process(v, life):
        return 0
    dead = v.recovered.processes - v.told_dead
    evicted = counted(v, COUNT_EVICTIONS) - v.told_evictions
    if dead == 0 and evicted == 0:
        return 0
    now = now_ns()
    if now - v.told_at < NEWS_EVERY_NS:
        return 0
    v.told_at = now
    v.told_dead += dead
    v.told_evictions += evicted
    from refstore import _logging
    _logging.news(path_of(v), dead, evicted)
    return python_ran(v, life, "logging")
