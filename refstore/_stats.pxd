# What a store holds, counted from its slots, and whether all of it adds up.

from libc.stdint cimport int64_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from refstore._rows cimport row_is_dead
from refstore._atomics cimport load_acquire, load_relaxed, load_relaxed_u32
from refstore._index cimport cell_naming, make_cell, name_hash, NAME_WORDS, read_label
from refstore._layout cimport (
    block_nbytes, CONDEMNED, extent_first, extent_pages, FREE, HELD, KIND_OBJECT, LIVE_WORDS,
    MAX_ROWS, NAME_LOCKS, PAGE, pins_in, PUBLISHING, RECLAIMING, RETIRED, ROW_LEFT, Run, SEALED,
    Slot, SLOTS_PER_STEP, word_generation, word_row, word_state, WRITING,
)
from refstore._slots cimport is_readable, pinned_by
from refstore._store cimport (
    bits_at, CameBack, is_ready, label_at, labels_are_ready, name_lock_at, next_live_row, PIDS_KEPT,
    pins_of, pins_ready_of, row_at, runs_used, slots_used, Store, tag_at,
)

cdef struct Census:
    uint64_t used
    uint64_t largest_free
    uint64_t objects
    uint64_t pinned
    uint64_t pinned_nbytes
    uint64_t condemned
    uint64_t processes


cdef inline bint holds_block(uint64_t word) noexcept nogil:
    cdef uint64_t state = word_state(word)
    return state != FREE and state != HELD and state != RETIRED


cdef inline void mark_pages(unsigned char *used, uint64_t end, uint64_t first, uint64_t pages) noexcept nogil:
    cdef uint64_t page
    for page in range(first, min(first + pages, end)):
        used[page] = 1


cdef inline uint64_t longest_gap(unsigned char *used, uint64_t end, uint64_t pages) noexcept nogil:
    # all pages from `end` on are free
    cdef uint64_t page, run = 0, longest = 0
    for page in range(end):
        run = 0 if used[page] else run + 1
        longest = max(longest, run)
    return max(longest, run + pages - end)


cdef inline int take_census(Store *s, Census *census) noexcept nogil:
    # 0, or -1 without memory for the page map. On a busy store, as true as any count of moving things.
    cdef:
        uint64_t i, word, spare = 0
        uint64_t top = min(load_relaxed(&s.pool.top), s.g.pages)  # relaxed: bounds a scan
        uint64_t n_slots = slots_used(s)
        unsigned char *used = <unsigned char*>calloc(s.g.pages if top > s.g.pages else top + 1, 1)
        Slot *slot
        Run *run
    if used == NULL:
        return -1
    for i in range(n_slots):
        slot = &s.slots[i]
        word = load_acquire(&slot.word)                                  # [seal]
        if not holds_block(word):
            if slot.run:
                spare = max(spare, block_nbytes(slot))
            continue
        census.used += block_nbytes(slot)
        if is_visible(s, i, word):
            census.objects += 1
        if word_state(word) == CONDEMNED:
            census.condemned += 1
        if pinned_by(s, i):
            census.pinned += 1
            census.pinned_nbytes += block_nbytes(slot)
        if slot.extent:
            mark_pages(used, top, extent_first(slot.extent), extent_pages(slot.extent))
        elif slot.run and slot.run <= s.g.max_runs:
            run = &s.runs[slot.run - 1]
            if run.first < top and not used[run.first]:
                mark_pages(used, top, run.first, run.pages)
    census.largest_free = min(max(longest_gap(used, top, s.g.pages) * PAGE, spare),
                              s.header.capacity - min(census.used, s.header.capacity))
    free(used)
    return 0


cdef inline uint64_t count_processes(Store *s) noexcept nogil:
    cdef uint64_t n = 0
    cdef int64_t row = next_live_row(s, 0)
    while row >= 0:
        n += load_acquire(&row_at(s, <uint64_t>row).state) != ROW_LEFT and not row_is_dead(s, <uint64_t>row)  # [row]
        row = next_live_row(s, <uint64_t>row + 1)
    return n


cdef inline uint64_t count_all(Store *s, int counter) noexcept nogil:
    # relaxed: statistics
    cdef uint64_t n = load_relaxed(&s.header.totals[counter])
    cdef int64_t row = next_live_row(s, 0)
    while row >= 0:
        n += load_relaxed(&row_at(s, <uint64_t>row).counters[counter])  # relaxed: as above
        row = next_live_row(s, <uint64_t>row + 1)
    return n


cdef inline tuple take_came_back(Store *s):
    # the fields of Recovery, in its order; counting begins anew
    cdef CameBack back = s.came_back
    cdef uint64_t k, first = back.known - min(back.known, <uint64_t>PIDS_KEPT)
    memset(&s.came_back, 0, sizeof(s.came_back))
    pids = [back.pids[k % PIDS_KEPT] for k in range(first, back.known)]
    return back.processes, tuple(pids), back.pins, back.unfinished, back.published, back.locks, back.nbytes


