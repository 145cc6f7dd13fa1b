# What only tests and benchmarks call.

from libc.stdint cimport uint32_t, uint64_t

from refstore.engines.native.debug cimport (
    arm_failpoint, count_passes, IS_DEBUG, set_busy_timeout, set_nap, site_at, site_count,
)
from refstore.engines.native.atomics cimport assign, load_relaxed, store_relaxed_u32, store_release
from refstore.engines.native.error_codes cimport ERR_FULL
from refstore.engines.native.layout cimport FREE
from refstore.engines.native.view cimport View
from refstore.engines.native.slots cimport make_word, pin, seal, unpin, word_generation, word_state
from refstore.engines.native.publication cimport remove
from refstore.engines.native.stats cimport count_waiting
from refstore.engines.native.points cimport set_visitor
from refstore.engines.native.errors cimport full
from refstore.engines.native.room cimport allocate_slot

import os
import time


def _failpoints():
    """Debug builds: (file, line) of each failpoint; its number is its place in the list."""
    cdef long i
    return [(os.fsdecode(site_at(i).file), site_at(i).line) for i in range(site_count())]


def _arm(long failpoint, int signo, long skip=0):
    """Debug builds: raise `signo` at the failpoint with this number, after passing it `skip` times;
    -1: at none."""
    arm_failpoint(failpoint, signo, skip)


def _count_passes(size_t address):
    """Debug builds: add up how often each failpoint is passed, in uint32 cells from there on; 0: no
    longer."""
    count_passes(<uint32_t*>address)


def _visit_points(visitor):
    """Debug builds: call `visitor(name)` at each point where Python may run during an operation;
    None: at none."""
    set_visitor(NULL if visitor is None else <void*>visitor)


def _set_busy_timeout(long ms):
    """Debug builds: give up waiting for a stopped process after so many ms; -1: after the usual
    time."""
    set_busy_timeout(ms)


def _set_nap(long ms):
    """Debug builds: who waits for others sleeps up to so many ms at a time; -1: as usual."""
    set_nap(ms)


def _waiting(Engine engine not None):
    """Counts the processes that sleep until others have done something."""
    return count_waiting(&engine.use().view)


def _set_generation(Engine engine not None, uint64_t slot, uint64_t generation):
    """Debug builds: the generation of a FREE slot, to see what happens at the last one."""
    cdef View *v = &engine.use().view
    if not IS_DEBUG or word_state(v.slots[slot].word) != FREE:
        raise ValueError("only in a debug build, and only of a free slot")
    store_release(&v.slots[slot].word, make_word(generation, FREE, 0))   # [free]


def _set_pins(Engine engine not None, ObjectRef ref not None, uint32_t pins):
    """Debug builds: this process's count of pins on an object."""
    if not IS_DEBUG:
        raise ValueError("only in a debug build")
    store_relaxed_u32(&engine.use().view.pins[ref.slot], pins)           # relaxed: a test


def bench_get(Engine engine not None, ObjectRef ref not None, uint64_t n):
    """Seconds for n pins and unpins in the core alone."""
    cdef View *v = &engine.use().view
    cdef uint64_t _
    began = time.perf_counter()
    for _ in range(n):
        if pin(v, ref.slot, ref.generation) == 0:
            unpin(v, ref.slot)
    return time.perf_counter() - began


def bench_put_delete(Engine engine not None, uint64_t nbytes, uint64_t n):
    """Seconds for n puts, without the copy, and deletes in the core alone."""
    cdef View *v = &engine.use().view
    cdef uint64_t _, i, generation
    began = time.perf_counter()
    for _ in range(n):
        if allocate_slot(v, nbytes, 0, NULL, 0, &i) != 0:
            raise full(v, nbytes, ERR_FULL)
        assign(v.slots[i].nbytes, nbytes)
        assign(v.slots[i].name_hash, 0)
        generation = word_generation(load_relaxed(&v.slots[i].word))  # relaxed: ours
        seal(v, i)
        remove(v, i, generation)
    return time.perf_counter() - began
