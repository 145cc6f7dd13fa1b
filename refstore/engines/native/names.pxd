# Names: from a key to a slot by hashing into two buckets of eight cells, each a cache line. A
# lookup reads both whole, so there are no tombstones and no displacement. A cell is a hint: the
# slot's word says whether the object lives, the slot's label says what it is called. A cell whose
# slot has moved on is free to overwrite.
#
# Writers of a name take its lock; readers take none. A name goes over to a new object by one CAS of
# its cell, before the old object is condemned, so a reader who meets the condemned one finds the
# cell changed and looks again. Whoever changes where a name leads announces that, so that who waits
# for it looks again.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    assign, cas_acq_rel, load_acquire, load_relaxed, prefetch, store_release, store_release_u32,
    unlikely,
)
from refstore.engines.native.error_codes cimport (
    ERR_BUSY, ERR_EXISTS, ERR_INDEX, ERR_NO_MEMORY, ERR_NOT_FOUND, ERR_SIGNALS, kind_of_error,
    left_behind, with_blocker,
)
from refstore.engines.native.layout cimport (
    Bucket, BUCKET_CELLS, CONDEMNED, Label, NAME_LOCKS, NameLock, PAGE, PUBLISHING, SEALED, Slot,
)
from refstore.engines.native.view cimport (
    bits_at, bucket_at, damage, is_ready, label_at, labels_are_committed, name_lock_at, slots_used,
    View,
)
from refstore.engines.native.memory cimport commit_unit
from refstore.engines.native.lock cimport lock, unlock
from refstore.engines.native.waiting cimport announce
from refstore.engines.native.slots cimport (
    condemn, end_publishing, is_live, make_word, pin, reap_condemned, unpin, word_generation,
)

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


cdef inline bint cell_is_live(View *v, uint64_t cell) noexcept nogil:
    cdef uint64_t word
    if cell == 0 or cell_slot(cell) >= v.slot_limit or cell_slot(cell) >= slots_used(v):
        return False
    word = load_acquire(&v.slots[cell_slot(cell)].word)                  # [seal]
    return is_live(word, word_generation(word)) \
        and word_generation(word) & 0xFFFFF == cell >> 16 & 0xFFFFF


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


