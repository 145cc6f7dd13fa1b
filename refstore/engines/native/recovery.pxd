# Rows: how a process joins and leaves, and how what a dead one held comes back.
#
# The kernel's lock on byte `row` is the only permission to use, recover or reuse a row. Recovery only ever
# redoes: each of its steps may be cut short by another death and done again. The row is set free last.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport assign, fetch_or_seq_cst, load_acquire, load_seq_cst
from refstore.engines.native.layout cimport (
    block_nbytes, CLASSES, CONDEMNED, COUNT_RECOVERIES, ERR_HELD, ERR_RECOVERY, FREE, HELD,
    MAX_ROWS, NAME_LOCKS, PUBLISHING, RECLAIMING, RETIRED, Row, SEALED, Slot, word_generation,
    word_row, word_state, WRITING,
)
from refstore.engines.native.system cimport (
    byte_is_locked, close, getpid, lock_byte, now_ms, O_RDWR, reopen, sleep_us,
)
from refstore.engines.native.view cimport (
    bits_at, class_bits_at, count, damage, name_lock_at, next_live_row, PIDS_KEPT, Recovered,
    row_at, run_is_there, runs_used, slots_used, View,
)
from refstore.engines.native.bitmap cimport hint_restore
from refstore.engines.native.memory cimport file_of, is_ready
from refstore.engines.native.lock cimport blocked_by, HELD_AFTER_MS, unlock
from refstore.engines.native.slots cimport (
    condemn, end_publishing, free_slot, reap_condemned, REAPED, unclaim,
)
from refstore.engines.native.rebuild cimport rebuild
from refstore.engines.native.names cimport find_cell, make_cell
from refstore.engines.native.process_table cimport (
    ensure_first_pins_committed, free_row, join_row, mark_live, row_is_dead, use_row, zero_pins,
)

cdef inline void restore_hint(View *v, uint64_t i, Slot *slot) noexcept nogil:
    cdef uint64_t run = slot.run
    cdef uint64_t bit = <uint64_t>1 << (slot.block & 63)
    if slot.extent:
        hint_restore(bits_at(v, v.g.spare_bits), v.g.slot_words, i)
    elif run:
        if not run_is_there(v, run) or slot.size_class >= CLASSES:
            return
        if load_acquire(&v.runs[run - 1].free) & bit == 0:               # [hint]
            fetch_or_seq_cst(&v.runs[run - 1].free, bit)                 # [hint]
        hint_restore(class_bits_at(v, slot.size_class), v.g.run_words, run - 1)
    elif word_state(load_acquire(&slot.word)) == FREE:
        hint_restore(bits_at(v, v.g.empty_bits), v.g.slot_words, i)


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
    # What a dead process was making. A child that it forked meanwhile may have views of the block, and pins it.
    end_publishing(v, i, word, CONDEMNED)
    v.recovered.unfinished += 1
    v.recovered.nbytes += reap_counted(v, i)


cdef inline void finish_dead_publish(View *v, uint64_t i, uint64_t word) noexcept nogil:
    # A publisher died half way: the index says how far it got. Its name's lock is still marked as its own, so
    # nobody else has touched the name since.
    cdef Slot *slot = &v.slots[i]
    if find_cell(v, make_cell(i, word_generation(word), slot.name_hash), slot.name_hash) != NULL:
        condemn_replaced(v, slot)
        end_publishing(v, i, word, SEALED)
        v.recovered.published += 1
    else:
        condemn_dead(v, i, word)


cdef inline void sweep(View *v, uint64_t dead) noexcept nogil:
    # Over every slot, not only those that the dead one pinned: it may have died between its last unpin and the
    # look at the word that follows it.
    cdef:
        uint64_t i, word, state, nbytes = 0
        Slot *slot
    for i in range(slots_used(v)):
        slot = &v.slots[i]
        word = load_seq_cst(&slot.word)
        state = word_state(word)
        if state == SEALED:
            continue
        if state == FREE or state == RETIRED:
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
            elif state == PUBLISHING:
                finish_dead_publish(v, i, word)
    if dead < MAX_ROWS:         # else what came free was nobody's
        v.recovered.nbytes += nbytes
    for i in range(runs_used(v)):
        if load_acquire(&v.runs[i].live) == 0:                           # [run]
            hint_restore(bits_at(v, v.g.run_bits), v.g.run_words, i)


cdef inline void release_locks(View *v, uint64_t dead) noexcept nogil:
    cdef uint64_t k
    for k in range(<uint64_t>NAME_LOCKS):
        if load_acquire(&name_lock_at(v, k).lock) == dead + 1:
            unlock(&name_lock_at(v, k).lock)
            v.recovered.locks += 1


