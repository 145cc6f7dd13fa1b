# How what a process held comes back when it leaves or is found dead: its locks, its pins, its
# half-made objects, and its row.
#
# Recovery only ever redoes: each of its steps may be cut short by another death and done again. The
# row is set free last. enter() is here, since who joins recovers the row's last process first.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libc.time cimport time

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    assign, cas_acq_rel, fetch_add_relaxed, fetch_add_seq_cst, fetch_and_seq_cst, load_acquire,
    load_acquire_u16, load_relaxed, load_relaxed_u32, load_seq_cst, load_seq_cst_u32, store_relaxed,
    store_release, store_seq_cst_u32,
)
from refstore.engines.native.error_codes cimport (
    blocked_by, ERR_EXISTS, ERR_HELD, ERR_NOT_FOUND, ERR_PINS, ERR_RECOVERY, kind_of_error,
    left_behind,
)
from refstore.engines.native.layout cimport (
    CLAIMED, CLASSES, CONDEMNED, COUNT_RECOVERIES, COUNTERS, FLAG_HARD_CLAIM, FLAG_UNSEALED,
    GOING, HELD, KEPT, MAX_ROWS, NAME_LOCKS, NameLock, OFFERED, PastRecovery, PUBLISHING,
    RECLAIMING, RECOVERIES_KEPT, Row, ROW_FREE, ROW_LEFT, SEALED, Slot, SLOTS_PER_STEP, WRITING,
)
from refstore.engines.native.system cimport (
    byte_is_locked, close, getpid, lock_byte, now_ms, O_RDWR, reopen, sleep_us,
)
from refstore.engines.native.view cimport (
    block_nbytes, class_bits_at, count, damage, file_of, is_ready, name_lock_at, next_live_row,
    PIDS_KEPT, pin_cells, pins_in, Recovered, row_at, row_is_dead, slots_used, View,
)
from refstore.engines.native.bitmap cimport hint_restore
from refstore.engines.native.lock cimport HELD_AFTER_MS, unlock
from refstore.engines.native.waiting cimport announce, announce_room
from refstore.engines.native.slots cimport (
    condemn, end_writing, free_slot, is_sealed, is_spare, reap_condemned, REAPED, restore_hint,
    restore_run_hints, unclaim, withdraw, word_generation, word_row, word_state,
)
from refstore.engines.native.rebuild cimport rebuild
from refstore.engines.native.names cimport find_cell, make_cell, unindex
from refstore.engines.native.owners cimport delete_owned
from refstore.engines.native.process_table cimport (
    ensure_first_pins_committed, join_row, mark_live, use_row,
)

cdef inline uint64_t zero_pins(View *v, uint64_t row, uint32_t remains) noexcept nogil:
    # How many there were. `remains`: the bits of a cell that are left.
    cdef:
        uint64_t step, i, n = 0
        uint32_t cell
        uint32_t *cells
    for step in range(v.g.steps):
        cells = pin_cells(v, row, step * SLOTS_PER_STEP)
        if cells == NULL:
            continue
        for i in range(<uint64_t>SLOTS_PER_STEP):
            cell = load_relaxed_u32(&cells[i])  # relaxed: nobody adds to it any more
            if cell:
                n += pins_in(cell)
                # [pin] before the sweep's look at the word
                store_seq_cst_u32(&cells[i], cell & remains)
    return n


cdef inline uint64_t reap_counted(View *v, uint64_t i) noexcept nogil:
    # the bytes of the block if it came free by this, else 0
    cdef uint64_t nbytes = block_nbytes(&v.slots[i])
    return nbytes if reap_condemned(v, i) == REAPED else 0


cdef inline void condemn_replaced(View *v, Slot *slot) noexcept nogil:
    cdef uint32_t old = slot.replaces_slot
    if old and old <= slots_used(v):
        condemn(v, old - 1, slot.replaces_generation, True)     # as the dead one's
        v.recovered.nbytes += reap_counted(v, old - 1)


