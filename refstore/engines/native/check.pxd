# Whether a store is consistent: the equations of layout.pxd. A problem is a sentence that begins
# with the equation's name. Called by Store.check() and after a boot; what it reads may change
# meanwhile, so the caller checks more than once.
#
# Truths, as layout.pxd calls them, are compared with each other and with the committed memory.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from refstore.engines.native.atomics cimport (
    load_acquire, load_acquire_u16, load_acquire_u32, load_relaxed_u32, popcount64,
)
from refstore.engines.native.layout cimport (
    BINS, CLAIMED, CLASSES, CONDEMNED, FLAG_HARD_CLAIM, FREE, GOING, HELD, KIND_OBJECT, Label,
    LIVE_WORDS, MAX_ROWS, Meta, META_LIMIT, NAME_LOCKS, OFFERED, ORIGINS, PAGE, PageTag, PUBLISHING,
    RECLAIMING, RETIRED, ROW_FREE, ROW_LEFT, Run, RUN_BLOCKS, Slot, SLOTS_PER_STEP,
    WRITING,
)
from refstore.engines.native.view cimport (
    bits_at, block_nbytes, extent_first, extent_pages, file_of, is_ready, is_within_block,
    labels_are_committed, name_lock_at, next_live_row, origin_at, pin_cells, row_at, row_is_dead,
    run_is_sound, run_is_there, runs_used, slot_is_of, slots_used, tag_at, top_of, View,
)
from refstore.engines.native.bitmap cimport summary_of
from refstore.engines.native.memory cimport is_committed
from refstore.engines.native.metas cimport meta_nbytes, meta_room
from refstore.engines.native.slots cimport (
    is_claim, is_live, is_sealed, pinned_by, word_generation, word_row, word_state,
)
from refstore.engines.native.origins cimport ROW_MASK
from refstore.engines.native.bins cimport are_used, bin_of
from refstore.engines.native.rebuild cimport has_bytes
from refstore.engines.native.pages cimport extent_is_sane
from refstore.engines.native.names cimport find_cell, make_cell, Name, name_hash, name_of

cdef enum:
    NOT_LISTED = 0xFFFFFFFF     # no page has that number


cdef inline bint is_live_row(View *v, uint64_t row) noexcept nogil:
    return row < MAX_ROWS and is_ready(v.header.live, row)


