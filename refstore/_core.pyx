"""The compiled core, and its Python face: one mapped file, many processes.

Its parts, lowest first; each cimports only what stands above it:

    _debug.pxd    failpoints (nothing in a release)
    _atomics.pxd  loads, stores, CAS: one name per order
    _layout.pxd   the file: constants, structs, offsets
    _sys.pxd      byte locks, committed memory, mappings
    _store.pxd    one process's view of the file; hint bitmaps; commitment
    _slots.pxd    pins and the life of a slot
    _commit.pxd   memory for the data
    _bins.pxd     free runs of pages
    _pages.pxd    whole pages, under the space lock
    _runs.pxd     bare slots; runs dissolved
    _alloc.pxd    room for an object
    _index.pxd    names
    _rows.pxd     joining, leaving, recovery
    _trim.pxd     memory back to the system
    _file.pxd     making and mapping the file
    _fork.pxd     what fork does to an attachment

and, with the GIL:

    _stats.pxd    counts
    _checks.pxd   whether all adds up
    _holders.pxd  who holds what
    _points.pxd   where Python may run amid an operation
    _wait.pxd     who is in the way
    _errors.pxd   exceptions
    _convert.pxd  blocks as numpy arrays
    _open.pxd     opening a store
    _put.pxd      from an object to a sealed slot

All that is private to a process in a Store struct is guarded by the GIL, which is given up only to copy, to wait, and
to have memory committed.
"""

cimport cython
cimport numpy as cnp
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Fetch, PyErr_Restore
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from refstore._atomics cimport (
    assign, fetch_add_seq_cst, fetch_add_seq_cst_u32, load_acquire, load_relaxed, store_relaxed_u32,
    store_release,
)
from refstore._checks cimport find_problems
from refstore._convert cimport (
    kind_of, NPY_ARRAY_WRITEABLE, private_copy, PyArray_CLEARFLAGS, read_shape, Shape, view_of,
)
from refstore._debug cimport (
    arm_failpoint, count_passes, IS_DEBUG, set_patience, site_at, site_count,
)
from refstore._errors cimport blocked, census_of, full, get_error
from refstore._file cimport unmap_store
from refstore._fork cimport (
    keep_inherited, keep_pin, LOSS_DESCRIPTOR, LOSS_GIL, LOSS_MEMORY, OpenWriter, prepare_child,
    settle_child, settle_parent, settle_unseen_child, settle_writers,
)
from refstore._holders cimport all_holders, as_holder, holders_of, person
from refstore._index cimport Found, remove, remove_named, seal
from refstore._layout cimport (
    check_layout, COUNT_DELETES, COUNT_GETS, COUNTERS, ERR_FULL, ERR_NO_MEMORY, ERR_NOT_FOUND, FREE,
    Geometry, Header, KIND_ARRAY, KIND_BYTES, KIND_OBJECT, lay_out, make_word, MAX_ROWS,
    OBJECTS_LIMIT as MOST_OBJECTS, PAGE, Slot, word_generation, word_state,
)
from refstore._open cimport (
    creator_lives, identify, join, look_after_reboot, new_file, nobody_came, obstacle, own_command,
    read_header,
)
from refstore._points cimport look_for_signals, python_ran, set_visitor
from refstore._put cimport (
    block_of, copy_in, demand_free_name, discard, Draft, find_named, find_room, finish, Name, new_draft,
    put_array, put_buffer, put_bytes, read_name, start, start_array,
)
from refstore._rows cimport leave, look_at_blocker, recover_dead
from refstore._slots cimport abandon, free_slot, is_readable, pin, pin_own, unpin
from refstore._stats cimport (
    Census, count_all, count_pins, count_processes, next_live, slot_name,
    take_came_back,
)
from refstore._store cimport (
    count, is_plausible, pins_are_near, reach_pins, row_at, slots_used, Store,
)
from refstore._sys cimport (
    getpid, madvise, MADV_DONTFORK, MAP_FAILED, MAP_SHARED, mmap, munmap, PROT_READ,
)
from refstore._trim cimport trim_free
from refstore._wait cimport overcome

import operator
import os
import time
import weakref

import numpy as np

from refstore import blocks, children, messages
from refstore.arrays import measure
from refstore.errors import RefstoreError
from refstore.payload import decode, encode, fill

cdef extern from "Python.h":
    ctypedef struct PyBufferProcs:
        void *bf_releasebuffer
    ctypedef struct PyTypeObject:
        PyBufferProcs *tp_as_buffer
        unsigned long tp_flags
    unsigned long Py_TPFLAGS_BASETYPE
    ctypedef enum PyGILState_STATE:
        PyGILState_LOCKED
        PyGILState_UNLOCKED
    PyGILState_STATE PyGILState_Ensure() noexcept nogil
    PyThreadState *PyGILState_GetThisThreadState() noexcept nogil
    void PyGILState_Release(PyGILState_STATE state) noexcept nogil
    bint Py_IsInitialized() noexcept nogil
    ctypedef struct PyInterpreterState:
        pass
    ctypedef struct PyThreadState:
        pass
    PyInterpreterState *PyInterpreterState_Get() noexcept nogil
    PyThreadState *PyInterpreterState_ThreadHead(PyInterpreterState *interpreter) noexcept nogil
    PyThreadState *PyThreadState_Next(PyThreadState *thread) noexcept nogil
    int Py_AddPendingCall(int (*func)(void *) noexcept, void *arg) noexcept nogil

cdef extern from "<pthread.h>":
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil) noexcept nogil

cnp.import_array()
check_layout()

BACKEND = "native"
DEBUG = bool(IS_DEBUG)
OBJECTS_LIMIT = MOST_OBJECTS

cdef tuple KINDS = ("bytes", "array", "object")


# Attachments: one per file and process, shared by its Store objects, buffers and writers.

cdef object attachments = weakref.WeakValueDictionary()     # (device, inode) -> Attachment
cdef Store *first_store = NULL                              # the same, for the fork hooks
cdef PyGILState_STATE held_over_fork
cdef bint gil_held_over_fork = False
cdef bint alone_over_fork = False                           # no other thread of Python's
cdef OpenWriter *first_writer = NULL
cdef uint64_t unseen_forks = 0                              # by threads that do not take the GIL


