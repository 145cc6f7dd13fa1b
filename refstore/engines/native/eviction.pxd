# What goes when a put finds no room. By evict="lru", and in stores without a policy, the oldest of
# ten samples; by evict="s3fifo" what its queues say. Only what makes room by itself is looked at:
# an object whose block is of the very size, or a window, or at last a larger block; any object, if
# only a slot is missing. So a put that could not fit whatever went evicts nothing.
#
# An object goes by an offer, which readers rescue: see slots.pxd. From the offer to its end the GIL
# is kept.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from refstore.engines.native.atomics cimport load_relaxed, prefetch
from refstore.engines.native.error_codes cimport ERR_FULL, ERR_FULL_SLOTS, ERR_NO_MEMORY
from refstore.engines.native.layout cimport BIN_WORDS, CLASSES, PAGE, Slot, SMALL_LIMIT
from refstore.engines.native.view cimport (
    bits_at, class_nbytes, extent_first, extent_pages, label_at, run_is_there, SAMPLES,
    slots_used, View,
)
from refstore.engines.native.bitmap cimport summary_of
from refstore.engines.native.lock cimport lock, unlock
from refstore.engines.native.ages cimport now, random_below
from refstore.engines.native.slots cimport (
    free_slot, pinned_by, reuse_slot, unclaim, word_generation,
)
from refstore.engines.native.bins cimport bin_of, find_free
from refstore.engines.native.blocks cimport allocate_block, class_of, place_block, take_spare
from refstore.engines.native.names cimport prefetch_name
from refstore.engines.native.recovery cimport recover_dead
from refstore.engines.native.queues cimport next_victim, push, queue_of
from refstore.engines.native.units cimport (
    any_window, evict_window, may_go, take_object, Window, window_from,
)
from refstore.engines.native.lots cimport Lot, lot_fits

cdef enum:
    LOOKS = 1000                # at slots, for so many samples; then at all of them
    MOST_REFUSED = 64           # offers of one put
    MOST_QUEUED = 8             # of these, for what its queue says
    MOST_PASSES = 4             # of one put over the whole table
    MOST_ROUNDS = 64            # in which room that came free was taken by another process
    EVICTED = 1                 # room came free: try again

cdef struct Want:
    int size_class              # of its block, or -1: whole pages
    uint64_t pages              # that it is cut from, or has
    bint any_object             # any will do: a slot is what is missing
    bint windows                # pages that come free will do

cdef struct Pick:
    bint is_any
    bint is_object              # else a window
    bint is_queued              # it has left its queue
    uint64_t slot
    uint64_t word
    Window window
    uint32_t age

cdef struct Eviction:  # by one put
    Lot *lot                    # which it belongs to, or NULL
    bint is_due                 # the store has a policy, or nothing else has helped
    uint64_t refused
    uint64_t passes
    uint64_t rounds
    uint64_t steps              # in queues
    bint is_trimmed             # free memory has gone back to the system since the last eviction


cdef inline void prepare_eviction(Eviction *so_far, bint is_due, Lot *lot) noexcept nogil:
    so_far.lot = lot
    so_far.is_due = is_due
    so_far.is_trimmed = False
    so_far.refused = so_far.passes = so_far.rounds = so_far.steps = 0


cdef inline bint is_full(int error) noexcept nogil:
    # whether it is a matter of room
    return error == ERR_FULL or error == ERR_FULL_SLOTS or error == ERR_NO_MEMORY


# What would make room

cdef inline bint has_free_pages(View *v, uint64_t pages) noexcept nogil:
    cdef bint found
    if v.pool.top + pages <= v.g.pages:
        return True
    if lock(v, &v.pool.lock) != 0:
        return False
    found = find_free(v, pages) >= 0
    unlock(&v.pool.lock)
    return found


