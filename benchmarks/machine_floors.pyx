"""Times of the two things that a store cannot do without: an atomic add, a wake-up by futex."""

import os
from array import array

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #include <linux/futex.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    static double floors_now(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    static double floors_adds(uint64_t *word, uint64_t count) {
        double began = floors_now();
        for (uint64_t i = 0; i < count; i++)
            __atomic_fetch_add(word, 1, __ATOMIC_ACQ_REL);
        return (floors_now() - began) / (double)count;
    }
    /* Waits until the word is `mine`, and makes it the other's. `taken`: seconds of each turn. */
    static void floors_play(uint32_t *word, uint32_t mine, double *taken, uint64_t count) {
        double before = floors_now();
        for (uint64_t i = 0; i < count; i++) {
            while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != mine)
                syscall(SYS_futex, word, FUTEX_WAIT, !mine, NULL, NULL, 0);
            __atomic_store_n(word, !mine, __ATOMIC_RELEASE);
            syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
            double after = floors_now();
            taken[i] = after - before;
            before = after;
        }
    }
    static void *floors_shared(void) {
        return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    }
    static void floors_unshare(void *page) { munmap(page, 4096); }
    """
    double adds "floors_adds"(uint64_t *word, uint64_t count) nogil
    void play "floors_play"(uint32_t *word, uint32_t mine, double *taken, uint64_t count) nogil
    void *shared "floors_shared"() nogil
    void unshare "floors_unshare"(void *page) nogil


def atomic_adds(uint64_t count):
    """Seconds of an atomic add to a line that nobody else touches."""
    cdef uint64_t word = 0
    cdef double each
    with nogil:
        each = adds(&word, count)
    return each


def futex_round_trips(uint64_t count, other_core=None):
    """Seconds, each time, until another process has been woken and has woken this one.

    `other_core`: the core of the other one.
    """
    cdef uint32_t *word = <uint32_t *>shared()
    taken = array("d", bytes(8 * count))
    cdef double[::1] each = taken
    child = os.fork()
    if child == 0:
        if other_core is not None:
            os.sched_setaffinity(0, {other_core})
        play(word, 1, &each[0], count)
        os._exit(0)
    with nogil:
        # This one's turn is 0, the child's is 1.
        play(word, 0, &each[0], count)
    os.waitpid(child, 0)
    unshare(word)
    return list(taken)


def collected(run, turns):
    """Runs it. benchmarks/instructions.py has callgrind count what happens between here and
    there."""
    run(turns)
