"""The compiled core, and its Python face: one mapped file, many processes.

Its parts, lowest first; each cimports only what stands above it, and none but this file raises or touches
Python objects on the way of the data:

    _debug.pxd    assertions, failpoints (nothing in a release)
    _atomics.pxd  loads, stores, CAS: one name per order
    _layout.pxd   the file: constants, structs, offsets
    _sys.pxd      byte locks, committed memory, mappings
    _store.pxd    one process's view of the file; hint bitmaps; commitment
    _slots.pxd    pins and the life of a slot
    _pages.pxd    whole pages, under the space lock
    _alloc.pxd    room for an object
    _index.pxd    names
    _rows.pxd     joining, leaving, recovery
    _fork.pxd     what fork does to an attachment
    _file.pxd     making and mapping the file
    _stats.pxd    counts and checks
    _convert.pxd  payloads as numpy arrays
"""

cimport cython
cimport numpy as cnp
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_WRITE, PyBuffer_FillInfo, PyBuffer_IsContiguous, PyBuffer_Release,
    PyBuffer_ToContiguous, PyBUF_FULL_RO, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_FromObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strncpy

from refstore._alloc cimport take_block
from refstore._trim cimport trim_free
from refstore._atomics cimport (
    fetch_add_seq_cst_u32, load_acquire, load_relaxed, load_relaxed_u32, store_relaxed_u32, store_release,
)
from refstore._convert cimport (
    MAX_DIMS, NPY_ARRAY_WRITEABLE, PyArray_CLEARFLAGS, PyArray_CopyInto, PyArray_DescrFromType, Shape, fits,
    fortran_strides, get_text, plain_number, set_text, view_of,
)
from refstore._debug cimport FP_COUNT, FP_FILLED, IS_DEBUG, arm_failpoint, failpoint
from refstore._file cimport (
    HEADER_DAMAGED, HEADER_NOT_A_STORE, HEADER_OTHER_BUILD, HEADER_OTHER_ENGINE, HEADER_OTHER_VERSION, HEADER_SOUND,
    HEADER_TRUNCATED, fill_header, link_unnamed, look_over, map_store, unmap_store,
)
from refstore._fork cimport prepare_child, settle_child, settle_parent
from refstore._index cimport Found, find, name_hash, publish, remove, remove_named, seal
from refstore._layout cimport (
    CAPACITY_LIMIT, CLASSES, COUNT_DELETES, COUNT_GETS, COUNT_PUTS, COUNTERS, ERR_BUSY, ERR_CORRUPT, ERR_DEAD,
    ERR_EXISTS, ERR_FULL, ERR_FULL_SLOTS, ERR_INDEX, ERR_NO_MEMORY, ERR_NOT_FOUND, ERR_PINS, FLAG_TEMPORARY,
    FORMAT_VERSION, GENERATION_LAST, Geometry, Header, INLINE_DIMS, KIND_ARRAY, KIND_BYTES, KIND_OBJECT, LABEL_TEXT,
    LOCK_BOOT, LOCK_CREATOR, Label, NAME_LIMIT, OBJECTS_LIMIT, PAGE, PUBLISHING, SEALED, Slot, check_layout, lay_out,
    make_word, word_generation, word_state,
)
from refstore._rows cimport enter, leave, lock_row, recover_dead, recover_row
from refstore._slots cimport (
    abandon, free_slot, is_readable, pin, pin_own, pinned_by, unpin,
)
from refstore._stats cimport (
    Census, any_row_is_dead, count_all, count_pins, count_processes, find_problems, take_census,
)
from refstore._store cimport Store, commit_labels, count, file_of, label_at, reach_pins, pins_are_near, row_at
from refstore._sys cimport (
    MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, O_RDONLY, PROT_READ, PROT_WRITE, allocate, byte_is_locked, close,
    high_descriptor, lock_byte, mmap, munmap, reopen,
)

import errno
import gc
import os
import time
import weakref

import numpy as np

from refstore import arrays, payload
from refstore.errors import (
    ObjectExistsError, ObjectNotFoundError, RefstoreError, StoreBusyError, StoreCorruptedError, StoreFullError,
    StoreVersionError,
)

cdef extern from "Python.h":
    ctypedef enum PyGILState_STATE:
        PyGILState_LOCKED
        PyGILState_UNLOCKED
    PyGILState_STATE PyGILState_Ensure() noexcept nogil
    void PyGILState_Release(PyGILState_STATE state) noexcept nogil
    bint Py_IsInitialized() noexcept nogil

cdef extern from "<pthread.h>":
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil) noexcept nogil

cdef extern from "<stdlib.h>":
    void *aligned_alloc(size_t alignment, size_t nbytes) noexcept nogil

cnp.import_array()
check_layout()

DEBUG = bool(IS_DEBUG)
FAILPOINT_COUNT = FP_COUNT    # their names, in order, are those of the enum in _debug.pxd

cdef enum:
    RELEASES_GIL = 65536        # bytes from which a copy lets other threads run

cdef tuple KINDS = ("bytes", "array", "object")


# Attachments: one per file and process, shared by its Store objects, buffers and writers. All that is private to a
# process in a Store struct is guarded by the GIL, which the core gives up only while it copies.

cdef object attachments = weakref.WeakValueDictionary()     # (device, inode) -> Attachment
cdef Store *first_store = NULL                              # the same, for the fork hooks
cdef PyGILState_STATE held_over_fork
cdef bint gil_held_over_fork = False


cdef void before_fork() noexcept nogil:
    # With the GIL, no other thread of ours pins or unpins until the fork is done.
    global held_over_fork, gil_held_over_fork
    cdef Store *s = first_store
    gil_held_over_fork = s != NULL and Py_IsInitialized()
    if gil_held_over_fork:
        held_over_fork = PyGILState_Ensure()
    while s != NULL:
        prepare_child(s)
        s = s.next


cdef void after_fork_in_parent() noexcept nogil:
    cdef Store *s = first_store
    while s != NULL:
        settle_parent(s)
        s = s.next
    if gil_held_over_fork:
        PyGILState_Release(held_over_fork)


