# Names: from a key to a slot by hashing into two buckets of eight cells, each a cache line. A
# lookup reads both whole, so there are no tombstones and no displacement. A cell is a hint: the
# slot's word says whether the object lives, or whether it is a claim, and the slot's label says
# what it is called. A cell whose slot has moved on is free to overwrite. read_name() takes a name
# as calls give it: a str is checked and hashed once, and looked up as often as needed.

from cpython.exc cimport PyErr_Clear
from libc.stdint cimport uint64_t, uint8_t
from libc.string cimport memcmp, memcpy

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    cas_acq_rel, load_acquire, load_relaxed, prefetch, unlikely,
)
from refstore.engines.native.error_codes cimport (
    ERR_INDEX, ERR_NOT_FOUND, kind_of_error, left_behind, with_blocker,
)
from refstore.engines.native.layout cimport (
    Bucket, BUCKET_CELLS, Label, NAME_LIMIT, NAME_LOCKS, NameLock, PAGE, PUBLISHING,
)
from refstore.engines.native.view cimport (
    bits_at, bucket_at, damage, is_ready, label_at, labels_are_committed, name_lock_at, slots_used,
    View,
)
from refstore.engines.native.memory cimport commit_unit
from refstore.engines.native.waiting cimport announce
from refstore.engines.native.slots cimport (
    is_claim, is_live, pin, unpin, word_generation, word_state,
)

cdef extern from "Python.h":
    # No error by its declaration here: a `try` about it would cost each lookup by name.
    const char *utf8_or_null "PyUnicode_AsUTF8AndSize"(object text, Py_ssize_t *nbytes)

cdef enum:
    MAX_ROUNDS = 1000000       # of one lookup: a second or so
    NAME_WORDS = 32             # of a label: the name and its length

cdef struct Name:
    const uint8_t *utf8
    uint64_t nbytes
    uint64_t hashed             # 0: no name

cdef struct Found:
    uint64_t slot
    uint64_t generation
    uint64_t *cell
    uint64_t cell_value
    bint any_alike              # a cell on the way that the name might have: of it, or of a claim


cdef inline uint64_t rotl(uint64_t x, int n) noexcept nogil:
    return x << n | x >> (64 - n)


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotl(v[1], 13) ^ v[0]
    v[0] = rotl(v[0], 32)
    v[2] += v[3]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl(v[1], 17) ^ v[2]
    v[2] = rotl(v[2], 32)


cdef inline uint64_t name_hash(View *v, const uint8_t *name, uint64_t nbytes) noexcept nogil:
    # SipHash-1-3 keyed with the file's seed, so that nobody can choose names that collide; never 0
    cdef:
        uint64_t[4] q
        uint64_t i = 0, m
    q[0] = v.header.seed[0] ^ <uint64_t>0x736f6d6570736575
    q[1] = v.header.seed[1] ^ <uint64_t>0x646f72616e646f6d
    q[2] = v.header.seed[0] ^ <uint64_t>0x6c7967656e657261
    q[3] = v.header.seed[1] ^ <uint64_t>0x7465646279746573
    while i + 8 <= nbytes:
        memcpy(&m, name + i, 8)
        q[3] ^= m
        sip_round(q)
        q[0] ^= m
        i += 8
    m = 0
    memcpy(&m, name + i, nbytes - i)
    m |= nbytes << 56
    q[3] ^= m
    sip_round(q)
    q[0] ^= m
    q[2] ^= 0xff
    sip_round(q)
    sip_round(q)
    sip_round(q)
    m = q[0] ^ q[1] ^ q[2] ^ q[3]
    return m if m else 1


