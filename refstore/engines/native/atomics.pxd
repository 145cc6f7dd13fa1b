# Words in shared memory: one name per (operation, order), no default order, no fences.
# Read-modify-write operations return the previous value; a CAS returns success and writes
# `expected` on failure.
#
# They are macros over the GCC builtins, so that each place where one writes is a failpoint of a
# debug build. A test sees to it that nothing else writes to shared memory.
#
# An edge is what one process writes before a release, and another reads after the acquire that sees
# it. Each atomic that is not relaxed names its edge by a tag, and each relaxed one gives its
# reason; tests/native/test_edges.py holds both, and that each tag has both ends. What each orders:
#
#   [pin]        a pin, or what says where to look for one (mask, `live`, `live_words`, ready bits,
#                `moves`), against the word, in the one order of all seq_cst accesses: see
#                slots.pxd. And a reader's last look at the bytes, before the block's reuse.
#   [seal]       bytes, label and fields of an object, before who sees it SEALED or PUBLISHING. Who
#                has no pin reads with acquire, too, and then the word again: of one generation both
#                times, it was that object's.
#   [free]       what a slot owns (extent, run, block) and its empty mask, before who claims or
#                sweeps the slot
#   [block]      which block of a run a slot has, before who finds its maker dead
#   [hint]       the slot is FREE, or the record of the run unused, before who takes its hint
#   [summary]    a bit of a word, before who finds the word by its summary; who clears the bit of a
#                word looks at the word again
#   [run]        the record of a run, before who sees it live
#   [committed]  the memory of a run's blocks, before who writes to one
#   [ready]      memory of data, pins, labels, index, before who sees its bit
#   [grow]       memory of slots, before who sees `slots_used`
#   [runs]       memory of the records of runs, before who sees `runs_used`
#   [map]        memory of the page map, before who sees `map_committed`
#   [index]      the object that a cell names is whole, before who follows the cell
#   [lock]       all that was done under a lock of the file, before its next holder
#   [row]        what is left in a row, before its next owner; its state, before who scans live rows
#   [owner]      with whom an object goes: the process that has left or died, and who adopts the
#                object, each take it by a CAS, so that one of them loses and knows it
#   [origin]     who has an entry of `origins`, before others look for one
#   [past]       a report of a recovery, before who reads when it was; one that is overwritten while
#                it is read may be torn where the order of loads is weak
#   [wait]       what a name leads to, or what is free, before who sleeps until that changes: both
#                sides in the one order of all seq_cst accesses, see waiting.pxd
#   [fork]       within one process: that a thread forked which no hook held off, before who lets go
#                of a view

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef __GNUC__
    #error "refstore needs the GCC/Clang __atomic builtins"
    #endif
    _Static_assert(__atomic_always_lock_free(8, 0), "64-bit atomics must be lock-free");
    _Static_assert(__atomic_always_lock_free(4, 0), "32-bit atomics must be lock-free");
    #if defined(__x86_64__) || defined(__i386__)
    #define refstore_cpu_relax() __builtin_ia32_pause()
    #else
    #define refstore_cpu_relax() __asm__ volatile("" ::: "memory")
    #endif

    #define REFSTORE_LOAD(p, order) __atomic_load_n((p), __ATOMIC_##order)
    #define REFSTORE_STORE(p, value, order) \
        ({ __atomic_store_n((p), (value), __ATOMIC_##order); REFSTORE_SITE(); })
    #define REFSTORE_RMW(operation, p, value, order) \
        ({ __typeof__(*(p)) refstore_before = \
               __atomic_##operation((p), (value), __ATOMIC_##order); \
           REFSTORE_SITE(); refstore_before; })
    #define REFSTORE_CAS(p, expected, desired, success, failure) \
        ({ int refstore_swapped = __atomic_compare_exchange_n( \
               (p), (expected), (desired), 0, __ATOMIC_##success, __ATOMIC_##failure); \
           if (refstore_swapped) REFSTORE_SITE(); \
           refstore_swapped; })

    #define refstore_load_relaxed(p) REFSTORE_LOAD(p, RELAXED)
    #define refstore_load_acquire(p) REFSTORE_LOAD(p, ACQUIRE)
    #define refstore_load_seq_cst(p) REFSTORE_LOAD(p, SEQ_CST)
    #define refstore_store_relaxed(p, v) REFSTORE_STORE(p, v, RELAXED)
    #define refstore_store_release(p, v) REFSTORE_STORE(p, v, RELEASE)
    #define refstore_store_seq_cst(p, v) REFSTORE_STORE(p, v, SEQ_CST)
    #define refstore_fetch_add_relaxed(p, v) REFSTORE_RMW(fetch_add, p, v, RELAXED)
    #define refstore_fetch_add_seq_cst(p, v) REFSTORE_RMW(fetch_add, p, v, SEQ_CST)
    #define refstore_fetch_sub_seq_cst(p, v) REFSTORE_RMW(fetch_sub, p, v, SEQ_CST)
    #define refstore_fetch_or_release(p, v) REFSTORE_RMW(fetch_or, p, v, RELEASE)
    #define refstore_fetch_or_seq_cst(p, v) REFSTORE_RMW(fetch_or, p, v, SEQ_CST)
    #define refstore_fetch_and_acquire(p, v) REFSTORE_RMW(fetch_and, p, v, ACQUIRE)
    #define refstore_fetch_and_seq_cst(p, v) REFSTORE_RMW(fetch_and, p, v, SEQ_CST)
    #define refstore_cas_relaxed(p, e, v) REFSTORE_CAS(p, e, v, RELAXED, RELAXED)
    #define refstore_cas_acq_rel(p, e, v) REFSTORE_CAS(p, e, v, ACQ_REL, ACQUIRE)
    #define refstore_cas_seq_cst(p, e, v) REFSTORE_CAS(p, e, v, SEQ_CST, SEQ_CST)
    #define refstore_assign(field, value) ({ (field) = (value); REFSTORE_SITE(); })
    """
    bint unlikely(bint condition) noexcept nogil  # Cython's macro: off the path of a get
    void prefetch "__builtin_prefetch"(const void *p) noexcept nogil
    void cpu_relax "refstore_cpu_relax"() noexcept nogil
    int ctz64 "__builtin_ctzll"(uint64_t value) noexcept nogil
    int clz64 "__builtin_clzll"(uint64_t value) noexcept nogil
    int popcount64 "__builtin_popcountll"(uint64_t value) noexcept nogil

    uint64_t load_relaxed "refstore_load_relaxed"(const uint64_t *p) noexcept nogil
    uint64_t load_acquire "refstore_load_acquire"(const uint64_t *p) noexcept nogil
    uint64_t load_seq_cst "refstore_load_seq_cst"(const uint64_t *p) noexcept nogil
    void store_relaxed "refstore_store_relaxed"(uint64_t *p, uint64_t value) noexcept nogil
    void store_release "refstore_store_release"(uint64_t *p, uint64_t value) noexcept nogil
    void store_seq_cst "refstore_store_seq_cst"(uint64_t *p, uint64_t value) noexcept nogil
    uint64_t fetch_add_relaxed "refstore_fetch_add_relaxed"(uint64_t *p,
                                                            uint64_t value) noexcept nogil
    uint64_t fetch_add_seq_cst "refstore_fetch_add_seq_cst"(uint64_t *p,
                                                            uint64_t value) noexcept nogil
    uint64_t fetch_or_release "refstore_fetch_or_release"(uint64_t *p, uint64_t bits) noexcept nogil
    uint64_t fetch_or_seq_cst "refstore_fetch_or_seq_cst"(uint64_t *p, uint64_t bits) noexcept nogil
    uint64_t fetch_and_acquire "refstore_fetch_and_acquire"(uint64_t *p,
                                                            uint64_t bits) noexcept nogil
    uint64_t fetch_and_seq_cst "refstore_fetch_and_seq_cst"(uint64_t *p,
                                                            uint64_t bits) noexcept nogil
    bint cas_relaxed "refstore_cas_relaxed"(uint64_t *p, uint64_t *expected,
                                            uint64_t desired) noexcept nogil
    bint cas_acq_rel "refstore_cas_acq_rel"(uint64_t *p, uint64_t *expected,
                                            uint64_t desired) noexcept nogil
    bint cas_seq_cst "refstore_cas_seq_cst"(uint64_t *p, uint64_t *expected,
                                            uint64_t desired) noexcept nogil

    uint32_t load_relaxed_u32 "refstore_load_relaxed"(const uint32_t *p) noexcept nogil
    uint32_t load_acquire_u32 "refstore_load_acquire"(const uint32_t *p) noexcept nogil
    uint32_t load_seq_cst_u32 "refstore_load_seq_cst"(const uint32_t *p) noexcept nogil
    void store_relaxed_u32 "refstore_store_relaxed"(uint32_t *p, uint32_t value) noexcept nogil
    void store_release_u32 "refstore_store_release"(uint32_t *p, uint32_t value) noexcept nogil
    void store_seq_cst_u32 "refstore_store_seq_cst"(uint32_t *p, uint32_t value) noexcept nogil
    uint32_t fetch_add_seq_cst_u32 "refstore_fetch_add_seq_cst"(uint32_t *p,
                                                                uint32_t value) noexcept nogil
    uint32_t fetch_add_relaxed_u32 "refstore_fetch_add_relaxed"(uint32_t *p,
                                                                uint32_t value) noexcept nogil
    bint cas_relaxed_u32 "refstore_cas_relaxed"(uint32_t *p, uint32_t *expected,
                                                uint32_t desired) noexcept nogil
    bint cas_seq_cst_u32 "refstore_cas_seq_cst"(uint32_t *p, uint32_t *expected,
                                                uint32_t desired) noexcept nogil
    uint32_t fetch_sub_seq_cst_u32 "refstore_fetch_sub_seq_cst"(uint32_t *p,
                                                                uint32_t value) noexcept nogil

    uint16_t load_acquire_u16 "refstore_load_acquire"(const uint16_t *p) noexcept nogil
    bint cas_acq_rel_u16 "refstore_cas_acq_rel"(uint16_t *p, uint16_t *expected,
                                                uint16_t desired) noexcept nogil

    # A plain write to a field, of any integer type, by who owns it: a release elsewhere publishes
    # it. It may move past its neighbours: where a death in between must find one before the other,
    # a store with an order stands instead.
    void assign "refstore_assign"(uint64_t field, uint64_t value) noexcept nogil