cdef inline bint is_stranger() noexcept nogil:
    # whether this is a thread of C code, which has no thread state to take the GIL with
    return Py_IsInitialized() and PyGILState_GetThisThreadState() == NULL


cdef void keep_for_unseen(Store *s) noexcept nogil:
    cdef uint64_t forks = load_acquire(&unseen_forks)                    # [fork]
    if forks != s.forks_seen:
        s.forks_seen = forks
        if keep_inherited(s, first_writer):
            s.loss = LOSS_GIL


cdef void before_fork() noexcept nogil:
    # With the GIL, no other thread of ours pins or unpins until the fork is done; see _fork.pxd.
    global held_over_fork, gil_held_over_fork, alone_over_fork
    cdef Store *s
    if is_stranger():
        fetch_add_seq_cst(&unseen_forks, 1)                              # [fork]
        return
    gil_held_over_fork = first_store != NULL and Py_IsInitialized()
    if gil_held_over_fork:
        held_over_fork = PyGILState_Ensure()
        alone_over_fork = PyThreadState_Next(PyInterpreterState_ThreadHead(PyInterpreterState_Get())) == NULL
    s = first_store
    while s != NULL:
        if s.alive[0]:          # else we have no place ourselves
            keep_for_unseen(s)
            give_place(s)
        s = s.next


cdef inline void give_place(Store *s) noexcept nogil:
    cdef int loss = prepare_child(s, first_writer)
    if loss:
        s.loss = loss
        keep_inherited(s, first_writer)


cdef void after_fork_in_parent() noexcept nogil:
    cdef Store *s = first_store
    cdef bint is_to_warn = is_stranger()
    if not is_to_warn:
        while s != NULL:
            settle_parent(s)
            is_to_warn = is_to_warn or s.loss and not s.has_warned
            s = s.next
        settle_writers(first_writer, False)
    if is_to_warn and Py_IsInitialized():
        # amid a fork no Python can run; the main thread says it when it gets to it
        Py_AddPendingCall(warn_of_children, NULL)
    if is_stranger():
        return
    if gil_held_over_fork:
        PyGILState_Release(held_over_fork)


cdef void after_fork_in_child() noexcept nogil:
    cdef Store *s = first_store
    cdef bint is_unseen = is_stranger()
    while s != NULL:
        if is_unseen:
            settle_unseen_child(s)
        else:
            settle_child(s)
            s.forks_seen = unseen_forks
        s = s.next
    if is_unseen:
        return
    settle_writers(first_writer, True)
    # A thread that C code forked from, without the GIL, keeps it in the child if there were others: giving it up
    # takes locks that another one may have held at the fork.
    if gil_held_over_fork and (held_over_fork == PyGILState_LOCKED or alone_over_fork):
        PyGILState_Release(held_over_fork)


pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child)


cdef int warn_of_children(void *_) noexcept:
    cdef Attachment att
    for att in list(attachments.values()):
        if att.s.alive[0]:
            keep_for_unseen(&att.s)
        if att.s.loss and not att.s.has_warned:
            att.s.has_warned = True
            children.warn(att.path, why_lost(att.s.loss))
    return 0


cdef str why_lost(int loss):
    if loss == LOSS_DESCRIPTOR:
        return children.NO_DESCRIPTOR
    if loss == LOSS_MEMORY:
        return children.NO_MEMORY
    return children.NO_GIL if loss == LOSS_GIL else children.no_row(MAX_ROWS)


cdef class Attachment:
    """This process's membership in one store; it ends with the last store object, buffer and writer that uses it."""

    cdef Store s
    cdef readonly str path
    cdef readonly bytes uuid
    cdef bytes encoded_path
    cdef bint joined
    cdef object __weakref__

    def __cinit__(self):
        self.s.fd = -1

    def __dealloc__(self):
        global first_store
        cdef Store **at = &first_store
        while at[0] != NULL and at[0] != &self.s:
            at = &at[0].next
        if at[0] != NULL:
            at[0] = self.s.next
        if self.joined and self.s.alive[0]:
            keep_for_unseen(&self.s)
            if not self.s.dirty:
                leave(&self.s)
        unmap_store(&self.s)

    cdef void keep_for_unseen(self) noexcept:
        # a method, so that no compiler puts it in the way of those that see none
        keep_for_unseen(&self.s)

    cdef int take_part(self, str path, int fd, const Header *h, object found) except -1:
        global first_store
        cdef bytes command = own_command()
        self.s.forks_seen = load_acquire(&unseen_forks)                  # [fork]
        self.path = path
        self.encoded_path = os.fsencode(path)
        self.uuid = PyBytes_FromStringAndSize(<const char*>h.uuid, 16)
        self.s.path = PyBytes_AS_STRING(self.encoded_path)
        self.s.dev, self.s.ino = found.st_dev, found.st_ino
        # From the lock on our row to where the fork hooks know of us, the GIL is ours throughout: a child that
        # another thread forked in between would share our lock, and keep us alive when we are dead.
        join(&self.s, fd, h, path)
        self.joined = True
        self.s.next = first_store
        first_store = &self.s
        identify(row_at(&self.s, self.s.row), command)
        look_after_reboot(&self.s, path)
        return 0

    @property
    def capacity(self):
        return self.s.header.capacity

    @property
    def max_objects(self):
        return self.s.header.max_objects

    def is_of(self, int fd):
        """Whether `fd` is open on the very file that this is attached to."""
        found = os.fstat(fd)
        return found.st_dev == self.s.dev and found.st_ino == self.s.ino


cdef inline void see_forks(Attachment att) noexcept:
    # In a process that has a row, before it lets go of a view or a Writer.
    if load_acquire(&unseen_forks) != att.s.forks_seen:                  # [fork]
        att.keep_for_unseen()


@cython.final
cdef class Claim:
    """That the creator of a temporary store lives: the lock ends with this, or with its process."""

    # The lock's description is kept by a mapping alone: descriptors are the program's to close. No child has it.
    cdef void *at
    cdef int creator

    def __dealloc__(self):
        self.give_back()

    cpdef give_back(self):
        """The creator is none any more."""
        if self.at != NULL and self.creator == getpid():
            munmap(self.at, PAGE)
        self.at = NULL

    cdef int keep(self, int fd) except -1:
        cdef void *at = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0)
        if at == MAP_FAILED:
            raise MemoryError("no memory to map the claim on a temporary store")
        madvise(at, PAGE, MADV_DONTFORK)
        self.at = at
        self.creator = getpid()
        return 0


