# What a store holds, counted from its slots: on a busy store, as true as any count of moving
# things.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free

from refstore.engines.native.atomics cimport load_acquire, load_relaxed, load_relaxed_u32, prefetch
from refstore.engines.native.layout cimport (
    CHUNK, CONDEMNED, FREE, HELD, PAGE, PUBLISHING, RETIRED, ROW_LEFT, Slot,
)
from refstore.engines.native.view cimport (
    bits_at, block_nbytes, is_ready, next_live_row, pin_cells, pins_in, row_at, row_is_dead,
    slots_used, View,
)
from refstore.engines.native.gaps cimport longest_gap, mark_block, mark_runs
from refstore.engines.native.slots cimport is_live, pinned_by, word_generation, word_state
from refstore.engines.native.names cimport find_cell, make_cell, name_hash, NAME_WORDS, read_label

cdef struct Census:
    uint64_t used
    uint64_t free
    uint64_t largest_free
    uint64_t free_block         # the largest block of small ones that nobody has
    uint64_t objects
    uint64_t pinned
    uint64_t pinned_nbytes
    uint64_t condemned
    # while it is taken
    unsigned char *pages        # 1: in use; of those before `end`
    uint64_t end
    unsigned char *runs         # 1: a block of it is in use


cdef enum:
    AHEAD = 64                  # slots that are fetched before they are looked at: two pages


cdef enum:
    # bit = state of a slot whose block is in use
    IN_USE_STATES = ~(1 << FREE | 1 << HELD | 1 << RETIRED) & 0xFFFF


cdef inline bint holds_block(uint64_t word) noexcept nogil:
    return IN_USE_STATES >> word_state(word) & 1 != 0


