# The process table: a row for each process that is attached. The kernel's lock on byte `row` is the
# only permission to use, recover or reuse it: opening and forks take it, recovery takes that of a
# dead process. How a row comes back is in recovery.pxd; what a child's row gets before a fork is
# here.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from refstore.engines.native.debug cimport failpoint, IS_DEBUG
from refstore.engines.native.atomics cimport (
    assign, cas_seq_cst, fetch_add_seq_cst, fetch_or_seq_cst, load_acquire, load_relaxed_u32,
    load_seq_cst, store_release,
)
from refstore.engines.native.layout cimport (
    COUNT_EVICTIONS, KEPT, MAX_ROWS, Row, ROW_ATTACHED, SLOTS_PER_STEP,
)
from refstore.engines.native.system cimport lock_byte, now_ns
from refstore.engines.native.view cimport (
    counted, is_ready, pins_of, pins_ready_of, row_at, slots_used, View,
)
from refstore.engines.native.memory cimport commit_pins, ensure_pins_committed
from refstore.engines.native.ages cimport start_clock

cdef enum:
    STEPS_AT_ATTACH = 16            # 64 KiB of pins


cdef inline int64_t lock_row(View *v, int fd) noexcept nogil:
    # A row whose kernel lock is now held through `fd`: one that is free, else one whose process is
    # dead; -1: none.
    cdef uint64_t r
    cdef int want_free
    for want_free in range(1, -1, -1):
        for r in range(<uint64_t>MAX_ROWS):
            if want_free and load_acquire(&row_at(v, r).state):          # [row]
                continue
            if lock_byte(fd, r):
                failpoint()
                return <int64_t>r
    return -1


cdef inline void mark_live(View *v, uint64_t r) noexcept nogil:
    cdef:
        uint64_t words = r // 64 + 1
        uint64_t has = load_seq_cst(&v.header.live_words)                # [pin]
    while has < words and not cas_seq_cst(&v.header.live_words, &has, words):    # [pin] [row]
        pass
    # before the first pin, and seq_cst: a reaper that misses this bit has condemned before any pin
    # of ours
    fetch_or_seq_cst(&v.header.live[r >> 6], <uint64_t>1 << (r & 63))    # [pin] [row]


cdef inline void join_row(View *v, uint64_t r) noexcept nogil:
    # The row's kernel lock is ours and nothing of an earlier process is left in it.
    cdef Row *row = row_at(v, r)
    assign(row.pid, 0)          # the last owner's, which messages would name
    assign(row.recoverer, 0)
    assign(row.has_children, 0)
    assign(row.waiting, 0)
    assign(row.owns_any, 0)
    assign(row.origin, 0)
    memset(row.command, 0, sizeof(row.command))
    memset(row.label, 0, sizeof(row.label))
    failpoint()
    memset(row.waits_for, 0, sizeof(row.waits_for))
    failpoint()
    store_release(&row.state, ROW_ATTACHED)                              # [row]
    mark_live(v, r)


cdef inline void use_row(View *v, uint64_t r) noexcept nogil:
    cdef uint64_t step
    v.row = r
    v.row_bit = <uint64_t>1 << (r & 63)
    v.pins = pins_of(v, r)
    v.counters = row_at(v, r).counters
    for step in range(v.g.steps):
        v.pins_ready[step] = is_ready(pins_ready_of(v, r), step)
    memset(v.current, 0, sizeof(v.current))
    memset(v.recent, 0, sizeof(v.recent))
    v.has_looked_for_origin = False
    v.origin = 0
    v.turn_of = 0
    # a debug build draws the same each time, so that a test can come to a point again
    start_clock(v, r if IS_DEBUG else now_ns() ^ r << 48)
    v.kept = 0                  # this and what follows: a forked child has its parent's
    v.loss = 0
    v.has_warned = False
    memset(&v.recovered, 0, sizeof(v.recovered))
    v.told_dead = 0
    v.told_evictions = counted(v, COUNT_EVICTIONS)


cdef inline void ensure_first_pins_committed(View *v) noexcept nogil:
    # As far as there is memory now: a get of what is there already should not fail because it runs
    # out later.
    cdef uint64_t step
    for step in range(min((slots_used(v) + SLOTS_PER_STEP - 1) // SLOTS_PER_STEP,
                          <uint64_t>STEPS_AT_ATTACH)):
        if ensure_pins_committed(v, step * SLOTS_PER_STEP) != 0:
            return


cdef inline int copy_pins(View *v, uint64_t child) noexcept nogil:
    # Before a fork: the child's row pins all that ours does. Its marks come before its cells, and
    # ours hold meanwhile.
    cdef:
        uint64_t step, i
        uint32_t n
        uint64_t bit = <uint64_t>1 << (child & 63)
    for step in range(v.g.steps):
        if not v.pins_ready[step]:
            continue
        for i in range(step * SLOTS_PER_STEP, (step + 1) * SLOTS_PER_STEP):
            n = load_relaxed_u32(&v.pins[i]) & ~KEPT    # relaxed: ours, other threads are held off
            if n:
                if not is_ready(pins_ready_of(v, child), step):
                    if commit_pins(v, child, step) != 0:
                        return -1
                fetch_or_seq_cst(&v.slots[i].mask, bit)                  # [pin]
                # `moves` carries it, and our own pin holds
                assign(pins_of(v, child)[i], pins_of(v, child)[i] + n)
    fetch_add_seq_cst(&v.header.moves, 1)                                # [pin]
    return 0