cdef inline uint64_t count_pins(Store *s, uint64_t i) noexcept nogil:
    cdef uint64_t n = 0
    cdef int64_t row = next_live_row(s, 0)
    while row >= 0:
        if is_ready(pins_ready_of(s, <uint64_t>row), i // SLOTS_PER_STEP):
            n += pins_in(load_relaxed_u32(&pins_of(s, <uint64_t>row)[i]))       # relaxed: a report
        row = next_live_row(s, <uint64_t>row + 1)
    return n


cdef inline bint is_visible(Store *s, uint64_t i, uint64_t word) noexcept nogil:
    # live, and for an object that is being published: under its name already
    cdef uint64_t hashed = s.slots[i].name_hash
    if word_state(word) == PUBLISHING:
        return cell_naming(s, make_cell(i, word_generation(word), hashed), hashed) != NULL
    return word_state(word) == SEALED


cdef inline int64_t next_live(Store *s, uint64_t i, uint64_t *generation) noexcept nogil:
    # the first live object's slot from `i` on, or -1
    cdef uint64_t word
    while i < slots_used(s):
        word = load_acquire(&s.slots[i].word)                            # [seal]
        if is_visible(s, i, word):
            generation[0] = word_generation(word)
            return <int64_t>i
        i += 1
    return -1


cdef inline str slot_name(Store *s, uint64_t i, uint64_t generation):
    # of an object; None if it has none, or is gone
    cdef uint64_t[NAME_WORDS] words
    cdef const char *label = <const char*>words
    if not read_label(s, i, words, NAME_WORDS):
        return None
    if not is_readable(load_acquire(&s.slots[i].word), generation):      # [seal]
        return None
    return label[1:1 + <uint8_t>label[0]].decode()


# The invariants, one function each. A problem is a sentence that begins with the invariant's name.

cdef inline bint is_live_row(Store *s, uint64_t row) noexcept nogil:
    return row < MAX_ROWS and is_ready(s.header.live, row)


cdef inline bint is_stopped(unsigned int pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False            # it is gone, or we may not look


cdef inline bint any_row_stands_still(Store *s):
    # dead or stopped: what does not add up may be what it left half way
    cdef int64_t row = next_live_row(s, 0)
    while row >= 0:
        if row_is_dead(s, <uint64_t>row) or is_stopped(row_at(s, <uint64_t>row).pid):
            return True
        row = next_live_row(s, <uint64_t>row + 1)
    return False


cdef inline void check_slot(Store *s, uint64_t i, set problems):
    cdef:
        Slot *slot = &s.slots[i]
        uint64_t word = load_acquire(&slot.word)                         # [seal]
        uint64_t state = word_state(word)
        uint64_t size = block_nbytes(slot)
    if state > RETIRED:
        problems.add(f"state: slot {i} has the unknown state {state}")
    elif state in (WRITING, RECLAIMING, HELD) and not is_live_row(s, word_row(word)):
        problems.add(f"owner: slot {i} in state {state} belongs to row {word_row(word)}, which nobody holds")
    elif state == SEALED or state == CONDEMNED or state == PUBLISHING:
        if slot.nbytes + slot.spill_nbytes > size:
            problems.add(f"size: slot {i} holds {slot.nbytes} bytes in a block of {size}")
        if slot.offset < s.g.data or slot.offset + size > s.g.file_size or slot.offset & 63:
            problems.add(f"offset: the block of slot {i} lies at {slot.offset}, outside the data or unaligned")
        if slot.kind > KIND_OBJECT:
            problems.add(f"kind: slot {i} has the unknown kind {slot.kind}")


cdef inline void check_reaps(Store *s, set problems):
    cdef uint64_t i
    for i in range(slots_used(s)):
        if word_state(load_acquire(&s.slots[i].word)) == CONDEMNED and not pinned_by(s, i):
            problems.add(f"lost reap: slot {i} is deleted and unpinned, yet not freed")


cdef inline void check_space(Store *s, set problems):
    # No page belongs to two extents or runs; no block to two slots.
    cdef:
        uint64_t i, n_used = slots_used(s)
        Slot *slot
        set blocks = set()
    extents = [(run_id, s.runs[run_id].first, s.runs[run_id].pages, "run") for run_id in range(runs_used(s))
               if s.runs[run_id].live]
    for i in range(n_used):
        slot = &s.slots[i]
        if slot.extent:
            extents.append((i, extent_first(slot.extent), extent_pages(slot.extent), "slot"))
        elif slot.run:
            if slot.run > runs_used(s) or s.runs[slot.run - 1].live != <uint64_t>slot.size_class + 1 \
                    or slot.block >= s.runs[slot.run - 1].blocks:
                problems.add(f"run: slot {i} has block {slot.block} of run {slot.run - 1}, which has no such block")
            elif (slot.run, slot.block) in blocks:
                problems.add(f"overlap: block {slot.block} of run {slot.run - 1} belongs to slot {i} and another")
            blocks.add((slot.run, slot.block))
    extents.sort(key=lambda e: e[1])
    last = (0, 0, 0, "start")
    for extent in extents:
        if extent[1] < last[1] + last[2]:
            problems.add(f"overlap: pages of {extent[3]} {extent[0]} and of {last[3]} {last[0]}")
        if extent[1] + extent[2] > s.pool.top:
            problems.add(f"extent: {extent[3]} {extent[0]} ends at page {extent[1] + extent[2]}, past the used part")
        last = extent
    check_gaps(s, extents, problems)


cdef inline void check_gaps(Store *s, list extents, set problems):
    # Every page below the top is owned or in a free run: else it is lost until a rebuild.
    cdef uint64_t at = 0, first, top = s.pool.top
    for extent in extents + [(0, top, 0, "top")]:
        first = extent[1]
        while at < first and at < s.g.pages:
            if tag_at(s, at).head == 0 or at + tag_at(s, at).head > first:
                problems.add(f"lost pages: {at} to {first} are neither owned nor free")
                break
            at += tag_at(s, at).head
        at = first + extent[2]


cdef inline bint is_hinted(Store *s, uint64_t i, Slot *slot) noexcept nogil:
    if slot.extent:
        return is_ready(bits_at(s, s.g.stock_bits), i)
    if slot.run:
        return slot.run <= s.g.max_runs and load_acquire(&s.runs[slot.run - 1].free) >> (slot.block & 63) & 1 != 0
    return is_ready(bits_at(s, s.g.bare_bits), i)


cdef inline void check_hints(Store *s, set problems):
    cdef uint64_t i
    for i in range(slots_used(s)):
        if word_state(load_acquire(&s.slots[i].word)) == FREE and not is_hinted(s, i, &s.slots[i]):
            problems.add(f"lost slot: slot {i} is free and no hint says so")


cdef inline void check_names(Store *s, set problems):
    cdef:
        uint64_t i, word
        Slot *slot
        dict names = {}
    for i in range(slots_used(s)):
        slot = &s.slots[i]
        word = load_acquire(&slot.word)                                  # [seal]
        if word_state(word) != SEALED or slot.name_hash == 0:
            continue
        if not labels_are_ready(s, i):
            problems.add(f"label: slot {i} has a name, but its label was never written")
            continue
        name = label_at(s, i).name[:label_at(s, i).name_nbytes]
        if name_hash(s, label_at(s, i).name, label_at(s, i).name_nbytes) != slot.name_hash:
            problems.add(f"label: the name of slot {i} does not have the slot's hash")
        if cell_naming(s, make_cell(i, word_generation(word), slot.name_hash), slot.name_hash) == NULL:
            problems.add(f"index: slot {i} is live as {name!r}, and the index does not lead to it")
        if name in names:
            problems.add(f"index: slots {names[name]} and {i} are both live as {name!r}")
        names[name] = i


cdef inline void check_pins(Store *s, set problems):
    cdef uint64_t row, step, i, state
    for row in range(<uint64_t>LIVE_WORDS * 64):
        for step in range(s.g.steps):
            if not is_ready(pins_ready_of(s, row), step):
                continue
            for i in range(step * SLOTS_PER_STEP, min((step + 1) * SLOTS_PER_STEP, slots_used(s))):
                if load_relaxed_u32(&pins_of(s, row)[i]) == 0:  # relaxed: a report
                    continue
                state = word_state(load_acquire(&s.slots[i].word))
                if not is_live_row(s, row):
                    problems.add(f"pins: row {row} is free and pins slot {i}")
                elif state == FREE or state == RECLAIMING or state == HELD or state == RETIRED:
                    problems.add(f"pins: row {row} pins slot {i}, which is in state {state}")


cdef inline void check_locks(Store *s, set problems):
    cdef uint64_t k, owner
    owner = load_acquire(&s.pool.lock)
    if owner:
        problems.add(f"lock: the space lock is held by row {owner - 1}")
    for k in range(<uint64_t>NAME_LOCKS):
        owner = load_acquire(&name_lock_at(s, k).lock)
        if owner:
            problems.add(f"lock: name lock {k} is held by row {owner - 1}")


cdef inline set find_problems(Store *s):
    cdef set problems = set()
    cdef uint64_t i
    for i in range(slots_used(s)):
        check_slot(s, i, problems)
    if not any_row_stands_still(s):
        check_space(s, problems)
        check_names(s, problems)
        check_pins(s, problems)
        check_reaps(s, problems)
        check_hints(s, problems)
        check_locks(s, problems)
    return problems
