# The map of pages rebuilt from the slots: by who holds the space lock and finds that the map
# contradicts itself, and by who recovers a holder that died. Then the hints of free slots are
# restored, since some may have been dropped meanwhile.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    assign, load_acquire, load_acquire_u32, popcount64, store_relaxed_u32, store_release,
)
from refstore.engines.native.layout cimport (
    CLASSES, CONDEMNED, HELD, LIVE_STATES, PAGE, PageTag, RETIRED, Run, RUN_BLOCKS, Slot,
)
from refstore.engines.native.view cimport (
    block_nbytes, extent_first, extent_pages, map_end, run_is_sound, runs_used, slots_used, View,
)
from refstore.engines.native.slots cimport is_spare, restore_hint, restore_run_hints, word_state
from refstore.engines.native.bins cimport insert_free, mark_unused, mark_used, name_owner, next_page

cdef inline bint has_bytes(uint64_t state) noexcept nogil:
    # whether the slot's offset and size are those of an object
    return (LIVE_STATES | 1 << CONDEMNED) >> state & 1 != 0


cdef inline Run *run_of(View *v, uint64_t i) noexcept nogil:
    # the run that slot `i` has a block of, or NULL
    cdef uint32_t number = load_acquire_u32(&v.slots[i].run)  # [block] its block is whole
    cdef Run *run
    if number == 0 or number > runs_used(v):
        return NULL
    run = &v.runs[number - 1]
    return run if run_is_sound(v, run, run.live) else NULL


cdef inline void forget_half_made(View *v) noexcept nogil:
    # Slots that a dead holder had in hand, and retired ones, belong to a run only if the run
    # counts.
    cdef uint64_t i, state
    for i in range(slots_used(v)):
        state = word_state(load_acquire(&v.slots[i].word))               # [free]
        if v.slots[i].run and (state == HELD or state == RETIRED):
            if run_of(v, i) == NULL:
                assign(v.slots[i].run, 0)


cdef inline void forget_owners(View *v) noexcept nogil:
    # Which slot has which block is known by the slots alone.
    cdef uint64_t r, j
    for r in range(runs_used(v)):
        assign(v.runs[r].unowned, ~<uint64_t>0)
        for j in range(<uint64_t>RUN_BLOCKS):
            store_relaxed_u32(&v.runs[r].slots[j], 0)  # relaxed: a hint; see restore_hints()
    assign(v.pool.unowned_blocks, 0)
    memset(v.pool.class_pages, 0, sizeof(v.pool.class_pages))
    failpoint()


cdef inline void own_block(Run *run, uint64_t block, uint64_t i) noexcept nogil:
    if block < run.blocks and run.slots[block] == 0:
        store_relaxed_u32(&run.slots[block], <uint32_t>(i + 1))  # relaxed: as above
        assign(run.unowned, run.unowned & ~(<uint64_t>1 << block))


