# From a Python object to a sealed slot: room first, then the one copy, then the seal. On any
# failure nothing is left behind.
#
# The seal, or the publication of a name, is the point of no return: signals are looked for before
# it, and after it no Python runs until the ref is returned. A function that is given a draft and
# fails has given back what was begun.

cimport numpy as cnp
from cpython.buffer cimport (
    PyBUF_FULL_RO, PyBuffer_IsContiguous, PyBuffer_Release, PyBuffer_ToContiguous,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport assign, load_relaxed, unlikely
from refstore.engines.native.error_codes cimport (
    blocked_by, ERR_BUSY, ERR_DAMAGED, ERR_DEAD, ERR_FULL, ERR_FULL_SLOTS, ERR_HELD, ERR_INDEX,
    ERR_RECOVERY, ERR_SIGNALS, ERR_UNCOMMITTED, kind_of_error,
)
from refstore.engines.native.layout cimport EVICTABLE, FLAG_META, KIND_BYTES, Label, MAX_ROWS, Slot
from refstore.engines.native.geometry cimport (
    block_nbytes, class_nbytes, class_of, extent_first, extent_pages,
)
from refstore.engines.native.view cimport file_of, label_at, meta_at, View
from refstore.engines.native.memory cimport (
    commit_data, commit_labels, commit_metas, note_refusal, step_end, wants_huge_pages,
)
from refstore.engines.native.metas cimport meta_nbytes, meta_room, write_meta
from refstore.engines.native.ages cimport count_put, first_use
from refstore.engines.native.slots cimport (
    abandon, free_slot, pins_condemned, reap_condemned, seal, unclaim, word_generation, word_row,
)
from refstore.engines.native.makers cimport created_now, own_maker
from refstore.engines.native.runs cimport held_elsewhere
from refstore.engines.native.blocks cimport allocate_block
from refstore.engines.native.names cimport Name, publish
from refstore.engines.native.owners cimport note_owner
from refstore.engines.native.recovery cimport (
    recover_blocker_if_dead, recover_blocker_of, recover_dead, row_is_dead, sweep,
)
from refstore.engines.native.queues cimport first_queue, push
from refstore.engines.native.eviction cimport Eviction, find_room, prepare_eviction
from refstore.engines.native.points cimport is_same_process, look_for_signals, python_ran
from refstore.engines.native.errors cimport put_error
from refstore.engines.native.contention cimport may_retry

cdef enum:
    RELEASES_GIL = 65536        # bytes from which a copy lets other threads run
    PIECE = 33554432            # bytes that are copied between two looks at signals
    ATTEMPTS = 8                # to find a slot that nobody has in hand

cdef struct Draft:
    # An object that this process is putting.
    uint64_t life  # ours when the call began: a child that was forked since has another
    uint64_t slot
    uint64_t generation
    bint is_begun               # the slot is ours, and has room
    uint32_t created            # as in the slot
    uint16_t put_by             # the same
    # what the caller asked for
    bint is_plain               # nothing of the following but to wait
    bint waits                  # for room, until `deadline`
    uint64_t deadline           # ns of CLOCK_MONOTONIC, or 0: for ever
    bint owned                  # by this process
    bint evictable
    const char *meta            # bytes of the user's own
    uint64_t meta_nbytes
    uint64_t meta_room          # bytes of them that the block holds


cdef inline void prepare(View *v, Draft *draft) noexcept nogil:
    draft.life = v.life
    draft.is_begun = False
    draft.created = created_now(v)
    draft.put_by = own_maker(v)
    draft.is_plain = not v.evicts
    draft.waits = False
    draft.owned = False
    draft.evictable = v.evicts
    draft.meta_nbytes = draft.meta_room = 0


cdef inline int set_deadline(Draft *draft, object timeout) except -1:
    from refstore._arguments import deadline_of
    at = deadline_of(timeout)
    draft.waits = timeout is None or timeout > 0
    draft.deadline = 0 if at is None else <uint64_t>(<double>at * 1e9)
    return 0


cdef inline int set_meta(Draft *draft, object meta) except -1:
    # `meta` is the caller's, and lives as long as the call
    from refstore._arguments import checked_meta
    cdef bytes octets = checked_meta(meta)
    draft.meta = PyBytes_AS_STRING(octets)
    draft.meta_nbytes = <uint64_t>len(octets)
    draft.meta_room = meta_room(draft.meta_nbytes)
    draft.is_plain = False
    return 0


cdef inline void discard(View *v, Draft *draft) noexcept:
    # What failed is given up by who began it, and by no child.
    if draft.is_begun and is_same_process(v, draft.life):
        free_slot(v, draft.slot)
    draft.is_begun = False


cdef inline int commit_extent(View *v, uint64_t i) except? -128:
    # Memory for the extent of a slot that is ours, without the GIL; without it, the slot is given
    # back.
    cdef:
        uint64_t life = v.life
        uint64_t page = extent_first(v.slots[i].extent)
        uint64_t end = page + extent_pages(v.slots[i].extent)
        uint64_t stop
        int fd, got = 0
        bint huge, refused
    try:
        while page < end and (got == 0 or got == ERR_SIGNALS):
            stop = step_end(page, end)
            huge = wants_huge_pages(v, page, stop)
            refused = False
            fd = file_of(v)
            with nogil:
                got = commit_data(v, fd, page, stop - page, huge, &refused)
            if huge:
                note_refusal(v, refused)
            if got == 0:
                page = stop
            look_for_signals(v, life, "committing memory")
    except BaseException:
        if is_same_process(v, life):
            unclaim(v, i)
        raise
    if got != 0:
        unclaim(v, i)
    return got


cdef inline int allocate_slot(View *v, uint64_t nbytes, uint64_t *slot) except? -128:
    # When there is none: what dead processes held, then what garbage of this one still pins, then
    # what may be evicted. In a store with a policy that comes first, since it is there to be full.
    cdef uint64_t life = v.life
    cdef int got, recovery = 0
    cdef int attempt = 0
    cdef uint64_t since = 0, held = 0, before
    cdef Eviction eviction
    prepare_eviction(v, &eviction)
    while True:
        got = find_room(v, nbytes, &eviction, slot)
        if got == ERR_UNCOMMITTED:
            got = commit_extent(v, slot[0])
        if got == 0:
            return 0
        if may_retry(v, &got, &since):
            continue
        if kind_of_error(got) == ERR_BUSY or got == ERR_RECOVERY or got == ERR_DAMAGED:
            return got
        if attempt == 0:
            recovery = recover_dead(v, True)
            if may_retry(v, &recovery, &since):
                continue
            sweep(v, MAX_ROWS)      # of no dead row: hints that went missing
        elif attempt == 1 and pins_condemned(v):
            import gc
            gc.collect()
            python_ran(v, life, "collecting garbage")
        elif not eviction.is_due:
            eviction.is_due = True
        elif kind_of_error(recovery) == ERR_BUSY:
            return recovery         # room may come back from one that stands still
        elif got == ERR_FULL_SLOTS and attempt < ATTEMPTS:
            # Another process may hold slots in HELD, briefly or while it is stopped.
            before = held
            held = held_elsewhere(v)
            if held == 0:
                return got
            if held == before:
                got = blocked_by(ERR_DEAD if row_is_dead(v, word_row(held)) else ERR_HELD,
                                 word_row(held))
                if may_retry(v, &got, &since):
                    continue
                return got
        else:
            return got
        attempt += 1


cdef inline Slot *begin_object(View *v, Draft *draft, uint64_t nbytes, uint64_t spill) except NULL:
    # A slot of ours with room for the payload, and `spill` bytes of description behind it.
    cdef int got = ERR_FULL
    if nbytes <= v.header.capacity:
        got = allocate_slot(v, nbytes + spill + draft.meta_room, &draft.slot)
    if got != 0:
        raise put_error(v, got, nbytes, None)
    start_slot(v, draft, nbytes)
    if unlikely(draft.meta_nbytes != 0):
        require_committed(v, draft, False)
        write_meta(v, draft.slot, draft.meta, draft.meta_nbytes, spill)
    return &v.slots[draft.slot]


cdef inline Slot *start_slot(View *v, Draft *draft, uint64_t nbytes) noexcept nogil:
    # Of a slot that is ours, and has room. Until something else is said, it is one of bytes.
    cdef Slot *slot = &v.slots[draft.slot]
    draft.is_begun = True
    draft.generation = word_generation(load_relaxed(&slot.word))  # relaxed: ours
    assign(slot.nbytes, nbytes)
    assign(slot.kind, KIND_BYTES)
    assign(slot.dtype, 0)
    assign(slot.ndim, 0)
    assign(slot.order, c'C')
    assign(slot.text_nbytes, 0)
    assign(slot.flags, 0)
    assign(slot.spill_nbytes, 0)
    assign(slot.name_hash, 0)
    assign(slot.replaces_slot, 0)
    assign(slot.last_use, 0)
    assign(slot.created, draft.created)
    assign(slot.put_by, draft.put_by)
    assign(slot.owned_by, 0)
    if not draft.is_plain:
        assign(slot.last_use, first_use(v, draft.evictable))
        if draft.owned:
            note_owner(v)
            assign(slot.owned_by, <uint16_t>(v.row + 1))
    return slot


cdef inline int ensure_committed(View *v, uint64_t i, bint label) except -128:
    # Memory for the label of a slot, or for its meta: 0, or an error.
    cdef uint64_t since = 0
    cdef int got = commit_labels(v, i) if label else commit_metas(v, i)
    while got != 0 and may_retry(v, &got, &since):
        got = commit_labels(v, i) if label else commit_metas(v, i)
    return got


cdef inline int require_committed(View *v, Draft *draft, bint label) except -1:
    cdef int got
    try:
        got = ensure_committed(v, draft.slot, label)
        if got != 0:
            raise put_error(v, got, v.slots[draft.slot].nbytes, None)
    except BaseException:
        discard(v, draft)
        raise
    return 0


cdef inline int publish_named(View *v, uint64_t i, Name *name, bint replace) except -128:
    # As publish().
    cdef Label *label
    cdef uint64_t since = 0
    cdef int got = ensure_committed(v, i, True)
    if got != 0:
        return got
    label = label_at(v, i)
    assign(label.name_nbytes, <uint8_t>name.nbytes)
    memcpy(label.name, name.utf8, name.nbytes)
    failpoint()
    assign(v.slots[i].name_hash, name.hashed)
    got = publish(v, i, replace)
    while got < 0 and may_retry(v, &got, &since):
        got = publish(v, i, replace)
    return got


cdef inline void abort_object(View *v, uint64_t i) noexcept nogil:
    # Views of it may live, also in a child that was forked while we waited: then it goes with the
    # last.
    abandon(v, i)
    reap_condemned(v, i)


cdef inline int publish_object(View *v, uint64_t life, uint64_t i, object text, Name *name,
                               bint replace) except -1:
    # Seals what we wrote. If this fails it is given up. `life`: ours when the call began.
    cdef uint64_t nbytes = v.slots[i].nbytes
    cdef uint64_t generation = word_generation(load_relaxed(&v.slots[i].word))  # relaxed: ours
    cdef int queue = first_queue(v, i, name.hashed) if v.has_queues else -1
    cdef int got
    failpoint()
    if name.hashed == 0:
        seal(v, i)
    else:
        try:
            got = publish_named(v, i, name, replace)
        except BaseException:
            if is_same_process(v, life):
                abort_object(v, i)
            raise
        if got < 0:
            if kind_of_error(got) != ERR_INDEX:     # then it is condemned already
                abort_object(v, i)
            recover_blocker_of(v, got)
            raise put_error(v, got, nbytes, text)
        recover_blocker_if_dead(v, got)         # of what was replaced
    if queue >= 0:
        push(v, queue, i, generation)
    count_put(v, nbytes)
    return 0


cdef inline char *block_of(View *v, Draft *draft) noexcept nogil:
    return v.base + v.slots[draft.slot].offset


cdef inline int copy_large(View *v, Draft *draft, char *target, const char *source,
                           size_t nbytes) except -1:
    cdef size_t done = 0, piece
    try:
        while done < nbytes:
            piece = min(nbytes - done, <size_t>PIECE)
            with nogil:
                memcpy(target + done, source + done, piece)
            done += piece
            look_for_signals(v, draft.life, "copying")
    except BaseException:
        discard(v, draft)
        raise
    return 0


cdef inline int copy_in(View *v, Draft *draft, char *target, const char *source,
                        size_t nbytes) except -1:
    if nbytes >= RELEASES_GIL:
        return copy_large(v, draft, target, source, nbytes)
    memcpy(target, source, nbytes)
    return 0


cdef inline int put_bytes(View *v, Draft *draft, object obj) except -1:
    begin_object(v, draft, <uint64_t>PyBytes_GET_SIZE(obj), 0)
    return copy_in(v, draft, block_of(v, draft), PyBytes_AS_STRING(obj),
                   <size_t>PyBytes_GET_SIZE(obj))


cdef inline int put_buffer(View *v, Draft *draft, object obj) except -1:
    cdef Py_buffer view
    PyObject_GetBuffer(obj, &view, PyBUF_FULL_RO)
    try:
        python_ran(v, draft.life, "asking for a buffer")
        begin_object(v, draft, <uint64_t>view.len, 0)
        if PyBuffer_IsContiguous(&view, c'C'):
            copy_in(v, draft, block_of(v, draft), <char*>view.buf, <size_t>view.len)
        elif PyBuffer_ToContiguous(block_of(v, draft), &view, view.len, c'C') != 0:
            discard(v, draft)
            raise BufferError("the buffer cannot be made contiguous")
    finally:
        PyBuffer_Release(&view)
    return 0


cdef inline bint move_object(View *v, uint64_t *slot, uint64_t needed) noexcept nogil:
    # What is being written, and nobody sees, goes to a smaller block with room for so many bytes.
    # False if there is none without waiting for one.
    cdef:
        uint64_t i, source = slot[0]
        Slot *old = &v.slots[source]
        int got
    if (class_nbytes(class_of(needed)) if needed else 0) >= block_nbytes(old):
        return False
    got = allocate_block(v, needed, &i)
    if got == 0 and (old.flags & FLAG_META) and commit_metas(v, i) != 0 \
            or got == 0 and block_nbytes(&v.slots[i]) >= block_nbytes(old):
        got = ERR_UNCOMMITTED
    if got == 0:
        copy_object(v, source, i)
        free_slot(v, source)
        slot[0] = i
    elif got == ERR_UNCOMMITTED:
        unclaim(v, i)
    return got == 0


cdef inline void copy_object(View *v, uint64_t source, uint64_t target) noexcept nogil:
    # Of bytes, with all that is said of them.
    cdef:
        Slot *old = &v.slots[source]
        uint64_t meta = meta_nbytes(v, source)
        const char *octets = <const char*>meta_at(v, source).octets
        Draft draft
    prepare(v, &draft)
    draft.slot = target
    draft.created = old.created
    draft.is_plain = False
    draft.owned = old.owned_by != 0
    draft.evictable = old.last_use & EVICTABLE != 0
    start_slot(v, &draft, old.nbytes)
    memcpy(block_of(v, &draft), v.base + old.offset, old.nbytes)
    if old.flags & FLAG_META:
        if meta_room(meta):
            octets = v.base + old.offset + old.nbytes
        write_meta(v, target, octets, meta, 0)
