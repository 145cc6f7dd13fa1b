# One process's attachment to one store file: joining, leaving, and the file's making. All
# attachments of the process, for the fork hooks.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint64_t

from refstore.engines.native.atomics cimport load_acquire
from refstore.engines.native.layout cimport Header, PAGE
from refstore.engines.native.geometry cimport Geometry, lay_out
from refstore.engines.native.system cimport (
    getpid, MADV_DONTFORK, madvise, MAP_FAILED, MAP_SHARED, mmap, munmap, PROT_READ,
)
from refstore.engines.native.view cimport row_at, View
from refstore.engines.native.origins cimport set_label
from refstore.engines.native.owners cimport delete_all_owned
from refstore.engines.native.recovery cimport leave
from refstore.engines.native.fork cimport keep_inherited, LOSS_GIL, OpenWriter
from refstore.engines.native.opening cimport (
    identify, is_creator_locked, join, look_after_reboot, missing_feature, new_file, read_header,
    was_never_used,
)

import os
import weakref
from refstore import _arguments, _identity

cdef extern from "Python.h":
    int Py_AtExit(void (*function)() noexcept nogil) noexcept

cdef object attachments = weakref.WeakValueDictionary()     # (device, inode) -> Attachment
cdef View *first_view = NULL                                # the same, for the fork hooks
cdef OpenWriter *first_writer = NULL
cdef uint64_t unseen_forks = 0                              # by threads that do not take the GIL


cdef void keep_for_unseen(View *v) noexcept nogil:
    cdef uint64_t forks = load_acquire(&unseen_forks)                    # [fork]
    if forks != v.forks_seen:
        v.forks_seen = forks
        if keep_inherited(v, first_writer):
            v.loss = LOSS_GIL


cdef class Attachment(Mapped):
    """This process's membership in one store; it ends with the last store object, buffer and writer
    that uses it."""

    cdef bint joined
    cdef Py_ssize_t stores      # of this process, that are open
    cdef object __weakref__

    def __dealloc__(self):
        global first_view
        cdef View **at = &first_view
        while at[0] != NULL and at[0] != &self.view:
            at = &at[0].next
        if at[0] != NULL:
            at[0] = self.view.next
        if self.joined and self.view.alive[0]:
            keep_for_unseen(&self.view)
            if not self.view.dirty:
                leave(&self.view)

    cdef void keep_for_unseen(self) noexcept:
        # a method, so that no compiler puts it in the way of those that see none
        keep_for_unseen(&self.view)

    cdef void close_store(self) noexcept:
        self.stores -= 1
        self.delete_unless_open()

    cdef inline void delete_unless_open(self) noexcept:
        # What this process owns goes with its last store object. What is sealed after that goes at
        # once.
        if self.stores == 0 and self.view.alive[0]:
            delete_all_owned(&self.view)

    cdef int take_part(self, str path, int fd, const Header *h, object found) except -1:
        global first_view
        cdef bytes command = _identity.command(), label = _identity.own_label()
        self.view.forks_seen = load_acquire(&unseen_forks)                  # [fork]
        self.note_file(path, h, found)
        # From the lock on our row to where the fork hooks know of us, the GIL is ours throughout: a
        # child that another thread forked in between would share our lock, and keep us alive when
        # we are dead.
        join(&self.view, fd, h, path)
        self.joined = True
        self.view.next = first_view
        first_view = &self.view
        identify(row_at(&self.view, self.view.row), command, label)
        look_after_reboot(&self.view, path)
        return 0

    def is_of(self, int fd):
        found = os.fstat(fd)
        return found.st_dev == self.view.dev and found.st_ino == self.view.ino


cdef void delete_owned_at_exit() noexcept nogil:
    # Of those attachments that nothing has ended. Python is gone by then.
    cdef View *v = first_view
    while v != NULL:
        if v.alive[0]:
            delete_all_owned(v)
        v = v.next


Py_AtExit(delete_owned_at_exit)


def label_all():
    """Tells the stores that this process has open what it calls itself."""
    cdef bytes label = _identity.own_label()
    cdef View *v = first_view
    while v != NULL:
        if v.alive[0]:
            set_label(v, PyBytes_AS_STRING(label), <size_t>len(label))
        v = v.next


_identity.on_label(label_all)


cdef inline void see_forks(Attachment att) noexcept:
    # In a process that has a row, before it lets go of a view or a Writer.
    if load_acquire(&unseen_forks) != att.view.forks_seen:                  # [fork]
        att.keep_for_unseen()


@cython.final
cdef class CreatorLock:
    """A CreatorLock, by a mapping; released with this object or its process."""

    # The lock's description is kept by a mapping alone: descriptors are the program's to close. No
    # child has it.
    cdef void *at
    cdef int creator

    def __dealloc__(self):
        self.give_back()

    cpdef give_back(self):
        if self.at != NULL and self.creator == getpid():
            munmap(self.at, PAGE)
        self.at = NULL

    cdef int keep(self, int fd) except -1:
        cdef void *at = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0)
        if at == MAP_FAILED:
            raise MemoryError("no memory to map the creator's lock of a temporary store")
        madvise(at, PAGE, MADV_DONTFORK)
        self.at = at
        self.creator = getpid()
        return 0


def file_nbytes(uint64_t capacity, uint64_t max_objects):
    cdef Geometry g
    lay_out(capacity, max_objects, &g)
    return g.file_size


def make_file(str path not None, uint64_t capacity, uint64_t max_objects, int mode, bint temporary,
              evict):
    cdef CreatorLock lock = CreatorLock() if temporary else None
    cdef int fd = new_file(path, capacity, max_objects, mode, temporary,
                           _arguments.POLICIES.index(evict))
    try:
        if lock is not None:
            lock.keep(fd)
    finally:
        os.close(fd)
    return lock


def is_creator_alive(int fd, str path not None):
    return is_creator_locked(fd)


def is_unused(int fd, str path not None):
    return was_never_used(fd)


def unsupported_reason(str folder not None):
    return missing_feature(folder)


def remove_orphans(str folder not None):
    return []


def attach(str path not None, bint foreign):
    """The attachment of this process to the store file at `path`, made if there is none."""
    cdef bytes head
    cdef Attachment att
    cdef int fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        att = attachments.get((found.st_dev, found.st_ino))
        if att is not None and att.view.alive[0]:
            return att
        head = read_header(fd, path, found, foreign)
        att = Attachment()
        att.take_part(path, fd, <Header*>PyBytes_AS_STRING(head), found)
        attachments[(found.st_dev, found.st_ino)] = att
        return att
    finally:
        os.close(fd)