def file_nbytes(uint64_t capacity, uint64_t max_objects):
    """Apparent size of the file of such a store."""
    cdef Geometry g
    lay_out(capacity, max_objects, &g)
    return g.file_size


def make_file(str path not None, uint64_t capacity, uint64_t max_objects, int mode, bint temporary):
    """Makes a complete store file and gives it its name; FileExistsError if the name is taken.

    Returns the claim on a temporary store.
    """
    cdef Claim claim = Claim() if temporary else None
    cdef int fd = new_file(path, capacity, max_objects, mode, temporary)
    try:
        if claim is not None:
            claim.keep(fd)
    finally:
        os.close(fd)
    return claim


def is_creator_alive(int fd, str path not None):
    """Whether the creator of the temporary store behind `fd` lives; None if it is no temporary store of ours."""
    return creator_lives(fd)


def is_unused(int fd, str path not None):
    """Whether nobody is attached to the store behind `fd`, and nothing was ever put there."""
    return nobody_came(fd)


def why_not(str folder not None):
    """What keeps stores of this engine out of a folder, for a sentence; None if nothing does."""
    return obstacle(folder)


def attach(str path not None, bint foreign):
    """The attachment of this process to the store file at `path`, made if there is none."""
    cdef bytes head
    cdef Attachment att
    cdef int fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        att = attachments.get((found.st_dev, found.st_ino))
        if att is not None and att.s.alive[0]:
            return att
        head = read_header(fd, path, found, foreign)
        att = Attachment()
        att.take_part(path, fd, <Header*>PyBytes_AS_STRING(head), found)
        attachments[(found.st_dev, found.st_ino)] = att
        return att
    finally:
        os.close(fd)


# References

@cython.final
@cython.freelist(64)
cdef class ObjectRef:
    """The address of one object, in 16 bytes: slot 32, generation 48, store tag 48 bits. Immutable, picklable."""

    cdef uint64_t slot
    cdef uint64_t generation
    cdef uint64_t tag
    cdef object __weakref__

    def __cinit__(self, bytes raw=None):
        cdef const uint8_t *b
        if raw is None:         # by make_ref; everybody else comes through __init__
            return
        if PyBytes_GET_SIZE(raw) != 16:
            raise ValueError(f"an ObjectRef has 16 bytes, not {len(raw)}")
        b = <const uint8_t*>PyBytes_AS_STRING(raw)
        memcpy(&self.slot, b, 4)
        memcpy(&self.generation, b + 4, 6)
        memcpy(&self.tag, b + 10, 6)

    def __init__(self, bytes raw not None):
        pass

    @staticmethod
    def from_hex(str text not None):
        return ObjectRef(bytes.fromhex(text))

    def __bytes__(self):
        cdef uint8_t[16] b
        memcpy(b, &self.slot, 4)
        memcpy(b + 4, &self.generation, 6)
        memcpy(b + 10, &self.tag, 6)
        return PyBytes_FromStringAndSize(<char*>b, 16)

    def hex(self):
        return self.__bytes__().hex()

    def __eq__(self, other):
        if type(other) is not ObjectRef:
            return NotImplemented
        return (self.slot == (<ObjectRef>other).slot and self.generation == (<ObjectRef>other).generation
                and self.tag == (<ObjectRef>other).tag)

    def __hash__(self):
        return hash((self.slot, self.generation, self.tag))

    def __repr__(self):
        return f"ObjectRef.from_hex('{self.hex()}')"

    def __reduce__(self):
        return ObjectRef, (self.__bytes__(),)


cdef inline ObjectRef make_ref(uint64_t tag, uint64_t slot, uint64_t generation):
    cdef ObjectRef ref = <ObjectRef>ObjectRef.__new__(ObjectRef)
    ref.slot = slot
    ref.generation = generation
    ref.tag = tag
    return ref


# Blocks: what is handed out

@cython.no_gc
@cython.freelist(64)
cdef class Block:
    # A pinned or half-written block. It is given back when it is closed and no view of it lives.
    cdef Attachment att         # None once it is given back, so that a closed buffer keeps no store mapped
    cdef uint64_t tag
    cdef uint64_t slot
    cdef uint64_t generation
    cdef char *data
    cdef Py_ssize_t nbytes
    cdef Py_ssize_t exports
    cdef void *private_at       # a copy of our own, or a copy-on-write mapping of private_nbytes
    cdef size_t private_nbytes
    cdef bint pinned
    cdef bint is_closed
    cdef bint is_writable
    cdef bint is_kept           # somebody may keep this very object, and read after they let go of their view
    cdef object __weakref__

    cdef inline void let_go(self) noexcept:
        # No Python runs here: a weak reference would still find what is being collected.
        if self.pinned:
            self.pinned = False
            if self.att.s.alive[0]:
                see_forks(self.att)
                self.att.s.blocked_by = 0
                unpin(&self.att.s, self.slot)
                look_at_blocker(&self.att.s)
        if self.private_at != NULL:
            if self.private_nbytes:
                munmap(self.private_at, self.private_nbytes)
            else:
                free(self.private_at)
            self.private_at = NULL

    cdef inline void drop(self) noexcept:
        self.let_go()
        self.att = None

    cdef inline str noun(self):
        return "Writer" if isinstance(self, Writer) else "PinnedBuffer"

    cdef inline int demand_open(self) except -1:
        # in a child without a place in the store it is not: new views of what is kept would look like any others
        if self.is_closed or self.att.s.alive[0] == 0:
            raise self.refusal()
        return 0

    cdef object refusal(self):
        if self.is_closed:
            return ValueError(f"this {self.noun()} is closed")
        return RefstoreError(messages.forked(self.att.path))

    cdef cnp.ndarray as_array(self):
        cdef:
            # first: reading the shape may run Python, and another thread close us meanwhile
            Export export = self.new_export()
            Shape shape
            bint strided
            cnp.dtype dtype = read_shape(&self.att.s, self.slot, self.nbytes, &shape, &strided)
        return view_of(dtype, &shape, strided, self.data, NPY_ARRAY_WRITEABLE if self.is_writable else 0, export)

    cdef inline Export new_export(self):
        cdef Export export = Export.__new__(Export)
        export.block = self
        self.exports += 1
        return export

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.export(buffer, flags)

    cdef int export(self, Py_buffer *buffer, int flags) except -1:
        self.demand_open()
        if flags & PyBUF_WRITABLE and not flags & PyBUF_FORMAT:
            # numpy.ndarray(buffer=) and torch.frombuffer() begin so; they keep the object, and not the view
            self.is_kept = True
        if not is_typed(flags) or kind_of(&self.att.s, self.slot) != KIND_ARRAY:
            # an Export as the owner: who keeps only `memoryview.obj` keeps the block
            return PyBuffer_FillInfo(buffer, self.new_export(), self.data, self.nbytes, not self.is_writable, flags)
        # numpy knows how to export an array, and keeps it, hence our block, as long as the view
        array = self.as_array()
        if flags & PyBUF_FORMAT and array.dtype.num == cnp.NPY_VOID and array.dtype.names is None:
            raise messages.no_format(array.dtype)
        return export_as(array, buffer, flags)

    cdef inline void give_back_export(self) noexcept:
        self.exports -= 1
        if self.is_closed:
            self.drop_unless_used()

    cdef inline void drop_unless_used(self) noexcept:
        if self.exports == 0 and not self.is_kept:
            self.drop()

    def __len__(self):
        self.demand_open()
        return self.nbytes

    def __bytes__(self):
        self.demand_open()
        return PyBytes_FromStringAndSize(self.data, self.nbytes)

    @property
    def nbytes(self):
        return self.nbytes

    @property
    def closed(self):
        return self.is_closed

    def __reduce__(self):
        raise messages.no_pickle(self.noun())


