# What goes as one when room is made: an object by itself, a whole run, or a window, which is pages
# side by side with all that lies in them. A run is as old as the block in it that was used last,
# and so is a window, since all of it goes or nothing does.
#
# Without the space lock: who owns pages is read from tags that may change meanwhile, and what they
# lead to is asked whether it is so. Nothing is taken from anybody but by an offer.

from libc.stdint cimport uint32_t, uint64_t

from refstore.engines.native.atomics cimport load_acquire, load_relaxed_u32
from refstore.engines.native.layout cimport (
    COUNT_EVICTIONS, EVICTABLE, PageTag, Run, RUN_BLOCKS, SEALED,
)
from refstore.engines.native.view cimport (
    count, extent_first, extent_pages, run_is_sound, run_slot, runs_used, slot_is_of, slots_used,
    tag_at, top_of, View,
)
from refstore.engines.native.lock cimport lock, unlock
from refstore.engines.native.ages cimport age_of
from refstore.engines.native.slots cimport (
    free_slot, is_spare, offer, pinned_by, take_offered, withdraw, word_generation, word_state,
)
from refstore.engines.native.rebuild cimport rebuild
from refstore.engines.native.runs cimport release_run
from refstore.engines.native.names cimport unindex
from refstore.engines.native.queues cimport add_ghost, queue_of, SMALL_QUEUE

cdef enum:
    OLDEST = 0xFFFFFFFF         # the age of what holds no object

cdef struct Window:
    uint64_t first              # page
    uint64_t end
    uint32_t age                # of what was used last in it
    bint is_broken              # nothing is known of some page that was looked at


# Objects

cdef inline bint may_go(View *v, uint64_t i, uint64_t *word, uint32_t *age) noexcept nogil:
    # Whether slot `i` has an object that may be evicted if nobody pins it. An offer by this word is
    # an offer of that object.
    cdef uint32_t last_use
    word[0] = load_acquire(&v.slots[i].word)  # [seal] before `last_use`
    if word_state(word[0]) != SEALED:
        return False
    last_use = load_relaxed_u32(&v.slots[i].last_use)       # relaxed: see above
    age[0] = age_of(v, last_use)
    return last_use & EVICTABLE != 0