cdef inline void set_want(View *v, uint64_t nbytes, int why, Want *want) noexcept nogil:
    want.size_class = -1
    want.pages = (nbytes + PAGE - 1) // PAGE
    if 0 < nbytes <= SMALL_LIMIT:
        want.size_class = class_of(nbytes)
        want.pages = (class_nbytes(want.size_class) + PAGE - 1) // PAGE
    want.any_object = why == ERR_FULL_SLOTS and (nbytes == 0 or has_free_pages(v, want.pages))
    # other pages may be without memory, too
    want.windows = nbytes > 0 and why != ERR_NO_MEMORY


cdef inline bint is_of_size(View *v, uint64_t i, Want *want) noexcept nogil:
    # whether the put may have the block of slot `i` as it is
    cdef Slot *slot = &v.slots[i]
    if slot.extent:
        return want.size_class < 0 and extent_pages(slot.extent) == want.pages
    return slot.size_class == want.size_class and run_is_there(v, slot.run)


cdef inline int64_t page_of(View *v, uint64_t i) noexcept nogil:
    # where the unit of slot `i` begins, or -1: it has no pages
    cdef uint64_t extent = v.slots[i].extent, run = v.slots[i].run
    if extent:
        return <int64_t>extent_first(extent)
    return v.runs[run - 1].first if run_is_there(v, run) else -1


cdef inline void pick_object(Pick *pick, uint64_t i, uint64_t word, uint32_t age) noexcept nogil:
    pick.is_any = pick.is_object = True
    pick.slot = i
    pick.word = word
    pick.age = age


cdef inline bint pick_window(View *v, uint64_t i, Want *want, uint32_t least,
                             Pick *pick) noexcept nogil:
    # The window about the unit of slot `i`, if it is at least so old.
    cdef Window window
    cdef int64_t page = page_of(v, i)
    if page < 0 or not want.windows \
            or not window_from(v, <uint64_t>page, want.pages, least, &window):
        return False
    pick.is_any = True
    pick.is_object = False
    pick.window = window
    pick.age = window.age
    return True


# Which of them is picked

cdef inline bint look_at_sample(View *v, uint64_t i, Want *want, bint careful,
                                Pick *pick) noexcept nogil:
    # Whether slot `i` has something to choose among. A window is no older than what is drawn, so
    # most of them are never looked at; and so are pins, unless one was in the way (`careful`): what
    # is pinned for long is old.
    cdef uint64_t word
    cdef uint32_t age
    if not may_go(v, i, &word, &age) or careful and pinned_by(v, i):
        return False
    if not pick.is_any or age > pick.age:
        if want.any_object or is_of_size(v, i, want):
            pick_object(pick, i, word, age)
        else:
            pick_window(v, i, want, pick.age + 1 if pick.is_any else 0, pick)
    return True


cdef inline void draw_samples(View *v) noexcept nogil:
    # Slots are far apart in memory: what is drawn after one look is in a cache by the next.
    cdef uint64_t n = slots_used(v)
    cdef int k
    for k in range(SAMPLES):
        v.drawn[k] = <uint32_t>random_below(v, n)
        prefetch(&v.slots[v.drawn[k]])
    v.has_drawn = True


cdef inline void pick_sample(View *v, Want *want, bint careful, Pick *pick) noexcept nogil:
    # The oldest of ten, or of all where few of the slots have an object that may go.
    cdef uint64_t i
    cdef int looks = 0, samples = 0, k
    if not v.has_drawn:
        draw_samples(v)
    while samples < SAMPLES and looks < LOOKS:
        for k in range(SAMPLES):
            samples += look_at_sample(v, v.drawn[k], want, careful, pick)
        draw_samples(v)
        looks += SAMPLES
    if samples < SAMPLES:
        for i in range(slots_used(v)):
            look_at_sample(v, i, want, careful, pick)


