# From a Python object to a sealed slot: room first, then the one copy, then the seal. On any
# failure nothing is left behind. Also from one block to a smaller one, while nobody sees it.
#
# The seal, or the publication of a name, is the point of no return: signals are looked for before
# it, and after it no Python runs until the ref is returned. A function that is given a draft and
# fails has given back what was begun.

cimport numpy as cnp
from cpython.buffer cimport (
    PyBUF_FULL_RO, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport assign, load_relaxed, unlikely
from refstore.engines.native.copying cimport copy
from refstore.engines.native.error_codes cimport (
    ERR_DAMAGED, ERR_EXISTS, ERR_FULL, ERR_INDEX, ERR_TOO_LARGE, ERR_UNCOMMITTED, kind_of_error,
)
from refstore.engines.native.layout cimport (
    COUNT_PUTS, CREATED_PER_SECOND, EVICTABLE, FLAG_HARD_CLAIM, FLAG_META, KIND_BYTES, Label, PAGE,
    Slot,
)
from refstore.engines.native.system cimport clock_gettime, CLOCK_REALTIME_COARSE, timespec
from refstore.engines.native.view cimport (
    block_nbytes, count, is_within_block, label_at, meta_at, View,
)
from refstore.engines.native.memory cimport commit_labels, commit_metas
from refstore.engines.native.metas cimport meta_nbytes, meta_room, write_meta
from refstore.engines.native.ages cimport first_use, move_clock
from refstore.engines.native.slots cimport free_slot, pin_own, seal, unclaim, unpin, word_generation
from refstore.engines.native.origins cimport take_origin
from refstore.engines.native.blocks cimport allocate_block, block_for, take_spare
from refstore.engines.native.names cimport find, Found, Name
from refstore.engines.native.claims cimport claim_name, give_up, give_up_to_views
from refstore.engines.native.publication cimport publish
from refstore.engines.native.owners cimport note_owner
from refstore.engines.native.recovery cimport (
    recover_blocker_if_dead, recover_blocker_of, recover_owner,
)
from refstore.engines.native.queues cimport first_queue, push
from refstore.engines.native.points cimport is_same_process, look_for_signals, python_ran
from refstore.engines.native.errors cimport put_error, room_error
from refstore.engines.native.contention cimport may_retry_until
from refstore.engines.native.room cimport allocate_slot, commit_extent, may_wait_for_memory

cdef enum:
    RELEASES_GIL = 65536        # bytes from which a copy lets other threads run
    PIECE = 33554432            # bytes that are copied between two looks at signals
    OVERHEAD = 64               # bytes that an object takes beside its own, about

cdef struct Draft:
    # An object that this process is putting.
    uint64_t life  # ours when the call began: a child that was forked since has another
    uint64_t slot
    uint64_t generation
    bint is_begun               # the slot is ours, and has room
    uint64_t claim              # slot + 1 of the claim on its name that we have, or 0
    uint32_t created            # as in the slot
    uint16_t put_by             # the same
    # what the caller asked for
    uint64_t deadline           # for room, as deadline_ns()
    const bint *is_closed       # the store that was asked, meanwhile; or NULL
    bint is_pinned              # by its maker, from the publication on
    bint is_plain               # neither of the next two
    bint owned                  # by this process
    bint evictable
    const char *meta            # bytes of the user's own
    uint64_t meta_nbytes
    uint64_t meta_room          # bytes of them that the block holds


cdef inline uint32_t created_now(View *v) noexcept nogil:
    # by a clock that is read without a system call
    cdef timespec now
    cdef uint64_t made = v.header.made_at
    clock_gettime(CLOCK_REALTIME_COARSE, &now)
    if <uint64_t>now.tv_sec < made:         # it may have been set back
        return 0
    return <uint32_t>((<uint64_t>now.tv_sec - made) * CREATED_PER_SECOND
                      + <uint64_t>now.tv_nsec // (1000000000 // CREATED_PER_SECOND))


cdef inline void prepare(View *v, Draft *draft) noexcept nogil:
    draft.life = v.life
    draft.is_begun = False
    draft.claim = 0
    if unlikely(not v.has_looked_for_origin):
        take_origin(v)
    draft.created = created_now(v)
    draft.put_by = v.origin
    draft.deadline = 0
    draft.is_closed = NULL
    draft.is_pinned = False
    draft.is_plain = not v.evicts
    draft.owned = False
    draft.evictable = v.evicts
    draft.meta_nbytes = draft.meta_room = 0


cdef inline int set_owner(Draft *draft, object owned, object evictable) except -1:
    # Whose the object is, and whether it may go for others.
    draft.owned = bool(owned)
    if evictable is not None:
        draft.evictable = bool(evictable)
    draft.is_plain = not draft.owned and not draft.evictable
    return 0


cdef inline int set_meta(Draft *draft, object meta) except -1:
    # `meta` is the caller's, and lives as long as the call
    from refstore._arguments import checked_meta
    cdef bytes octets = checked_meta(meta)
    draft.meta = PyBytes_AS_STRING(octets)
    draft.meta_nbytes = <uint64_t>len(octets)
    draft.meta_room = meta_room(draft.meta_nbytes)
    return 0


cdef inline void discard(View *v, Draft *draft) noexcept:
    # What failed is given up by who began it, and by no child.
    if draft.is_begun and is_same_process(v, draft.life):
        give_up(v, draft.slot)
    draft.is_begun = False


cdef inline int find_slot(View *v, Draft *draft, uint64_t nbytes, uint64_t behind) except? -128:
    # Without a lock, if a block of the very size is free. One that may wait has to look whose turn
    # it is first; where there is a policy, it decides.
    cdef uint64_t needed = nbytes + behind
    cdef int got = ERR_FULL
    python_ran(v, draft.life, "preparing what is put")
    if nbytes > v.header.capacity or needed > v.g.pages * PAGE:
        return ERR_TOO_LARGE
    if draft.deadline == 0 and not v.evicts:
        got = take_spare(v, needed, &draft.slot)
        if got == ERR_UNCOMMITTED:
            got = commit_extent(v, draft.slot)
        if got == 0 or got == ERR_DAMAGED:
            return got
    return allocate_slot(v, needed, draft.deadline, draft.is_closed, draft.claim, &draft.slot)


cdef inline Slot *begin_object(View *v, Draft *draft, uint64_t nbytes, uint64_t spill) except NULL:
    # A slot of ours with room for the payload, and `spill` bytes of description behind it.
    cdef int got = find_slot(v, draft, nbytes, spill + draft.meta_room)
    if got != 0:
        raise room_error(v, got, nbytes, draft.deadline != 0)
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
    if draft.claim != draft.slot + 1:   # else others find the claim by it
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


cdef inline int look_for_owner(View *v, const Name *name) noexcept nogil:
    # As recover_owner(), of what has the name; 1 if nothing has it any more.
    cdef Found found
    cdef int got
    if find(v, name, &found, False) != 0:
        return 1
    got = recover_owner(v, found.slot)
    return 1 if got == 0 and find(v, name, &found, False) != 0 else got


cdef inline bint may_try_again(View *v, const Draft *draft, const Name *name, int *error,
                               uint64_t *busy_since, uint64_t *asleep_since) except -1:
    # After an error that came when the object had its block. Both times are 0 at first. `name`:
    # that it is to have, or NULL.
    cdef int got
    if kind_of_error(error[0]) == ERR_EXISTS:
        got = look_for_owner(v, name)
        if got == 0:
            return False
        recover_blocker_of(v, error[0])
        error[0] = min(got, 0)
        if got == 1:
            return True
    return may_retry_until(v, error, busy_since, draft.deadline) or may_wait_for_memory(
        v, draft.life, v.slots[draft.slot].nbytes, error, draft.deadline, draft.is_closed,
        asleep_since)


cdef inline int ensure_committed(View *v, const Draft *draft, uint64_t i, bint label) except -128:
    # Memory for the label of a slot, or for its meta: 0, or an error.
    cdef uint64_t busy_since = 0, asleep_since = 0
    cdef int got = commit_labels(v, i) if label else commit_metas(v, i)
    while got != 0 and may_try_again(v, draft, NULL, &got, &busy_since, &asleep_since):
        got = commit_labels(v, i) if label else commit_metas(v, i)
    return got


cdef inline int require_committed(View *v, Draft *draft, bint label) except -1:
    cdef int got
    try:
        got = ensure_committed(v, draft, draft.slot, label)
        if got != 0:
            raise put_error(v, got, v.slots[draft.slot].nbytes, None)
    except BaseException:
        discard(v, draft)
        raise
    return 0


cdef inline int write_name(View *v, uint64_t i, const Name *name) noexcept nogil:
    # 0, or an error
    cdef Label *label
    cdef int got = commit_labels(v, i)
    if got == 0:
        label = label_at(v, i)
        assign(label.name_nbytes, <uint8_t>name.nbytes)
        memcpy(label.name, name.utf8, name.nbytes)
        failpoint()
        assign(v.slots[i].name_hash, name.hashed)
    return got


cdef inline int claim_once(View *v, const Draft *draft, const Name *name, bint is_hard,
                           bint replace) noexcept nogil:
    # As claim_name(), of the draft's slot.
    cdef int got = write_name(v, draft.slot, name)
    if got != 0:
        return got
    if is_hard:
        assign(v.slots[draft.slot].flags, v.slots[draft.slot].flags | FLAG_HARD_CLAIM)
    return claim_name(v, draft.slot, replace)


cdef inline int claim_for(View *v, const Draft *draft, const Name *name, bint is_hard,
                          bint replace) except -128:
    # The same, until the time is over.
    cdef uint64_t busy_since = 0, asleep_since = 0
    cdef int got = claim_once(v, draft, name, is_hard, replace)
    while got < 0 and may_try_again(v, draft, name, &got, &busy_since, &asleep_since):
        got = claim_once(v, draft, name, is_hard, replace)
    return got


cdef inline int publish_once(View *v, const Draft *draft, const Name *name,
                             bint replace) noexcept nogil:
    # As publish().
    cdef int got = 0
    if draft.claim != draft.slot + 1:   # else others read its name already
        got = write_name(v, draft.slot, name)
    if got != 0:
        return got
    if draft.is_pinned:                 # no longer than this: who is forked meanwhile has it, too
        pin_own(v, draft.slot)
    got = publish(v, draft.slot, replace, draft.claim)
    if got < 0 and draft.is_pinned:
        unpin(v, draft.slot)
    return got


cdef inline int publish_again(View *v, const Draft *draft, object text, const Name *name,
                              bint replace, int got) except -1:
    # After an error, which may pass; if it stays, what we wrote is given up.
    cdef uint64_t i = draft.slot
    cdef uint64_t nbytes = v.slots[i].nbytes
    cdef uint64_t busy_since = 0, asleep_since = 0
    try:
        while got < 0 and may_try_again(v, draft, name, &got, &busy_since, &asleep_since):
            got = publish_once(v, draft, name, replace)
    except BaseException:
        if is_same_process(v, draft.life):
            give_up_to_views(v, i)
        raise
    if got < 0:
        if kind_of_error(got) != ERR_INDEX:     # then it is condemned already
            give_up_to_views(v, i)
        recover_blocker_of(v, got)
        raise put_error(v, got, nbytes, text)
    return got


cdef inline int publish_or_queue(View *v, const Draft *draft, object text, const Name *name,
                                 bint replace) except -1:
    # Of what has a name, or belongs in a queue.
    cdef uint64_t i = draft.slot
    cdef uint64_t generation = word_generation(load_relaxed(&v.slots[i].word))  # relaxed: ours
    cdef int queue = first_queue(v, i, name.hashed) if v.has_queues else -1
    cdef int got
    if name.hashed == 0:
        seal(v, i)
    else:
        got = publish_once(v, draft, name, replace)
        if unlikely(got < 0):
            got = publish_again(v, draft, text, name, replace, got)
        recover_blocker_if_dead(v, got)         # of what was replaced
    if queue >= 0:
        push(v, queue, i, generation)
    return 0


cdef inline int publish_object(View *v, const Draft *draft, object text, const Name *name,
                               bint replace) except -1:
    # Seals what we wrote. If this fails it is given up.
    cdef uint64_t nbytes = v.slots[draft.slot].nbytes
    failpoint()
    if name.hashed == 0 and not v.has_queues:
        seal(v, draft.slot)
    else:
        publish_or_queue(v, draft, text, name, replace)
    count_put(v, nbytes)
    return 0


cdef inline void count_put(View *v, uint64_t nbytes) noexcept nogil:
    count(v, COUNT_PUTS, 1)
    v.until_tick -= <int64_t>(nbytes + OVERHEAD)
    if unlikely(v.until_tick < 0):
        move_clock(v)


cdef inline void write_kind(View *v, const Draft *draft, uint8_t kind) noexcept nogil:
    assign(v.slots[draft.slot].kind, kind)


cdef inline char *block_of(View *v, Draft *draft) noexcept nogil:
    return v.base + v.slots[draft.slot].offset


cdef inline int copy_large(View *v, Draft *draft, char *target, const char *source,
                           size_t nbytes) except -1:
    cdef size_t done = 0, piece
    try:
        while done < nbytes:
            piece = min(nbytes - done, <size_t>PIECE)
            with nogil:
                copy(target + done, source + done, piece)
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
    if not PyBuffer_IsContiguous(&view, c'C'):
        PyBuffer_Release(&view)
        from refstore.payload.arrays import octets_of
        obj = octets_of(memoryview(obj))
        PyObject_GetBuffer(obj, &view, PyBUF_FULL_RO)
    try:
        begin_object(v, draft, <uint64_t>view.len, 0)
        copy_in(v, draft, block_of(v, draft), <char*>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return 0


cdef inline bint move_object(View *v, uint64_t *slot, uint64_t needed) noexcept nogil:
    # What is being written, and nobody sees, goes to a smaller block with room for so many bytes.
    # False if there is none without waiting for one.
    cdef:
        uint64_t i, source = slot[0]
        Slot *old = &v.slots[source]
        uint64_t offset = old.offset, nbytes = old.nbytes
        int got
    if not is_within_block(v, old, offset, max(needed, nbytes)):
        return False
    if block_for(needed) >= block_nbytes(old):
        return False
    got = allocate_block(v, needed, &i)
    if got == 0 and (old.flags & FLAG_META) and commit_metas(v, i) != 0 \
            or got == 0 and block_nbytes(&v.slots[i]) >= block_nbytes(old):
        got = ERR_UNCOMMITTED
    if got == 0:
        copy_object(v, source, i, v.base + offset, nbytes)
        free_slot(v, source)
        slot[0] = i
    elif got == ERR_UNCOMMITTED:
        unclaim(v, i)
    return got == 0


cdef inline void copy_object(View *v, uint64_t source, uint64_t target, const char *payload,
                             uint64_t nbytes) noexcept nogil:
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
    start_slot(v, &draft, nbytes)
    memcpy(block_of(v, &draft), payload, nbytes)
    if old.flags & FLAG_META:
        if meta_room(meta):
            octets = payload + nbytes
        write_meta(v, target, octets, meta, 0)
