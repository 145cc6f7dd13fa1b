# What happens around fork(), whoever calls it: the child gets a row and pins of its own before it
# exists, so the parent may release at once; the child then puts its own description under the same
# addresses, so the parent's row lives exactly as long as the parent. A child that no hook has seen
# finds its `alive` page wiped.
#
# A child for which there is no row, descriptor or memory has the parent's mapping and with it the
# parent's lock, so that the parent's row lives as long as both. What the child inherited is marked
# KEPT there: once a block and not once a fork, since nobody can tell when such a child ends, nor
# whether the fork came to be.
#
# The hooks take the GIL, so that no other thread pins or unpins until the fork is done. A thread of
# C code that has no Python thread state does not take it: whoever keeps the GIL may be waiting for
# the end of that thread. It only counts itself in `unseen_forks`. Whoever next releases a view or a
# Writer, with the GIL, sees the count first and marks all that is pinned by then. This is enough:
#
#   1. The child may use only what its thread could use before it called fork.
#   2. None of that was released before the call.
#   3. Who releases it after the call knows that the call has returned, hence sees the count.
#   4. Who releases it during the call, in no order with it, takes the view away from the thread in
#      the parent as well, which is that program's fault, fork or not.
#
# A thread that has a thread state must take the GIL anyway before it can end or return to Python:
# whoever keeps the GIL and waits for that waits for ever, with a fork or without. So for such a
# thread the hooks may take it.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    assign, fetch_or_seq_cst, load_acquire, load_relaxed_u32, store_relaxed_u32,
)
from refstore.engines.native.layout cimport KEPT, Row, SLOTS_PER_STEP
from refstore.engines.native.system cimport (
    close, getpid, high_descriptor, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_SHARED, mmap, O_RDWR,
    PROT_READ, PROT_WRITE, reopen, same_file,
)
from refstore.engines.native.view cimport file_of, pins_are_committed, pins_of, row_at, View
from refstore.engines.native.memory cimport commit_pins, ensure_pins_committed
from refstore.engines.native.process_table cimport copy_pins, join_row, lock_row, use_row
from refstore.engines.native.recovery cimport recover_locked
from refstore.engines.native.mapping cimport close_own

cdef struct OpenWriter:
    # What the hooks know of a Writer. A child inherits the writable view, so the block must not be
    # reused.
    OpenWriter *next
    View *view
    uint64_t slot
    bint *pinned                # in a child: its row pins the block, until its Writer gives it back
    bint is_inherited           # only the process that made it may end it, whatever row it has
    bint is_shared              # a child has it too: the block is not free when ours is done with
    bint is_kept                # for a child without a row, as soon as there is memory for a pin

cdef enum Loss:                 # why a child has no row
    LOSS_NONE
    LOSS_DESCRIPTOR
    LOSS_ROW
    LOSS_MEMORY
    LOSS_GIL