cdef inline bint pick_next(View *v, Want *want, Eviction *so_far, Pick *pick) noexcept nogil:
    # What the queues say. What is next there and helps nobody comes in again.
    cdef uint64_t word
    cdef int64_t i
    cdef int _
    for _ in range(SAMPLES):
        i = next_victim(v, &word, &so_far.steps)
        if i < 0:
            return False
        if want.any_object or is_of_size(v, <uint64_t>i, want):
            pick_object(pick, <uint64_t>i, word, 0)
            return True
        push(v, queue_of(v.slots[i].last_use), <uint64_t>i, word_generation(word))
        if pick_window(v, <uint64_t>i, want, 1, pick):
            return True
    return False


cdef inline bint pick_from_all(View *v, Want *want, Pick *pick) noexcept nogil:
    # The oldest of ten that nobody pins, if there are so many, from a place by chance. False: none
    # of any size may go.
    cdef:
        uint64_t n = slots_used(v), k, i, word
        uint64_t start = random_below(v, n) if n else 0
        uint32_t age
        int samples = 0
        bint any_goes = False
    for k in range(n):
        i = (start + k) % n
        if not may_go(v, i, &word, &age) or pinned_by(v, i):
            continue
        any_goes = True
        if want.any_object or is_of_size(v, i, want):
            if not pick.is_any or age > pick.age:
                pick_object(pick, i, word, age)
            samples += 1
            if samples == SAMPLES:
                break
    return any_goes


cdef inline void pick_larger(View *v, Want *want, Pick *pick) noexcept nogil:
    # A block of the next larger class there is, when no pages can be cut.
    cdef uint64_t i, word
    cdef uint32_t age
    cdef int best = CLASSES
    for i in range(slots_used(v)):
        if run_is_there(v, v.slots[i].run) and want.size_class < v.slots[i].size_class < best \
                and may_go(v, i, &word, &age) and pinned_by(v, i) == 0:
            best = v.slots[i].size_class
            pick_object(pick, i, word, age)


cdef inline bint pick(View *v, Want *want, Eviction *so_far, Pick *picked) noexcept nogil:
    # Samples first; then every slot and every window, so that what can be found is found.
    memset(picked, 0, sizeof(Pick))
    if v.has_queues and so_far.refused < MOST_QUEUED and pick_next(v, want, so_far, picked):
        picked.is_queued = picked.is_object
        return True
    if slots_used(v):
        pick_sample(v, want, so_far.refused > 0, picked)
    if picked.is_any:
        return True
    so_far.passes += 1
    if so_far.passes > MOST_PASSES:
        return False
    if not pick_from_all(v, want, picked):
        return False
    if not picked.is_any and want.windows and any_window(v, want.pages, &picked.window):
        picked.is_any = True
        picked.is_object = False
    if not picked.is_any and want.windows and want.size_class >= 0:
        pick_larger(v, want, picked)
    return picked.is_any


# What goes

cdef inline int evict_one(View *v, Want *want, Pick *picked, uint64_t *slot) noexcept nogil:
    # As allocate_block(), with the block of what has gone; EVICTED; or ERR_FULL: it has to stay.
    cdef int got
    if not picked.is_object:
        return EVICTED if evict_window(v, &picked.window) else ERR_FULL
    prefetch_name(v, v.slots[picked.slot].name_hash)
    prefetch(label_at(v, picked.slot))
    prefetch(v.base + v.slots[picked.slot].offset)
    if not take_object(v, picked.slot, picked.word):
        return ERR_FULL
    if want.any_object and not is_of_size(v, picked.slot, want):
        free_slot(v, picked.slot)
        return EVICTED
    if not reuse_slot(v, picked.slot):
        return EVICTED
    slot[0] = picked.slot
    got = place_block(v, picked.slot)
    if got == ERR_NO_MEMORY:
        unclaim(v, picked.slot)
        return EVICTED
    return got