cdef inline int read_name(View *v, object name, Name *parsed, bint is_key) except -1:
    # `is_key`: a ref would have done, too
    cdef Py_ssize_t nbytes = 0
    if isinstance(name, str):
        parsed.utf8 = <const uint8_t*>utf8_or_null(name, &nbytes)
        if parsed.utf8 == NULL:
            PyErr_Clear()
            nbytes = 0
    if not 0 < nbytes <= NAME_LIMIT:
        from refstore._names import encode_key, encode_name
        (encode_key if is_key else encode_name)(name)       # raises
    parsed.nbytes = <uint64_t>nbytes
    parsed.hashed = name_hash(v, parsed.utf8, parsed.nbytes)
    return 0


cdef inline uint64_t bucket_of(View *v, uint64_t hashed, int which) noexcept nogil:
    cdef uint64_t first = hashed & (v.g.buckets - 1)
    cdef uint64_t second = (hashed >> 28) & (v.g.buckets - 1)
    if which == 0:
        return first
    return second if second != first else first ^ (1 & (v.g.buckets - 1))


cdef inline uint64_t make_cell(uint64_t slot, uint64_t generation, uint64_t hashed) noexcept nogil:
    return slot << 36 | (generation & 0xFFFFF) << 16 | (hashed >> 48 if hashed >> 48 else 1)


cdef inline uint64_t cell_slot(uint64_t cell) noexcept nogil:
    return cell >> 36


cdef inline uint64_t stripe_of(uint64_t hashed) noexcept nogil:
    # the number of the name's lock, which other names share
    return (hashed >> 8) % NAME_LOCKS


cdef inline NameLock *stripe_named(View *v, uint64_t hashed) noexcept nogil:
    return name_lock_at(v, stripe_of(hashed))


cdef inline uint64_t *name_lock_of(View *v, uint64_t hashed) noexcept nogil:
    return &stripe_named(v, hashed).lock


