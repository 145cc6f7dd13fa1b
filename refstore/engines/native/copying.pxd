# Copies of payloads. A large one goes past the caches: it would push out all that is there, and a
# store to memory that is in no cache reads it first, which is a third of what such a copy moves.
# glibc does the same, from a size that it takes from the processor, and which on many a virtual
# machine is so high that it never comes. Called by who fills a block.

from libc.string cimport memmove

cdef extern from *:
    """
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #include <stdint.h>
    #include <string.h>

    /* The fence is for who publishes the block: streamed stores heed no release. */
    static void refstore_stream(char *target, const char *source, size_t nbytes) {
        size_t done = -(uintptr_t)target & 63;  /* fewer than there are: it is a large copy */
        memcpy(target, source, done);
        for (; nbytes - done >= 64; done += 64) {
            const __m128i *from = (const __m128i *)(source + done);
            __m128i *to = (__m128i *)(target + done);
            __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
            __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
            _mm_prefetch(source + done + 1024, _MM_HINT_NTA);
            _mm_stream_si128(to, a);
            _mm_stream_si128(to + 1, b);
            _mm_stream_si128(to + 2, c);
            _mm_stream_si128(to + 3, d);
        }
        _mm_sfence();
        memcpy(target + done, source + done, nbytes - done);
    }
    #else
    #define refstore_stream memmove
    #endif
    """
    void stream "refstore_stream"(char *target, const char *source, size_t nbytes) noexcept nogil

cdef enum:
    STREAMED = 16777216         # bytes: less may lie in a cache, at both ends, if it was just used


cdef inline void copy(char *target, const char *source, size_t nbytes) noexcept nogil:
    # A Writer's own memory may be the source: the two may overlap.
    if nbytes >= STREAMED and (target >= source + nbytes or source >= target + nbytes):
        stream(target, source, nbytes)
    else:
        memmove(target, source, nbytes)
