# Objects that are put together, or not at all: whether there would be room for all of them if
# everything evictable were evicted. Only then is anything evicted for them. And whether there would
# be if all went that this process does not hold: else a put that waits, of one object too, fails
# at once.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from refstore.engines.native.atomics cimport load_acquire, load_seq_cst_u32, popcount64
from refstore.engines.native.layout cimport (
    CLASSES, CONDEMNED, PAGE, SEALED, SMALL_LIMIT,
)
from refstore.engines.native.view cimport (
    block_nbytes, class_nbytes, pins_are_committed, runs_used, slots_used, View,
)
from refstore.engines.native.ages cimport random_below
from refstore.engines.native.gaps cimport gaps_hold, length_of, mark_block, mark_runs
from refstore.engines.native.slots cimport is_spare, pinned_by, word_row, word_state
from refstore.engines.native.blocks cimport class_of
from refstore.engines.native.units cimport may_go

cdef struct Lot:
    uint64_t objects            # that are yet to find room
    uint64_t slots              # that they take
    uint64_t nbytes             # of their blocks
    const uint64_t *blocks      # bytes of the block of each
    bint may_fit                # as it was when the first of them found none

cdef enum:
    MOST_SIZES = 8
    LOOKS_EACH = 64             # at slots, for each object of a lot

cdef struct Sizes:  # of the blocks of a lot
    int n
    uint64_t[MOST_SIZES] nbytes
    uint64_t[MOST_SIZES] wanted

cdef struct Places:
    # of all that stays
    uint64_t slots
    uint64_t nbytes
    unsigned char *pages        # those in use, a byte each
    unsigned char *runs         # those of which a block stays
    unsigned char *kept         # slots
    uint64_t[CLASSES] spare     # blocks of these runs that are free, or come free


cdef inline bint add_size(Sizes *sizes, uint64_t nbytes) noexcept nogil:
    # False: there are too many different ones
    cdef int k
    for k in range(sizes.n):
        if sizes.nbytes[k] == nbytes:
            sizes.wanted[k] += 1
            return True
    if sizes.n == MOST_SIZES:
        return False
    sizes.nbytes[sizes.n] = nbytes
    sizes.wanted[sizes.n] = 1
    sizes.n += 1
    return True


cdef inline bint find_like_it(View *v, const Lot *lot) noexcept nogil:
    # Whether so many objects may go, each with the very block of one of the lot, among the slots
    # from a place by chance on: in a cache of much the same things that is soon found. False: that
    # says nothing.
    cdef:
        Sizes sizes
        uint64_t n = slots_used(v), k, i, word, nbytes, missing = lot.objects
        uint64_t start = random_below(v, n) if n else 0
        uint32_t age
        int size
    sizes.n = 0
    for k in range(lot.objects):
        if not add_size(&sizes, lot.blocks[k]):
            return False
    for k in range(min(n, LOOKS_EACH * lot.objects)):
        i = (start + k) % n
        nbytes = block_nbytes(&v.slots[i])
        for size in range(sizes.n):
            if sizes.nbytes[size] == nbytes and sizes.wanted[size] \
                    and may_go(v, i, &word, &age) and pinned_by(v, i) == 0:
                sizes.wanted[size] -= 1
                missing -= 1
                if missing == 0:
                    return True
    return False


cdef inline bint is_ours(View *v, uint64_t i) noexcept nogil:
    # whether this process keeps others from freeing the slot
    cdef uint64_t word = load_acquire(&v.slots[i].word)                  # [seal]
    if is_spare(word):
        return False
    return word_row(word) == v.row and word_state(word) not in (SEALED, CONDEMNED) \
        or pins_are_committed(v, i) and load_seq_cst_u32(&v.pins[i]) != 0        # [pin]


cdef inline bint stays(View *v, uint64_t i, bint alone) noexcept nogil:
    # `alone`: if all went that this process does not hold; else, if all went that may be evicted
    cdef uint64_t word
    cdef uint32_t age
    if alone:
        return is_ours(v, i)
    if may_go(v, i, &word, &age):
        return pinned_by(v, i) != 0
    return not is_spare(word)