cdef inline bint had_name(View *v, Found *found, const Name *name) noexcept nogil:
    # As has_name(), without a pin, for which there may be no memory.
    cdef:
        uint64_t[NAME_WORDS] words
        const uint8_t *label = <const uint8_t*>words
    if load_acquire(&v.slots[found.slot].name_hash) != name.hashed:      # [seal]
        return False
    if not read_label(v, found.slot, words, name.nbytes // 8 + 1):
        return False
    if label[0] != name.nbytes or memcmp(label + 1, name.utf8, name.nbytes) != 0:
        return False
    return is_live(load_acquire(&v.slots[found.slot].word), found.generation)        # [seal]


cdef inline int pin_named(View *v, Found *found, const Name *name) noexcept nogil:
    cdef int got = pin(v, found.slot, found.generation)
    if got == 0 and not has_name(v, found.slot, name):
        return with_blocker(ERR_NOT_FOUND, unpin(v, found.slot))
    return got


cdef inline int find_in(View *v, Bucket *bucket, const Name *name, Found *found, bint pins,
                        bint *moved) noexcept nogil:
    cdef:
        int k, got
        int missed = ERR_NOT_FOUND
        uint64_t cell
    for k in range(BUCKET_CELLS):
        cell = load_acquire(&bucket.cells[k])  # [index] the object is whole
        if cell == 0 or (cell ^ make_cell(0, 0, name.hashed)) & 0xFFFF:
            continue
        failpoint()
        found.slot = cell_slot(cell)
        got = ERR_NOT_FOUND
        if cell_is_live(v, cell):
            found.generation = word_generation(load_acquire(&v.slots[found.slot].word))  # [seal]
            if pins:
                got = pin_named(v, found, name)
            elif had_name(v, found, name):
                got = 0
        if got == 0:
            found.cell = &bucket.cells[k]
            found.cell_value = cell
            return left_behind(missed)
        if kind_of_error(got) != ERR_NOT_FOUND:
            return got
        missed = min(missed, got)       # the one with a blocker
        if load_acquire(&bucket.cells[k]) != cell:                       # [index]
            moved[0] = True     # replaced since we read the cell
    return missed


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
    while moved:
        moved = False
        rounds += 1
        if rounds > MAX_ROUNDS:
            return damage(v, b"the name index changes all the time, about bucket %d",
                          bucket_of(v, name.hashed, 0))
        for which in range(2):
            bucket = bucket_of(v, name.hashed, which)
            if not bucket_is_ready(v, bucket):
                continue
            got = find_in(v, bucket_at(v, bucket), name, found, pins, &moved)
            if got >= 0:
                return max(got, left_behind(missed))
            if kind_of_error(got) != ERR_NOT_FOUND:
                return got
            missed = min(missed, got)
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


cdef inline void prefetch_cells(View *v, uint64_t hashed) noexcept nogil:
    prefetch(bucket_at(v, bucket_of(v, hashed, 0)))
    prefetch(bucket_at(v, bucket_of(v, hashed, 1)))


cdef inline void unindex(View *v, uint64_t i, uint64_t generation, uint64_t hashed) noexcept nogil:
    # After the word says CONDEMNED, never before: else a death in between leaves an object that
    # nothing finds.
    cdef uint64_t cell = make_cell(i, generation, hashed)
    cdef uint64_t *at = find_cell(v, cell, hashed)
    if at != NULL:
        cas_acq_rel(at, &cell, 0)                                        # [index]
    announce(v, stripe_named(v, hashed))


cdef inline int count_live(View *v, Bucket *bucket) noexcept nogil:
    cdef int k, n = 0
    for k in range(BUCKET_CELLS):       # slots are far apart in memory: ask for all of them first
        prefetch(&v.slots[cell_slot(bucket.cells[k])])
    for k in range(BUCKET_CELLS):
        n += cell_is_live(v, load_acquire(&bucket.cells[k]))             # [index]
    return n


cdef inline bint index_in(View *v, Bucket *bucket, uint64_t cell) noexcept nogil:
    cdef int k
    cdef uint64_t seen
    for k in range(BUCKET_CELLS):
        seen = load_acquire(&bucket.cells[k])                            # [index]
        if not cell_is_live(v, seen) and cas_acq_rel(&bucket.cells[k], &seen, cell):     # [index]
            return True
    return False


cdef inline int index(View *v, uint64_t cell, uint64_t hashed) noexcept nogil:
    # Into the emptier bucket of the two: that is what keeps both from ever filling up at half load.
    cdef:
        Bucket *first = bucket_at(v, bucket_of(v, hashed, 0))
        Bucket *second = bucket_at(v, bucket_of(v, hashed, 1))
    if count_live(v, first) > count_live(v, second):
        first, second = second, first
    return 0 if index_in(v, first, cell) or index_in(v, second, cell) else ERR_INDEX


cdef inline int publish_locked(View *v, uint64_t i, uint64_t hashed, Found *old,
                               bint replaces) noexcept nogil:
    # The name's lock is ours and `old`, if there is one, is pinned.
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t generation = word_generation(load_relaxed(&slot.word))  # relaxed: ours
        uint64_t publishing = make_word(generation, PUBLISHING, v.row)
        uint64_t cell = make_cell(i, generation, hashed)
        bint indexed = False
    assign(slot.replaces_generation, old.generation if replaces else 0)
    # [seal] before the index changes: who recovers us must know what we meant to end
    store_release_u32(&slot.replaces_slot, <uint32_t>(old.slot + 1) if replaces else 0)
    store_release(&slot.word, publishing)  # [seal] the bytes are whole
    if replaces:
        indexed = cas_acq_rel(old.cell, &old.cell_value, cell)           # [index]
    if not indexed and index(v, cell, hashed) != 0:
        end_publishing(v, i, publishing, CONDEMNED)
        reap_condemned(v, i)
        return ERR_INDEX
    if replaces:
        condemn(v, old.slot, old.generation, True)
    end_publishing(v, i, publishing, SEALED)
    return 0


cdef inline int publish(View *v, uint64_t i, bint replace) noexcept nogil:
    # Seals slot `i`, which we are writing, under the name in its label. 0, or row + 1 of who pins
    # what was replaced, or an error: on ERR_INDEX the slot is gone, on any other it is still ours.
    cdef:
        Slot *slot = &v.slots[i]
        Label *label = label_at(v, i)
        uint64_t hashed = slot.name_hash
        NameLock *stripe = stripe_named(v, hashed)
        Name name
        Found old
        int64_t reaped
        int got = ensure_buckets_committed(v, hashed)
        int found
    if got == 0:
        got = lock(v, &stripe.lock)
    if got != 0:
        return got
    name.utf8 = label.name
    name.nbytes = label.name_nbytes
    name.hashed = hashed
    found = find(v, &name, &old, True)
    if found >= 0 and not replace:
        got = ERR_EXISTS
    elif found < 0 and kind_of_error(found) != ERR_NOT_FOUND:
        got = found
    else:
        got = publish_locked(v, i, hashed, &old, found >= 0)
    if got == 0:
        announce(v, stripe)
    unlock(&stripe.lock)
    # what was replaced is freed, if nobody else reads it
    reaped = max(unpin(v, old.slot), found) if found >= 0 else left_behind(found)
    if got == 0:
        return <int>max(reaped, 0)
    return with_blocker(got, reaped) if got == ERR_EXISTS else got


cdef inline int remove(View *v, uint64_t i, uint64_t generation) noexcept nogil:
    # Deletes by address: 0, or row + 1 of who pins it, or an error. The hash is read first: it
    # belongs to this generation if the CAS of condemn() succeeds.
    cdef uint64_t hashed
    cdef int got
    if i >= v.slot_limit or i >= slots_used(v):
        return ERR_NOT_FOUND
    hashed = load_acquire(&v.slots[i].name_hash)                         # [seal]
    failpoint()
    got = condemn(v, i, generation, False)
    if unlikely(got == ERR_BUSY):
        hashed = load_acquire(&v.slots[i].name_hash)  # [seal] as published
        # until its publisher is through, or known to be dead
        got = lock(v, name_lock_of(v, hashed))
        if got != 0:
            return got
        got = condemn(v, i, generation, True)
        unlock(name_lock_of(v, hashed))
    if got == 0:
        if hashed:
            unindex(v, i, generation, hashed)
        got = <int>max(reap_condemned(v, i), 0)
    return got


cdef inline int remove_named(View *v, const Name *name) noexcept nogil:
    # As remove(). Pinned meanwhile, if there is memory for a pin: as long as the slot is not
    # reused, the cell is its own. Each turn but the last means that somebody else deleted or
    # replaced what we found.
    cdef Found found
    cdef int64_t reaped
    cdef bint pins
    cdef int got, missed = ERR_NOT_FOUND
    while True:
        got = find(v, name, &found, True)
        pins = got >= 0
        if got == ERR_NO_MEMORY or got == ERR_SIGNALS:
            got = find(v, name, &found, False)
        if got < 0:
            return min(missed, got) if kind_of_error(got) == ERR_NOT_FOUND else got
        missed = min(missed, with_blocker(ERR_NOT_FOUND, got))
        got = remove(v, found.slot, found.generation)
        if pins:
            reaped = unpin(v, found.slot)
            if got >= 0 and reaped:
                got = <int>max(reaped, 0)       # the later look, without our own pin
            elif got == ERR_NOT_FOUND:
                got = with_blocker(got, reaped)
        if got >= 0:
            return max(got, left_behind(missed))
        if kind_of_error(got) != ERR_NOT_FOUND:     # else it was replaced or deleted since
            return got
        missed = min(missed, got)