cdef inline void count_dead(Recovered *back, Row *row) noexcept nogil:
    back.processes += 1
    if row.pid:                 # else it died before it could say
        back.pids[back.known % PIDS_KEPT] = row.pid
        back.known += 1


cdef inline void recover_locked(View *v, uint64_t dead) noexcept nogil:
    # The dead row's kernel lock is ours, and who waits for it waits for us.
    cdef uint64_t owner = dead + 1
    count_dead(&v.recovered, row_at(v, dead))
    assign(row_at(v, dead).recoverer, <uint32_t>getpid())
    if load_acquire(&v.pool.lock) == owner:                              # [lock]
        # It keeps the dead one's name: should we die too, whoever recovers that row begins again.
        rebuild(v)
        unlock(&v.pool.lock)
        v.recovered.locks += 1
    v.recovered.pins += zero_pins(v, dead, 0)
    sweep(v, dead)
    release_locks(v, dead)
    free_row(v, dead)
    count(v, COUNT_RECOVERIES, 1)


cdef inline bint holds_locks(View *v, uint64_t r) noexcept nogil:
    cdef uint64_t k
    for k in range(<uint64_t>NAME_LOCKS):
        if load_acquire(&name_lock_at(v, k).lock) == r + 1:
            return True
    return load_acquire(&v.pool.lock) == r + 1


cdef inline int recover_row(View *v, uint64_t r) noexcept nogil:
    # 1 if it is done, 0 if there is nothing to do, or ERR_RECOVERY. A description of its own for each attempt: two
    # threads with one description would both get the lock.
    cdef int fd
    cdef int done = 0
    if r >= MAX_ROWS:
        return damage(v, b"a lock or a slot names row %d, and there is none", r)
    if not row_is_dead(v, r):
        return 0
    failpoint()
    fd = reopen(file_of(v), O_RDWR)
    if fd < 0:
        return ERR_RECOVERY
    v.recovery_fd = fd
    if lock_byte(fd, r):
        # still unrecovered; or free, and a lock names it: a damaged file must not make us wait for ever
        if load_acquire(&row_at(v, r).state) or holds_locks(v, r):       # [row]
            recover_locked(v, r)
            done = 1
    close(fd)
    v.recovery_fd = -1
    return done


cdef inline int retry_after_dead_blocker(View *v, uint64_t row) noexcept nogil:
    # 0 if the operation is worth another try.
    if row == v.row:
        return damage(v, b"a lock names row %d, whose process does not hold it", row)
    return min(recover_row(v, row), 0)


cdef inline int await_recoverer(View *v, uint64_t r, uint64_t since) noexcept nogil:
    # If another process recovers row r: 0 when it is through or dead itself, ERR_HELD if that takes long.
    while row_at(v, r).recoverer and is_ready(v.header.live, r) and byte_is_locked(file_of(v), r):
        if now_ms() - since >= HELD_AFTER_MS:
            return blocked_by(ERR_HELD, r)
        sleep_us(100)
    return 0


cdef inline int recover_dead(View *v, bint wait) noexcept nogil:
    # Every dead row. 0, or an error if that could not be done for one; `wait`: for those that others recover, too.
    cdef int got, failed = 0
    cdef uint64_t since = now_ms()
    cdef int64_t row = next_live_row(v, 0)
    while row >= 0:
        got = recover_row(v, <uint64_t>row)
        if got == 0 and wait:
            got = await_recoverer(v, <uint64_t>row, since)
            if got == 0:
                got = recover_row(v, <uint64_t>row)
        if got < 0 and failed != ERR_RECOVERY:
            failed = got
        row = next_live_row(v, <uint64_t>row + 1)
    return failed


cdef inline void recover_blocker_if_dead(View *v, int64_t reaped) noexcept nogil:
    # After a reap that another row's pin may have stopped: worth a system call to see whether its process lives. If it
    # is dead, all dead rows are recovered: several may pin the block.
    if reaped > 0 and reaped - 1 != <int64_t>v.row and recover_row(v, <uint64_t>reaped - 1) == 1:
        recover_dead(v, False)


cdef inline void enter(View *v, uint64_t r) noexcept nogil:
    # Joins through a row whose kernel lock is ours, whoever had it before.
    use_row(v, r)
    if load_acquire(&row_at(v, r).state):                                # [row]
        # What we reap now carries this row, and who finds us dead looks for live ones: its last owner may have died
        # before it was one.
        mark_live(v, r)
        recover_locked(v, r)
    join_row(v, r)
    recover_dead(v, False)
    ensure_first_pins_committed(v)
