# Atomic words in shared memory: one name per (operation, order), no default order, no fences.
# Read-modify-write operations return the previous value; a CAS returns success and writes `expected` on failure.

from libc.stdint cimport uint32_t, uint64_t

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
    """
    int __ATOMIC_RELAXED
    int __ATOMIC_ACQUIRE
    int __ATOMIC_RELEASE
    int __ATOMIC_ACQ_REL
    int __ATOMIC_SEQ_CST
    uint64_t __atomic_load_n(const uint64_t *p, int order) noexcept nogil
    void __atomic_store_n(uint64_t *p, uint64_t value, int order) noexcept nogil
    uint64_t __atomic_fetch_add(uint64_t *p, uint64_t value, int order) noexcept nogil
    uint64_t __atomic_fetch_or(uint64_t *p, uint64_t value, int order) noexcept nogil
    uint64_t __atomic_fetch_and(uint64_t *p, uint64_t value, int order) noexcept nogil
    bint __atomic_compare_exchange_n(uint64_t *p, uint64_t *expected, uint64_t desired,
                                     bint weak, int success, int failure) noexcept nogil
    # the same polymorphic builtins at 32 bits, under names of their own
    uint32_t _load_u32 "__atomic_load_n"(const uint32_t *p, int order) noexcept nogil
    void _store_u32 "__atomic_store_n"(uint32_t *p, uint32_t value, int order) noexcept nogil
    uint32_t _fetch_add_u32 "__atomic_fetch_add"(uint32_t *p, uint32_t v, int order) noexcept nogil
    uint32_t _fetch_sub_u32 "__atomic_fetch_sub"(uint32_t *p, uint32_t v, int order) noexcept nogil
    void cpu_relax "refstore_cpu_relax"() noexcept nogil
    int ctz64 "__builtin_ctzll"(uint64_t value) noexcept nogil
    int clz64 "__builtin_clzll"(uint64_t value) noexcept nogil
    int popcount64 "__builtin_popcountll"(uint64_t value) noexcept nogil


cdef inline uint64_t load_relaxed(const uint64_t *p) noexcept nogil:
    return __atomic_load_n(p, __ATOMIC_RELAXED)

cdef inline uint64_t load_acquire(const uint64_t *p) noexcept nogil:
    return __atomic_load_n(p, __ATOMIC_ACQUIRE)

cdef inline uint64_t load_seq_cst(const uint64_t *p) noexcept nogil:
    return __atomic_load_n(p, __ATOMIC_SEQ_CST)

cdef inline void store_relaxed(uint64_t *p, uint64_t value) noexcept nogil:
    __atomic_store_n(p, value, __ATOMIC_RELAXED)

cdef inline void store_release(uint64_t *p, uint64_t value) noexcept nogil:
    __atomic_store_n(p, value, __ATOMIC_RELEASE)

cdef inline void store_seq_cst(uint64_t *p, uint64_t value) noexcept nogil:
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST)

cdef inline uint64_t fetch_add_relaxed(uint64_t *p, uint64_t value) noexcept nogil:
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED)

cdef inline uint64_t fetch_add_seq_cst(uint64_t *p, uint64_t value) noexcept nogil:
    return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST)

cdef inline uint64_t fetch_or_release(uint64_t *p, uint64_t bits) noexcept nogil:
    return __atomic_fetch_or(p, bits, __ATOMIC_RELEASE)

cdef inline uint64_t fetch_or_seq_cst(uint64_t *p, uint64_t bits) noexcept nogil:
    return __atomic_fetch_or(p, bits, __ATOMIC_SEQ_CST)

cdef inline uint64_t fetch_and_acquire(uint64_t *p, uint64_t bits) noexcept nogil:
    return __atomic_fetch_and(p, bits, __ATOMIC_ACQUIRE)

cdef inline uint64_t fetch_and_seq_cst(uint64_t *p, uint64_t bits) noexcept nogil:
    return __atomic_fetch_and(p, bits, __ATOMIC_SEQ_CST)

cdef inline bint cas_acq_rel(uint64_t *p, uint64_t *expected, uint64_t desired) noexcept nogil:
    return __atomic_compare_exchange_n(p, expected, desired, False,
                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)

cdef inline bint cas_seq_cst(uint64_t *p, uint64_t *expected, uint64_t desired) noexcept nogil:
    return __atomic_compare_exchange_n(p, expected, desired, False,
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

cdef inline uint32_t load_relaxed_u32(const uint32_t *p) noexcept nogil:
    return _load_u32(p, __ATOMIC_RELAXED)

cdef inline uint32_t load_seq_cst_u32(const uint32_t *p) noexcept nogil:
    return _load_u32(p, __ATOMIC_SEQ_CST)

cdef inline void store_relaxed_u32(uint32_t *p, uint32_t value) noexcept nogil:
    _store_u32(p, value, __ATOMIC_RELAXED)

cdef inline void store_seq_cst_u32(uint32_t *p, uint32_t value) noexcept nogil:
    _store_u32(p, value, __ATOMIC_SEQ_CST)

cdef inline void store_release_u32(uint32_t *p, uint32_t value) noexcept nogil:
    _store_u32(p, value, __ATOMIC_RELEASE)

cdef inline uint32_t fetch_add_seq_cst_u32(uint32_t *p, uint32_t value) noexcept nogil:
    return _fetch_add_u32(p, value, __ATOMIC_SEQ_CST)

cdef inline uint32_t fetch_sub_seq_cst_u32(uint32_t *p, uint32_t value) noexcept nogil:
    return _fetch_sub_u32(p, value, __ATOMIC_SEQ_CST)