cdef inline bint is_stopped(unsigned int pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False            # it is gone, or we may not look


cdef inline bint any_row_stands_still(View *v):
    # dead or stopped: an inconsistency may be a change that it has not finished
    cdef int64_t row = next_live_row(v, 0)
    while row >= 0:
        if row_is_dead(v, <uint64_t>row) or is_stopped(row_at(v, <uint64_t>row).pid):
            return True
        row = next_live_row(v, <uint64_t>row + 1)
    return False


cdef inline bint is_owned(uint64_t state) noexcept nogil:
    # whether the word names a row
    return state in (WRITING, PUBLISHING, RECLAIMING, HELD, CLAIMED, OFFERED)


cdef inline void check_slot(View *v, uint64_t i, set problems):
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t word = load_acquire(&slot.word)                         # [seal]
        uint64_t state = word_state(word)
        uint64_t size = block_nbytes(slot)
        uint64_t first = (slot.offset - v.g.data) // PAGE
        uint64_t pages = (slot.offset % PAGE + slot.nbytes + PAGE - 1) // PAGE
        uint64_t beside
    if state > OFFERED:
        from refstore import _problems
        problems.add(_problems.unknown_state(i, state))
    elif is_owned(state) and not is_live_row(v, word_row(word)):
        problems.add(f"owner: slot {i} in state {state} belongs to row {word_row(word)}, which is "
                     "free")
    elif state in (RECLAIMING, HELD, OFFERED) and word_row(word) == v.row:
        problems.add(f"owner: slot {i} in state {state} belongs to this process, which is not "
                     "using it")
    elif not is_owned(state) and word_row(word):
        problems.add(f"owner: slot {i} names row {word_row(word)}, but a slot in state {state} has "
                     "no owner")
    elif has_bytes(state):
        beside = slot.spill_nbytes + meta_room(min(meta_nbytes(v, i), <uint64_t>META_LIMIT))
        if slot.nbytes > size or beside > size - slot.nbytes:
            problems.add(f"size: slot {i} holds {slot.nbytes} bytes and {beside} in a block of "
                         f"{size}")
        elif not is_within_block(v, slot, slot.offset, slot.nbytes):
            problems.add(f"offset: slot {i} has offset {slot.offset}, which is not that of its "
                         "block")
        elif not is_committed(v, first, pages):
            problems.add(f"data_ready: the bytes of slot {i} lie in a chunk that is not marked "
                         "committed")
        if meta_nbytes(v, i) > META_LIMIT:
            problems.add(f"meta: slot {i} has more than {META_LIMIT} bytes of meta")
        if slot.kind > KIND_OBJECT:
            from refstore import _problems
            problems.add(_problems.unknown_kind(i, slot.kind))


cdef inline void check_owners(View *v, set problems):
    cdef uint64_t i, owner
    for i in range(slots_used(v)):
        owner = load_acquire_u16(&v.slots[i].owned_by)                   # [owner]
        if owner == 0 or not is_sealed(load_acquire(&v.slots[i].word)):  # [seal]
            continue
        if owner & GOING:
            problems.add(f"owned_by: slot {i} is owned by row {(owner & ~GOING) - 1}, whose "
                         "process has left, but was not deleted")
        elif not is_live_row(v, owner - 1) or row_at(v, owner - 1).owns_any == 0:
            problems.add(f"owned_by: slot {i} is owned by row {owner - 1}, which owns nothing")


cdef inline void check_origins(View *v, set problems):
    cdef uint64_t row, i, k
    for row in range(<uint64_t>MAX_ROWS):
        k = load_acquire_u32(&row_at(v, row).origin)                     # [origin]
        # [origin]
        if k and is_live_row(v, row) and (
                k > ORIGINS or load_acquire(&origin_at(v, k - 1).taken) & ROW_MASK != row + 1):
            problems.add(f"origins: row {row} names entry {k - 1}, which does not belong to it")
    for i in range(slots_used(v)):
        k = v.slots[i].put_by
        if k == 0 or not is_sealed(load_acquire(&v.slots[i].word)):      # [seal]
            continue
        if k > ORIGINS or load_acquire(&origin_at(v, k - 1).taken) == 0:  # [origin]
            problems.add(f"put_by: slot {i} names origin {k - 1}, which does not exist")


cdef inline void check_reaps(View *v, set problems):
    from refstore import _problems
    cdef uint64_t i
    for i in range(slots_used(v)):
        if word_state(load_acquire(&v.slots[i].word)) == CONDEMNED and not pinned_by(v, i):  # [pin]
            problems.add(_problems.lost_reap(i))


cdef inline void check_block(View *v, uint64_t i, uint64_t run, uint64_t block,
                             uint64_t size_class, set blocks, set problems):
    # The block of a run that slot `i` has; `run`: + 1.
    if run == 0 or not run_is_there(v, run) or block >= RUN_BLOCKS \
            or block >= v.runs[run - 1].blocks or v.runs[run - 1].live != size_class + 1:
        problems.add(f"run: slot {i} has block {block} of run {<int64_t>run - 1}, which has no "
                     "such block")
    elif (run, block) in blocks:
        problems.add(f"overlap: block {block} of run {run - 1} belongs to slot {i} and another")
    elif v.runs[run - 1].slots[block] != i + 1:
        problems.add(f"block: slot {i} has block {block} of run {run - 1}, whose record says "
                     "otherwise")
    blocks.add((run, block))


cdef inline bint leads_to(PageTag *tag, bint run, uint64_t owner) noexcept nogil:
    return tag.prev == owner and tag.next == 0 if run else tag.next == owner and tag.prev == 0


cdef inline void check_space(View *v, set problems):
    # No page belongs to two extents or runs; no block to two slots.
    cdef:
        uint64_t i, n_used = slots_used(v)
        Slot *slot
        set blocks = set()
    extents = [(run_id, v.runs[run_id].first, v.runs[run_id].pages, "run")
               for run_id in range(runs_used(v)) if v.runs[run_id].live]
    for i in range(n_used):
        slot = &v.slots[i]
        if slot.extent:
            extents.append((i, extent_first(slot.extent), extent_pages(slot.extent), "slot"))
        elif slot.run:
            check_block(v, i, slot.run, slot.block, slot.size_class, blocks, problems)
    extents.sort(key=lambda e: e[1])
    last = (0, 0, 0, "start")
    for extent in extents:
        if extent[1] < last[1] + last[2]:
            problems.add(f"overlap: pages of {extent[3]} {extent[0]} and of {last[3]} {last[0]}")
        if extent[1] + extent[2] > v.pool.top:
            problems.add(f"extent: {extent[3]} {extent[0]} ends at page {extent[1] + extent[2]}, "
                         "past the used part")
        elif not extent_is_sane(v, extent[1], extent[2]):
            problems.add(f"extent: {extent[3]} {extent[0]} has invalid pages")
        elif not are_used(v, extent[1], extent[2], True):
            problems.add(f"used: pages of {extent[3]} {extent[0]} are not marked as used")
        elif not leads_to(tag_at(v, extent[1]), extent[3] == "run", extent[0] + 1):
            problems.add(f"unit: the first page of {extent[3]} {extent[0]} does not lead to it")
        last = extent
    check_gaps(v, extents, problems)


cdef inline void check_gaps(View *v, list extents, set problems):
    # Every page below the top is owned or in a free run: else it is lost until a rebuild.
    cdef uint64_t at = 0, first, top = v.pool.top, free_runs = 0
    for extent in extents + [(0, top, 0, "top")]:
        first = extent[1]
        while at < first and at < v.g.pages:
            if tag_at(v, at).head == 0 or at + tag_at(v, at).head > first or first > top_of(v):
                problems.add(f"lost pages: {at} to {first} are neither owned nor free")
                break
            if not are_used(v, at, tag_at(v, at).head, False):
                problems.add(f"used: free pages from {at} on are marked as used")
            free_runs += 1
            at += tag_at(v, at).head
        at = first + extent[2]
    check_bins(v, free_runs, problems)


cdef inline uint64_t next_listed(View *v, int b, uint64_t first, uint64_t before) noexcept nogil:
    # The page + 1 that follows the free run at `first` in the list of bin b, or NOT_LISTED if none
    # of that bin begins there. Each number is read once: the list may change meanwhile.
    cdef:
        uint64_t top = top_of(v)
        PageTag *tag = tag_at(v, first)
        uint64_t pages = load_relaxed_u32(&tag.head)  # relaxed: a report
    if first >= top or pages == 0 or pages > top - first or bin_of(pages) != b:
        return NOT_LISTED
    if load_relaxed_u32(&tag_at(v, first + pages - 1).tail) != pages:  # relaxed: a report
        return NOT_LISTED
    if load_relaxed_u32(&tag.prev) != before:  # relaxed: a report
        return NOT_LISTED
    return load_relaxed_u32(&tag.next)  # relaxed: a report


cdef inline void check_bins(View *v, uint64_t free_runs, set problems):
    cdef:
        uint64_t at, before, following, listed = 0
        int b
    for b in range(BINS):
        at = v.pool.bin_head[b]
        before = 0
        if (at != 0) != (v.pool.bin_bits[b >> 6] >> (b & 63) & 1):
            problems.add(f"bins: bin_bits and bin_head disagree about bin {b}")
        while at and listed <= free_runs:
            following = next_listed(v, b, at - 1, before)
            if following == NOT_LISTED:
                problems.add(f"bins: the list of bin {b} leads to page {at - 1}, where no free run "
                             "of that bin begins")
                break
            listed += 1
            before, at = at, following
    if listed != free_runs:
        problems.add(f"bins: there are {free_runs} free runs of pages, and {listed} in lists")


cdef inline bint is_found(uint64_t *words, uint64_t n_words, uint64_t i) noexcept nogil:
    return is_ready(words, i) and is_ready(summary_of(words, n_words), i >> 6)


cdef inline bint is_hinted(View *v, uint64_t i, Slot *slot) noexcept nogil:
    cdef uint64_t run = slot.run
    if slot.extent:
        return is_found(bits_at(v, v.g.spare_bits), v.g.slot_words, i)
    if run:
        if not run_is_there(v, run):
            return False
        return load_acquire(&v.runs[run - 1].free) >> (slot.block & 63) & 1 != 0     # [hint]
    return is_found(bits_at(v, v.g.empty_bits), v.g.slot_words, i)


cdef inline void check_hints(View *v, set problems):
    cdef uint64_t i
    for i in range(slots_used(v)):
        # [free]
        if word_state(load_acquire(&v.slots[i].word)) == FREE and not is_hinted(v, i, &v.slots[i]):
            problems.add(f"lost slot: slot {i} is free, but has no hint")
    for i in range(runs_used(v)):
        if v.runs[i].live == 0 and not is_found(bits_at(v, v.g.run_bits), v.g.run_words, i):
            problems.add(f"lost run: run {i} is not in use, but has no hint")


cdef inline void check_name(View *v, uint64_t i, uint64_t word, dict names, set problems):
    # `names`: with what kind of claim, if it is one, and the slots that have them
    from refstore import _problems
    cdef:
        Slot *slot = &v.slots[i]
        Name name
        bint claims = is_claim(word)
        uint64_t cell = make_cell(i, word_generation(word), slot.name_hash)
    if not labels_are_committed(v, i):
        problems.add(f"label: slot {i} has a name or claims one, but its label was never written")
        return
    name = name_of(v, i)
    text = name.utf8[:name.nbytes]
    if name_hash(v, name.utf8, name.nbytes) != slot.name_hash:
        problems.add(_problems.wrong_hash(i))
    key = text, claims, claims and slot.flags & FLAG_HARD_CLAIM
    other = names.setdefault(key, i)
    is_lost = find_cell(v, cell, slot.name_hash) == NULL
    if is_lost and claims:
        problems.add(f"claim: slot {i} claims {text!r}, and the index does not lead to it")
    elif is_lost:
        problems.add(f"index: slot {i} is live as {text!r}, and the index does not lead to it")
    if other != i and claims:
        problems.add(f"claim: slots {other} and {i} both claim {text!r}")
    elif other != i:
        problems.add(f"index: slots {other} and {i} are both live as {text!r}")


cdef inline void check_names(View *v, set problems):
    cdef:
        uint64_t i, word
        dict names = {}
    for i in range(slots_used(v)):
        word = load_acquire(&v.slots[i].word)                            # [seal]
        if is_claim(word) \
                or is_live(word, word_generation(word)) and v.slots[i].name_hash != 0:
            check_name(v, i, word, names, problems)


cdef inline void check_pins(View *v, set problems):
    from refstore import _problems
    cdef uint64_t row, step, i, state
    cdef uint32_t *cells
    for row in range(<uint64_t>LIVE_WORDS * 64):
        for step in range(v.g.steps):
            cells = pin_cells(v, row, step * SLOTS_PER_STEP)
            if cells == NULL:
                continue
            for i in range(step * SLOTS_PER_STEP, min((step + 1) * SLOTS_PER_STEP, slots_used(v))):
                if load_relaxed_u32(&cells[i % SLOTS_PER_STEP]) == 0:  # relaxed: a report
                    continue
                state = word_state(load_acquire(&v.slots[i].word))       # [pin]
                if not is_live_row(v, row):
                    problems.add(_problems.pins_of_free_row(row, i))
                elif state == FREE or state == RECLAIMING or state == HELD or state == RETIRED:
                    problems.add(f"pins: row {row} pins slot {i}, which is in state {state}")
                elif v.slots[i].mask >> (row & 63) & 1 == 0:
                    problems.add(f"mask: row {row} pins slot {i}, whose mask lacks its bit")


cdef inline bint is_stray(View *v, uint64_t owner):
    # of a lock: a live process may hold it during the check, and this one holds none
    return owner != 0 and (owner - 1 == v.row or not is_live_row(v, owner - 1))


cdef inline void check_locks(View *v, set problems):
    from refstore import _problems
    cdef uint64_t k, owner
    owner = load_acquire(&v.pool.lock)                                   # [lock]
    if is_stray(v, owner):
        problems.add(f"lock: the space lock is held by row {owner - 1}")
    owner = load_acquire(&v.pool.turn)                                   # [lock]
    if owner and not is_live_row(v, owner - 1):
        problems.add(_problems.turn_of_free_row(owner - 1))
    for k in range(<uint64_t>NAME_LOCKS):
        owner = load_acquire(&name_lock_at(v, k).lock)                   # [lock]
        if is_stray(v, owner):
            problems.add(f"lock: name lock {k} is held by row {owner - 1}")


cdef inline void check_header(View *v, set problems):
    # against what it was when this process attached
    if v.header.tag != v.tag or v.header.max_objects != v.slot_limit \
            or (v.header.capacity + PAGE - 1) // PAGE != v.g.pages:
        problems.add("header: its capacity, max_objects or tag has changed since this process "
                     "attached")


cdef inline void check_rows(View *v, set problems):
    # whose pins count: `live` and `live_words`
    cdef uint64_t row, state
    for row in range(<uint64_t>MAX_ROWS):
        state = load_acquire(&row_at(v, row).state)                      # [row]
        if state > ROW_LEFT:
            problems.add(f"row: row {row} is in the unknown state {state}")
        if state != ROW_FREE and not is_ready(v.header.live, row) \
                and (row == v.row or not row_is_dead(v, row)):
            problems.add(f"live: row {row} is in use, but not marked live, so its pins do not "
                         "count")
        if state == ROW_FREE and is_ready(v.header.live, row):
            problems.add(f"live: row {row} is free, but marked live")
        if is_ready(v.header.live, row) and row // 64 >= v.header.live_words:
            problems.add(f"live_words: row {row} is in use, but live_words is only "
                         f"{v.header.live_words}")


cdef inline void check_run_block(View *v, uint64_t r, uint64_t j, uint64_t slot, bint unowned,
                                 set problems):
    # `slot`: + 1, or 0, as the run says
    if unowned == (slot != 0):
        problems.add(f"unowned: the `unowned` bit of block {j} of run {r} and its slot entry "
                     "contradict each other")
    elif slot and (slot > slots_used(v) or not slot_is_of(v, slot - 1, r, j)):
        problems.add(f"block: block {j} of run {r} is listed for slot {slot - 1}, whose own fields "
                     "say otherwise")


cdef inline void check_runs(View *v, set problems):
    # the fields of a run's record that are kept twice, and the pool's sums over all runs
    cdef:
        uint64_t r, j, live, unowned = 0
        uint64_t[CLASSES] pages
        Run *run
    memset(pages, 0, sizeof(pages))
    for r in range(runs_used(v)):
        run = &v.runs[r]
        live = load_acquire(&run.live)                                   # [run]
        if live == 0 and run.twin == 0:
            continue
        if not run_is_sound(v, run, live):
            problems.add(f"run: class, pages or blocks of run {r} do not match `twin`")
            continue
        for j in range(min(<uint64_t>run.blocks, <uint64_t>RUN_BLOCKS)):
            check_run_block(v, r, j, run.slots[j], run.unowned >> j & 1, problems)
        unowned += <uint64_t>popcount64(run.unowned)
        pages[live - 1] += run.pages
    if unowned != v.pool.unowned_blocks:
        problems.add(f"unowned_blocks: {unowned} blocks have no slot, but the pool counts "
                     f"{v.pool.unowned_blocks}")
    for r in range(<uint64_t>CLASSES):
        if pages[r] != v.pool.class_pages[r]:
            problems.add(f"class_pages: runs of class {r} have {pages[r]} pages, but the pool "
                         f"counts {v.pool.class_pages[r]}")


cdef inline void check_memory(View *v, set problems):
    # Memory is committed before it is written: numbers and bits that say less are wrong.
    cdef uint64_t used = slots_used(v), step, row
    if used % SLOTS_PER_STEP and used != v.slot_limit:
        problems.add(f"slots_used: {used} is neither a multiple of {SLOTS_PER_STEP} nor "
                     "max_objects")
    for step in written(v, v.g.slots, SLOTS_PER_STEP * sizeof(Slot), v.g.steps):
        if step * SLOTS_PER_STEP >= used:
            problems.add(f"slots_used: it is {used}, but slots past that were written")
    for step in written(v, v.g.runs, PAGE, (v.g.max_runs * sizeof(Run) + PAGE - 1) // PAGE):
        if step * PAGE >= runs_used(v) * sizeof(Run):
            problems.add(f"runs_used: it is {runs_used(v)}, but runs past that were written")
    for step in written(v, v.g.labels, SLOTS_PER_STEP * sizeof(Label), v.g.steps):
        if not is_ready(bits_at(v, v.g.labels_ready), step):
            problems.add(f"labels_ready: labels of slots from {step * SLOTS_PER_STEP} on were "
                         "written, but are not marked committed")
    for step in written(v, v.g.metas, SLOTS_PER_STEP * sizeof(Meta), v.g.steps):
        if not is_ready(bits_at(v, v.g.metas_ready), step):
            problems.add(f"metas_ready: meta of slots from {step * SLOTS_PER_STEP} on was written, "
                         "but is not marked committed")
    for step in written(v, v.g.index, PAGE, (v.g.queues - v.g.index) // PAGE):
        if not is_ready(bits_at(v, v.g.index_ready), step):
            problems.add(f"index_ready: page {step} of the index was written, but is not marked "
                         "committed")
    for step in written(v, v.g.queues, PAGE, (v.g.page_map - v.g.queues) // PAGE):
        if not is_ready(bits_at(v, v.g.queues_ready), step):
            problems.add(f"queues_ready: page {step} of the queues was written, but is not marked "
                         "committed")
    for row in range(<uint64_t>MAX_ROWS):
        if not is_live_row(v, row):
            continue
        for step in written(v, v.g.pins + row * v.g.pins_stride, PAGE, v.g.steps):
            if pin_cells(v, row, step * SLOTS_PER_STEP) == NULL:
                problems.add(f"pins_ready: row {row} pins slots from {step * SLOTS_PER_STEP} on, "
                             "but their bit is not set")


cdef inline list written(View *v, uint64_t at, uint64_t nbytes, uint64_t n):
    # The pieces of the file, of `n` of so many bytes each, that are not all zeros. Holes are left
    # as they are, and a piece is read only as far as its first page that is not zero.
    import os
    cdef uint64_t place = at, end = at + n * nbytes, piece
    cdef int fd = file_of(v)
    cdef bytes data, zeros = bytes(PAGE)
    cdef list found = []
    while place < end and fd >= 0:
        try:
            place = os.lseek(fd, place, os.SEEK_DATA)
        except OSError:             # nothing but a hole from there on
            break
        data = os.pread(fd, PAGE - place % PAGE, place) if place < end else b""
        if not data:
            break
        if data == zeros[:len(data)]:
            place += len(data)
        else:
            piece = (place - at) // nbytes
            found.append(piece)
            place = at + (piece + 1) * nbytes
    return found


cdef inline set find_problems(View *v):
    cdef set problems = set()
    cdef uint64_t i
    check_header(v, problems)
    for i in range(slots_used(v)):
        check_slot(v, i, problems)
    if not any_row_stands_still(v):
        check_rows(v, problems)
        check_runs(v, problems)
        check_space(v, problems)
        check_memory(v, problems)
        check_names(v, problems)
        check_pins(v, problems)
        check_reaps(v, problems)
        check_owners(v, problems)
        check_origins(v, problems)
        check_hints(v, problems)
        check_locks(v, problems)
    return problems
