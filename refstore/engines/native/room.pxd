# Room for an object: a slot, and a block if it has bytes. Where there is none, what dead processes
# held is freed first, and what garbage of this process pins. Then a call that may wait does so
# until others free some; it holds nothing meanwhile.
#
# Who waits looks again when something comes free, and every so often, since a death frees, too. One
# of all who wait has the turn, and the others let it try alone for a while: so what is large comes
# in behind many that are small, and what is small is not held up for ever by what is too large.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from refstore.engines.native.atomics cimport assign, cas_acq_rel, load_acquire
from refstore.engines.native.error_codes cimport (
    blocked_by, ERR_BUSY, ERR_DAMAGED, ERR_DEAD, ERR_FULL, ERR_FULL_SLOTS, ERR_HELD, ERR_NO_MEMORY,
    ERR_RECOVERY, ERR_SIGNALS, ERR_UNCOMMITTED, kind_of_error,
)
from refstore.engines.native.layout cimport MAX_ROWS, Slot
from refstore.engines.native.system cimport is_unlinked, may_ever_have, now_ns
from refstore.engines.native.view cimport extent_first, extent_pages, file_of, row_is_dead, View
from refstore.engines.native.memory cimport commit_data, note_refusal, step_end, wants_huge_pages
from refstore.engines.native.waiting cimport announce_room, begin_nap, LIVENESS_NAP_MS, Nap
from refstore.engines.native.slots cimport is_claim, pins_condemned, unclaim, word_row
from refstore.engines.native.runs cimport held_elsewhere
from refstore.engines.native.blocks cimport allocate_block, block_for, give_block, place_block
from refstore.engines.native.recovery cimport recover_dead, sweep
from refstore.engines.native.lots cimport Lot, lot_fits
from refstore.engines.native.eviction cimport (
    any_hints, EVICTED, Eviction, find_room, is_full, make_room, prepare_eviction, was_full,
)
from refstore.engines.native.trim cimport trim_free
from refstore.engines.native.points cimport is_same_process, look_for_signals, python_ran
from refstore.engines.native.news cimport tell_news
from refstore.engines.native.contention cimport may_retry_until
from refstore.engines.native.sleeping cimport is_attached_alone, sleep_through

cdef enum:
    # steps of an allocation that finds no room; eviction is part of each
    FOR_DEAD = 0                # frees what dead processes held
    FOR_GARBAGE = 1             # frees what garbage of this one pins
    FOR_HELD = 2                # it and those that follow wait for slots in others' hands
    NO_REMEDIES = 8
    PAUSE = 20                  # times what a try has taken, until one that nothing has called for
    HOLD_BACK_MS = 1000         # for which others let the one whose turn it is try alone
    THOROUGH_EVERY_MS = 1000

cdef struct RoomWait:
    uint64_t number             # of this wait among those of the process
    uint64_t tried_at           # ns; of the last try, or the beginning
    uint64_t took               # ns; the last try
    uint64_t thorough_at        # ns
    uint32_t seen               # the futex word before the last try
    uint64_t claim              # as of allocate_slot()
    bint has_tried
    uint64_t asleep_since       # ns; 0 before the first sleep


cdef inline int commit_extent(View *v, uint64_t i) except? -128:
    # Memory for the extent of a slot that is ours, without the GIL; without it, the slot is given
    # back, unless it is a claim.
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
            unclaim_unless_named(v, i)
        raise
    if got != 0:
        unclaim_unless_named(v, i)
    return got


cdef inline int ensure_memory(View *v, int got, const uint64_t *slot) except? -128:
    # `got`: how a block came to the slot; as that, once it has its memory.
    return commit_extent(v, slot[0]) if got == ERR_UNCOMMITTED else got


cdef inline void unclaim_unless_named(View *v, uint64_t i) noexcept nogil:
    if not is_claim(load_acquire(&v.slots[i].word)):                     # [seal]
        unclaim(v, i)


cdef inline bint collect_garbage(View *v, uint64_t life) except -1:
    # False: it pins nothing that is deleted
    if not pins_condemned(v):
        return False
    import gc
    gc.collect()
    python_ran(v, life, "collecting garbage")
    return True