cdef inline bint bucket_is_ready(View *v, uint64_t bucket) noexcept nogil:
    # a page of the index that was never written is not even there
    return is_ready(bits_at(v, v.g.index_ready), bucket * sizeof(Bucket) // PAGE)


cdef inline int ensure_buckets_committed(View *v, uint64_t hashed) noexcept nogil:
    cdef int which, got
    cdef uint64_t page
    for which in range(2):
        page = bucket_of(v, hashed, which) * sizeof(Bucket) // PAGE
        got = commit_unit(v, bits_at(v, v.g.index_ready), page, v.g.index + page * PAGE, PAGE)
        if got != 0:
            return got
    return 0


cdef inline uint64_t word_behind(View *v, uint64_t cell) noexcept nogil:
    # of the slot that a cell leads to; that of a FREE one if the slot has moved on
    cdef uint64_t word
    if cell == 0 or cell_slot(cell) >= v.slot_limit or cell_slot(cell) >= slots_used(v):
        return 0
    prefetch(label_at(v, cell_slot(cell)))  # it comes next
    word = load_acquire(&v.slots[cell_slot(cell)].word)                  # [seal]
    return word if word_generation(word) & 0xFFFFF == cell >> 16 & 0xFFFFF else 0


cdef inline bint cell_is_live(View *v, uint64_t cell) noexcept nogil:
    # whether it is still of use, to an object or to a claim
    cdef uint64_t word = word_behind(v, cell)
    return is_live(word, word_generation(word)) or is_claim(word)


cdef inline Name name_of(View *v, uint64_t i) noexcept nogil:
    # What the label of a slot says that nobody changes: it is ours, or its object is published.
    cdef:
        Label *label = label_at(v, i)
        Name name
    name.utf8 = label.name
    name.nbytes = label.name_nbytes
    name.hashed = v.slots[i].name_hash
    return name


cdef inline bint has_name(View *v, uint64_t i, const Name *name) noexcept nogil:
    # the slot is pinned, or its name lock is ours
    cdef Label *label
    if v.slots[i].name_hash != name.hashed or not labels_are_committed(v, i):
        return False
    label = label_at(v, i)
    return label.name_nbytes == name.nbytes and memcmp(label.name, name.utf8, name.nbytes) == 0


cdef inline bint read_label(View *v, uint64_t i, uint64_t *words, uint64_t n) noexcept nogil:
    # The first n words of a label whose slot nobody pins for us: they count if the slot's word is
    # of one generation before and after. Acquire loads keep the second look behind these. False: it
    # has no label.
    cdef uint64_t k
    if load_acquire(&v.slots[i].name_hash) == 0 or not labels_are_committed(v, i):  # [seal]
        return False
    for k in range(n):
        words[k] = load_acquire(<const uint64_t*>label_at(v, i) + k)     # [seal]
    return True


cdef inline bint seems_to_have_name(View *v, uint64_t i, const Name *name) noexcept nogil:
    # As has_name(), and neither is so; the caller looks at the word again.
    cdef:
        uint64_t[NAME_WORDS] words
        const uint8_t *label = <const uint8_t*>words
    if load_acquire(&v.slots[i].name_hash) != name.hashed:               # [seal]
        return False
    if not read_label(v, i, words, name.nbytes // 8 + 1):
        return False
    return label[0] == name.nbytes and memcmp(label + 1, name.utf8, name.nbytes) == 0


cdef inline bint had_name(View *v, Found *found, const Name *name) noexcept nogil:
    # As has_name(), without a pin, for which there may be no memory.
    return seems_to_have_name(v, found.slot, name) \
        and is_live(load_acquire(&v.slots[found.slot].word), found.generation)       # [seal]


cdef inline int pin_named(View *v, Found *found, const Name *name) noexcept nogil:
    cdef int got = pin(v, found.slot, found.generation)
    if got == 0 and not has_name(v, found.slot, name):
        return with_blocker(ERR_NOT_FOUND, unpin(v, found.slot))
    return got


cdef inline int find_in(View *v, Bucket *bucket, const Name *name, Found *found, bint pins,
                        bint *moved, int *missed) noexcept nogil:
    # 0, and a pin if it is asked for; or an error. `missed`: the error of cells that led
    # elsewhere; of several, one that carries a blocker.
    cdef:
        int k, got
        uint64_t cell, word
    for k in range(BUCKET_CELLS):
        cell = load_acquire(&bucket.cells[k])  # [index] the object is whole
        if cell == 0 or (cell ^ make_cell(0, 0, name.hashed)) & 0xFFFF:
            continue
        failpoint()
        found.any_alike = True
        found.slot = cell_slot(cell)
        if pins and found.slot < v.slot_limit:
            prefetch(&v.pins[found.slot])   # while the slot's word is waited for
        got = ERR_NOT_FOUND
        word = word_behind(v, cell)
        if unlikely(word_state(word) == PUBLISHING) \
                and load_acquire(&bucket.cells[k]) != cell:              # [index]
            word = 0            # a claim when we read its cell: the name does not lead to it yet
        if is_live(word, word_generation(word)):
            found.generation = word_generation(word)
            if pins:
                got = pin_named(v, found, name)
            elif had_name(v, found, name):
                got = 0
        if got == 0:
            found.cell = &bucket.cells[k]
            found.cell_value = cell
            return 0
        if kind_of_error(got) != ERR_NOT_FOUND:
            return got
        missed[0] = min(missed[0], got)
        if load_acquire(&bucket.cells[k]) != cell:                       # [index]
            moved[0] = True     # replaced since we read the cell
    return ERR_NOT_FOUND


cdef inline int find(View *v, const Name *name, Found *found, bint pins) noexcept nogil:
    # 0 and, if it is asked for, a pin; or ERR_NOT_FOUND; with `pins` another error, too. Instead of
    # 0, row + 1 of who pins a block that a pin undone on the way left behind; an error carries it.
    # Each new round means that some writer has got on: so many in our way are none of ours.
    cdef:
        int which, got
        int missed = ERR_NOT_FOUND
        int rounds = 0
        bint moved = True
        uint64_t bucket
    found.any_alike = False
    while moved:
        moved = False
        rounds += 1
        if rounds > MAX_ROUNDS:
            return damage(v, b"the name index keeps changing around bucket %d",
                          bucket_of(v, name.hashed, 0))
        for which in range(2):
            bucket = bucket_of(v, name.hashed, which)
            if not bucket_is_ready(v, bucket):
                continue
            if which == 0:      # the second while the first is waited for
                prefetch(bucket_at(v, bucket_of(v, name.hashed, 1)))
            got = find_in(v, bucket_at(v, bucket), name, found, pins, &moved, &missed)
            if got == 0:
                return 0 if missed == ERR_NOT_FOUND else left_behind(missed)
            if kind_of_error(got) != ERR_NOT_FOUND:
                return got
    return missed


cdef inline uint64_t *find_cell(View *v, uint64_t cell, uint64_t hashed) noexcept nogil:
    cdef:
        int which, k
        uint64_t bucket
    for which in range(2):
        bucket = bucket_of(v, hashed, which)
        if bucket_is_ready(v, bucket):
            for k in range(BUCKET_CELLS):
                if load_acquire(&bucket_at(v, bucket).cells[k]) == cell:     # [index]
                    return &bucket_at(v, bucket).cells[k]
    return NULL


cdef inline void prefetch_name(View *v, uint64_t hashed) noexcept nogil:
    # Its buckets lie far apart: waiting for memory is most of what a put into a large store takes.
    prefetch(bucket_at(v, bucket_of(v, hashed, 0)))
    prefetch(bucket_at(v, bucket_of(v, hashed, 1)))


cdef inline void clear_cell(View *v, uint64_t cell, uint64_t hashed) noexcept nogil:
    cdef uint64_t *at = find_cell(v, cell, hashed)
    if at != NULL:
        cas_acq_rel(at, &cell, 0)                                        # [index]


cdef inline void unindex(View *v, uint64_t i, uint64_t generation, uint64_t hashed) noexcept nogil:
    # Only once the word no longer makes the object live or claimed: else a death in between leaves
    # an object that nothing finds.
    clear_cell(v, make_cell(i, generation, hashed), hashed)
    announce(v, stripe_named(v, hashed))


cdef inline int count_taken(Bucket *bucket) noexcept nogil:
    # cells that lead somewhere, or did so until a process died
    cdef int k, n = 0
    for k in range(BUCKET_CELLS):
        n += load_relaxed(&bucket.cells[k]) != 0        # relaxed: a guess
    return n


cdef inline bint index_in(View *v, Bucket *bucket, uint64_t cell, bint reuses) noexcept nogil:
    # Into a cell that is empty, or, if it `reuses` them, one that leads nowhere.
    cdef int k
    cdef uint64_t seen
    for k in range(BUCKET_CELLS):
        seen = load_acquire(&bucket.cells[k])                            # [index]
        if seen == 0 or reuses and not cell_is_live(v, seen):
            if cas_acq_rel(&bucket.cells[k], &seen, cell):               # [index]
                return True
    return False


cdef inline int count_live(View *v, Bucket *bucket) noexcept nogil:
    cdef int k, n = 0
    for k in range(BUCKET_CELLS):
        n += cell_is_live(v, load_acquire(&bucket.cells[k]))             # [index]
    return n


cdef inline int index(View *v, uint64_t cell, uint64_t hashed) noexcept nogil:
    # Into the emptier bucket of the two: that is what keeps both from ever filling up at half load.
    # Whoever ends an object empties its cell, so only what dead processes left leads nowhere. What
    # is live is counted where no cell is empty: it takes a look at many slots, which in a large
    # store are far apart in memory.
    cdef:
        Bucket *first = bucket_at(v, bucket_of(v, hashed, 0))
        Bucket *second = bucket_at(v, bucket_of(v, hashed, 1))
    if count_taken(first) > count_taken(second):
        first, second = second, first
    if index_in(v, first, cell, False) or index_in(v, second, cell, False):
        return 0
    if count_live(v, first) > count_live(v, second):
        first, second = second, first
    return 0 if index_in(v, first, cell, True) or index_in(v, second, cell, True) else ERR_INDEX