cdef int export_as(object other, Py_buffer *buffer, int flags) except -1:
    try:
        PyObject_GetBuffer(other, buffer, flags)
    except ValueError as error:     # numpy's way to say that there is no such view
        raise messages.no_such_view(error) from error
    if not flags & PyBUF_ND:
        buffer.ndim = 1             # plain bytes, of which numpy says 0
    return 0


cdef inline bint is_typed(int flags) noexcept:
    # whether a request takes an array's shape, and not only its bytes
    return flags & PyBUF_STRIDES == PyBUF_STRIDES or flags & (PyBUF_FORMAT | PyBUF_ND) == PyBUF_FORMAT | PyBUF_ND


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Export:
    # the base of an ndarray over a block: keeps the block as long as the array, or a view of it, lives
    cdef Block block

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # numpy asks here whether the flag `writeable` of such an array may be set
        cdef Block block = self.block
        PyBuffer_FillInfo(buffer, self, block.data, block.nbytes, not block.is_writable, flags)

    def __dealloc__(self):
        if self.block is not None:
            self.block.give_back_export()


@cython.no_gc
cdef class PinnedBuffer(Block):
    """An object that is pinned where it lies: a context manager and a read-only buffer.

    The pin goes when it is closed (`with` ends, `release()`, collection) and the last view taken from it is gone.
    """

    def __init__(self):
        raise TypeError("Store.get() makes PinnedBuffers")

    def __releasebuffer__(self, Py_buffer *buffer):
        # never called, since views belong to Exports; numpy.frombuffer() keeps a view only of types that have this
        pass

    def __dealloc__(self):
        self.let_go()

    def __enter__(self):
        self.demand_open()
        return self

    def __exit__(self, kind, value, trace):
        if not self.is_closed:
            self.is_closed = True
            self.drop_unless_used()

    def release(self):
        """Closes the buffer. Views taken from it stay valid, and keep the pin."""
        self.__exit__(None, None, None)

    @property
    def kind(self):
        """How the object was put: "bytes", "array" or "object"."""
        self.demand_open()
        return self.kind_seen()

    cdef str kind_seen(self):
        return KINDS[kind_of(&self.att.s, self.slot)]

    @property
    def ref(self):
        """The object's ObjectRef."""
        return make_ref(self.tag, self.slot, self.generation)

    @property
    def array(self):
        """The array that was put, as a view without a copy; bytes as uint8. TypeError for any other object."""
        return self.demand_array()

    cdef cnp.ndarray demand_array(self):
        self.demand_open()
        if kind_of(&self.att.s, self.slot) == KIND_OBJECT:
            raise messages.no_array()
        return self.as_array()

    @property
    def value(self):
        """The object that was put; its buffers lie where they are, bytes come back as a memoryview."""
        self.demand_open()
        cdef int kind = kind_of(&self.att.s, self.slot)
        if kind == KIND_ARRAY:
            return self.as_array()
        if kind == KIND_BYTES:
            return PyMemoryView_FromObject(self)
        return decode(PyMemoryView_FromObject(self), self.private_view)

    def private_view(self):
        """A writable copy-on-write memoryview of the payload, with a pin of its own."""
        self.demand_open()
        if self.is_writable:
            return PyMemoryView_FromObject(self)
        cdef PinnedBuffer other = PinnedBuffer.__new__(PinnedBuffer)
        fetch_add_seq_cst_u32(&self.att.s.pins[self.slot], 1)   # valid at once: ours holds meanwhile
        take_over(other, self.att, self.slot, self.generation)
        other.go_private()
        return PyMemoryView_FromObject(other)

    cdef int go_private(self) except -1:
        self.data = private_copy(&self.att.s, self.slot, self.data, self.nbytes, &self.private_at, &self.private_nbytes)
        self.is_writable = True
        return 0

    def __array__(self, dtype=None, copy=None):
        array = self.demand_array()
        if copy is None and dtype is None:
            return array
        return np.array(array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options):
        array = self.demand_array()
        try:
            return array.__dlpack__(**options)
        except BufferError as error:
            if cnp.PyArray_ISWRITEABLE(array):
                raise
            raise messages.no_dlpack(error) from error

    def __dlpack_device__(self):
        return (1, 0)           # kDLCPU

    def __repr__(self):
        if self.is_closed:
            return "<PinnedBuffer, closed>"
        return f"<PinnedBuffer of {self.nbytes} bytes, {self.kind_seen()}, {self.ref!r}>"


@cython.final
@cython.no_gc
cdef class DirectBuffer(PinnedBuffer):
    """A PinnedBuffer of an array that is not in C order, or whose dtype has no format.

    numpy.frombuffer() finds no plain bytes in a view of it. So it is to ask the buffer for them, and to keep that:
    this type has nothing to release.
    """

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.export(buffer, flags)      # for a table of buffer functions of its own


