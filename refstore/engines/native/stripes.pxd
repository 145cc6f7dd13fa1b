# Sleep on many names at once: on the words of their stripes, all in one call of the kernel. Where
# these are too many for it, or it is too old, on the one word that every change of a name changes;
# the words of the stripes then say which names are worth a look.

from libc.errno cimport EFAULT, ETIMEDOUT
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from refstore.engines.native.atomics cimport ctz64, load_seq_cst_u32
from refstore.engines.native.layout cimport NAME_LOCKS, NameLock
from refstore.engines.native.system cimport (
    futex_waitv, is_answer, MAX_WATCHED, Watched, WATCHED_32_BITS,
)
from refstore.engines.native.view cimport name_lock_at, View
from refstore.engines.native.waiting cimport begin_nap, FOREVER, Nap, register_sleeper

cdef enum:
    STRIPE_WORDS = NAME_LOCKS // 64

cdef struct Stripes:
    uint64_t[STRIPE_WORDS] asked    # bit = a name of the stripe is waited for
    uint64_t[STRIPE_WORDS] changed  # bit = one may have changed since the last look
    uint32_t[NAME_LOCKS] seen       # of each that is asked for, before the look
    uint32_t n                  # that are asked for
    bint by_any                 # the kernel does not sleep on many words for us
    Nap any                     # `end` counts in any case


cdef inline void clear_stripes(Stripes *s) noexcept nogil:
    memset(s.asked, 0, sizeof(s.asked))
    memset(s.changed, 0, sizeof(s.changed))
    s.n = 0


cdef inline bint is_in(const uint64_t *bits, uint64_t k) noexcept nogil:
    return bits[k >> 6] >> (k & 63) & 1 != 0


cdef inline void ask(Stripes *s, uint64_t k) noexcept nogil:
    if not is_in(s.asked, k):
        s.asked[k >> 6] |= <uint64_t>1 << (k & 63)
        s.changed[k >> 6] |= <uint64_t>1 << (k & 63)
        s.n += 1


cdef inline bint sleeps_on_any(Stripes *s) noexcept nogil:
    return s.by_any or s.n >= MAX_WATCHED       # one is left for a word of the process's own


cdef inline bint see_changes(View *v, Stripes *s, uint64_t nap_ms) noexcept nogil:
    # Before the look, as begin_nap(). Whether any has changed since it was seen last.
    cdef:
        uint64_t w, k, bits
        uint32_t word
        bint any_changed = False
        NameLock *stripe
    s.any.end = FOREVER
    if sleeps_on_any(s):
        begin_nap(&s.any, &v.header.any, &v.header.any_until, nap_ms)
    for w in range(<uint64_t>STRIPE_WORDS):
        bits = s.asked[w]
        while bits:
            k = w * 64 + <uint64_t>ctz64(bits)
            bits &= bits - 1
            stripe = name_lock_at(v, k)
            if not sleeps_on_any(s):
                s.any.end = min(s.any.end, register_sleeper(&stripe.awake_until, nap_ms))
            word = load_seq_cst_u32(&stripe.changes)                     # [wait]
            if word != s.seen[k]:
                s.seen[k] = word
                s.changed[w] |= <uint64_t>1 << (k & 63)
            any_changed |= is_in(s.changed, k)
    return any_changed


cdef inline void look_at_all(Stripes *s) noexcept nogil:
    memcpy(s.changed, s.asked, sizeof(s.asked))


cdef inline void watch_word(Watched *at, const uint32_t *word, uint32_t seen) noexcept nogil:
    at.word = <uintptr_t>word
    at.expected = seen
    at.flags = WATCHED_32_BITS
    at.reserved = 0


cdef inline unsigned int watch_stripes(View *v, const Stripes *s, Watched *words) noexcept nogil:
    # how many words there are to sleep on
    cdef uint64_t k
    cdef unsigned int n = 0
    for k in range(<uint64_t>NAME_LOCKS):
        if is_in(s.asked, k):
            watch_word(&words[n], &name_lock_at(v, k).changes, s.seen[k])
            n += 1
    return n


cdef inline bint sleep_on_all(Stripes *s, const Watched *words, unsigned int n,
                              uint64_t deadline) noexcept nogil:
    # Whether something woke us. A kernel that refuses is not asked again: all begins anew then.
    cdef int got = futex_waitv(words, n, min(s.any.end, deadline))
    if not is_answer(got) and got != EFAULT:
        s.by_any = True
    return got != ETIMEDOUT