cdef inline void forget_object(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # After an offer was taken: the slot is ours, RECLAIMING. Death before the end leaves a cell
    # that leads nowhere, see index().
    cdef uint64_t hashed = v.slots[i].name_hash
    cdef uint32_t last_use = load_relaxed_u32(&v.slots[i].last_use)     # relaxed: ours
    if hashed:
        unindex(v, i, word_generation(word), hashed)
        if v.has_queues and queue_of(last_use) == SMALL_QUEUE:
            add_ghost(v, hashed)
    count(v, COUNT_EVICTIONS, 1)


cdef inline bint take_object(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # `word` as by may_go(). True: it is evicted, and the slot is RECLAIMING, ours.
    cdef uint64_t offered = offer(v, i, word)
    if offered == 0 or not take_offered(v, i, offered):
        return False
    forget_object(v, i, word)
    return True


cdef inline bint evict_object(View *v, uint64_t i, uint64_t word) noexcept nogil:
    if not take_object(v, i, word):
        return False
    free_slot(v, i)
    return True


cdef inline void evict_all(View *v) noexcept nogil:
    # All that may go. The GIL is kept, as in eviction.pxd.
    cdef uint64_t i, word
    cdef uint32_t age
    for i in range(slots_used(v)):
        if may_go(v, i, &word, &age):
            evict_object(v, i, word)


# Runs

cdef inline bint run_may_go(View *v, uint64_t r, uint32_t least, Window *window) noexcept nogil:
    # Adds the blocks to the window; False if one of them has to stay, or none of this is older than
    # `least`.
    cdef:
        Run *run = &v.runs[r]
        uint64_t j, i, word
        uint32_t age
    for j in range(min(<uint64_t>run.blocks, <uint64_t>RUN_BLOCKS)):
        i = run_slot(v, r, j)
        if i == 0:
            continue
        i -= 1
        if may_go(v, i, &word, &age):
            if age < least or pinned_by(v, i):
                return False
            window.age = min(window.age, age)
        elif not is_spare(word):
            return False
    return True


cdef inline void withdraw_all(View *v, uint32_t *slots, uint64_t *offered,
                              uint64_t n) noexcept nogil:
    cdef uint64_t k
    for k in range(n):
        withdraw(v, slots[k], offered[k])


cdef inline bint evict_run(View *v, uint64_t r) noexcept nogil:
    # All blocks are offered before the first is taken. True if the run's pages are free.
    cdef:
        Run *run = &v.runs[r]
        uint32_t[RUN_BLOCKS] slots
        uint64_t[RUN_BLOCKS] offered
        uint64_t j, i, word, n = 0, k
        uint32_t age
        bint released
    for j in range(min(<uint64_t>run.blocks, <uint64_t>RUN_BLOCKS)):
        i = run_slot(v, r, j)
        if i == 0 or not slot_is_of(v, i - 1, r, j):
            continue
        if may_go(v, i - 1, &word, &age):
            slots[n] = <uint32_t>(i - 1)
            offered[n] = offer(v, i - 1, word)
        elif is_spare(word):
            continue
        else:
            offered[n] = 0
        if offered[n] == 0:
            withdraw_all(v, slots, offered, n)
            return False
        n += 1
    for k in range(n):
        if take_offered(v, slots[k], offered[k]):   # else it was rescued, or deleted
            forget_object(v, slots[k], offered[k])
            free_slot(v, slots[k])
    if lock(v, &v.pool.lock) != 0:
        return True             # who needs the pages meets the lock as well
    # at once, before somebody takes a block of it
    released = run.live != 0 and release_run(v, r)
    unlock(&v.pool.lock)
    return released


# Windows

cdef struct Unit:
    uint64_t pages
    uint64_t slot               # + 1, of an extent; else 0
    uint64_t run                # + 1; else 0: it is free, or nothing is known of it
    bint is_known


cdef inline void find_unit(View *v, uint64_t page, Unit *unit) noexcept nogil:
    # What begins at `page`, by its tag. Of what is not known it says that it has one page.
    cdef:
        PageTag *tag = tag_at(v, page)
        uint64_t pages = load_relaxed_u32(&tag.head)        # relaxed: a guess
        uint64_t slot = load_relaxed_u32(&tag.next)         # relaxed: what it leads to decides
        uint64_t run = load_relaxed_u32(&tag.prev)          # relaxed: as above
    unit.slot = unit.run = 0
    if page >= top_of(v):
        pages = v.g.pages
    elif pages == 0 and slot and slot <= slots_used(v) \
            and extent_first(v.slots[slot - 1].extent) == page:
        pages = extent_pages(v.slots[slot - 1].extent)
        unit.slot = slot
    elif pages == 0 and run and run <= runs_used(v) and v.runs[run - 1].first == page \
            and run_is_sound(v, &v.runs[run - 1], v.runs[run - 1].live):
        pages = v.runs[run - 1].pages
        unit.run = run
    unit.is_known = pages != 0
    unit.pages = max(<uint64_t>1, min(pages, v.g.pages - page))


cdef inline bint add_unit(View *v, Window *window, uint32_t least) noexcept nogil:
    # Adds to the window what begins at its end, if all of that may go and is at least so old.
    cdef Unit unit
    cdef uint64_t word
    cdef uint32_t age
    find_unit(v, window.end, &unit)
    if not unit.is_known or unit.run and not run_may_go(v, unit.run - 1, least, window):
        return False
    if unit.slot:
        if may_go(v, unit.slot - 1, &word, &age):
            if age < least or pinned_by(v, unit.slot - 1):
                return False
            window.age = min(window.age, age)
        elif not is_spare(word):
            return False
    window.end += unit.pages
    return True


cdef inline bint window_from(View *v, uint64_t page, uint64_t pages, uint32_t least,
                             Window *window) noexcept nogil:
    # So many pages from there on, and what is free before, if all of it may go and is at least so
    # old.
    cdef uint64_t before = 0
    if page:
        before = load_relaxed_u32(&tag_at(v, page - 1).tail)        # relaxed: a guess
    window.first = window.end = page - min(before, page)
    window.age = OLDEST
    while window.end - window.first < pages:
        if window.end >= v.g.pages or not add_unit(v, window, least):
            return False
    return True


cdef inline bint find_window(View *v, uint64_t pages, Window *window) noexcept nogil:
    # The first window of so many pages.
    cdef Unit unit
    window.first = window.end = 0
    window.is_broken = False
    while window.end - window.first < pages:
        if window.end >= v.g.pages:
            return False
        if not add_unit(v, window, 0):
            find_unit(v, window.end, &unit)
            window.is_broken |= not unit.is_known
            window.end += unit.pages
            window.first = window.end
    find_unit(v, window.first, &unit)
    while window.end - window.first >= pages + unit.pages:
        window.first += unit.pages
        find_unit(v, window.first, &unit)
    return True


cdef inline bint any_window(View *v, uint64_t pages, Window *window) noexcept nogil:
    # If there is none in the whole store, no eviction makes room for so many pages. What tags do
    # not say is made anew.
    if find_window(v, pages, window):
        return True
    if not window.is_broken or lock(v, &v.pool.lock) != 0:
        return False
    rebuild(v)
    unlock(&v.pool.lock)
    return find_window(v, pages, window)


cdef inline bint evict_window(View *v, Window *window) noexcept nogil:
    # True if all of it has gone.
    cdef Unit unit
    cdef uint64_t page = window.first, word
    cdef uint32_t age
    while page < window.end:
        find_unit(v, page, &unit)
        if unit.run and not evict_run(v, unit.run - 1):
            return False
        if unit.slot and may_go(v, unit.slot - 1, &word, &age) \
                and not evict_object(v, unit.slot - 1, word):
            return False
        page += unit.pages
    return True