cdef void after_fork_in_child() noexcept nogil:
    cdef Store *s = first_store
    while s != NULL:
        settle_child(s)
        s = s.next
    # A thread that C code forked from, without the GIL, keeps it in the child: giving it up takes locks that
    # another thread may have held at the fork.
    if gil_held_over_fork and held_over_fork == PyGILState_LOCKED:
        PyGILState_Release(held_over_fork)


pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child)


cdef class Attachment:
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
        while at[0] != NULL:
            if at[0] == &self.s:
                at[0] = self.s.next
                break
            at = &at[0].next
        if self.joined and self.s.alive[0]:
            leave(&self.s)
        unmap_store(&self.s)

    @property
    def capacity(self):
        return self.s.header.capacity

    @property
    def max_objects(self):
        return self.s.header.max_objects

    @property
    def is_temporary(self):
        return self.s.header.flags & FLAG_TEMPORARY != 0


cdef object no_store(str path, str why):
    return StoreCorruptedError(f"{path!r} {why}: it was not made by refstore, or something else wrote to it; "
                               "remove it, or give another name")


cdef object header_error(int fault, str path, Header *h):
    if fault == HEADER_NOT_A_STORE:
        return no_store(path, "is not a store")
    if fault == HEADER_OTHER_ENGINE:
        return StoreVersionError(f"store {path!r} belongs to the filelock engine, this is the native one: "
                                 "open it with backend='filelock'")
    if fault == HEADER_OTHER_VERSION:
        return StoreVersionError(f"store {path!r} has format {h.version}, this refstore writes format {FORMAT_VERSION}: "
                                 "use one version in all processes, or remove the store")
    if fault == HEADER_OTHER_BUILD:
        return StoreVersionError(f"store {path!r} was made by a build of refstore with other constants: "
                                 "use one build in all processes, or remove the store")
    return no_store(path, "is truncated" if fault == HEADER_TRUNCATED else "has a damaged header")


