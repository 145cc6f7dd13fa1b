# Who holds what: a process holds what it pins, by the cells of its row, and what it is making, by
# the slot's word.
#
# Reads without pinning: a condemned object cannot be pinned, and our pin would show up in the
# result. So a slot is read between two looks at its word, and what was seen counts if both show
# the same generation.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from refstore.engines.native.atomics cimport load_acquire, load_seq_cst, load_seq_cst_u32
from refstore.engines.native.layout cimport (
    CLAIMED, CONDEMNED, COUNT_EVICTIONS, GOING, KEPT, MAX_ROWS, OFFERED, PastRecovery, PUBLISHING,
    RECOVERIES_KEPT, Row, ROW_LEFT, SEALED, WRITING,
)
from refstore.engines.native.view cimport (
    block_nbytes, next_live_row, pin_cells, pins_in, row_at, row_is_dead, slots_used, View,
)
from refstore.engines.native.slots cimport (
    is_claim, is_sealed, word_generation, word_row, word_state,
)
from refstore.engines.native.names cimport NAME_WORDS, read_label
from refstore.engines.native.stats cimport is_visible

cdef enum:
    RETRIES = 3                   # at a slot that changes hands each time


cdef inline uint64_t maker_of(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # row + 1 of the process that is making the object, or 0: nobody is
    if word_state(word) == WRITING or is_claim(word) \
            or word_state(word) == PUBLISHING and not is_visible(v, i, word):
        return word_row(word) % MAX_ROWS + 1
    return 0


cdef inline bint may_be_held(View *v, uint64_t i, uint64_t word) noexcept nogil:
    cdef uint64_t state = word_state(word)
    if state == SEALED or state == OFFERED or state == CONDEMNED:
        return load_acquire(&v.slots[i].mask) != 0                       # [pin]
    return state == WRITING or state == PUBLISHING or state == CLAIMED


cdef inline uint32_t pins_on(View *v, uint64_t row, uint64_t i) noexcept nogil:
    # The cell of a live row. Without its bit in the mask it has none that are valid: it has tried
    # to pin an earlier object.
    cdef uint32_t *cells
    if load_acquire(&v.slots[i].mask) >> (row & 63) & 1 == 0:            # [pin]
        return 0
    cells = pin_cells(v, row, i)
    return load_seq_cst_u32(cells) if cells else 0                       # [pin]


cdef inline object name_seen(View *v, uint64_t i):
    # None if it has none. The caller looks at the word again.
    cdef:
        uint64_t[NAME_WORDS] words
        const uint8_t *label = <const uint8_t*>words
    if not read_label(v, i, words, NAME_WORDS):
        return None
    return (<const char*>label + 1)[:label[0]].decode("utf-8", "replace")


cdef inline list pins_seen(View *v, uint64_t i, uint64_t maker):
    # (row, cell) of each process that holds it; `maker` holds it without a pin
    cdef list seen = []
    cdef uint32_t n
    cdef int64_t row = next_live_row(v, 0)
    while row >= 0:
        n = pins_on(v, <uint64_t>row, i)
        if n or <uint64_t>row + 1 == maker:
            seen.append((row, n))
        row = next_live_row(v, <uint64_t>row + 1)
    return seen


cdef inline list holders_seen(View *v, uint64_t i):
    # [(row, slot, generation, name, cell of pins, bytes)]; generation and name are None of what is
    # being made
    cdef:
        uint64_t word, maker, nbytes
        int _
    for _ in range(RETRIES):
        word = load_seq_cst(&v.slots[i].word)                            # [seal] [pin]
        if not may_be_held(v, i, word):
            return []
        maker = maker_of(v, i, word)
        nbytes = block_nbytes(&v.slots[i])
        seen = pins_seen(v, i, maker)
        name = name_seen(v, i) if seen and (not maker or is_claim(word)) else None
        if word_generation(load_seq_cst(&v.slots[i].word)) == word_generation(word):  # [seal]
            generation = None if maker else word_generation(word)
            return [(row, i, generation, name, cell, nbytes) for row, cell in seen]
    return []


cdef inline list holders_of(View *v, uint64_t i, uint64_t generation):
    # of one object, live or deleted and still pinned; None if there is no such object
    cdef uint64_t word
    cdef list seen
    if i >= slots_used(v):
        return None
    seen = [holder for holder in holders_seen(v, i) if holder[2] == generation]
    word = load_seq_cst(&v.slots[i].word)                                # [seal]
    if seen or word_generation(word) == generation and is_visible(v, i, word):
        return seen
    return None


cdef inline list all_holders(View *v):
    cdef uint64_t i
    cdef list seen = []
    for i in range(slots_used(v)):
        if may_be_held(v, i, load_acquire(&v.slots[i].word)):            # [seal]
            seen += holders_seen(v, i)
    return seen


cdef inline str printable(bytes text):
    # on one line, whatever it holds: it is for people
    words = " ".join(text.partition(b"\0")[0].decode("utf-8", "replace").split())
    return "".join([letter if letter.isprintable() else "?" for letter in words])


cdef inline str with_label(bytes label, bytes command):
    # how a process is named to people
    cdef str said = printable(label)
    return f"{said}: {printable(command)}" if said else printable(command)


cdef inline str called(Row *row):
    return with_label(row.label[:sizeof(row.label)], row.command[:sizeof(row.command)])


cdef inline bint has_ended(Row *row):
    # of a live row: its process, and children that have no row of their own are what lives
    from refstore import _children
    return row.state == ROW_LEFT or row.has_children and _children.has_ended(row.pid)


cdef inline tuple process_info(View *v, uint64_t row):
    # (pid, command, alive, has ended)
    cdef bint alive = not row_is_dead(v, row)
    return (row_at(v, row).pid, called(row_at(v, row)), alive,
            alive and has_ended(row_at(v, row)))


cdef inline tuple as_holder(tuple who, tuple held, object ref):
    # the fields of Holder, in its order, and its slot
    from refstore import _children
    row, _, _, name, cell, nbytes = held
    pid, command, alive, ended = who
    return (pid, _children.holder(command, cell & KEPT != 0, ended), ref, name, pins_in(cell),
            nbytes, alive, row)


cdef inline str keeper(Row *row):
    from refstore import _children
    return _children.keeper(called(row), has_ended(row))


cdef struct Share:
    # of one row
    uint64_t nbytes             # of the blocks that it pins or is making
    uint64_t pins
    uint64_t owned              # objects


cdef inline void add_up(View *v, Share *shares) noexcept nogil:
    # `shares`: of all rows, zeroed
    cdef:
        uint64_t i, word, maker, nbytes, owner
        uint32_t cell
        int64_t row
    for i in range(slots_used(v)):
        word = load_acquire(&v.slots[i].word)                            # [seal]
        owner = v.slots[i].owned_by & ~<uint64_t>GOING
        if 0 < owner <= MAX_ROWS and is_sealed(word):
            shares[owner - 1].owned += 1
        if not may_be_held(v, i, word):
            continue
        maker = maker_of(v, i, word)
        nbytes = block_nbytes(&v.slots[i])
        row = next_live_row(v, 0)
        while row >= 0:
            cell = pins_on(v, <uint64_t>row, i)
            if <uint64_t>row + 1 == maker or cell:
                shares[row].nbytes += nbytes
            shares[row].pins += pins_in(cell)
            row = next_live_row(v, <uint64_t>row + 1)


cdef inline tuple process_seen(View *v, uint64_t r, const Share *share):
    # the fields of ProcessInfo, in its order
    cdef Row *row = row_at(v, r)
    cdef bint alive = not row_is_dead(v, r)
    return (row.pid, printable(row.command[:sizeof(row.command)]),
            printable(row.label[:sizeof(row.label)]), alive, alive and has_ended(row),
            row.waiting if alive else 0,
            printable(row.waits_for[:sizeof(row.waits_for)]) if alive and row.waiting else "",
            share.pins, share.nbytes, share.owned,
            *[row.counters[counter] for counter in range(COUNT_EVICTIONS + 1)], r)


cdef inline list past_recoveries(View *v):
    # the fields of PastRecovery, in its order, newest first; not what is being written just now
    cdef:
        uint64_t known = load_acquire(&v.header.recoveries_known)        # [past]
        uint64_t n, at
        PastRecovery *past
        list found = []
    for n in range(min(known, <uint64_t>RECOVERIES_KEPT)):
        past = &v.header.recoveries[(known - 1 - n) % RECOVERIES_KEPT]
        at = load_acquire(&past.at)                                      # [past]
        seen = (at, past.pid, with_label(past.label[:sizeof(past.label)],
                                         past.command[:sizeof(past.command)]), past.nbytes)
        if at and load_acquire(&past.at) == at:                          # [past]
            found.append(seen)
    return found


cdef inline tuple top_holders(View *v, bint own_first):
    # a TopHolder for each process that holds anything, largest first; and which of them is this
    # process, or -1
    from refstore._errors import TopHolder
    cdef Share[MAX_ROWS] shares
    cdef uint64_t row
    memset(shares, 0, sizeof(shares))
    add_up(v, shares)
    # a key function would collide with that of another .pxd: Cython names both "lambda"
    found = sorted([(own_first and row != v.row, -<int64_t>shares[row].nbytes, row_at(v, row).pid,
                     keeper(row_at(v, row)), row)
                    for row in range(<uint64_t>MAX_ROWS) if shares[row].nbytes])
    rows = [row for _, _, _, _, row in found]
    return (tuple([TopHolder(pid, command, -negative) for _, negative, pid, command, _ in found]),
            rows.index(v.row) if v.row in rows else -1)