cdef inline int find_memory(View *v, uint64_t nbytes, Eviction *so_far,
                            uint64_t *slot) noexcept nogil:
    # There is room, and the file system is full: what lies free in the file goes back to it, then
    # what may be evicted. As evict_one(), EVICTED if it was of any use; or ERR_NO_MEMORY.
    cdef uint64_t given
    cdef int got = trim_free(v, &given)
    if given and not so_far.is_trimmed:     # what a try has got before it failed, too
        so_far.is_trimmed = kind_of_error(got) != ERR_SIGNALS
        return EVICTED
    if not so_far.is_due or not may_ever_have(file_of(v), nbytes):
        return ERR_NO_MEMORY
    so_far.is_trimmed = False
    got = make_room(v, nbytes, ERR_FULL, so_far, slot)
    return ERR_NO_MEMORY if got == ERR_FULL else got


cdef inline void note_eviction(View *v, uint64_t began) noexcept nogil:
    # It has helped after all else did not. `began`: ns; when that was tried.
    cdef uint64_t now = now_ns()
    cdef uint64_t pause = max((now - began) * PAUSE, LIVENESS_NAP_MS * <uint64_t>1000000)
    v.evicts_until = now + min(pause, THOROUGH_EVERY_MS * <uint64_t>1000000)


cdef inline int try_to_allocate(View *v, uint64_t nbytes, uint64_t deadline, int step,
                                Lot *lot, uint64_t *slot) except? -128:
    # When there is none: what dead processes held, then what garbage of this one still pins; then
    # what may be evicted. In a store with a policy that comes first, since it is there to be full;
    # in others for a while after the rest was of no use, since that takes long.
    # `step`: the first.
    cdef uint64_t life = v.life
    cdef int got, recovery = 0
    cdef uint64_t since = 0, held = 0, recovered = 0, before, began = 0
    cdef Eviction eviction
    prepare_eviction(&eviction, v.evicts or v.evicts_until != 0 and now_ns() < v.evicts_until, lot)
    tell_news(v, life)
    while True:
        got = find_room(v, nbytes, &eviction, slot)
        got = ensure_memory(v, got, slot)
        if got == ERR_NO_MEMORY:
            got = find_memory(v, nbytes, &eviction, slot)
            if got == EVICTED:
                continue
            got = ensure_memory(v, got, slot)
        if got == 0:
            if began and eviction.is_due:
                note_eviction(v, began)
            return 0
        if may_retry_until(v, &got, &since, deadline):
            continue
        if kind_of_error(got) == ERR_BUSY or got == ERR_RECOVERY or got == ERR_DAMAGED:
            return got
        v.evicts_until = 0
        if step == FOR_DEAD:
            began = now_ns()
            recovery = recover_dead(v, True)
            tell_news(v, life)
            if may_retry_until(v, &recovery, &since, deadline):
                continue
            sweep(v, MAX_ROWS)      # of no dead row: what hints that went missing hide
        elif step == FOR_GARBAGE and collect_garbage(v, life):
            pass
        elif not eviction.is_due:
            eviction.is_due = True
        elif kind_of_error(recovery) == ERR_BUSY:
            return recovery         # room may come back from one that stands still
        elif got == ERR_FULL_SLOTS and step < NO_REMEDIES:
            # Another process may hold slots in HELD, briefly or while it is stopped.
            before = held
            held = held_elsewhere(v)
            if held == 0:
                return got
            if held == before:
                # recovered once: a damaged word may name a row that holds nothing
                got = blocked_by(ERR_DEAD if held != recovered and row_is_dead(v, word_row(held))
                                 else ERR_HELD, word_row(held))
                recovered = held
                if may_retry_until(v, &got, &since, deadline):
                    continue
                return got
        else:
            return got
        step += 1


cdef inline int use_claim(View *v, uint64_t nbytes, uint64_t deadline, uint64_t i) except? -128:
    # A block for a slot of ours that claims a name and has none: 0, or an error.
    cdef Slot *slot = &v.slots[i]
    cdef uint64_t since = 0
    cdef int got = 0
    if nbytes == 0:
        assign(slot.offset, v.g.data)
        return 0
    if not slot.run and not slot.extent:
        got = give_block(v, i, nbytes)
        while may_retry_until(v, &got, &since, deadline):
            got = give_block(v, i, nbytes)
    if got == 0:
        got = place_block(v, i)
    return ensure_memory(v, got, &i)


