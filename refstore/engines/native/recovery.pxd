# Rows: how a process joins and leaves, and how what a dead one held comes back.
#
# The kernel's lock on byte `row` is the only permission to use, recover or reuse a row. Recovery only ever
# redoes: each of its steps may be cut short by another death and done again. The row is set free last.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from .debug cimport failpoint
from .atomics cimport assign, fetch_or_seq_cst, load_acquire, load_seq_cst
from .layout cimport (
    block_nbytes, CLASSES, CONDEMNED, COUNT_RECOVERIES, ERR_HELD, ERR_RECOVERY, FREE, HELD,
    MAX_ROWS, NAME_LOCKS, PUBLISHING, RECLAIMING, RETIRED, Row, SEALED, Slot, word_generation,
    word_row, word_state, WRITING,
)
from .system cimport byte_is_locked, close, getpid, lock_byte, now_ms, O_RDWR, reopen, sleep_us
from .view cimport (
    bits_at, CameBack, class_bits_at, count, damage, name_lock_at, next_live_row, PIDS_KEPT, row_at,
    run_is_there, runs_used, slots_used, Store,
)
from .bitmap cimport hint_restore
from .memory cimport file_of, is_ready
from .lock cimport HELD_AFTER_MS, unlock
from .slots cimport condemn, free_slot, reap_condemned, settle, unclaim
from .rebuild cimport rebuild
from .names cimport cell_naming, make_cell
from .process_table cimport (
    free_row, join_row, mark_live, reach_first_pins, row_is_dead, use_row, zero_pins,
)

cdef inline void restore_hint(Store *s, uint64_t i, Slot *slot) noexcept nogil:
    cdef uint64_t run = slot.run
    cdef uint64_t bit = <uint64_t>1 << (slot.block & 63)
    if slot.extent:
        hint_restore(bits_at(s, s.g.stock_bits), s.g.slot_words, i)
    elif run:
        if not run_is_there(s, run) or slot.size_class >= CLASSES:
            return
        if load_acquire(&s.runs[run - 1].free) & bit == 0:               # [hint]
            fetch_or_seq_cst(&s.runs[run - 1].free, bit)                 # [hint]
        hint_restore(class_bits_at(s, slot.size_class), s.g.run_words, run - 1)
    elif word_state(load_acquire(&slot.word)) == FREE:
        hint_restore(bits_at(s, s.g.bare_bits), s.g.slot_words, i)


cdef inline uint64_t reap_counted(Store *s, uint64_t i) noexcept nogil:
    # the bytes of the block if it came free by this, else 0
    cdef uint64_t nbytes = block_nbytes(&s.slots[i])
    return nbytes if reap_condemned(s, i) else 0


cdef inline void condemn_replaced(Store *s, Slot *slot) noexcept nogil:
    cdef uint32_t old = slot.replaces_slot
    if old and old <= slots_used(s):
        condemn(s, old - 1, slot.replaces_generation, True)     # as the dead one's
        s.came_back.nbytes += reap_counted(s, old - 1)


cdef inline void condemn_dead(Store *s, uint64_t i, uint64_t word) noexcept nogil:
    # What a dead process was making. A child that it forked meanwhile may have views of the block, and pins it.
    settle(s, i, word, CONDEMNED)
    s.came_back.unfinished += 1
    s.came_back.nbytes += reap_counted(s, i)


cdef inline void settle_dead(Store *s, uint64_t i, uint64_t word) noexcept nogil:
    # A publisher died half way: the index says how far it got. Its name's lock is still marked as its own, so
    # nobody else has touched the name since.
    cdef Slot *slot = &s.slots[i]
    if cell_naming(s, make_cell(i, word_generation(word), slot.name_hash), slot.name_hash) != NULL:
        condemn_replaced(s, slot)
        settle(s, i, word, SEALED)
        s.came_back.published += 1
    else:
        condemn_dead(s, i, word)


cdef inline void sweep(Store *s, uint64_t dead) noexcept nogil:
    # Over every slot, not only those that the dead one pinned: it may have died between its last unpin and the
    # look at the word that follows it.
    cdef:
        uint64_t i, word, state, nbytes = 0
        Slot *slot
    for i in range(slots_used(s)):
        slot = &s.slots[i]
        word = load_seq_cst(&slot.word)
        state = word_state(word)
        if state == SEALED:
            continue
        if state == FREE or state == RETIRED:
            restore_hint(s, i, slot)
        elif state == CONDEMNED:
            nbytes += reap_counted(s, i)
        elif word_row(word) == dead:
            if state == WRITING:
                condemn_dead(s, i, word)
            elif state == RECLAIMING:
                nbytes += block_nbytes(slot)
                free_slot(s, i)
            elif state == HELD:
                unclaim(s, i)
            elif state == PUBLISHING:
                settle_dead(s, i, word)
    if dead < MAX_ROWS:         # else what came free was nobody's
        s.came_back.nbytes += nbytes
    for i in range(runs_used(s)):
        if load_acquire(&s.runs[i].live) == 0:                           # [run]
            hint_restore(bits_at(s, s.g.run_bits), s.g.run_words, i)