cdef inline void own_blocks(View *v, bint in_use) noexcept nogil:
    # Of the slots that hold an object, first, and then of all: one that is sealed meanwhile, which
    # takes no lock, is in one of the two looks. A block where an object's bytes lie is not to be
    # had, whatever else the slot says.
    cdef:
        uint64_t i, at, size
        Run *run
        Slot *slot
    for i in range(slots_used(v)):
        slot = &v.slots[i]
        run = run_of(v, i)
        if run == NULL or slot.extent or in_use \
                and not has_bytes(word_state(load_acquire(&slot.word))):  # [seal]
            continue
        size = block_nbytes(slot)
        at = slot.offset - v.g.data - run.first * <uint64_t>PAGE
        if in_use and size and at < run.pages * <uint64_t>PAGE:
            own_block(run, min(at // size, <uint64_t>RUN_BLOCKS), i)
        own_block(run, slot.block, i)


cdef inline uint64_t use_pages(View *v, uint64_t first, uint64_t pages) noexcept nogil:
    # Marks those of them that the map reaches; returns where they end. What lies past it stays as
    # it is marked.
    cdef uint64_t end = min(map_end(v), v.g.pages)
    if first >= end:
        return 0
    end = min(end, first + pages)
    mark_used(v, first, end)
    return end


cdef inline uint64_t use_block(View *v, uint64_t i) noexcept nogil:
    # Pages by what the slot owns, and by where the bytes of its object lie: one of them may be
    # damaged.
    cdef Slot *slot = &v.slots[i]
    # [seal] before what it says of its bytes
    cdef bint holds = has_bytes(word_state(load_acquire(&slot.word)))
    cdef uint64_t end = 0, at = slot.offset - v.g.data, nbytes
    if slot.extent:
        end = use_pages(v, extent_first(slot.extent), extent_pages(slot.extent))
        if end:
            name_owner(v, extent_first(slot.extent), i + 1, 0)
    nbytes = min(slot.nbytes, v.g.pages * PAGE) + slot.spill_nbytes
    if slot.extent or slot.run:
        nbytes = min(nbytes, block_nbytes(slot))
    if nbytes and holds and at < v.g.pages * PAGE:
        end = max(end, use_pages(v, at // PAGE, (at % PAGE + nbytes + PAGE - 1) // PAGE))
    return end


cdef inline uint64_t use_run(View *v, uint64_t r) noexcept nogil:
    # If a slot has a block of it; else it is none any more, and half made or half dissolved.
    cdef Run *run = &v.runs[r]
    cdef uint64_t end
    cdef uint64_t size_class = (run.live - 1) % CLASSES
    if run_is_sound(v, run, run.live):
        assign(run.unowned, run.unowned & ~<uint64_t>0 >> (RUN_BLOCKS - run.blocks))
        if <uint64_t>popcount64(run.unowned) < run.blocks:
            assign(v.pool.unowned_blocks,
                   v.pool.unowned_blocks + <uint64_t>popcount64(run.unowned))
            assign(v.pool.class_pages[size_class], v.pool.class_pages[size_class] + run.pages)
            end = use_pages(v, run.first, run.pages)
            if end:
                name_owner(v, run.first, 0, r + 1)
            return end
    store_release(&run.live, 0)                                          # [run]
    assign(run.twin, 0)
    return 0


cdef inline uint64_t use_all(View *v) noexcept nogil:
    # Marks all pages that are owned; returns the end of the last.
    cdef uint64_t i, end = 0
    own_blocks(v, True)
    own_blocks(v, False)
    for i in range(slots_used(v)):
        end = max(end, use_block(v, i))
    for i in range(runs_used(v)):
        end = max(end, use_run(v, i))
    return end


cdef inline void restore_hints(View *v) noexcept nogil:
    # Who takes a hint while its run's record is rebuilt does not find the slot, and drops it.
    cdef uint64_t i
    for i in range(slots_used(v)):
        if is_spare(load_acquire(&v.slots[i].word)):                     # [free]
            restore_hint(v, i, &v.slots[i])
    restore_run_hints(v)


cdef inline void rebuild(View *v) noexcept nogil:
    # The lock is ours, or its holder died and its row's kernel lock is ours. Slots keep their space
    # meanwhile, whatever others do to them: only a holder of this lock changes who owns pages.
    cdef uint64_t end, page = 0, until
    mark_unused(v, 0, min(map_end(v), v.g.pages))
    forget_half_made(v)
    forget_owners(v)
    memset(v.tags, 0, map_end(v) * sizeof(PageTag))
    failpoint()
    memset(v.pool.bin_bits, 0, sizeof(v.pool.bin_bits))
    failpoint()
    memset(v.pool.bin_head, 0, sizeof(v.pool.bin_head))
    failpoint()
    end = use_all(v)
    assign(v.pool.top, end)
    while page < end:           # it gets on with each turn
        page = next_page(v, page, end, False)
        until = next_page(v, page, end, True)
        if until > page:
            insert_free(v, page, until - page)
        page = until
    restore_hints(v)
