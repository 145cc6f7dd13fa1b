# Rows: how a process joins and leaves, and how what a dead one held comes back.
#
# The kernel's lock on byte `row` is the only permission to use, recover or reuse a row. Recovery only ever
# redoes: each of its steps may be cut short by another death and done again. The row is set free last.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from refstore._atomics cimport (
    assign, cas_seq_cst, fetch_add_relaxed, fetch_add_seq_cst, fetch_and_seq_cst, fetch_or_seq_cst,
    load_acquire, load_relaxed, load_relaxed_u32, load_seq_cst, store_relaxed, store_release,
    store_seq_cst_u32,
)
from refstore._debug cimport failpoint
from refstore._index cimport cell_naming, make_cell, settle
from refstore._layout cimport (
    block_nbytes, CLASSES, CONDEMNED, COUNT_RECOVERIES, COUNTERS, ERR_DEAD, ERR_HELD, ERR_RECOVERY,
    FREE, HELD, KEPT, MAX_ROWS, NAME_LOCKS, pins_in, PUBLISHING, RECLAIMING, RETIRED, Row,
    ROW_ATTACHED, ROW_FREE, ROW_LEFT, SEALED, Slot, SLOTS_PER_STEP, word_generation, word_row,
    word_state, WRITING,
)
from refstore._pages cimport HELD_AFTER_MS, rebuild, unlock
from refstore._slots cimport condemn, free_slot, reap_condemned, unclaim
from refstore._store cimport (
    bits_at, CameBack, class_bits_at, commit_pins, count, damage, file_of, hint_restore, is_ready,
    name_lock_at, next_live_row, PIDS_KEPT, pins_of, pins_ready_of, reach_pins, row_at,
    run_is_there, runs_used, slots_used, Store,
)
from refstore._sys cimport (
    byte_is_locked, close, getpid, lock_byte, now_ms, O_RDWR, reopen, sleep_us,
)


cdef enum:
    EAGER_STEPS = 16            # 64 KiB of pins


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


cdef inline uint64_t zero_pins(Store *s, uint64_t row, uint32_t remains) noexcept nogil:
    # How many there were. `remains`: the bits of a cell that are left.
    cdef:
        uint64_t step, i, n = 0
        uint32_t cell
        uint32_t *cells = pins_of(s, row)
    for step in range(s.g.steps):
        if is_ready(pins_ready_of(s, row), step):
            for i in range(step * SLOTS_PER_STEP, (step + 1) * SLOTS_PER_STEP):
                cell = load_relaxed_u32(&cells[i])  # relaxed: nobody adds to it any more
                if cell:
                    n += pins_in(cell)
                    store_seq_cst_u32(&cells[i], cell & remains)         # [pin] before the sweep's look at the word
    return n


cdef inline void release_locks(Store *s, uint64_t dead) noexcept nogil:
    cdef uint64_t k
    for k in range(<uint64_t>NAME_LOCKS):
        if load_acquire(&name_lock_at(s, k).lock) == dead + 1:
            unlock(&name_lock_at(s, k).lock)
            s.came_back.locks += 1


cdef inline void free_row(Store *s, uint64_t r) noexcept nogil:
    # The last steps of a row's life. Its pins are gone.
    cdef Row *row = row_at(s, r)
    cdef uint64_t n, k
    for k in range(<uint64_t>COUNTERS):
        n = load_relaxed(&row.counters[k])  # relaxed: statistics
        store_relaxed(&row.counters[k], 0)  # relaxed: statistics
        fetch_add_relaxed(&s.header.totals[k], n)  # relaxed: statistics
    fetch_and_seq_cst(&s.header.live[r >> 6], ~(<uint64_t>1 << (r & 63)))     # [pin]
    store_release(&row.state, ROW_FREE)                                  # [row]


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


cdef inline bint row_is_dead(Store *s, uint64_t r) noexcept nogil:
    return r >= MAX_ROWS or r != s.row and not byte_is_locked(file_of(s), r)


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