(<PyTypeObject*>DirectBuffer).tp_as_buffer.bf_releasebuffer = NULL
(<PyTypeObject*>PinnedBuffer).tp_flags &= ~Py_TPFLAGS_BASETYPE      # there are no more kinds of it


cdef inline Slot *take_over(PinnedBuffer buf, Attachment att, uint64_t i, uint64_t generation) except NULL:
    # The pin is taken; from here on `buf` gives it back. A damaged slot must not lead out of its block.
    cdef Slot *slot = &att.s.slots[i]
    cdef uint64_t offset = slot.offset
    cdef uint64_t nbytes = slot.nbytes
    buf.att = att
    buf.tag = att.s.tag
    buf.slot = i
    buf.generation = generation
    buf.pinned = True
    buf.nbytes = <Py_ssize_t>nbytes
    if not is_plausible(&att.s, slot, offset, nbytes):
        raise messages.damaged_file(att.path, f"what slot {i} says of its offset, its size or its block")
    buf.data = att.s.view + offset
    return slot


cdef inline bint is_direct(Slot *slot) noexcept nogil:
    return slot.order != c'C'


cdef PinnedBuffer make_direct(PinnedBuffer buf):
    # What has the pin in place of `buf`.
    cdef PinnedBuffer other = DirectBuffer.__new__(DirectBuffer)
    buf.pinned = False
    take_over(other, buf.att, buf.slot, buf.generation)
    return other


cdef PinnedBuffer pinned(Attachment att, uint64_t i, uint64_t generation):
    cdef PinnedBuffer buf = PinnedBuffer.__new__(PinnedBuffer)
    cdef int got = pin(&att.s, i, generation)
    if got != 0:
        raise get_error(&att.s, got, make_ref(att.s.tag, i, generation), False)
    return make_direct(buf) if is_direct(take_over(buf, att, i, generation)) else buf


@cython.final
@cython.no_gc
cdef class Writer(Block):
    """Room in shared memory, to be written and then sealed: a context manager and a writable buffer."""

    cdef bint is_sealed
    cdef bint replaces
    cdef str name
    cdef Attachment home        # stays when the block is given back
    cdef OpenWriter open        # for the fork hooks, while it is neither sealed nor aborted
    cdef object array_ref       # weak: the array holds us

    def __init__(self):
        raise TypeError("Store.create() makes Writers")

    def __releasebuffer__(self, Py_buffer *buffer):
        # never called, as above
        pass

    def __dealloc__(self):
        self.is_kept = False        # nobody did
        self.give_up()
        self.let_go()

    cdef bint is_ours(self) noexcept:
        return self.att is not None and self.att.s.alive[0] != 0 and not self.open.is_inherited

    cdef void give_up(self) noexcept:
        if not self.is_closed and self.is_ours():
            see_forks(self.att)
            if self.exports == 0 and not self.is_kept and not self.open.is_shared:
                free_slot(&self.att.s, self.slot)
            elif self.pin_views():          # nothing may be put where they point
                abandon(&self.att.s, self.slot)
            else:       # not even memory for a pin: the block stays ours until somebody recovers our row
                self.att.s.dirty = True
        self.close_views()

    cdef void enlist(self) noexcept:
        global first_writer
        self.open.s = &self.att.s
        self.open.slot = self.slot
        self.open.pinned = &self.pinned
        self.open.next = first_writer
        first_writer = &self.open

    cdef void delist(self) noexcept:
        global first_writer
        cdef OpenWriter **at = &first_writer
        while at[0] != NULL and at[0] != &self.open:
            at = &at[0].next
        if at[0] != NULL:
            at[0] = self.open.next

    cdef void close_views(self) noexcept:
        self.is_closed = True
        self.delist()
        self.drop_unless_used()

    cdef bint pin_views(self) noexcept:
        if not pins_are_near(&self.att.s, self.slot) and reach_pins(&self.att.s, self.slot) != 0:
            return False
        pin_own(&self.att.s, self.slot)
        self.pinned = True
        if self.open.is_kept:
            keep_pin(&self.att.s, self.slot)
        return True

    cdef int demand_ours(self) except -1:
        if self.is_closed:
            raise self.refusal()
        if not self.is_ours():
            raise ValueError("this Writer belongs to the parent process: only the process that made it can seal it")
        return 0

    def __enter__(self):
        self.demand_ours()
        return self

    def __exit__(self, kind, value, trace):
        if self.is_closed:
            return
        if kind is not None:
            self.abort()
            return
        try:
            self.seal()
        except BaseException:
            self.abort()            # if it is still to be ended
            raise

    def seal(self):
        """Publishes what was written, for good; returns its ref."""
        cdef Name name
        self.demand_ours()
        cdef Attachment att = self.att
        cdef uint64_t life = att.s.life
        look_for_signals(&att.s, life, "before the seal")
        self.demand_ours()          # still
        see_forks(att)
        memset(&name, 0, sizeof(name))
        if self.name is not None:
            read_name(&self.att.s, self.name, &name)
        if (self.exports or self.is_kept or self.open.is_shared) and not self.pinned and not self.pin_views():
            raise full(&self.att.s, <uint64_t>self.nbytes, ERR_NO_MEMORY)
        ref = make_ref(self.tag, self.slot, self.generation)
        self.is_closed = True
        self.is_writable = False        # nor may the flags of its arrays be set again
        self.exports += 1               # stays whole, whatever others let go of while this waits
        try:
            finish(&self.att.s, life, self.slot, self.name, &name, self.replaces)
            self.is_sealed = True
        finally:
            self.exports -= 1
            self.close_views()
        array = self.array_ref() if self.array_ref is not None else None
        if array is not None:
            PyArray_CLEARFLAGS(<cnp.ndarray>array, NPY_ARRAY_WRITEABLE)
        return ref

    def abort(self):
        """Gives the space back; nobody ever sees it. Does nothing when it is sealed or aborted already."""
        if not self.is_closed:
            self.give_up()
            self.home = None

    @property
    def array(self):
        """What is written, as an array of the shape and dtype asked for (uint8 if bytes were)."""
        cdef Block block = self
        array = self.array_ref() if self.array_ref is not None else None
        if array is None:
            if self.is_sealed:
                block = pinned(self.home, self.slot, self.generation)
            block.demand_open()
            array = block.as_array()
            if self.is_closed:      # by another thread, meanwhile
                PyArray_CLEARFLAGS(<cnp.ndarray>array, NPY_ARRAY_WRITEABLE)
            self.array_ref = weakref.ref(array)
        return array

    @property
    def ref(self):
        """The sealed object's ref; ValueError before the seal."""
        if not self.is_sealed:
            raise ValueError("not sealed: there is no ref yet")
        return make_ref(self.tag, self.slot, self.generation)

    def __repr__(self):
        state = "sealed" if self.is_sealed else "closed" if self.is_closed else "open"
        return f"<Writer of {self.nbytes} bytes, {state}>"


