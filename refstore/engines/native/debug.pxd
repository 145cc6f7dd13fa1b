# Failpoints. A release build compiles them to nothing.
#
# Every write to shared memory is a failpoint: the operations of atomics.pxd are macros, and each
# place where one is used puts its own entry into a table that the linker collects, so that none can
# be forgotten. Beside them, `failpoint()` stands where the kernel has changed something for us, and
# where we have looked at what others write and have yet to act on it. A test arms one with a
# signal: SIGKILL is a death right there; SIGSTOP lets the test script an interleaving with waitpid
# and SIGCONT, without a sleep.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #include <signal.h>
    #include <stddef.h>
    #include <stdint.h>

    #define REFSTORE_STATIC_ASSERT(cond) _Static_assert(cond, #cond)

    struct refstore_site { const char *file; long line; };

    #ifdef REFSTORE_GCOV
    extern void __gcov_dump(void);
    #define REFSTORE_FLUSH() __gcov_dump()
    #else
    #define REFSTORE_FLUSH() ((void)0)
    #endif

    #ifdef REFSTORE_DEBUG
    #define REFSTORE_IS_DEBUG 1
    extern struct refstore_site __start_refstore_sites[] __attribute__((visibility("hidden")));
    extern struct refstore_site __stop_refstore_sites[] __attribute__((visibility("hidden")));
    static long refstore_armed = -1, refstore_skip = 0;
    static int refstore_signal = 0;
    static uint32_t *refstore_passes = NULL;        /* of each site; the test gives the memory */
    static long refstore_busy_timeout = -1, refstore_nap = -1;

    static inline long refstore_site_count(void) {
        return __stop_refstore_sites - __start_refstore_sites;
    }
    static inline const struct refstore_site *refstore_site_at(long i) {
        return &__start_refstore_sites[i];
    }
    static inline void refstore_arm(long site, int signo, long skip) {
        refstore_armed = site; refstore_signal = signo; refstore_skip = skip;
    }
    static inline void refstore_count_passes(uint32_t *passes) { refstore_passes = passes; }
    static inline void refstore_set_busy_timeout(long ms) { refstore_busy_timeout = ms; }
    static inline void refstore_set_nap(long ms) { refstore_nap = ms; }
    static void __attribute__((noinline)) refstore_passed(const struct refstore_site *site) {
        long i = site - __start_refstore_sites;
        if (refstore_passes)
            refstore_passes[i]++;
        if (i == refstore_armed && refstore_skip-- == 0) {
            refstore_armed = -1;
            REFSTORE_FLUSH();
            raise(refstore_signal);
        }
    }
    #define REFSTORE_SITE() do {                                        \
        static struct refstore_site refstore_here                       \
            __attribute__((section("refstore_sites"), used)) = {__FILE__, __LINE__}; \
        refstore_passed(&refstore_here); } while (0)
    #define refstore_busy_timeout_ms(ms) (refstore_busy_timeout < 0 ? (ms) : refstore_busy_timeout)
    #define refstore_nap_ms(ms) (refstore_nap < 0 ? (ms) : (uint64_t)refstore_nap)
    #else
    #define REFSTORE_IS_DEBUG 0
    #define REFSTORE_SITE() ((void)0)
    #define refstore_site_count() 0
    #define refstore_site_at(i) ((void)(i), (const struct refstore_site *)NULL)
    #define refstore_arm(site, signo, skip) ((void)(site), (void)(signo), (void)(skip))
    #define refstore_count_passes(passes) ((void)(passes))
    #define refstore_set_busy_timeout(ms) ((void)(ms))
    #define refstore_busy_timeout_ms(ms) (ms)
    #define refstore_set_nap(ms) ((void)(ms))
    #define refstore_nap_ms(ms) (ms)
    #endif
    """
    const bint IS_DEBUG "REFSTORE_IS_DEBUG"
    void STATIC_ASSERT "REFSTORE_STATIC_ASSERT"(bint cond) noexcept nogil
    void failpoint "REFSTORE_SITE"() noexcept nogil
    # how long to wait for a stopped process; a test may have less time
    long busy_timeout_ms "refstore_busy_timeout_ms"(long ms) noexcept nogil
    # how long to sleep at most; a test sees so what wakes a sleeper, and that nothing else does
    uint64_t real_nap_ms "refstore_nap_ms"(uint64_t ms) noexcept nogil
    # what tests reach through _core.pyx
    cdef struct Site "refstore_site":
        const char *file
        long line
    long site_count "refstore_site_count"() noexcept nogil
    const Site *site_at "refstore_site_at"(long i) noexcept nogil
    void arm_failpoint "refstore_arm"(long site, int signo, long skip) noexcept nogil
    void count_passes "refstore_count_passes"(uint32_t *passes) noexcept nogil
    void set_busy_timeout "refstore_set_busy_timeout"(long ms) noexcept nogil
    void set_nap "refstore_set_nap"(long ms) noexcept nogil