cdef inline int64_t lock_row(Store *s, int fd) noexcept nogil:
    # A row whose kernel lock is now held through `fd`: one that is free, else one whose process is dead; -1: none.
    cdef uint64_t r
    cdef int want_free
    for want_free in range(1, -1, -1):
        for r in range(<uint64_t>MAX_ROWS):
            if want_free and load_acquire(&row_at(s, r).state):          # [row]
                continue
            if lock_byte(fd, r):
                failpoint()
                return <int64_t>r
    return -1


cdef inline void mark_live(Store *s, uint64_t r) noexcept nogil:
    cdef:
        uint64_t words = r // 64 + 1
        uint64_t has = load_seq_cst(&s.header.live_words)
    while has < words and not cas_seq_cst(&s.header.live_words, &has, words):
        pass
    # before the first pin, and seq_cst: a reaper that misses this bit has condemned before any pin of ours
    fetch_or_seq_cst(&s.header.live[r >> 6], <uint64_t>1 << (r & 63))    # [pin] [row]


cdef inline void join_row(Store *s, uint64_t r) noexcept nogil:
    # The row's kernel lock is ours and nothing of an earlier process is left in it.
    cdef Row *row = row_at(s, r)
    assign(row.pid, 0)          # whoever had the row before is not to be blamed for what we do
    assign(row.recoverer, 0)
    assign(row.has_children, 0)
    memset(row.command, 0, sizeof(row.command))
    failpoint()
    store_release(&row.state, ROW_ATTACHED)                              # [row]
    mark_live(s, r)


cdef inline void use_row(Store *s, uint64_t r) noexcept nogil:
    cdef uint64_t step
    s.row = r
    s.row_bit = <uint64_t>1 << (r & 63)
    s.pins = pins_of(s, r)
    s.counters = row_at(s, r).counters
    for step in range(s.g.steps):
        s.pins_ready[step] = is_ready(pins_ready_of(s, r), step)
    memset(s.current, 0, sizeof(s.current))
    memset(s.recent, 0, sizeof(s.recent))
    s.kept = 0                  # this and what follows: a forked child has its parent's
    s.loss = 0
    s.has_warned = False
    memset(&s.came_back, 0, sizeof(s.came_back))


cdef inline void reach_first_pins(Store *s) noexcept nogil:
    # As far as there is memory now: a get of what is there already should not fail because it runs out later.
    cdef uint64_t step
    for step in range(min((slots_used(s) + SLOTS_PER_STEP - 1) // SLOTS_PER_STEP, <uint64_t>EAGER_STEPS)):
        if reach_pins(s, step * SLOTS_PER_STEP) != 0:
            return


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


cdef inline void leave(Store *s) noexcept nogil:
    # Nothing of ours is half made or in use. What we cut from is handed on first. If children need what we keep, our
    # row stays, and when the last of them is gone, too, it is a dead one.
    cdef int c
    zero_pins(s, s.row, KEPT)
    for c in range(CLASSES):
        if s.current[c]:
            hint_restore(class_bits_at(s, c), s.g.run_words, s.current[c] - 1)
    if s.kept:
        store_release(&row_at(s, s.row).state, ROW_LEFT)                 # [row]
    else:
        free_row(s, s.row)


cdef inline int copy_pins(Store *s, uint64_t child) noexcept nogil:
    # Before a fork: the child's row pins all that ours does. Its marks come before its cells, and ours hold meanwhile.
    cdef:
        uint64_t step, i
        uint32_t n
        uint64_t bit = <uint64_t>1 << (child & 63)
    for step in range(s.g.steps):
        if not s.pins_ready[step]:
            continue
        for i in range(step * SLOTS_PER_STEP, (step + 1) * SLOTS_PER_STEP):
            n = load_relaxed_u32(&s.pins[i]) & ~KEPT    # relaxed: ours, and the other threads are held off
            if n:
                if not is_ready(pins_ready_of(s, child), step):
                    if commit_pins(s, child, step) != 0:
                        return -1
                fetch_or_seq_cst(&s.slots[i].mask, bit)                  # [pin]
                assign(pins_of(s, child)[i], pins_of(s, child)[i] + n)  # `moves` carries it, and our own pin holds
    fetch_add_seq_cst(&s.header.moves, 1)                                # [pin]
    return 0