cdef inline void release_locks(Store *s, uint64_t dead) noexcept nogil:
    cdef uint64_t k
    for k in range(<uint64_t>NAME_LOCKS):
        if load_acquire(&name_lock_at(s, k).lock) == dead + 1:
            unlock(&name_lock_at(s, k).lock)
            s.came_back.locks += 1


cdef inline void count_dead(CameBack *back, Row *row) noexcept nogil:
    back.processes += 1
    if row.pid:                 # else it died before it could say
        back.pids[back.known % PIDS_KEPT] = row.pid
        back.known += 1


cdef inline void recover_locked(Store *s, uint64_t dead) noexcept nogil:
    # The dead row's kernel lock is ours, and who waits for it waits for us.
    cdef uint64_t owner = dead + 1
    count_dead(&s.came_back, row_at(s, dead))
    assign(row_at(s, dead).recoverer, <uint32_t>getpid())
    if load_acquire(&s.pool.lock) == owner:                              # [lock]
        # It keeps the dead one's name: should we die too, whoever recovers that row begins again.
        rebuild(s)
        unlock(&s.pool.lock)
        s.came_back.locks += 1
    s.came_back.pins += zero_pins(s, dead, 0)
    sweep(s, dead)
    release_locks(s, dead)
    free_row(s, dead)
    count(s, COUNT_RECOVERIES, 1)


cdef inline bint holds_locks(Store *s, uint64_t r) noexcept nogil:
    cdef uint64_t k
    for k in range(<uint64_t>NAME_LOCKS):
        if load_acquire(&name_lock_at(s, k).lock) == r + 1:
            return True
    return load_acquire(&s.pool.lock) == r + 1


cdef inline int recover_row(Store *s, uint64_t r) noexcept nogil:
    # 1 if it is done, 0 if there is nothing to do, or ERR_RECOVERY. A description of its own for each attempt: two
    # threads with one description would both get the lock.
    cdef int fd
    cdef int done = 0
    if r >= MAX_ROWS:
        return damage(s, b"a lock or a slot names row %d, and there is none", r)
    if not row_is_dead(s, r):
        return 0
    failpoint()
    fd = reopen(file_of(s), O_RDWR)
    if fd < 0:
        return ERR_RECOVERY
    s.recovery_fd = fd
    if lock_byte(fd, r):
        # still unrecovered; or free, and a lock names it: a damaged file must not make us wait for ever
        if load_acquire(&row_at(s, r).state) or holds_locks(s, r):       # [row]
            recover_locked(s, r)
            done = 1
    close(fd)
    s.recovery_fd = -1
    return done


cdef inline int recover_blocker(Store *s) noexcept nogil:
    # After ERR_DEAD: 0 if the operation is worth another try.
    cdef int got
    if s.blocked_by - 1 == s.row:
        return damage(s, b"a lock names row %d, whose process does not hold it", s.row)
    got = recover_row(s, s.blocked_by - 1)
    return got if got < 0 else 0


cdef inline int await_recoverer(Store *s, uint64_t r, uint64_t since) noexcept nogil:
    # If another process recovers row r: 0 when it is through or dead itself, ERR_HELD if that takes long.
    while row_at(s, r).recoverer and is_ready(s.header.live, r) and byte_is_locked(file_of(s), r):
        if now_ms() - since >= HELD_AFTER_MS:
            return ERR_HELD
        sleep_us(100)
    return 0


cdef inline int recover_dead(Store *s, bint wait) noexcept nogil:
    # Every dead row. 0, or an error if that could not be done for one; `wait`: for those that others recover, too.
    cdef int got, failed = 0
    cdef uint64_t since = now_ms(), stuck = 0
    cdef int64_t row = next_live_row(s, 0)
    while row >= 0:
        got = recover_row(s, <uint64_t>row)
        if got == 0 and wait:
            got = await_recoverer(s, <uint64_t>row, since)
            if got == 0:
                got = recover_row(s, <uint64_t>row)
            else:
                stuck = <uint64_t>row + 1
        if got < 0 and failed != ERR_RECOVERY:
            failed = got
        row = next_live_row(s, <uint64_t>row + 1)
    if stuck:
        s.blocked_by = stuck    # and not who kept us from some reap meanwhile
    return failed


cdef inline void look_at_blocker(Store *s) noexcept nogil:
    # A reap of ours was stopped by another row's pin: worth a system call to see whether its process lives. If not,
    # it is hardly the only one, and the block comes back with the last of them.
    if s.blocked_by and s.blocked_by - 1 != s.row and recover_row(s, s.blocked_by - 1) == 1:
        recover_dead(s, False)


cdef inline void enter(Store *s, uint64_t r) noexcept nogil:
    # Joins through a row whose kernel lock is ours, whoever had it before.
    use_row(s, r)
    if load_acquire(&row_at(s, r).state):                                # [row]
        # What we reap now carries this row, and who finds us dead looks for live ones: its last owner may have died
        # before it was one.
        mark_live(s, r)
        recover_locked(s, r)
    join_row(s, r)
    recover_dead(s, False)
    reach_first_pins(s)