cdef inline void condemn_dead(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # What a dead process was making. A child that it forked meanwhile may have views of the block,
    # and pins it.
    assign(v.slots[i].flags, v.slots[i].flags | FLAG_UNSEALED)
    end_writing(v, i, word, CONDEMNED)
    v.recovered.unfinished += 1
    v.recovered.nbytes += reap_counted(v, i)


cdef inline void end_dead_claim(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # A Writer's has a block.
    cdef uint64_t hashed = v.slots[i].name_hash
    cdef bint is_hard = v.slots[i].flags & FLAG_HARD_CLAIM != 0
    end_writing(v, i, word, CONDEMNED)
    unindex(v, i, word_generation(word), hashed)
    v.recovered.unfinished += is_hard
    v.recovered.nbytes += reap_counted(v, i)


cdef inline void finish_dead_publish(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # A publisher died half way: the index says how far it got. Its name's lock is still marked as
    # its own, so nobody else has touched the name since.
    cdef Slot *slot = &v.slots[i]
    if find_cell(v, make_cell(i, word_generation(word), slot.name_hash), slot.name_hash) != NULL:
        condemn_replaced(v, slot)
        end_writing(v, i, word, SEALED)
        v.recovered.published += 1
    else:
        condemn_dead(v, i, word)


cdef inline void delete_if_owned(View *v, uint64_t i, uint64_t dead) noexcept nogil:
    cdef uint64_t nbytes = block_nbytes(&v.slots[i])
    cdef uint64_t word = load_seq_cst(&v.slots[i].word)                  # [seal]
    if is_sealed(word) and delete_owned(v, i, word, dead) == 0:
        v.recovered.nbytes += nbytes


cdef inline void sweep(View *v, uint64_t dead) noexcept nogil:
    # Over every slot, not only those that the dead one pinned: it may have died between its last
    # unpin and the look at the word that follows it.
    cdef:
        uint64_t i, word, state, nbytes = 0
        bint owned = dead < MAX_ROWS and row_at(v, dead).owns_any != 0
        Slot *slot
    for i in range(slots_used(v)):
        slot = &v.slots[i]
        word = load_seq_cst(&slot.word)                                  # [free] [seal] [pin]
        state = word_state(word)
        if state == SEALED or state == OFFERED:
            if state == OFFERED and word_row(word) == dead:
                withdraw(v, i, word)
            if owned:
                delete_if_owned(v, i, dead)
            continue
        if is_spare(word):
            restore_hint(v, i, slot)
        elif state == CONDEMNED:
            nbytes += reap_counted(v, i)
        elif word_row(word) == dead:
            if state == WRITING:
                condemn_dead(v, i, word)
            elif state == RECLAIMING:
                nbytes += block_nbytes(slot)
                free_slot(v, i)
            elif state == HELD:
                unclaim(v, i)
            elif state == CLAIMED:
                end_dead_claim(v, i, word)
            elif state == PUBLISHING:
                finish_dead_publish(v, i, word)
                if owned:
                    delete_if_owned(v, i, dead)
    if dead < MAX_ROWS:         # else what came free was nobody's
        v.recovered.nbytes += nbytes
    restore_run_hints(v)


cdef inline void release_locks(View *v, uint64_t dead) noexcept nogil:
    # Whoever may sleep is told, at any name: what the dead one has changed without a word, it need
    # not have locked, and who recovered it before us may have died just so.
    cdef uint64_t k
    cdef NameLock *stripe
    cdef bint is_locked, is_watched = load_seq_cst_u32(&v.header.any_until) != 0     # [wait]
    for k in range(<uint64_t>NAME_LOCKS):
        stripe = name_lock_at(v, k)
        is_locked = load_acquire(&stripe.lock) == dead + 1               # [lock]
        if is_locked or is_watched or load_seq_cst_u32(&stripe.awake_until):     # [wait]
            announce(v, stripe)
        if is_locked:
            unlock(&stripe.lock)
            v.recovered.locks += 1


cdef inline void count_dead(Recovered *back, Row *row) noexcept nogil:
    back.processes += 1
    if row.pid:                 # else it died before it could say
        back.pids[back.known % PIDS_KEPT] = row.pid
        back.known += 1


cdef inline void note_recovery(View *v, Row *row, uint64_t nbytes) noexcept nogil:
    # For reports. Two recoverers 16 apart may write the same entry at once.
    cdef uint64_t n = fetch_add_seq_cst(&v.header.recoveries_known, 1)   # [past]
    cdef PastRecovery *past = &v.header.recoveries[n % RECOVERIES_KEPT]
    store_release(&past.at, 0)                                           # [past]
    assign(past.pid, row.pid)
    assign(past.nbytes, nbytes)
    memcpy(past.command, row.command, sizeof(past.command))
    memcpy(past.label, row.label, sizeof(past.label))
    failpoint()
    store_release(&past.at, <uint64_t>time(NULL))                        # [past]


cdef inline void free_row(View *v, uint64_t r) noexcept nogil:
    # The last steps of a row's life. Its pins are gone.
    cdef Row *row = row_at(v, r)
    cdef uint64_t n, k
    for k in range(<uint64_t>COUNTERS):
        n = load_relaxed(&row.counters[k])  # relaxed: statistics
        store_relaxed(&row.counters[k], 0)  # relaxed: statistics
        fetch_add_relaxed(&v.header.totals[k], n)  # relaxed: statistics
    fetch_and_seq_cst(&v.header.live[r >> 6], ~(<uint64_t>1 << (r & 63)))     # [pin]
    store_release(&row.state, ROW_FREE)                                  # [row]


cdef inline void recover_locked(View *v, uint64_t dead) noexcept nogil:
    # The dead row's kernel lock is ours, and who waits for it waits for us.
    cdef uint64_t owner = dead + 1, before = v.recovered.nbytes
    count_dead(&v.recovered, row_at(v, dead))
    assign(row_at(v, dead).recoverer, <uint32_t>getpid())
    if load_acquire(&v.pool.lock) == owner:                              # [lock]
        # The lock still holds the dead row, so if we die too, the next recoverer begins again.
        rebuild(v)
        unlock(&v.pool.lock)
        v.recovered.locks += 1
    v.recovered.pins += zero_pins(v, dead, 0)
    sweep(v, dead)
    release_locks(v, dead)
    cas_acq_rel(&v.pool.turn, &owner, 0)                                 # [lock]
    announce_room(v)
    note_recovery(v, row_at(v, dead), v.recovered.nbytes - before)
    free_row(v, dead)
    count(v, COUNT_RECOVERIES, 1)


cdef inline bint holds_locks(View *v, uint64_t r) noexcept nogil:
    cdef uint64_t k
    for k in range(<uint64_t>NAME_LOCKS):
        if load_acquire(&name_lock_at(v, k).lock) == r + 1:              # [lock]
            return True
    return load_acquire(&v.pool.lock) == r + 1                           # [lock]


cdef inline int recover_row(View *v, uint64_t r) noexcept nogil:
    # 1 if it is done, 0 if there is nothing to do, or ERR_RECOVERY. A description of its own for
    # each attempt: two threads with one description would both get the lock.
    cdef Row *row
    cdef int fd
    cdef int done = 0
    if r >= MAX_ROWS:
        return damage(v, b"a lock or a slot names row %d, which does not exist", r)
    row = row_at(v, r)
    if not row_is_dead(v, r):
        return 0
    failpoint()
    fd = reopen(file_of(v), O_RDWR)
    if fd < 0:
        return ERR_RECOVERY
    v.recovery_fd = fd
    if lock_byte(fd, r):
        # still unrecovered; or free, and a lock names it: a damaged file must not make us wait for
        # ever
        if load_acquire(&row.state) or holds_locks(v, r):                # [row]
            recover_locked(v, r)
            done = 1
    close(fd)
    v.recovery_fd = -1
    return done


cdef inline int retry_after_dead_blocker(View *v, uint64_t row) noexcept nogil:
    # 0 if the operation is worth another try. What it has left may be pinned by other dead ones.
    cdef int got
    if row == v.row:
        return damage(v, b"a lock names row %d, whose process does not hold it", row)
    got = recover_row(v, row)
    if got == 1:
        recover_dead(v, False)
    return min(got, 0)


cdef inline bint is_being_recovered(View *v, uint64_t r) noexcept nogil:
    # by another process, which has the row's kernel lock meanwhile
    return row_at(v, r).recoverer != 0 and is_ready(v.header.live, r) \
        and byte_is_locked(file_of(v), r)


cdef inline int await_recoverer(View *v, uint64_t r, uint64_t *since) noexcept nogil:
    # If another process recovers row r: 0 when it is through or dead itself, ERR_HELD if that takes
    # long. `since`: 0 before the first wait.
    while is_being_recovered(v, r):
        if since[0] == 0:
            since[0] = now_ms()
        elif now_ms() - since[0] >= HELD_AFTER_MS:
            return blocked_by(ERR_HELD, r)
        sleep_us(100)
    return 0


cdef inline int recover_dead(View *v, bint wait) noexcept nogil:
    # Every dead row. 0, or an error if that could not be done for one; `wait`: for those that
    # others recover, too.
    cdef int got, failed = 0
    cdef uint64_t r, since = 0
    cdef int64_t row = next_live_row(v, 0)
    while row >= 0:
        r = <uint64_t>row
        if r != v.row:
            got = recover_row(v, r)
            if got == 0 and wait:
                got = await_recoverer(v, r, &since)
                if got == 0:
                    got = recover_row(v, r)
            if got < 0 and failed != ERR_RECOVERY:
                failed = got
        row = next_live_row(v, r + 1)
    return failed


cdef inline void recover_blocker_if_dead(View *v, int64_t reaped) noexcept nogil:
    # After a reap that another row's pin may have stopped: worth a system call to see whether its
    # process lives. If it is dead, all dead rows are recovered: several may pin the block.
    if reaped > 0 and reaped - 1 != <int64_t>v.row and recover_row(v, <uint64_t>reaped - 1) == 1:
        recover_dead(v, False)


cdef inline int recover_owner(View *v, uint64_t i) noexcept nogil:
    # What is in slot `i` goes with its owner, if that is dead: 1; ERR_HELD, another process sees to
    # it; or another error. Else 0.
    cdef uint64_t owner = load_acquire_u16(&v.slots[i].owned_by) & ~GOING        # [owner]
    cdef int got
    if owner == 0 or owner > MAX_ROWS or owner - 1 == v.row:
        return 0
    got = recover_row(v, owner - 1)
    if got == 0 and is_being_recovered(v, owner - 1):
        return blocked_by(ERR_HELD, owner - 1)
    return got


cdef inline void recover_blocker_of(View *v, int error) noexcept nogil:
    # After an error, for which a pin was undone: that may have ended a reap.
    cdef int kind = kind_of_error(error)
    if kind == ERR_NOT_FOUND or kind == ERR_EXISTS or kind == ERR_PINS:
        recover_blocker_if_dead(v, left_behind(error))


cdef inline void enter(View *v, uint64_t r) noexcept nogil:
    # Joins through a row whose kernel lock is ours, whoever had it before.
    use_row(v, r)
    if load_acquire(&row_at(v, r).state):                                # [row]
        # First: slots that are reaped below carry this row, and recovery scans live rows only.
        mark_live(v, r)
        recover_locked(v, r)
    join_row(v, r)
    recover_dead(v, False)
    ensure_first_pins_committed(v)


cdef inline void leave(View *v) noexcept nogil:
    # Nothing of ours is half made or in use. What we cut from is handed on. If children need what
    # we keep, our row stays, and when the last of them is gone, too, it is a dead one.
    cdef int c
    zero_pins(v, v.row, KEPT)
    for c in range(CLASSES):
        if v.current[c]:
            hint_restore(class_bits_at(v, c), v.g.run_words, v.current[c] - 1)
    if v.kept:
        store_release(&row_at(v, v.row).state, ROW_LEFT)                 # [row]
    else:
        free_row(v, v.row)