cdef inline int make_room(View *v, uint64_t nbytes, int why, Eviction *so_far,
                          uint64_t *slot) noexcept nogil:
    # As evict_one(), or `why`: nothing more is to be had.
    cdef:
        Want want
        Pick picked
        int got
    if so_far.lot != NULL and not so_far.lot.may_fit:       # else nothing goes for it
        so_far.lot.may_fit = lot_fits(v, so_far.lot, False)
        if not so_far.lot.may_fit:
            return why
    set_want(v, nbytes, why, &want)
    while so_far.refused < MOST_REFUSED and so_far.rounds < MOST_ROUNDS:
        if not pick(v, &want, so_far, &picked):
            break
        got = evict_one(v, &want, &picked, slot)
        if got != ERR_FULL:
            so_far.rounds += 1
            return got
        so_far.refused += 1
        if picked.is_queued:
            push(v, queue_of(v.slots[picked.slot].last_use), picked.slot,
                 word_generation(picked.word))
    return why


# Whether there is room as it is. That takes long to find out where there is none, and a cache is
# always full; so what was found is believed for a tick, unless something is free by now. Only whole
# runs that others have emptied stay unseen so long.

cdef inline bint any_bits(uint64_t *words, uint64_t n) noexcept nogil:
    cdef uint64_t k, found = 0
    for k in range(n):
        found |= load_relaxed(&words[k])        # relaxed: a guess
    return found != 0


cdef inline bint any_hints(View *v, uint64_t offset) noexcept nogil:
    # in a bitmap of slots
    return any_bits(summary_of(bits_at(v, offset), v.g.slot_words), (v.g.slot_words + 63) // 64)


cdef inline bint any_listed(View *v, uint64_t pages) noexcept nogil:
    # whether free pages may be so many
    cdef int b = bin_of(pages), w = (b >> 6) + 1
    if load_relaxed(&v.pool.bin_bits[b >> 6]) >> (b & 63):      # relaxed: a guess
        return True
    return any_bits(&v.pool.bin_bits[w], <uint64_t>(BIN_WORDS - w))


cdef inline bint was_full(View *v, uint64_t nbytes) noexcept nogil:
    cdef Want want
    if not v.is_full or v.full_at != now(v) or nbytes < v.full_nbytes \
            or any_hints(v, v.g.spare_bits):
        return False
    if v.full_error == ERR_FULL_SLOTS:
        return not any_hints(v, v.g.empty_bits)
    set_want(v, nbytes, v.full_error, &want)
    return v.pool.top + want.pages > v.g.pages and not any_listed(v, want.pages)


cdef inline int look_for_room(View *v, uint64_t nbytes, uint64_t *slot) noexcept nogil:
    # As allocate_block(). What dead processes hold comes back before anything is evicted: it is
    # looked at once in a tick, and first where there was no room in the tick before.
    cdef bint is_due = v.full_at != now(v)
    cdef int got = ERR_FULL
    if not is_due or not v.is_full:
        got = allocate_block(v, nbytes, slot)
    if is_due and is_full(got):
        v.full_at = now(v)
        v.is_full = False
        recover_dead(v, False)
        got = allocate_block(v, nbytes, slot)
    if is_full(got):
        v.full_nbytes = min(v.full_nbytes, nbytes) if v.is_full and got == v.full_error else nbytes
        v.full_error = got
        v.is_full = True
    return got


cdef inline int find_room(View *v, uint64_t nbytes, Eviction *so_far,
                          uint64_t *slot) noexcept nogil:
    # As allocate_block(), and what may go makes room.
    cdef int got
    if not so_far.is_due:
        return allocate_block(v, nbytes, slot)
    if not was_full(v, nbytes):
        got = look_for_room(v, nbytes, slot)
    else:
        got = take_spare(v, nbytes, slot)
        if is_full(got):
            got = make_room(v, nbytes, v.full_error, so_far, slot)
        if got == EVICTED or is_full(got):
            got = look_for_room(v, nbytes, slot)
    while is_full(got):
        got = make_room(v, nbytes, got, so_far, slot)
        if got != EVICTED:
            return got
        got = look_for_room(v, nbytes, slot)
    return got