cdef inline int allocate_or_use_claim(View *v, uint64_t nbytes, uint64_t deadline, uint64_t claim,
                                      uint64_t *slot) except? -128:
    cdef int got = allocate_block(v, nbytes, slot)
    got = ensure_memory(v, got, slot)
    if got == ERR_FULL_SLOTS:
        got = use_claim(v, nbytes, deadline, claim - 1)
        if got == 0:
            slot[0] = claim - 1
    return got


cdef inline int try_with_claim(View *v, uint64_t nbytes, uint64_t deadline, bint is_thorough,
                               uint64_t claim, uint64_t *slot) except? -128:
    # As try_to_allocate(). Where no other slot is free that of our own claim will do, and nothing
    # is evicted for one.
    cdef int got
    if claim != 0 and (v.full_error == ERR_FULL_SLOTS or not was_full(v, nbytes)):
        got = allocate_or_use_claim(v, nbytes, deadline, claim, slot)
        if got == 0 or got == ERR_DAMAGED:
            return got
    got = try_to_allocate(v, nbytes, deadline, FOR_DEAD if is_thorough else NO_REMEDIES, NULL,
                          slot)
    if claim != 0 and kind_of_error(got) == ERR_FULL_SLOTS:     # others have taken slots since
        got = allocate_or_use_claim(v, nbytes, deadline, claim, slot)
    return got


# Waiting

cdef inline void begin_wait(View *v, RoomWait *wait, uint64_t claim) noexcept nogil:
    memset(wait, 0, sizeof(RoomWait))
    v.waits_for_room += 1
    wait.number = v.waits_for_room
    wait.claim = claim
    wait.tried_at = wait.thorough_at = now_ns()


cdef inline bint is_turn_of_others(View *v, uint64_t number) noexcept nogil:
    # `number`: of the call that asks, among those of this process
    cdef uint64_t turn = load_acquire(&v.pool.turn)                      # [lock]
    if turn == v.row + 1:
        return v.turn_of != 0 and v.turn_of != number
    return turn != 0 and not row_is_dead(v, turn - 1)


cdef inline bint take_turn(View *v, const RoomWait *wait) noexcept nogil:
    cdef uint64_t turn = load_acquire(&v.pool.turn)                      # [lock]
    if turn == v.row + 1 and v.turn_of == wait.number:
        return True
    if is_turn_of_others(v, wait.number):
        return False
    if not cas_acq_rel(&v.pool.turn, &turn, v.row + 1):                  # [lock]
        return False
    v.turn_of = wait.number
    return True


cdef inline void end_turn(View *v, const RoomWait *wait) noexcept nogil:
    cdef uint64_t turn = v.row + 1
    if v.turn_of == wait.number:
        v.turn_of = 0
        cas_acq_rel(&v.pool.turn, &turn, 0)                              # [lock]
        announce_room(v)


cdef inline bint is_worth_a_try(View *v, const RoomWait *wait, uint32_t seen, uint64_t now,
                                uint64_t deadline) noexcept nogil:
    cdef uint64_t waited_ms = (now - wait.tried_at) // 1000000
    if now >= deadline or waited_ms >= HOLD_BACK_MS:
        return True
    if not take_turn(v, wait):
        return False
    # A pin that goes makes room where objects may be evicted, and announces nothing.
    return not wait.has_tried or seen != wait.seen \
        or v.evicts and now - wait.tried_at >= wait.took * PAUSE


cdef inline bint waits_in_vain(View *v, const Lot *lot, int error) except -1:
    # Whether nobody but the calling thread could ever make the room.
    if kind_of_error(error) == ERR_NO_MEMORY or not is_attached_alone(v):
        return False
    from refstore import _threads
    return not _threads.has_others() \
        and (is_unlinked(file_of(v), v.path) or not lot_fits(v, lot, True))