cdef inline int pin_open_writers(OpenWriter *writer, View *v, uint64_t child) noexcept nogil:
    while writer != NULL:
        if writer.view == v and not writer.pinned[0]:  # else our own pin is copied with the others
            if commit_pins(v, child, writer.slot // SLOTS_PER_STEP) != 0:
                return -1
            fetch_or_seq_cst(&v.slots[writer.slot].mask, <uint64_t>1 << (child & 63))        # [pin]
            assign(pins_of(v, child)[writer.slot], pins_of(v, child)[writer.slot] + 1)
        writer = writer.next
    return 0


cdef inline void end_fork_of_writers(OpenWriter *writer, bint in_child) noexcept nogil:
    while writer != NULL:
        if in_child:
            writer.pinned[0] = True
            writer.is_inherited = True
        else:
            writer.is_shared = True
        writer = writer.next


cdef inline void copy_command(View *v, uint64_t row) noexcept nogil:
    cdef Row *mine = row_at(v, v.row)
    memcpy(row_at(v, row).command, mine.command, sizeof(mine.command))  # its pid is not known yet
    memcpy(row_at(v, row).label, mine.label, sizeof(mine.label))
    failpoint()


cdef inline bint keep_pin(View *v, uint64_t i) noexcept nogil:
    # Of a slot that we pin or write, so that nobody reaps it meanwhile; whether it was not kept
    # before.
    cdef uint32_t cell = load_relaxed_u32(&v.pins[i])   # relaxed: ours, other threads are held off
    if cell & KEPT:
        return False
    store_relaxed_u32(&v.pins[i], cell | KEPT)          # relaxed: before the mark, which is seq_cst
    fetch_or_seq_cst(&v.slots[i].mask, v.row_bit)                        # [pin]
    v.kept += 1
    return True


cdef inline uint64_t keep_inherited(View *v, OpenWriter *writers) noexcept nogil:
    # For a child without a row; how many blocks were not kept before.
    cdef uint64_t step, i, n = 0
    assign(row_at(v, v.row).has_children, 1)
    for step in range(v.g.steps):
        if v.pins_ready[step]:
            for i in range(step * SLOTS_PER_STEP, (step + 1) * SLOTS_PER_STEP):
                if load_relaxed_u32(&v.pins[i]):        # relaxed: as above
                    n += keep_pin(v, i)
    while writers != NULL:
        if writers.view == v and not writers.is_kept:
            writers.is_shared = writers.is_kept = True
            if pins_are_committed(v, writers.slot) or ensure_pins_committed(v, writers.slot) == 0:
                n += keep_pin(v, writers.slot)      # else it is ours until the Writer ends
        writers = writers.next
    return n


cdef inline int prepare_child(View *v, OpenWriter *writers) noexcept nogil:
    # 0 if the child will have a row, or why not
    cdef int fd, loss = LOSS_ROW
    cdef int64_t row
    v.child_fd = -1
    fd = reopen(file_of(v), O_RDWR)
    if fd < 0:
        return LOSS_DESCRIPTOR
    fd = high_descriptor(fd)
    row = lock_row(v, fd)
    if row >= 0:
        if load_acquire(&row_at(v, <uint64_t>row).state):                # [row]
            recover_locked(v, <uint64_t>row)
        join_row(v, <uint64_t>row)
        copy_command(v, <uint64_t>row)
        if pin_open_writers(writers, v, <uint64_t>row) == 0 and copy_pins(v, <uint64_t>row) == 0:
            v.child_row = <uint64_t>row
            v.child_fd = fd
            return 0
        loss = LOSS_MEMORY
    close(fd)                   # a row taken half way is simply dead
    return loss


cdef inline void end_fork_in_parent(View *v) noexcept nogil:
    if v.child_fd >= 0:
        close(v.child_fd)
        v.child_fd = -1


cdef inline void close_lent(View *v, int fd) noexcept nogil:
    if fd >= 0 and same_file(fd, v.dev, v.ino):
        close(fd)


cdef inline void end_unseen_fork_in_child(View *v) noexcept nogil:
    # Another thread may have been in the middle of a fork or a recovery: the locks that it has for
    # a moment are not to last as long as we do.
    close_lent(v, v.child_fd)
    close_lent(v, v.recovery_fd)
    v.child_fd = v.recovery_fd = -1


cdef inline bint remap(View *v, char *at, int prot) noexcept nogil:
    cdef int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED
    return mmap(at, v.g.file_size, prot, flags, v.child_fd, 0) != MAP_FAILED


cdef inline void end_fork_in_child(View *v) noexcept nogil:
    # `alive` was wiped by the fork: it is set again only when everything is our own
    if v.child_fd < 0:
        return
    if not remap(v, v.base, PROT_READ | PROT_WRITE) or not remap(v, v.ro_base, PROT_READ):
        return
    close_own(v)
    v.fd = v.child_fd
    v.child_fd = -1
    use_row(v, v.child_row)
    v.life += 1
    assign(row_at(v, v.row).pid, <unsigned int>getpid())
    v.alive[0] = 1