blocks.PinnedBuffer.register(PinnedBuffer)
blocks.PinnedBuffer.register(DirectBuffer)
blocks.Writer.register(Writer)


# Putting

@cython.final
cdef class Room:
    """A part of the block that a put is filling: `room[a:b]` is one of it, `room[:] = octets` writes to it.

    What is pickled is written by Python code, which may end up in a child of ours, or be kept for longer than the put.
    """

    cdef Attachment att
    cdef Draft draft
    cdef uint64_t word          # of the slot as long as the put goes on
    cdef char *at
    cdef Py_ssize_t nbytes

    def __len__(self):
        return self.nbytes

    def __getitem__(self, slice part not None):
        cdef Py_ssize_t first, end, step
        first, end, step = part.indices(self.nbytes)
        if step != 1 or end < first:
            raise ValueError(f"a part of {self.nbytes} bytes of a block is {part}: it must be in one piece")
        cdef Room room = Room.__new__(Room)
        room.att = self.att
        room.draft = self.draft
        room.word = self.word
        room.at = self.at + first
        room.nbytes = end - first
        return room

    def __setitem__(self, slice part not None, octets):
        cdef Room room = self[part]
        cdef Draft unowned = self.draft     # the put gives its slot back itself
        unowned.is_begun = False
        cdef Store *s = &self.att.s
        cdef Py_buffer view
        PyObject_GetBuffer(octets, &view, PyBUF_SIMPLE)
        try:
            python_ran(s, self.draft.life, "filling a block")
            if load_relaxed(&s.slots[self.draft.slot].word) != self.word:   # relaxed: ours until the put is over
                raise ValueError("the put that this block was for is over")
            if view.len != room.nbytes:
                raise ValueError(f"{view.len} bytes do not fill {room.nbytes}")
            copy_in(s, &unowned, room.at, <char*>view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)


cdef int put_pickled(Attachment att, Draft *draft, object obj) except -1:
    cdef Room room = Room.__new__(Room)
    frame = encode(obj)
    python_ran(&att.s, draft.life, "pickling")
    start(&att.s, draft, <uint64_t>frame.nbytes, 0)
    try:
        room.att = att
        room.draft = draft[0]
        room.word = load_relaxed(&att.s.slots[draft.slot].word)         # relaxed: ours
        room.at = block_of(&att.s, draft)
        room.nbytes = frame.nbytes
        fill(frame, room)
        look_for_signals(&att.s, draft.life, "filling a block from Python")
    except BaseException:
        discard(&att.s, draft)
        raise
    assign(att.s.slots[draft.slot].kind, KIND_OBJECT)
    return 0


cdef inline int put_any(Attachment att, Draft *draft, object obj) except -1:
    if type(obj) is bytes:
        return put_bytes(&att.s, draft, obj)
    if type(obj) is cnp.ndarray and not (<cnp.ndarray>obj).dtype.hasobject:
        return put_array(&att.s, draft, obj)
    if isinstance(obj, (bytearray, memoryview)):
        return put_buffer(&att.s, draft, obj)
    return put_pickled(att, draft, obj)


# One open store

cdef inline int remove_key(Store *s, object key, const Name *name) noexcept:
    # `name`: what a key that is no ref says.
    s.blocked_by = 0
    if type(key) is not ObjectRef:
        return remove_named(s, name.hashed, <const uint8_t*>name.utf8, <uint64_t>name.nbytes)
    if (<ObjectRef>key).tag == s.tag:
        return remove(s, (<ObjectRef>key).slot, (<ObjectRef>key).generation)
    return ERR_NOT_FOUND


