# Bitmaps of hints: a word for 64 things, and a summary bit for each word that is not zero. Anyone
# sets and takes bits at any time, without a lock: who takes one looks whether what it says is so.

from libc.stdint cimport int64_t, uint64_t

from refstore.engines.native.atomics cimport (
    ctz64, fetch_and_acquire, fetch_or_release, load_acquire, load_relaxed,
)

cdef inline uint64_t *summary_of(uint64_t *words, uint64_t n_words) noexcept nogil:
    return words + (n_words + 7) // 8 * 8


cdef inline void hint_set(uint64_t *words, uint64_t n_words, uint64_t i) noexcept nogil:
    cdef uint64_t bit = <uint64_t>1 << (i & 63)
    if fetch_or_release(&words[i >> 6], bit) == 0:      # [hint] what the bit stands for is written
        # [summary]
        fetch_or_release(&summary_of(words, n_words)[i >> 12], <uint64_t>1 << (i >> 6 & 63))


cdef inline void hint_restore(uint64_t *words, uint64_t n_words, uint64_t i) noexcept nogil:
    # As hint_set, for a sweep: the summary may be missing too. What the bit stands for was seen to
    # be so, hence a bit that is set now will be found right by whoever clears it.
    cdef uint64_t bit = <uint64_t>1 << (i & 63)
    cdef uint64_t summary_bit = <uint64_t>1 << (i >> 6 & 63)
    cdef uint64_t *summary = &summary_of(words, n_words)[i >> 12]
    if load_acquire(&words[i >> 6]) & bit == 0:                          # [hint]
        fetch_or_release(&words[i >> 6], bit)                            # [hint]
    if load_acquire(summary) & summary_bit == 0:                         # [summary]
        fetch_or_release(summary, summary_bit)                           # [summary]


cdef inline void summary_clear(uint64_t *words, uint64_t n_words, uint64_t w) noexcept nogil:
    # Word w was seen empty. Whoever fills it between our clear and our second look either set the
    # summary after us, or is seen by the second look.
    cdef uint64_t *summary = summary_of(words, n_words)
    cdef uint64_t bit = <uint64_t>1 << (w & 63)
    fetch_and_acquire(&summary[w >> 6], ~bit)           # [summary]
    if load_acquire(&words[w]) != 0:                    # [hint]
        fetch_or_release(&summary[w >> 6], bit)         # [summary]


cdef inline void hint_range(uint64_t *words, uint64_t n_words, uint64_t first,
                            uint64_t end) noexcept nogil:
    # Gives many hints, a word at a time. `first` is a multiple of 64.
    cdef uint64_t i = first, bits
    while i < end:
        bits = ~<uint64_t>0 if end - i >= 64 else (<uint64_t>1 << (end - i)) - 1
        fetch_or_release(&words[i >> 6], bits)                                              # [hint]
        # [summary]
        fetch_or_release(&summary_of(words, n_words)[i >> 12], <uint64_t>1 << (i >> 6 & 63))
        i += 64


cdef inline bint hint_clear(uint64_t *words, uint64_t n_words, uint64_t i) noexcept nogil:
    # true if the hint was there and is now ours
    cdef uint64_t bit = <uint64_t>1 << (i & 63)
    cdef uint64_t before = fetch_and_acquire(&words[i >> 6], ~bit)      # [hint]
    if before == bit:
        summary_clear(words, n_words, i >> 6)
    return before & bit != 0


cdef inline int64_t hint_take(uint64_t *words, uint64_t n_words, uint64_t start) noexcept nogil:
    # Takes any hint, looking first near word `start`; -1 if there is none.
    cdef:
        uint64_t *summary = summary_of(words, n_words)
        uint64_t n_summary = (n_words + 63) // 64
        uint64_t turn, at, w, bits
        uint64_t skip = start & 63
    # the first summary word again at last, for the bits before `start`
    for turn in range(n_summary + 1):
        at = ((start >> 6) + turn) % n_summary
        bits = load_acquire(&summary[at])                                # [summary]
        if turn == 0:
            bits = bits >> skip << skip
        while bits:
            w = at * 64 + <uint64_t>ctz64(bits)
            bits &= bits - 1
            if w >= n_words:
                break           # wrong bits: no words of ours lie there
            while True:         # each turn a bit goes, ours or another's
                found = load_relaxed(&words[w])  # relaxed: hint_clear looks again
                if found == 0:
                    summary_clear(words, n_words, w)
                    break
                if hint_clear(words, n_words, w * 64 + <uint64_t>ctz64(found)):
                    return <int64_t>(w * 64 + <uint64_t>ctz64(found))
    return -1
