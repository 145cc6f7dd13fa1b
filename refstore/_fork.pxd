# What happens around fork(), whoever calls it: the child gets a row and pins of its own before it exists, so the
# parent may release at once; the child then puts its own description under the same addresses, so the parent's
# row lives exactly as long as the parent. A child that no hook has seen finds its `alive` page wiped.

from libc.string cimport memcpy
from libc.stdint cimport int64_t, uint64_t

from refstore._debug cimport failpoint
from refstore._atomics cimport assign, fetch_or_seq_cst, load_acquire
from refstore._file cimport close_own
from refstore._layout cimport Row, SLOTS_PER_STEP
from refstore._rows cimport copy_pins, join_row, lock_row, recover_locked, use_row
from refstore._store cimport commit_pins, file_of, pins_of, row_at, Store
from refstore._sys cimport (
    close, getpid, high_descriptor, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_SHARED, mmap, O_RDWR,
    PROT_READ, PROT_WRITE, reopen,
)

cdef struct OpenWriter:
    # What the hooks know of a Writer: who inherits it can write into whatever comes to lie there next.
    OpenWriter *next
    Store *s
    uint64_t slot
    bint *pinned                # in a child: its row pins the block, and its copy of the Writer gives that back
    bint is_inherited           # only the process that made it may end it, whatever row it has
    bint is_shared              # a child has it too: the block is not free when ours is done with


cdef inline int pin_open_writers(OpenWriter *writer, Store *s, uint64_t child) noexcept nogil:
    while writer != NULL:
        if writer.s == s and not writer.pinned[0]:      # else our own pin is copied with the others
            if commit_pins(s, child, writer.slot // SLOTS_PER_STEP) != 0:
                return -1
            fetch_or_seq_cst(&s.slots[writer.slot].mask, <uint64_t>1 << (child & 63))        # [pin]
            assign(pins_of(s, child)[writer.slot], pins_of(s, child)[writer.slot] + 1)
        writer = writer.next
    return 0


cdef inline void settle_writers(OpenWriter *writer, bint in_child) noexcept nogil:
    while writer != NULL:
        if in_child:
            writer.pinned[0] = True
            writer.is_inherited = True
        else:
            writer.is_shared = True
        writer = writer.next


cdef inline void copy_command(Store *s, uint64_t row) noexcept nogil:
    cdef Row *mine = row_at(s, s.row)
    memcpy(row_at(s, row).command, mine.command, sizeof(mine.command))     # its pid is not known yet
    failpoint()


cdef inline void prepare_child(Store *s, OpenWriter *writers) noexcept nogil:
    cdef int fd
    cdef int64_t row
    s.child_fd = -1
    if s.alive[0] == 0:
        return                  # we are such a child ourselves
    fd = reopen(file_of(s), O_RDWR)
    if fd < 0:
        return
    fd = high_descriptor(fd)
    row = lock_row(s, fd)
    if row >= 0:
        if load_acquire(&row_at(s, <uint64_t>row).state):                # [row]
            recover_locked(s, <uint64_t>row)
        join_row(s, <uint64_t>row)
        copy_command(s, <uint64_t>row)
        if pin_open_writers(writers, s, <uint64_t>row) == 0 and copy_pins(s, <uint64_t>row) == 0:
            s.child_row = <uint64_t>row
            s.child_fd = fd
            return
    close(fd)                   # the child will be without; a row taken half way is simply dead


cdef inline void settle_parent(Store *s) noexcept nogil:
    if s.child_fd >= 0:
        close(s.child_fd)
        s.child_fd = -1


cdef inline bint remap(Store *s, char *at, int prot) noexcept nogil:
    return mmap(at, s.g.file_size, prot, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, s.child_fd, 0) != MAP_FAILED


cdef inline void settle_child(Store *s) noexcept nogil:
    # `alive` was wiped by the fork: it is set again only when everything is our own
    if s.child_fd < 0:
        return
    if not remap(s, s.base, PROT_READ | PROT_WRITE) or not remap(s, s.view, PROT_READ):
        return
    close_own(s)
    s.fd = s.child_fd
    s.child_fd = -1
    use_row(s, s.child_row)
    assign(row_at(s, s.row).pid, <unsigned int>getpid())
    s.alive[0] = 1