cdef class Engine:
    """The native engine: what `refstore.Store` is, less what needs no speed."""

    cdef Attachment att

    cdef inline Attachment use(self):
        if self.att is None:
            raise messages.closed()
        if self.att.s.alive[0] == 0:
            raise RefstoreError(messages.forked(self.att.path))
        return self.att

    def _open(self, Attachment att not None):
        self.att = att

    @property
    def _attachment(self):
        return self.use()

    @property
    def closed(self):
        return self.att is None

    def close(self):
        """Detaches. Live buffers stay valid and pinned; the last one unmaps. Twice is once."""
        self.att = None

    def put(self, obj, *, name=None, replace=False, timeout=0):
        """Stores a copy of `obj`; returns its ObjectRef.

        bytes, bytearray and memoryview are kept as bytes, exactly ndarray as an array, anything else is pickled with
        its buffers out of band. Errors: StoreFullError, ObjectExistsError, TypeError and pickle.PicklingError.
        """
        cdef:
            Attachment att = self.use()
            ObjectRef ref = ObjectRef.__new__(ObjectRef)    # first: nothing may fail between the seal and the return
            Draft draft = new_draft(&att.s)
            Name parsed
        parsed.hashed = 0
        demand_no_wait(timeout)
        if name is not None:
            read_name(&att.s, name, &parsed)
            if not replace:
                demand_free_name(&att.s, name, &parsed)
        put_any(att, &draft, obj)
        ref.slot = draft.slot
        ref.generation = generation_of(&att.s, ref.slot)
        ref.tag = att.s.tag
        finish(&att.s, draft.life, ref.slot, name, &parsed, replace)
        return ref

    def create(self, nbytes=None, *, shape=None, dtype=None, name=None, replace=False, timeout=0):
        """A Writer over `nbytes` bytes, or over an array of `shape` and `dtype` (float64 if not given)."""
        cdef:
            Attachment att = self.use()
            Writer writer = Writer.__new__(Writer)
            Draft draft = new_draft(&att.s)
            Name parsed
        demand_no_wait(timeout)
        if (nbytes is None) == (shape is None) or (nbytes is not None and dtype is not None):
            raise TypeError("create() takes either nbytes, or shape and maybe dtype")
        if name is not None:
            read_name(&att.s, name, &parsed)
            if not replace:
                demand_free_name(&att.s, name, &parsed)
        if nbytes is not None:
            start(&att.s, &draft, checked_size(nbytes), 0)
        else:
            start_shaped(&att.s, &draft, shape, np.dtype(dtype))
        writer.slot = draft.slot
        writer.att = writer.home = att
        writer.tag = att.s.tag
        writer.generation = generation_of(&att.s, writer.slot)
        writer.data = att.s.base + att.s.slots[writer.slot].offset
        writer.nbytes = <Py_ssize_t>att.s.slots[writer.slot].nbytes
        writer.is_writable = True
        writer.enlist()
        writer.name = None if name is None else str.__str__(name)      # also of a subclass, as put() takes it
        writer.replaces = replace
        return writer

    def get(self, key, *, timeout=0, writable=False):
        """A PinnedBuffer over the object with this ref or name; `writable`: over a private copy-on-write view of it."""
        cdef:
            Attachment att = self.use()
            PinnedBuffer buf = PinnedBuffer.__new__(PinnedBuffer)   # first: nothing may fail once the pin is ours
            Found found
            uint64_t since = 0
            int got
        demand_no_wait(timeout)
        while True:
            got = self.pin_key(att, key, &found)
            if got == 0:
                break
            if not overcome(&att.s, &got, &since):
                raise get_error(&att.s, got, key, is_foreign(&att.s, key))
        if is_direct(take_over(buf, att, found.slot, found.generation)):
            buf = make_direct(buf)
        count(&att.s, COUNT_GETS, 1)
        if writable is not False and writable:
            buf.go_private()
        return buf

    cdef inline int pin_key(self, Attachment att, object key, Found *found) except? -128:
        # 0 and a pin, or an error code
        cdef Name name
        if type(key) is ObjectRef:
            found.slot = (<ObjectRef>key).slot
            found.generation = (<ObjectRef>key).generation
            if (<ObjectRef>key).tag != att.s.tag:
                return ERR_NOT_FOUND
            return pin(&att.s, found.slot, found.generation)
        read_name(&att.s, key, &name)
        return find_named(&att.s, &name, found, True)

    cdef bint locate(self, object key, Found *found) except -1:
        # Where a live object is, if it is there: a snapshot. It takes no pin, for which there may be no memory.
        cdef Attachment att = self.use()
        cdef Name name
        if type(key) is ObjectRef:
            found.slot = (<ObjectRef>key).slot
            found.generation = (<ObjectRef>key).generation
            return (<ObjectRef>key).tag == att.s.tag and is_there(&att.s, found.slot, found.generation)
        read_name(&att.s, key, &name)
        return find_named(&att.s, &name, found, False) == 0

    cdef int demand(self, object key, Found *found) except -1:
        cdef Attachment att = self.use()        # as above
        if not self.locate(key, found):
            raise get_error(&att.s, ERR_NOT_FOUND, key, is_foreign(&att.s, key))
        return 0

    def delete(self, key):
        """Ends the object's life: no get finds it from now on, and its block comes back with the last pin."""
        cdef:
            Attachment att = self.use()
            Store *s = &att.s
            Name name
            uint64_t since = 0
            int got
        if type(key) is not ObjectRef:
            read_name(s, key, &name)
        got = remove_key(s, key, &name)
        while got != 0 and overcome(s, &got, &since):
            got = remove_key(s, key, &name)
        if got != 0:
            raise get_error(s, got, key, is_foreign(s, key))
        look_at_blocker(s)
        count(s, COUNT_DELETES, 1)

    def refcount(self, key):
        """1 for the store's own reference, plus all pins in all processes."""
        cdef Attachment att = self.use()        # stays, whatever another thread closes meanwhile
        cdef Found found
        self.demand(key, &found)
        return 1 + count_pins(&att.s, found.slot)

    def ref(self, name):
        """The ObjectRef of the object published under `name`."""
        cdef Attachment att = self.use()        # as above
        cdef Found found
        self.demand(name, &found)
        return make_ref(att.s.tag, found.slot, found.generation)

    def __contains__(self, key):
        cdef Found found
        return self.locate(key, &found)

    def __len__(self):
        return len(self._live(False))

    def __iter__(self):
        return iter(self._live(False))

    def names(self):
        """The names of all objects that have one."""
        return self._live(True)

    cdef list _live(self, bint want_names):
        cdef:
            Attachment att = self.use()     # stays, whatever a finalizer closes meanwhile
            Store *s = &att.s
            uint64_t generation
            int64_t i = next_live(s, 0, &generation)
            list found = []
        while i >= 0:
            if not want_names:
                found.append(make_ref(s.tag, <uint64_t>i, generation))
            else:
                name = slot_name(s, <uint64_t>i, generation)
                if name is not None:
                    found.append(name)
            i = next_live(s, <uint64_t>i + 1, &generation)
        return list(dict.fromkeys(found))       # a name that is going over to another object is there twice

    def _census(self):
        # the fields of StoreStats, in its order
        cdef Attachment att = self.use()        # stays, whatever a finalizer closes meanwhile
        cdef Store *s = &att.s
        cdef Census census
        if census_of(s, &census) != 0:
            raise MemoryError("no memory to count the store's pages")
        return (s.header.capacity, census.used, census.free, census.largest_free,
                census.objects, census.pinned, census.condemned,
                *[count_all(s, counter) for counter in range(COUNTERS)], count_processes(s))

    def _problems(self):
        cdef Attachment att = self.use()
        return find_problems(&att.s)

    def _recover_all(self):
        # the fields of Recovery, in its order
        cdef Attachment att = self.use()
        cdef uint64_t since = 0
        cdef int got = recover_dead(&att.s, True)
        while overcome(&att.s, &got, &since):
            got = recover_dead(&att.s, True)
        if got != 0:
            raise blocked(&att.s, got, "recover()")
        return take_came_back(&att.s)

    def _holders(self, key):
        # the fields of Holder, in its order, for each holder of the object, or of any
        cdef:
            Attachment att = self.use()
            Found found
            list seen = None
            dict people = {}
        if key is None:
            seen = all_holders(&att.s)
        elif type(key) is not ObjectRef:
            self.demand(key, &found)
            seen = holders_of(&att.s, found.slot, found.generation)
        elif not is_foreign(&att.s, key):
            seen = holders_of(&att.s, (<ObjectRef>key).slot, (<ObjectRef>key).generation)
        if seen is None:
            raise get_error(&att.s, ERR_NOT_FOUND, key, is_foreign(&att.s, key))
        for row in {holder[0] for holder in seen}:
            people[row] = person(&att.s, row)
        return [as_holder(people[held[0]], held, None if held[2] is None else make_ref(att.s.tag, held[1], held[2]))
                for held in seen]

    def trim(self):
        """Returns free memory to the operating system; returns how many bytes."""
        cdef Attachment att = self.use()
        cdef uint64_t given = 0, before = 0, since = 0
        cdef int got = trim_free(&att.s, &given)
        while overcome(&att.s, &got, &since):
            if given != before:         # it gets on, and somebody else is waited for
                before = given
                since = 0
            got = trim_free(&att.s, &given)
        error = blocked(&att.s, got, "trim()")
        if error is not None:
            raise error
        return given