cdef inline int sleep_for_room(View *v, uint64_t life, uint64_t nbytes, const Nap *nap,
                               uint64_t deadline, const bint *is_closed,
                               uint64_t *since) except -1:
    # Between two tries; who waits holds nothing.
    from refstore import _messages
    sleep_through(v, life, nap, deadline, since, _messages.a_put(nbytes))
    look_for_signals(v, life, "waiting for room")
    if is_closed != NULL and is_closed[0]:
        raise _messages.closed()
    return 0


cdef inline bint may_wait_for_memory(View *v, uint64_t life, uint64_t nbytes, int *error,
                                     uint64_t deadline, const bint *is_closed,
                                     uint64_t *since) except -1:
    # Of an object that has its block: whether to try once more to get memory for its label or its
    # meta, since the file system may have some by then. `since`: 0 before the first sleep.
    cdef Nap nap
    if error[0] != ERR_NO_MEMORY or now_ns() >= deadline:
        return False
    begin_nap(&nap, &v.pool.room, &v.pool.room_until, LIVENESS_NAP_MS)
    sleep_for_room(v, life, nbytes, &nap, deadline, is_closed, since)
    error[0] = 0
    return True


cdef inline int wait_for_room(View *v, RoomWait *wait, uint64_t nbytes, uint64_t deadline,
                              const bint *is_closed, uint64_t *slot) except? -128:
    # As try_to_allocate(), until there is room or the time is over.
    cdef:
        uint64_t life = v.life
        uint64_t now = now_ns(), block = block_for(nbytes)
        Lot one
        Nap nap
        int got = ERR_FULL
    one.objects = 1
    one.nbytes = block
    one.blocks = &block
    try:
        while True:
            begin_nap(&nap, &v.pool.room, &v.pool.room_until, LIVENESS_NAP_MS)
            if is_worth_a_try(v, wait, nap.seen, now, deadline):
                got = try_again(v, wait, nbytes, deadline, slot)
                one.slots = kind_of_error(got) == ERR_FULL_SLOTS      # else a claim may be it
                if not is_full(got) or waits_in_vain(v, &one, got):
                    return got
                wait.seen = nap.seen
            if now >= deadline:
                return got
            sleep_for_room(v, life, nbytes, &nap, deadline, is_closed, &wait.asleep_since)
            now = now_ns()
            if now >= nap.end:
                recover_dead(v, False)
    finally:
        if is_same_process(v, life):
            end_turn(v, wait)


cdef inline bint is_thorough_due(const RoomWait *wait, uint64_t now) noexcept nogil:
    return now - wait.thorough_at >= THOROUGH_EVERY_MS * <uint64_t>1000000


cdef inline int try_again(View *v, RoomWait *wait, uint64_t nbytes, uint64_t deadline,
                          uint64_t *slot) except? -128:
    cdef uint64_t now = now_ns()
    cdef bint is_thorough = is_thorough_due(wait, now)
    cdef int got
    wait.has_tried = True
    wait.tried_at = now
    if is_thorough:
        wait.thorough_at = now
    got = try_with_claim(v, nbytes, deadline, is_thorough, wait.claim, slot)
    wait.took = now_ns() - now
    return got


cdef inline int allocate_slot(View *v, uint64_t nbytes, uint64_t deadline, const bint *is_closed,
                              uint64_t claim, uint64_t *slot) except? -128:
    # A slot of ours, in WRITING, with room for so much; or an error. `deadline`: as deadline_ns();
    # `is_closed`: whether another thread has closed the store that was asked, or NULL; `claim`:
    # slot + 1 of one of ours without a block, which may be it, or 0.
    cdef RoomWait wait
    cdef int got
    if deadline == 0:
        return try_with_claim(v, nbytes, 0, True, claim, slot)
    begin_wait(v, &wait, claim)
    # who waits for a slot may wait for our claim's
    if not is_turn_of_others(v, wait.number) or claim != 0 and not any_hints(v, v.g.empty_bits):
        got = try_with_claim(v, nbytes, deadline, True, claim, slot)
        if not is_full(got):
            return got
    return wait_for_room(v, &wait, nbytes, deadline, is_closed, slot)