def make_file(str path not None, uint64_t capacity, uint64_t max_objects, int mode, bint temporary):
    """Makes a complete store file and gives it its name; FileExistsError if the name is taken.

    The file has no name until it is whole, so nobody ever sees half a store and a creator that dies leaves nothing.
    Returns the descriptor; for a temporary store it holds the lock that says that its creator lives.
    """
    cdef:
        Geometry g
        Header h
        bytes entropy = os.urandom(38)
        bytes boot = boot_id()
        int fd, failed
    if capacity == 0 or capacity > CAPACITY_LIMIT:
        raise ValueError(f"capacity is {capacity} bytes: it must be between 1 and {CAPACITY_LIMIT}")
    if max_objects == 0 or max_objects > OBJECTS_LIMIT:
        raise ValueError(f"max_objects is {max_objects}: it must be between 1 and {OBJECTS_LIMIT}")
    lay_out(capacity, max_objects, &g)
    folder = os.path.dirname(path)
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        os.ftruncate(fd, g.file_size)
        failed = allocate(fd, 0, g.fixed_end)
        if failed:
            raise OSError(failed, f"no room for the {g.fixed_end} bytes of tables of a store with capacity {capacity} and "
                          f"max_objects {max_objects} ({os.strerror(failed)}): free some, or ask for less", path)
        fill_header(&h, capacity, max_objects, FLAG_TEMPORARY if temporary else 0, entropy, boot)
        os.pwrite(fd, PyBytes_FromStringAndSize(<char*>&h, sizeof(Header)), 0)
        if temporary:
            lock_byte(fd, LOCK_CREATOR)
        failed = link_unnamed(fd, os.fsencode(path))
        if failed:
            raise OSError(failed, os.strerror(failed), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


cdef bytes boot_id():
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read(36).ljust(36, b"\0")


def is_creator_alive(int fd):
    """Whether the creator of the temporary store behind `fd` lives; None if it is no temporary store of ours."""
    cdef bytes head = os.pread(fd, sizeof(Header), 0)
    cdef Header *h = <Header*>PyBytes_AS_STRING(head)
    if len(head) < <Py_ssize_t>sizeof(Header) or look_over(h, os.fstat(fd).st_size) != HEADER_SOUND or not h.flags & FLAG_TEMPORARY:
        return None
    return byte_is_locked(fd, LOCK_CREATOR)


def is_file_of(Attachment att not None, int fd):
    """Whether `fd` is open on the attachment's own file."""
    found = os.fstat(fd)
    return found.st_dev == att.s.dev and found.st_ino == att.s.ino


def attach(str path not None, bint foreign):
    """The attachment of this process to the store file at `path`, made if there is none."""
    cdef:
        bytes head
        Header *h
        int fault, fd
        Attachment att
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        att = attachments.get((found.st_dev, found.st_ino))
        if att is not None and att.s.alive[0]:
            return att
        head = os.pread(fd, sizeof(Header), 0) if os.path.isfile(f"/proc/self/fd/{fd}") else b""
        if len(head) < <Py_ssize_t>sizeof(Header):
            raise no_store(path, "is not a store")
        if found.st_uid != os.geteuid() and not foreign:
            raise PermissionError(errno.EACCES, f"the store belongs to user {found.st_uid}, and its objects are unpickled "
                                  "here: pass foreign=True if you trust that user", path)
        h = <Header*>PyBytes_AS_STRING(head)
        fault = look_over(h, found.st_size)
        if fault != HEADER_SOUND:
            raise header_error(fault, path, h)
        att = Attachment()
        att.path = path
        att.encoded_path = os.fsencode(path)
        att.uuid = PyBytes_FromStringAndSize(<char*>h.uuid, 16)
        att.s.path = PyBytes_AS_STRING(att.encoded_path)
        att.s.dev, att.s.ino = found.st_dev, found.st_ino
        att.s.fd = high_descriptor(fd)
        fd = -1
        join(att, h)
    finally:
        if fd >= 0:
            os.close(fd)
    return att


cdef join(Attachment att, Header *h):
    global first_store
    cdef:
        Store *s = &att.s
        int failed = map_store(s, h)
        int64_t row
        int second
        bint holds
    if failed:
        raise OSError(failed, f"cannot map the {s.g.file_size} bytes of the store ({os.strerror(failed)})", att.path)
    row = lock_row(s, s.fd)
    if row < 0:
        raise RefstoreError(f"store {att.path!r}: all rows are taken; at most 1024 processes can attach")
    second = reopen(s.fd, O_RDONLY)
    holds = second >= 0 and byte_is_locked(second, <uint64_t>row)
    if second >= 0:
        close(second)
    if not holds:
        raise OSError(errno.EOPNOTSUPP, "the file system's byte locks do not hold between descriptors: put the store on "
                      "tmpfs, ext4 or xfs, or use backend='filelock'", att.path)
    enter(s, <uint64_t>row)
    att.joined = True
    identify(s)
    s.next = first_store
    first_store = s
    attachments[(s.dev, s.ino)] = att
    if memcmp_boot(s) != 0:
        look_after_reboot(att)


cdef int memcmp_boot(Store *s):
    return s.header.boot_id[:36] != boot_id()


cdef look_after_reboot(Attachment att):
    # A file on disk that outlived a reboot: its pages may be of any age. Attaching has recovered every row.
    cdef Store *s = &att.s
    cdef bytes boot = boot_id()
    if not lock_byte(s.fd, LOCK_BOOT):
        raise StoreBusyError(f"store {att.path!r} is being looked over after a reboot: try again", pid=0)
    problems = find_problems(s)
    if problems:
        raise StoreCorruptedError(f"store {att.path!r} did not survive a reboot: {sorted(problems)[0]}; remove it")
    memcpy(s.header.boot_id, PyBytes_AS_STRING(boot), 36)


cdef identify(Store *s):
    cdef bytes command
    with open("/proc/self/cmdline", "rb") as file:
        command = file.read(200).replace(b"\0", b" ")[:39]
    row = row_at(s, s.row)
    row.pid = <unsigned int>os.getpid()
    memset(row.command, 0, 40)
    memcpy(row.command, PyBytes_AS_STRING(command), len(command))


# Errors

cdef object not_found(Attachment att, object key):
    if isinstance(key, ObjectRef) and (<ObjectRef>key).tag != att.s.tag:
        return ObjectNotFoundError(f"{key!r} is a ref of another store than {att.path!r}")
    what = f"object named {key!r}" if isinstance(key, str) else f"object {key!r}"
    return ObjectNotFoundError(f"there is no {what} in store {att.path!r}: it was never put here, or it was deleted")


cdef object busy(Attachment att, str what):
    cdef uint64_t row = att.s.blocked_by - 1 if att.s.blocked_by else 0
    cdef unsigned int pid = row_at(&att.s, row & 1023).pid
    return StoreBusyError(f"{what} waits for process {pid}, which is stopped in the middle of a change to store "
                          f"{att.path!r}: resume it (kill -CONT {pid}) or kill it", pid=pid)


cdef object full(Attachment att, uint64_t needed, int error):
    cdef Census census
    cdef Store *s = &att.s
    cdef uint64_t i, row, free_bytes
    memset(&census, 0, sizeof(census))
    take_census(s, &census)
    free_bytes = s.header.capacity - min(census.used, s.header.capacity)
    pids = set()
    for i in range(load_acquire(&s.header.slots_used)):
        row = pinned_by(s, i)
        if row:
            pids.add(row_at(s, row - 1).pid)
    why = {
        ERR_FULL: "the largest free extent is too small",
        ERR_FULL_SLOTS: f"all {s.header.max_objects} objects of max_objects are there",
        ERR_NO_MEMORY: "the file system has no memory left",
        ERR_INDEX: "the name index is full around this name",
    }[error]
    return StoreFullError(
        f"no room for {needed} bytes in store {att.path!r}: {why}. Capacity {s.header.capacity}, free {free_bytes}, largest "
        f"free extent {census.largest_free}; {census.pinned} objects are pinned by processes {sorted(pids)}, "
        f"{census.condemned} of them deleted. Delete or release objects, or make a larger store",
        needed=needed, free=free_bytes, largest_free=census.largest_free, holders=tuple(sorted(pids)))


cdef object sealed_error(Attachment att, int error, object name, uint64_t nbytes):
    if error == ERR_EXISTS:
        return ObjectExistsError(f"store {att.path!r} has an object named {name!r}: delete it, or put with replace=True")
    if error == ERR_BUSY:
        return busy(att, f"publishing {name!r}")
    return full(att, nbytes, error)


# References

@cython.final
@cython.freelist(64)
cdef class ObjectRef:
    """The address of one object: slot 32, generation 48, store tag 48 bits. 16 bytes, immutable, hashable, picklable."""

    cdef uint64_t slot
    cdef uint64_t generation
    cdef uint64_t tag

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


cdef inline ObjectRef make_ref(Store *s, uint64_t slot, uint64_t generation):
    cdef ObjectRef ref = <ObjectRef>ObjectRef.__new__(ObjectRef)
    ref.slot = slot
    ref.generation = generation
    ref.tag = s.tag
    return ref

# Blocks: what is handed out

@cython.no_gc
@cython.freelist(64)
cdef class Block:
    # A pinned or half-written block. It is given back when it is closed and no view of it lives.
    cdef Attachment att
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

    cdef void drop(self) noexcept:
        if self.pinned:
            self.pinned = False
            if self.att.s.alive[0]:
                unpin(&self.att.s, self.slot)
        if self.private_at != NULL:
            if self.private_nbytes:
                munmap(self.private_at, self.private_nbytes)
            else:
                free(self.private_at)
            self.private_at = NULL

    cdef inline Slot *meta(self) noexcept:
        return &self.att.s.slots[self.slot]

    cdef inline int demand_open(self) except -1:
        if self.is_closed:
            raise ValueError(f"this {type(self).__name__} is closed")
        return 0

    cdef cnp.ndarray as_array(self):
        cdef:
            Slot *slot = self.meta()
            Shape shape
            cnp.dtype dtype
            bint strided = False
            int axis
            Export export
        if slot.kind != KIND_ARRAY:
            shape.ndim = 1
            shape.dims[0] = self.nbytes
            dtype = PyArray_DescrFromType(cnp.NPY_UINT8)
        elif slot.dtype and not slot.text_nbytes and not slot.spill_nbytes and slot.ndim <= INLINE_DIMS:
            dtype = PyArray_DescrFromType(slot.dtype - 1)
            shape.ndim = slot.ndim
            for axis in range(shape.ndim):
                shape.dims[axis] = <cnp.npy_intp>slot.shape[axis]
            if slot.order == c'F':
                strided = True
                fortran_strides(&shape, dtype.itemsize)
        else:
            dtype, dims, strides = arrays.read(get_text(&self.att.s, slot, self.slot))
            shape.ndim = <int>len(dims)
            strided = True
            for axis in range(shape.ndim):
                shape.dims[axis] = dims[axis]
                shape.strides[axis] = strides[axis]
        if not fits(&shape, dtype.itemsize, <uint64_t>self.nbytes):
            raise StoreCorruptedError(f"store {self.att.path!r}: the array in slot {self.slot} does not fit its block")
        export = Export.__new__(Export)
        export.block = self
        self.exports += 1
        return view_of(dtype, &shape, strided, self.data, NPY_ARRAY_WRITEABLE if self.is_writable else 0, export)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.demand_open()
        if flags & (PyBUF_FORMAT | PyBUF_ND) == 0 or self.meta().kind != KIND_ARRAY:
            PyBuffer_FillInfo(buffer, self, self.data, self.nbytes, not self.is_writable, flags)
            self.exports += 1
        else:       # numpy knows how to export an array, and keeps it, hence our block, as long as the view
            PyObject_GetBuffer(self.as_array(), buffer, flags)

    def __releasebuffer__(self, Py_buffer *buffer):
        self.give_back_export()

    cdef inline void give_back_export(self) noexcept:
        self.exports -= 1
        if self.exports == 0 and self.is_closed:
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


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Export:
    # the base of an ndarray over a block: keeps the block as long as the array, or a view of it, lives
    cdef Block block

    def __dealloc__(self):
        if self.block is not None:
            self.block.give_back_export()


@cython.final
@cython.no_gc
cdef class PinnedBuffer(Block):
    """An object that is pinned where it lies: a context manager and a read-only buffer.

    The pin goes when it is closed (`with` ends, `release()`, collection) and the last view taken from it is gone.
    """

    def __dealloc__(self):
        self.drop()

    def __enter__(self):
        self.demand_open()
        return self

    def __exit__(self, kind, value, trace):
        if not self.is_closed:
            self.is_closed = True
            if self.exports == 0:
                self.drop()

    def release(self):
        """Closes the buffer. Views taken from it stay valid, and keep the pin."""
        self.__exit__(None, None, None)

    @property
    def kind(self):
        """How the object was put: "bytes", "array" or "object"."""
        self.demand_open()
        return KINDS[min(self.meta().kind, KIND_OBJECT)]

    @property
    def ref(self):
        """The object's ObjectRef."""
        return make_ref(&self.att.s, self.slot, self.generation)

    @property
    def array(self):
        """The array that was put, as a view without a copy; the bytes of anything else as uint8."""
        self.demand_open()
        return self.as_array()

    @property
    def value(self):
        """The object that was put; its buffers lie where they are, bytes come back as a memoryview."""
        self.demand_open()
        cdef int kind = self.meta().kind
        if kind == KIND_ARRAY:
            return self.as_array()
        if kind == KIND_BYTES:
            return PyMemoryView_FromObject(self)
        return payload.decode(PyMemoryView_FromObject(self), self.private_view)

    def private_view(self):
        """A writable copy-on-write memoryview of the payload, with a pin of its own."""
        self.demand_open()
        if self.is_writable:
            return PyMemoryView_FromObject(self)
        cdef PinnedBuffer other = PinnedBuffer.__new__(PinnedBuffer)
        fetch_add_seq_cst_u32(&self.att.s.pins[self.slot], 1)   # valid at once: ours holds meanwhile
        take_over(other, self.att, self.slot, self.generation)
        make_private(other)
        return PyMemoryView_FromObject(other)

    def __array__(self, dtype=None, copy=None):
        self.demand_open()
        array = self.as_array()
        if copy is None and dtype is None:
            return array
        return np.array(array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options):
        self.demand_open()
        return self.as_array().__dlpack__(**options)

    def __dlpack_device__(self):
        return (1, 0)           # kDLCPU

    def __repr__(self):
        if self.is_closed:
            return "<PinnedBuffer, closed>"
        return f"<PinnedBuffer of {self.nbytes} bytes, {self.kind}, {self.ref!r}>"


cdef inline void take_over(PinnedBuffer buf, Attachment att, uint64_t slot, uint64_t generation) noexcept:
    # the pin is taken; from here on `buf` gives it back
    buf.att = att
    buf.slot = slot
    buf.generation = generation
    buf.pinned = True
    buf.nbytes = <Py_ssize_t>att.s.slots[slot].nbytes
    buf.data = att.s.view + att.s.slots[slot].offset


cdef int demand_sane(PinnedBuffer buf) except -1:
    cdef Slot *slot = buf.meta()
    if slot.offset < buf.att.s.g.data or slot.nbytes > buf.att.s.g.file_size - slot.offset:
        raise StoreCorruptedError(f"store {buf.att.path!r}: slot {buf.slot} points outside of the file")
    return 0


cdef int make_private(PinnedBuffer buf) except -1:
    # Pages of its own are mapped again, copy-on-write, through a description without locks; a block that shares
    # its pages is copied: a private page would hide what its neighbours become.
    cdef:
        Slot *slot = buf.meta()
        size_t nbytes
        void *at
        int fd
    buf.is_writable = True
    if slot.extent == 0 or os.sysconf("SC_PAGESIZE") != PAGE:
        at = aligned_alloc(64, (<size_t>buf.nbytes // 64 + 1) * 64)
        if at == NULL:
            raise MemoryError
        memcpy(at, buf.data, <size_t>buf.nbytes)
        buf.private_at = at
    else:
        nbytes = (<size_t>buf.nbytes + PAGE - 1) // PAGE * PAGE if buf.nbytes else PAGE
        fd = reopen(file_of(&buf.att.s), O_RDONLY)
        if fd < 0:
            raise OSError(errno.EMFILE, "cannot open the store once more for a private mapping", buf.att.path)
        at = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, <int64_t>slot.offset)
        close(fd)
        if at == MAP_FAILED:
            raise MemoryError(f"cannot map {nbytes} bytes copy-on-write")
        buf.private_at = at
        buf.private_nbytes = nbytes
    buf.data = <char*>buf.private_at
    return 0


# Making objects

cdef struct Name:
    const char *utf8
    Py_ssize_t nbytes
    uint64_t hashed             # 0: no name


cdef int read_name(Attachment att, object name, Name *parsed) except -1:
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    parsed.utf8 = PyUnicode_AsUTF8AndSize(name, &parsed.nbytes)
    if not 0 < parsed.nbytes <= NAME_LIMIT:
        raise ValueError(f"a name has 1 to {NAME_LIMIT} bytes of UTF-8, this one has {parsed.nbytes}")
    parsed.hashed = name_hash(&att.s, <const uint8_t*>parsed.utf8, <uint64_t>parsed.nbytes)
    return 0


cdef int find_named(Attachment att, Name *name, Found *found) except? -1:
    cdef int got = find(&att.s, name.hashed, <const uint8_t*>name.utf8, <uint64_t>name.nbytes, found)
    if got != 0 and got != ERR_NOT_FOUND:
        raise full(att, 0, got)
    return got


cdef int demand_free_name(Attachment att, object text, Name *name, bint replace) except -1:
    # Early, so that nothing is copied in vain; publish() looks again under the name's lock.
    cdef Found found
    if not replace and find_named(att, name, &found) == 0:
        unpin(&att.s, found.slot)
        raise sealed_error(att, ERR_EXISTS, text, 0)
    return 0


cdef uint64_t start(Attachment att, uint64_t nbytes, uint64_t spill) except? 0xFFFFFFFF:
    # A slot of ours with room for the payload. When there is none: what dead processes held, then what garbage
    # of this process still pins, then the error.
    cdef:
        Store *s = &att.s
        uint64_t i = 0
        int got = ERR_FULL
        int attempt = 0
        Slot *slot
    if nbytes <= s.header.capacity:
        while True:
            got = take_block(s, nbytes + spill, &i)
            if got == 0 or got == ERR_BUSY or attempt == 2:
                break
            if got == ERR_DEAD:
                recover_row(s, s.blocked_by - 1)
                continue
            if attempt == 0:
                recover_dead(s)
            else:
                gc.collect()
            attempt += 1
    if got == ERR_BUSY:
        raise busy(att, f"a put of {nbytes} bytes")
    if got != 0:
        raise full(att, nbytes, ERR_NO_MEMORY if got == ERR_NO_MEMORY else
                   ERR_FULL_SLOTS if got == ERR_FULL_SLOTS else ERR_FULL)
    slot = &s.slots[i]
    slot.nbytes = nbytes
    slot.kind = KIND_BYTES
    slot.dtype = 0
    slot.ndim = 0
    slot.order = c'C'
    slot.text_nbytes = 0
    slot.spill_nbytes = 0
    slot.name_hash = 0
    slot.replaces_slot = 0
    return i


cdef ObjectRef finish(Attachment att, uint64_t i, object text, Name *name, bint replace, bint pinned):
    # Seals what we wrote; on failure nothing of it is left, but for a block that views of ours still pin.
    cdef:
        Store *s = &att.s
        Slot *slot = &s.slots[i]
        ObjectRef ref = make_ref(s, i, word_generation(load_relaxed(&slot.word)))  # relaxed: ours
        Label *label
        int got
    failpoint(FP_FILLED)
    if name.hashed == 0:
        seal(s, i)
    else:
        got = commit_labels(s, i)
        if got == 0:
            label = label_at(s, i)
            label.name_nbytes = <uint8_t>name.nbytes
            memcpy(label.name, name.utf8, <size_t>name.nbytes)
            slot.name_hash = name.hashed
            got = publish(s, i, replace)
            while got == ERR_DEAD:
                recover_row(s, s.blocked_by - 1)
                got = publish(s, i, replace)
        if got != 0:
            if pinned:
                abandon(s, i)
            elif got != ERR_INDEX:      # else it is gone already
                free_slot(s, i)
            raise sealed_error(att, got, text, slot.nbytes)
    count(s, COUNT_PUTS, 1)
    return ref


cdef inline void copy_in(char *target, const char *source, size_t nbytes) noexcept:
    if nbytes < RELEASES_GIL:
        memcpy(target, source, nbytes)
    else:
        with nogil:
            memcpy(target, source, nbytes)


cdef uint64_t put_buffer(Attachment att, object obj) except? 0xFFFFFFFF:
    cdef Py_buffer view
    cdef uint64_t i
    PyObject_GetBuffer(obj, &view, PyBUF_FULL_RO)
    try:
        i = start(att, <uint64_t>view.len, 0)
        if PyBuffer_IsContiguous(&view, c'C'):
            copy_in(att.s.base + att.s.slots[i].offset, <char*>view.buf, <size_t>view.len)
        elif PyBuffer_ToContiguous(att.s.base + att.s.slots[i].offset, &view, view.len, c'C') != 0:
            free_slot(&att.s, i)
            raise BufferError("the buffer cannot be made contiguous")
    finally:
        PyBuffer_Release(&view)
    return i


cdef uint64_t start_array(Attachment att, cnp.dtype dtype, Shape *shape, char order, tuple axes,
                          uint64_t nbytes) except? 0xFFFFFFFF:
    # A slot for an array, with its description written.
    cdef:
        Store *s = &att.s
        int number = plain_number(dtype)
        int axis
        uint64_t i
        Slot *slot
        bytes text = None
    if not number or shape.ndim > INLINE_DIMS or order == c'K':
        dims = tuple([shape.dims[axis] for axis in range(shape.ndim)])
        text = arrays.describe(dtype, dims, axes)
    i = start(att, nbytes, <uint64_t>len(text) if text is not None and len(text) > LABEL_TEXT else 0)
    slot = &s.slots[i]
    slot.kind = KIND_ARRAY
    slot.order = <uint8_t>order
    if text is None:
        slot.dtype = <uint8_t>number
        slot.ndim = <uint8_t>shape.ndim
        for axis in range(shape.ndim):
            slot.shape[axis] = <uint64_t>shape.dims[axis]
    else:
        if len(text) <= LABEL_TEXT and commit_labels(s, i) != 0:
            free_slot(s, i)
            raise full(att, nbytes, ERR_NO_MEMORY)
        set_text(s, slot, i, PyBytes_AS_STRING(text), len(text))
    return i


cdef uint64_t put_array(Attachment att, cnp.ndarray array) except? 0xFFFFFFFF:
    cdef:
        Shape shape
        char order = c'C'
        tuple axes
        uint64_t i
        int axis
        cnp.dtype dtype = array.dtype
        uint64_t nbytes = <uint64_t>cnp.PyArray_NBYTES(array)
        bint as_it_lies = True
    shape.ndim = cnp.PyArray_NDIM(array)
    for axis in range(shape.ndim):
        shape.dims[axis] = cnp.PyArray_DIM(array, axis)
    axes = tuple(range(shape.ndim)) if shape.ndim > INLINE_DIMS or not plain_number(dtype) else None
    if not cnp.PyArray_IS_C_CONTIGUOUS(array):
        axes = arrays.axes_in_memory(array)
        if axes == tuple(range(shape.ndim)):
            as_it_lies = False
        elif axes == tuple(range(shape.ndim))[::-1]:
            order = c'F'
            as_it_lies = cnp.PyArray_IS_F_CONTIGUOUS(array)
        else:
            order = c'K'
            as_it_lies = False
    i = start_array(att, dtype, &shape, order, axes, nbytes)
    if as_it_lies:
        copy_in(att.s.base + att.s.slots[i].offset, <char*>cnp.PyArray_DATA(array), nbytes)
        return i
    if order != c'C':
        dims = tuple([shape.dims[axis] for axis in range(shape.ndim)])
        strides = arrays.strides_of(dims, axes, dtype.itemsize)
        for axis in range(shape.ndim):
            shape.strides[axis] = strides[axis]
    try:
        PyArray_CopyInto(view_of(dtype, &shape, order != c'C', att.s.base + att.s.slots[i].offset, NPY_ARRAY_WRITEABLE,
                                 None), array)
    except BaseException:
        free_slot(&att.s, i)
        raise
    return i


cdef uint64_t put_pickled(Attachment att, object obj) except? 0xFFFFFFFF:
    cdef uint64_t i
    frame = payload.encode(obj)
    i = start(att, <uint64_t>frame.nbytes, 0)
    try:
        target = PyMemoryView_FromMemory(att.s.base + att.s.slots[i].offset, frame.nbytes, PyBUF_WRITE)
        frame.write(target)
    except BaseException:
        free_slot(&att.s, i)
        raise
    att.s.slots[i].kind = KIND_OBJECT
    return i


@cython.final
@cython.no_gc
cdef class Writer(Block):
    """Room in shared memory, to be written and then sealed: a context manager and a writable buffer."""

    cdef uint64_t row           # that of the process that made it: a forked child's copy is dead
    cdef bint is_sealed
    cdef bint replaces
    cdef str name
    cdef Py_ssize_t name_nbytes
    cdef object array_ref       # weak: the array holds us
    cdef object __weakref__

    def __dealloc__(self):
        if not self.is_closed:
            self.give_up()
        self.drop()

    cdef bint is_ours(self) noexcept:
        return self.att is not None and self.att.s.alive[0] != 0 and self.row == self.att.s.row

    cdef void give_up(self) noexcept:
        if self.is_ours():
            if self.exports:            # nothing may be put where they point
                self.pin_views()
                abandon(&self.att.s, self.slot)
            else:
                free_slot(&self.att.s, self.slot)
        self.is_closed = True

    cdef void pin_views(self) noexcept:
        if pins_are_near(&self.att.s, self.slot) or reach_pins(&self.att.s, self.slot) == 0:
            pin_own(&self.att.s, self.slot)
            self.pinned = True

    cdef int demand_ours(self) except -1:
        self.demand_open()
        if not self.is_ours():
            raise ValueError("this Writer belongs to the parent process: only the process that made it can seal it")
        return 0

    def __enter__(self):
        self.demand_ours()
        return self

    def __exit__(self, kind, value, trace):
        if self.is_closed:
            return
        if kind is None:
            self.seal()
        else:
            self.abort()

    def seal(self):
        """Publishes what was written, for good; returns its ref."""
        cdef Name name
        self.demand_ours()
        memset(&name, 0, sizeof(name))
        if self.name is not None:
            read_name(self.att, self.name, &name)
        if self.exports:
            self.pin_views()
        self.is_closed = True
        ref = finish(self.att, self.slot, self.name, &name, self.replaces, self.pinned)
        self.is_sealed = True
        array = self.array_ref() if self.array_ref is not None else None
        if array is not None:
            PyArray_CLEARFLAGS(<cnp.ndarray>array, NPY_ARRAY_WRITEABLE)
        return ref

    def abort(self):
        """Gives the space back; nobody ever sees it. Does nothing when it is sealed or aborted already."""
        if not self.is_closed:
            self.give_up()

    @property
    def array(self):
        """What is written, as an array of the shape and dtype asked for (uint8 if bytes were)."""
        array = self.array_ref() if self.array_ref is not None else None
        if array is None:
            self.demand_open()
            array = self.as_array()
            self.array_ref = weakref.ref(array)
        return array

    @property
    def ref(self):
        """The sealed object's ref; ValueError before the seal."""
        if not self.is_sealed:
            raise ValueError("not sealed: there is no ref yet")
        return make_ref(&self.att.s, self.slot, self.generation)


# One open store

cdef class Engine:
    """The native engine: what `refstore.Store` is, less what needs no speed."""

    cdef Attachment att

    cdef inline Attachment use(self):
        if self.att is None:
            raise ValueError("this store is closed")
        if self.att.s.alive[0] == 0:
            raise RefstoreError(f"this process was forked from one that uses store {self.att.path!r} by a raw system call, "
                                "or without a free row or descriptor: open the store anew")
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
        """Detaches. Live buffers stay valid and pinned; the last one unmaps. Closing twice does nothing."""
        self.att = None

    def put(self, obj, *, name=None, replace=False, timeout=0):
        """Stores `obj` and returns its ObjectRef; see API.md for the kinds of objects and errors."""
        cdef:
            Attachment att = self.use()
            Name parsed
            uint64_t i
        parsed.hashed = 0
        demand_no_wait(timeout)
        if name is not None:
            read_name(att, name, &parsed)
            demand_free_name(att, name, &parsed, replace)
        if type(obj) is bytes:
            i = start(att, <uint64_t>PyBytes_GET_SIZE(obj), 0)
            copy_in(att.s.base + att.s.slots[i].offset, PyBytes_AS_STRING(obj), <size_t>PyBytes_GET_SIZE(obj))
        elif type(obj) is cnp.ndarray and not (<cnp.ndarray>obj).dtype.hasobject:
            i = put_array(att, obj)
        elif isinstance(obj, (bytearray, memoryview)) or type(obj) is bytes:
            i = put_buffer(att, obj)
        else:
            i = put_pickled(att, obj)
        return finish(att, i, name, &parsed, replace, False)

    def create(self, nbytes=None, *, shape=None, dtype=None, name=None, replace=False, timeout=0):
        """A Writer over `nbytes` bytes, or over an array of `shape` and `dtype` (float64 if not given)."""
        cdef:
            Attachment att = self.use()
            Name parsed
            Shape dims
            uint64_t i, total
            int axis
            Writer writer = Writer.__new__(Writer)
        demand_no_wait(timeout)
        if (nbytes is None) == (shape is None):
            raise TypeError("create() takes either nbytes or shape")
        if name is not None:
            read_name(att, name, &parsed)
            demand_free_name(att, name, &parsed, replace)
        if nbytes is not None:
            if dtype is not None:
                raise TypeError("create() takes dtype with shape, not with nbytes")
            total = checked_size(nbytes)
            i = start(att, total, 0)
        else:
            dt = np.dtype(dtype)
            if dt.hasobject:
                raise TypeError(f"dtype {dt} holds Python objects, which cannot lie in shared memory: put() pickles them")
            extent = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
            if len(extent) > MAX_DIMS:
                raise ValueError(f"an array has at most {MAX_DIMS} dimensions, not {len(extent)}")
            dims.ndim = <int>len(extent)
            size = dt.itemsize
            for axis in range(dims.ndim):
                size *= checked_size(extent[axis])
                dims.dims[axis] = extent[axis]
            i = start_array(att, dt, &dims, c'C', tuple(range(dims.ndim)), checked_size(size))
        writer.att = att
        writer.row = att.s.row
        writer.slot = i
        writer.generation = word_generation(load_relaxed(&att.s.slots[i].word))  # relaxed: ours
        writer.data = att.s.base + att.s.slots[i].offset
        writer.nbytes = <Py_ssize_t>att.s.slots[i].nbytes
        writer.is_writable = True
        writer.name = name
        writer.replaces = replace
        return writer

    def get(self, key, *, timeout=0, writable=False):
        """A PinnedBuffer over the object with this ref or name."""
        cdef:
            Attachment att = self.use()
            PinnedBuffer buf = PinnedBuffer.__new__(PinnedBuffer)   # first: nothing can fail once the pin is ours
            ObjectRef ref
            Found found
            Name name
            int got = ERR_NOT_FOUND
        demand_no_wait(timeout)
        if type(key) is ObjectRef:
            ref = <ObjectRef>key
            if ref.tag == att.s.tag:
                got = pin(&att.s, ref.slot, ref.generation)
                if got == 0:
                    take_over(buf, att, ref.slot, ref.generation)
        else:
            read_name(att, key, &name)
            got = find_named(att, &name, &found)
            if got == 0:
                take_over(buf, att, found.slot, found.generation)
        if got != 0:
            raise not_found(att, key) if got == ERR_NOT_FOUND else pin_error(att, key, got)
        demand_sane(buf)
        count(&att.s, COUNT_GETS, 1)
        if writable is not False and writable:
            make_private(buf)
        return buf

    def delete(self, key):
        """Ends the object's life: no get finds it from now on, and its block comes back with the last pin."""
        cdef:
            Attachment att = self.use()
            Store *s = &att.s
            Name name
            int got = ERR_DEAD
        if type(key) is not ObjectRef:
            read_name(att, key, &name)
        s.blocked_by = 0
        while got == ERR_DEAD:
            if type(key) is not ObjectRef:
                got = remove_named(s, name.hashed, <const uint8_t*>name.utf8, <uint64_t>name.nbytes)
            elif (<ObjectRef>key).tag == s.tag:
                got = remove(s, (<ObjectRef>key).slot, (<ObjectRef>key).generation)
            else:
                got = ERR_NOT_FOUND
            if s.blocked_by:
                # by a pin, or by a lock: worth a system call to see whether its process lives
                recover_row(s, s.blocked_by - 1)
        if got == ERR_NOT_FOUND:
            raise not_found(att, key)
        if got != 0:
            raise busy(att, f"the deletion of {key!r}")
        count(s, COUNT_DELETES, 1)

    cdef Py_ssize_t locate(self, object key, uint64_t *generation) except? -1:
        # The slot of a live object, or -1. Unpinned: a snapshot.
        cdef:
            Attachment att = self.use()
            Found found
            Name name
            ObjectRef ref
        if type(key) is ObjectRef:
            ref = <ObjectRef>key
            if ref.tag != att.s.tag or pin(&att.s, ref.slot, ref.generation) != 0:
                return -1
            found.slot, found.generation = ref.slot, ref.generation
        else:
            read_name(att, key, &name)
            if find_named(att, &name, &found) != 0:
                return -1
        unpin(&att.s, found.slot)
        generation[0] = found.generation
        return <Py_ssize_t>found.slot

    def refcount(self, key):
        """1 for the store's own reference, plus all pins in all processes."""
        cdef uint64_t generation
        cdef Py_ssize_t i = self.locate(key, &generation)
        if i < 0:
            raise not_found(self.att, key)
        return 1 + count_pins(&self.att.s, <uint64_t>i)

    def ref(self, name):
        """The ObjectRef of the object published under `name`."""
        cdef uint64_t generation
        cdef Py_ssize_t i = self.locate(name, &generation)
        if i < 0:
            raise not_found(self.att, name)
        return make_ref(&self.att.s, <uint64_t>i, generation)

    def __contains__(self, key):
        cdef uint64_t generation
        return self.locate(key, &generation) >= 0

    def __len__(self):
        cdef uint64_t i, word, n = 0
        cdef Store *s = &self.use().s
        for i in range(load_acquire(&s.header.slots_used)):
            word = load_acquire(&s.slots[i].word)
            n += is_readable(word, word_generation(word))
        return n

    def __iter__(self):
        cdef uint64_t i, word
        cdef Store *s = &self.use().s
        cdef list refs = []
        for i in range(load_acquire(&s.header.slots_used)):
            word = load_acquire(&s.slots[i].word)
            if is_readable(word, word_generation(word)):
                refs.append(make_ref(s, i, word_generation(word)))
        return iter(refs)

    def names(self):
        """The names of all objects that have one."""
        cdef uint64_t i, word
        cdef Store *s = &self.use().s
        cdef list names = []
        for i in range(load_acquire(&s.header.slots_used)):
            word = load_acquire(&s.slots[i].word)
            if is_readable(word, word_generation(word)) and pin(s, i, word_generation(word)) == 0:
                if s.slots[i].name_hash:
                    names.append(label_at(s, i).name[:label_at(s, i).name_nbytes].decode())
                unpin(s, i)
        return names

    def _census(self):
        # the fields of StoreStats, in its order
        cdef Census census
        cdef Store *s = &self.use().s
        memset(&census, 0, sizeof(census))
        if take_census(s, &census) != 0:
            raise MemoryError
        return (s.header.capacity, census.used, s.header.capacity - min(census.used, s.header.capacity),
                census.largest_free, census.objects, census.pinned, census.condemned,
                *[count_all(s, counter) for counter in range(COUNTERS)], count_processes(s))

    def _problems(self):
        return find_problems(&self.use().s)

    def trim(self):
        """Returns free memory to the operating system; returns how many bytes."""
        cdef int64_t got = trim_free(&self.use().s)
        if got == ERR_BUSY:
            raise busy(self.att, "trim")
        return max(got, 0)


cdef inline int demand_no_wait(object timeout) except -1:
    if timeout is not NO_WAIT and timeout != 0:
        raise NotImplementedError("this version of refstore does not wait yet: timeout must be 0")
    return 0

cdef object NO_WAIT = 0


cdef uint64_t checked_size(object n) except? 0xFFFFFFFFFFFFFFFF:
    size = n.__index__()
    if size < 0:
        raise ValueError(f"a size cannot be negative: {n}")
    return min(size, 1 << 62)


cdef object pin_error(Attachment att, object key, int got):
    if got == ERR_PINS:
        return RefstoreError(f"this process holds 2**30 pins on {key!r}: release some")
    return full(att, 0, got)


# For tests and benchmarks

def _arm(int point, int signo, int skip=0):
    """Debug builds: raise `signo` at failpoint `point`, after passing it `skip` times."""
    arm_failpoint(point, signo, skip)


def _set_generation(Engine engine not None, uint64_t slot, uint64_t generation):
    """Debug builds: the generation of a FREE slot, to see what happens at the last one."""
    cdef Store *s = &engine.use().s
    if not IS_DEBUG or word_state(s.slots[slot].word) != 0:
        raise ValueError("only in a debug build, and only of a free slot")
    store_release(&s.slots[slot].word, make_word(generation, 0, 0))


def _set_pins(Engine engine not None, ObjectRef ref not None, uint32_t pins):
    """Debug builds: this process's count of pins on an object."""
    if not IS_DEBUG:
        raise ValueError("only in a debug build")
    store_relaxed_u32(&engine.use().s.pins[ref.slot], pins)


def bench_get(Engine engine not None, ObjectRef ref not None, uint64_t n):
    """Seconds for n pins and unpins in the core alone."""
    cdef Store *s = &engine.use().s
    cdef uint64_t k
    began = time.perf_counter()
    for k in range(n):
        if pin(s, ref.slot, ref.generation) == 0:
            unpin(s, ref.slot)
    return time.perf_counter() - began


def bench_put_delete(Engine engine not None, uint64_t nbytes, uint64_t n):
    """Seconds for n puts (without the copy) and deletes in the core alone."""
    cdef Store *s = &engine.use().s
    cdef uint64_t k, i, generation
    began = time.perf_counter()
    for k in range(n):
        if take_block(s, nbytes, &i) != 0:
            raise full(engine.att, nbytes, ERR_FULL)
        s.slots[i].nbytes = nbytes
        s.slots[i].name_hash = 0
        generation = word_generation(s.slots[i].word)
        seal(s, i)
        remove(s, i, generation)
    return time.perf_counter() - began