cdef inline uint64_t generation_of(Store *s, uint64_t i) noexcept nogil:
    return word_generation(load_relaxed(&s.slots[i].word))  # relaxed: ours


cdef inline bint is_there(Store *s, uint64_t i, uint64_t generation) noexcept nogil:
    return i < slots_used(s) and is_readable(load_acquire(&s.slots[i].word), generation)     # [seal]


cdef inline bint is_foreign(Store *s, object key):
    return type(key) is ObjectRef and (<ObjectRef>key).tag != s.tag


cdef inline int demand_no_wait(object timeout) except -1:
    if timeout is not NO_WAIT and timeout != 0:
        raise messages.no_waiting()
    return 0

cdef object NO_WAIT = 0


cdef uint64_t checked_size(object n) except? 0xFFFFFFFFFFFFFFFF:
    size = operator.index(n)
    if size < 0:
        raise ValueError(f"a size cannot be negative, and {n} is")
    return min(size, 1 << 62)


cdef int start_shaped(Store *s, Draft *draft, object shape, cnp.dtype dtype) except -1:
    cdef Shape dims
    cdef int axis
    extents, nbytes = measure(shape, dtype)
    dims.ndim = <int>len(extents)
    for axis in range(dims.ndim):
        dims.dims[axis] = <cnp.npy_intp>checked_size(extents[axis])
    return start_array(s, draft, dtype, &dims, c'C', None, checked_size(nbytes))


# For classes in Python

cdef class Exporter:
    """The base of a class in Python whose objects are buffers: `_buffer_for(flags)` says what exports in their place.

    A view belongs to what exported it, so whoever keeps a view, or only what lies behind it, keeps that.
    """

    cdef object __weakref__

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # torch.frombuffer() asks once more without having cleared the error of its first request
        cdef PyObject *kind
        cdef PyObject *value
        cdef PyObject *trace
        PyErr_Fetch(&kind, &value, &trace)
        try:
            export_as(self._buffer_for(flags), buffer, flags)
        except BaseException:
            Py_XDECREF(kind)
            Py_XDECREF(value)
            Py_XDECREF(trace)
            raise
        PyErr_Restore(kind, value, trace)


cdef class ReleasingExporter(Exporter):
    """One of which numpy.frombuffer() keeps a view, and not the object itself."""

    def __releasebuffer__(self, Py_buffer *buffer):
        # never called, as above; numpy looks whether a type has this
        pass


# For tests and benchmarks

def _failpoints():
    """Debug builds: (file, line) of each failpoint; its number is its place in the list."""
    cdef long i
    return [(os.fsdecode(site_at(i).file), site_at(i).line) for i in range(site_count())]


def _arm(long failpoint, int signo, long skip=0):
    """Debug builds: raise `signo` at the failpoint with this number, after passing it `skip` times; -1: at none."""
    arm_failpoint(failpoint, signo, skip)


def _count_passes(size_t address):
    """Debug builds: add up how often each failpoint is passed, in uint32 cells from there on; 0: no longer."""
    count_passes(<uint32_t*>address)


def _visit_points(visitor):
    """Debug builds: call `visitor(name)` at each point where Python may run amid an operation; None: at none."""
    set_visitor(NULL if visitor is None else <void*>visitor)


def _set_patience(long ms):
    """Debug builds: give up waiting for a stopped process after so many ms; -1: after the usual time."""
    set_patience(ms)


def _set_generation(Engine engine not None, uint64_t slot, uint64_t generation):
    """Debug builds: the generation of a FREE slot, to see what happens at the last one."""
    cdef Store *s = &engine.use().s
    if not IS_DEBUG or word_state(s.slots[slot].word) != FREE:
        raise ValueError("only in a debug build, and only of a free slot")
    store_release(&s.slots[slot].word, make_word(generation, FREE, 0))


def _set_pins(Engine engine not None, ObjectRef ref not None, uint32_t pins):
    """Debug builds: this process's count of pins on an object."""
    if not IS_DEBUG:
        raise ValueError("only in a debug build")
    store_relaxed_u32(&engine.use().s.pins[ref.slot], pins)


def bench_get(Engine engine not None, ObjectRef ref not None, uint64_t n):
    """Seconds for n pins and unpins in the core alone."""
    cdef Store *s = &engine.use().s
    cdef uint64_t _
    began = time.perf_counter()
    for _ in range(n):
        if pin(s, ref.slot, ref.generation) == 0:
            unpin(s, ref.slot)
    return time.perf_counter() - began


def bench_put_delete(Engine engine not None, uint64_t nbytes, uint64_t n):
    """Seconds for n puts, without the copy, and deletes in the core alone."""
    cdef Store *s = &engine.use().s
    cdef uint64_t _, i, generation
    began = time.perf_counter()
    for _ in range(n):
        if find_room(s, nbytes, &i) != 0:
            raise full(s, nbytes, ERR_FULL)
        assign(s.slots[i].nbytes, nbytes)
        assign(s.slots[i].name_hash, 0)
        generation = generation_of(s, i)
        seal(s, i)
        remove(s, i, generation)
    return time.perf_counter() - began