cdef inline void find_what_stays(View *v, bint alone, Places *there) noexcept nogil:
    cdef uint64_t i, r, size_class
    for i in range(slots_used(v)):
        if stays(v, i, alone):
            there.kept[i] = 1
            there.slots += 1
            there.nbytes += block_nbytes(&v.slots[i])
            mark_block(v, &v.slots[i], there.pages, v.g.pages, there.runs)
    mark_runs(v, there.pages, v.g.pages, there.runs)
    for i in range(slots_used(v)):
        r = <uint64_t>v.slots[i].run - 1
        size_class = v.slots[i].size_class
        if not there.kept[i] and r < v.g.max_runs and there.runs[r] and size_class < CLASSES:
            there.spare[size_class] += 1
    for r in range(runs_used(v)):
        size_class = load_acquire(&v.runs[r].live) - 1                   # [run]
        if there.runs[r] and size_class < CLASSES:
            there.spare[size_class] += <uint64_t>popcount64(
                v.runs[r].unowned & ((<uint64_t>1 << (v.runs[r].blocks & 63)) - 1))


cdef inline uint64_t plan_runs(const Lot *lot, uint64_t *spare, uint64_t *plan,
                               uint64_t *pages) noexcept nogil:
    # The pages of each extent that the lot takes, in `plan`: returns how many. Small blocks go
    # where a block of their class or a larger one is spare, and the others to runs of their own, as
    # short as can be: what those of single pages take is added to `pages`.
    cdef:
        uint64_t[CLASSES] wanted
        uint64_t k, least, used, surplus = 0, n = 0
        int size_class
    memset(wanted, 0, sizeof(wanted))
    for k in range(lot.objects):
        if lot.blocks[k] > SMALL_LIMIT:
            plan[n] = lot.blocks[k] // PAGE
            n += 1
        elif lot.blocks[k]:
            wanted[class_of(lot.blocks[k])] += 1
    for size_class in range(CLASSES - 1, -1, -1):
        surplus += spare[size_class]
        used = min(wanted[size_class], surplus)
        surplus -= used
        wanted[size_class] -= used
        least = (class_nbytes(size_class) + PAGE - 1) // PAGE
        if least == 1:
            used = PAGE // class_nbytes(size_class)
            pages[0] += (wanted[size_class] + used - 1) // used
            continue
        for _ in range(wanted[size_class]):
            plan[n] = least
            n += 1
    return n


cdef inline uint64_t count_free(const unsigned char *used, uint64_t pages) noexcept nogil:
    cdef uint64_t page = 0, gap, n = 0
    while page < pages:
        page += length_of(used + page, pages - page, 0)
        gap = length_of(used + page, pages - page, 1)
        n += gap
        page += gap
    return n


cdef inline bint holds_lot(View *v, const Lot *lot, Places *there, uint64_t *plan) noexcept nogil:
    cdef uint64_t k, n, pages = 0
    if there.slots + lot.slots > v.slot_limit or there.nbytes + lot.nbytes > v.g.pages * PAGE:
        return False
    n = plan_runs(lot, there.spare, plan, &pages)
    for k in range(n):
        pages += plan[k]
    return pages <= count_free(there.pages, v.g.pages) \
        and gaps_hold(there.pages, v.g.pages, plan, n)


cdef inline bint lot_fits(View *v, const Lot *lot, bint alone) noexcept nogil:
    # if all went that can go: `alone`: as of stays()
    cdef:
        Places there
        uint64_t *plan
        bint fits = True        # where there is no memory to find out
    if not alone and find_like_it(v, lot):
        return True
    plan = <uint64_t*>malloc((lot.objects + 1) * sizeof(uint64_t))
    memset(&there, 0, sizeof(Places))
    there.pages = <unsigned char*>calloc(v.g.pages + v.g.max_runs + slots_used(v) + 1, 1)
    if there.pages != NULL and plan != NULL:
        there.runs = there.pages + v.g.pages
        there.kept = there.runs + v.g.max_runs
        find_what_stays(v, alone, &there)
        fits = holds_lot(v, lot, &there, plan)
    free(there.pages)
    free(plan)
    return fits