cdef inline void bound_free(View *v, Census *census, unsigned char *used, uint64_t end,
                            uint64_t spare) noexcept nogil:
    # What the file system cannot give any more is not free. Who puts takes the extent that fits
    # best, whether that has memory or not.
    cdef uint64_t page, with_memory = 0, without = 0
    for page in range(end):
        if not used[page]:
            if is_ready(bits_at(v, v.g.data_ready), page * PAGE // CHUNK):
                with_memory += 1
            else:
                without += 1
    census.free = min(census.free, with_memory * PAGE + spare)
    census.largest_free = longest_gap(used, end, end + min(spare // PAGE, v.g.pages - end)) * PAGE
    if without:
        census.largest_free = min(census.largest_free, spare)
    census.largest_free = min(census.free, max(census.largest_free, census.free_block))


cdef inline void count_slot(View *v, Census *census, uint64_t i) noexcept nogil:
    # All that it looks at is in the first cache line of the slot, but for pins.
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t word = load_acquire(&slot.word)                         # [seal]
        uint64_t nbytes = block_nbytes(slot)
    if not holds_block(word):
        if slot.run:
            census.free_block = max(census.free_block, nbytes)
        return
    census.used += nbytes
    census.objects += is_visible(v, i, word)
    census.condemned += word_state(word) == CONDEMNED
    if load_acquire(&slot.mask) and pinned_by(v, i):                     # [pin]
        census.pinned += 1
        census.pinned_nbytes += nbytes
    mark_block(v, slot, census.pages, census.end, census.runs)


cdef inline int take_census(View *v, Census *census, uint64_t spare) noexcept nogil:
    # 0, or -1 without memory for the page map. On a busy store, as true as any count of moving
    # things. `spare`: bytes that the file system has for blocks without memory.
    cdef uint64_t i
    census.end = min(load_relaxed(&v.pool.top), v.g.pages)  # relaxed: bounds a scan
    census.pages = <unsigned char*>calloc(census.end + 1 + v.g.max_runs, 1)
    if census.pages == NULL:
        return -1
    census.runs = census.pages + census.end + 1
    for i in range(slots_used(v)):
        prefetch(&v.slots[i + AHEAD])
        count_slot(v, census, i)
    mark_runs(v, census.pages, census.end, census.runs)
    census.free = v.header.capacity - min(census.used, v.header.capacity)
    if spare < census.free:
        bound_free(v, census, census.pages, census.end, spare)
    else:
        census.largest_free = longest_gap(census.pages, census.end, v.g.pages) * PAGE
        census.largest_free = min(census.free, max(census.largest_free, census.free_block))
    free(census.pages)
    return 0


cdef inline uint64_t count_processes(View *v) noexcept nogil:
    cdef uint64_t n = 0
    cdef int64_t row = next_live_row(v, 0)
    while row >= 0:
        n += load_acquire(&row_at(v, <uint64_t>row).state) != ROW_LEFT \
            and not row_is_dead(v, <uint64_t>row)                        # [row]
        row = next_live_row(v, <uint64_t>row + 1)
    return n


cdef inline uint64_t count_waiting(View *v) noexcept nogil:
    # processes
    cdef uint64_t n = 0
    cdef int64_t row = next_live_row(v, 0)
    while row >= 0:
        n += row_at(v, <uint64_t>row).waiting != 0 and not row_is_dead(v, <uint64_t>row)
        row = next_live_row(v, <uint64_t>row + 1)
    return n


cdef inline uint64_t count_all(View *v, int counter) noexcept nogil:
    cdef uint64_t n = load_relaxed(&v.header.totals[counter])  # relaxed: statistics
    cdef int64_t row = next_live_row(v, 0)
    while row >= 0:
        n += load_relaxed(&row_at(v, <uint64_t>row).counters[counter])  # relaxed: as above
        row = next_live_row(v, <uint64_t>row + 1)
    return n


cdef inline uint64_t count_pins(View *v, uint64_t i) noexcept nogil:
    cdef uint64_t n = 0
    cdef uint32_t *cells
    cdef int64_t row = next_live_row(v, 0)
    while row >= 0:
        cells = pin_cells(v, <uint64_t>row, i)
        if cells:
            n += pins_in(load_relaxed_u32(cells))  # relaxed: a report
        row = next_live_row(v, <uint64_t>row + 1)
    return n


cdef inline bint is_visible(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # live, and for an object that is being published: under its name already
    cdef uint64_t hashed = v.slots[i].name_hash
    if word_state(word) == PUBLISHING:
        return find_cell(v, make_cell(i, word_generation(word), hashed), hashed) != NULL
    return is_live(word, word_generation(word))


cdef inline int64_t next_live(View *v, uint64_t i, uint64_t *generation) noexcept nogil:
    # the first live object's slot from `i` on, or -1
    cdef uint64_t word
    while i < slots_used(v):
        word = load_acquire(&v.slots[i].word)                            # [seal]
        if is_visible(v, i, word):
            generation[0] = word_generation(word)
            return <int64_t>i
        i += 1
    return -1


cdef inline object damaged_label(View *v, uint64_t i):
    import os
    from refstore import _messages
    return _messages.damaged_file(os.fsdecode(<bytes>v.path),
                                  f"the label of slot {i} does not hold the slot's name")


cdef inline str slot_name(View *v, uint64_t i, uint64_t generation):
    # of an object; None if it has none, or is gone
    cdef uint64_t[NAME_WORDS] words
    cdef const char *label = <const char*>words
    cdef uint64_t hashed = load_acquire(&v.slots[i].name_hash)           # [seal]
    cdef bint found = read_label(v, i, words, NAME_WORDS)
    if not is_live(load_acquire(&v.slots[i].word), generation) or hashed == 0:  # [seal]
        return None
    if not found or name_hash(v, <const uint8_t*>label + 1, <uint8_t>label[0]) != hashed:
        raise damaged_label(v, i)
    try:
        return label[1:1 + <uint8_t>label[0]].decode()
    except UnicodeDecodeError:
        raise damaged_label(v, i) from None
