# What get() hands out: blocks that are pinned, and views that keep them.

cimport cython
cimport numpy as cnp
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_FillInfo, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from refstore.engines.native.atomics cimport fetch_add_seq_cst_u32, load_relaxed_u32
from refstore.engines.native.layout cimport (
    COUNT_GETS, EVICTABLE, KIND_ARRAY, KIND_BYTES, KIND_OBJECT, Slot,
)
from refstore.engines.native.system cimport munmap
from refstore.engines.native.view cimport count, is_plausible
from refstore.engines.native.ages cimport note_use
from refstore.engines.native.slots cimport pin, unpin
from refstore.engines.native.names cimport Found
from refstore.engines.native.recovery cimport recover_blocker_if_dead, recover_blocker_of
from refstore.engines.native.errors cimport get_error
from refstore.engines.native.arrays cimport (
    header_of_slot, kind_of, NPY_ARRAY_WRITEABLE, private_copy, read_meta, read_shape, Shape,
    view_of,
)

import numpy as np
from refstore import _buffers, _messages
from refstore._errors import RefstoreError
from refstore.payload import decode
from refstore.payload.headers import KINDS
from refstore.payload.rules import require_unpickling

cdef extern from "Python.h":
    ctypedef struct PyBufferProcs:
        void *bf_releasebuffer
    ctypedef struct PyTypeObject:
        PyBufferProcs *tp_as_buffer
        unsigned long tp_flags
    unsigned long Py_TPFLAGS_BASETYPE


@cython.no_gc
@cython.freelist(1024)          # of those that get_many() pins
cdef class Block:
    # A pinned or half-written block. It is given back when it is closed and no view of it lives.
    cdef Attachment att         # None once it is given back: a closed buffer keeps no store mapped
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
    cdef bint is_kept           # somebody may keep this very object, and read without their view
    # Its object is not to be unpickled. Here, though only a PinnedBuffer is asked: one that is no
    # larger than its base is allocated from the base's free list.
    cdef public bint _is_guarded
    cdef object __weakref__

    cdef inline void let_go(self) noexcept:
        # No Python runs here: a weak reference would still find what is being collected.
        if self.pinned:
            self.pinned = False
            if self.att.view.alive[0]:
                see_forks(self.att)
                recover_blocker_if_dead(&self.att.view, unpin(&self.att.view, self.slot))
        if self.private_at != NULL:
            if self.private_nbytes:
                munmap(self.private_at, self.private_nbytes)
            else:
                free(self.private_at)
            self.private_at = NULL

    cdef inline void release_pin(self) noexcept:
        self.let_go()
        self.att = None

    cdef str noun(self):
        return "PinnedBuffer"

    cdef ObjectRef own_ref(self):
        # before it is sealed, too
        return make_ref(self.tag, self.slot, self.generation)

    cdef inline int require_open(self) except -1:
        # in a child without a place in the store it is not: new views of what is kept would look
        # like any others
        # without an attachment it was never made, but by __new__
        if self.is_closed or self.att is None or self.att.view.alive[0] == 0:
            raise self.refusal()
        return 0

    cdef object refusal(self):
        if self.is_closed or self.att is None:
            return _messages.closed_buffer(self.noun())
        return RefstoreError(_messages.forked(self.att.path))

    cdef cnp.ndarray as_array(self):
        cdef:
            # first: reading the shape may run Python, and another thread close us meanwhile
            Export export = self.new_export()
            Shape shape
            bint strided
            cnp.dtype dtype = read_shape(&self.att.view, self.slot, self.nbytes, &shape, &strided)
        return view_of(dtype, &shape, strided, self.data,
                       NPY_ARRAY_WRITEABLE if self.is_writable else 0, export)

    cdef inline Export new_export(self):
        cdef Export export = Export.__new__(Export)
        export.block = self
        self.exports += 1
        return export

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.export(buffer, flags)

    cdef int export(self, Py_buffer *buffer, int flags) except -1:
        self.require_open()
        if flags & PyBUF_WRITABLE and not flags & PyBUF_FORMAT:
            # numpy.ndarray(buffer=) and torch.frombuffer() begin so; they keep the object, and not
            # the view
            self.is_kept = True
        if not is_typed(flags) or kind_of(&self.att.view, self.slot) != KIND_ARRAY:
            # an Export as the owner: who keeps only `memoryview.obj` keeps the block
            return PyBuffer_FillInfo(buffer, self.new_export(), self.data, self.nbytes,
                                     not self.is_writable, flags)
        # numpy knows how to export an array, and keeps it, hence our block, as long as the view
        array = self.as_array()
        if flags & PyBUF_FORMAT and array.dtype.num == cnp.NPY_VOID and array.dtype.names is None:
            raise _messages.no_format(array.dtype)
        return export_as(array, buffer, flags)

    cdef inline void give_back_export(self) noexcept:
        self.exports -= 1
        if self.is_closed:
            self.release_unless_used()

    cdef inline void release_unless_used(self) noexcept:
        if self.exports == 0 and not self.is_kept:
            self.release_pin()

    def __len__(self):
        self.require_open()
        return self.nbytes

    def __bytes__(self):
        self.require_open()
        return PyBytes_FromStringAndSize(self.data, self.nbytes)

    @property
    def nbytes(self):
        return self.nbytes

    @property
    def closed(self):
        return self.is_closed

    def __reduce__(self):
        raise _messages.no_pickle(self.noun())


cdef int export_as(object other, Py_buffer *buffer, int flags) except -1:
    try:
        PyObject_GetBuffer(other, buffer, flags)
    except ValueError as error:     # numpy's way to say that there is no such view
        raise _messages.no_such_view(error) from error
    if not flags & PyBUF_ND:
        buffer.ndim = 1             # plain bytes, of which numpy says 0
    return 0


cdef inline bint is_typed(int flags) noexcept:
    # whether a request takes an array's shape, and not only its bytes
    return flags & PyBUF_STRIDES == PyBUF_STRIDES \
        or flags & (PyBUF_FORMAT | PyBUF_ND) == PyBUF_FORMAT | PyBUF_ND


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Export:
    # the base of an ndarray over a block: keeps the block as long as the array, or a view of it,
    # lives
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
    def __init__(self):
        raise _messages.no_constructor("PinnedBuffer")

    def __releasebuffer__(self, Py_buffer *buffer):
        # never called, since views belong to Exports; numpy.frombuffer() keeps a view only of types
        # that have this
        pass

    def __dealloc__(self):
        self.let_go()

    def __enter__(self):
        self.require_open()
        return self

    cdef inline void close(self) noexcept:
        if not self.is_closed:
            self.is_closed = True
            self.release_unless_used()

    def __exit__(self, kind, value, trace):
        self.close()

    def release(self):
        self.close()

    @property
    def kind(self):
        self.require_open()
        return self.kind_seen()

    cdef str kind_seen(self):
        return KINDS[kind_of(&self.att.view, self.slot)]

    @property
    def ref(self):
        return self.own_ref()

    @property
    def header(self):
        self.require_open()
        return header_of_slot(&self.att.view, self.slot, self.nbytes)

    @property
    def meta(self):
        self.require_open()
        return read_meta(&self.att.view, self.slot, <uint64_t>self.nbytes)

    @property
    def array(self):
        return self.require_array()

    cdef cnp.ndarray require_array(self):
        self.require_open()
        if kind_of(&self.att.view, self.slot) == KIND_OBJECT:
            raise _messages.no_array()
        return self.as_array()

    @property
    def value(self):
        self.require_open()
        cdef int kind = kind_of(&self.att.view, self.slot)
        if kind == KIND_ARRAY:
            return self.as_array()
        if kind == KIND_BYTES:
            return PyMemoryView_FromObject(self)
        if self._is_guarded:
            require_unpickling(self)
        stream = short_pickle(self.data, self.nbytes)
        if stream is not None:
            return unpickled(stream)
        return decode(PyMemoryView_FromObject(self), self._private_view)

    def _private_view(self):
        self.require_open()
        if self.is_writable:
            return PyMemoryView_FromObject(self)
        cdef PinnedBuffer other = PinnedBuffer.__new__(PinnedBuffer)
        # [pin] valid at once: ours holds meanwhile
        fetch_add_seq_cst_u32(&self.att.view.pins[self.slot], 1)
        adopt_pin(other, self.att, self.slot, self.generation)
        other.go_private()
        return PyMemoryView_FromObject(other)

    cdef int go_private(self) except -1:
        self.data = private_copy(&self.att.view, self.slot, self.data, self.nbytes,
                                 &self.private_at, &self.private_nbytes)
        self.is_writable = True
        return 0

    def __array__(self, dtype=None, copy=None):
        array = self.require_array()
        if copy is None and dtype is None:
            return array
        return np.array(array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options):
        array = self.require_array()
        try:
            return array.__dlpack__(**options)
        except BufferError as error:
            if cnp.PyArray_ISWRITEABLE(array):
                raise
            raise _messages.no_dlpack(error) from error

    def __dlpack_device__(self):
        return (1, 0)           # kDLCPU

    def __repr__(self):
        if self.is_closed:
            return _messages.CLOSED_BUFFER
        return f"<PinnedBuffer of {self.nbytes} bytes, {self.kind_seen()}, {self.ref!r}>"

    def _repr_html_(self):
        from refstore import _html
        return _html.of_buffer(self)


@cython.final
@cython.no_gc
cdef class DirectBuffer(PinnedBuffer):
    # Of an array that is not in C order, or whose dtype has no format: numpy.frombuffer() finds no
    # plain bytes in a view of it. So it is to ask the buffer for them, and to keep that: this type
    # has nothing to release.

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.export(buffer, flags)      # for a table of buffer functions of its own


(<PyTypeObject*>DirectBuffer).tp_as_buffer.bf_releasebuffer = NULL


(<PyTypeObject*>PinnedBuffer).tp_flags &= ~Py_TPFLAGS_BASETYPE      # there are no more kinds of it


cdef int refuse_slot(Attachment att, uint64_t i) except -1:
    # apart: with it, adopt_pin() is too large for the compiler to inline into a get
    raise _messages.damaged_file(att.path, f"slot {i} has an invalid offset, size or block")


cdef inline bint fill(PinnedBuffer buf, Attachment att, uint64_t i, uint64_t generation) noexcept:
    # False: the slot is damaged, and must not lead out of its block.
    cdef Slot *slot = &att.view.slots[i]
    cdef uint64_t offset = slot.offset
    cdef uint64_t nbytes = slot.nbytes
    cdef uint32_t last_use
    buf.att = att
    buf.tag = att.view.tag
    buf.slot = i
    buf.generation = generation
    buf.pinned = True
    buf.nbytes = <Py_ssize_t>nbytes
    if not is_plausible(&att.view, slot, offset, nbytes):
        return False
    buf.data = att.view.ro_base + offset
    last_use = load_relaxed_u32(&slot.last_use)         # relaxed: a hint
    if last_use & EVICTABLE:
        note_use(&att.view, slot, last_use)
    return True


cdef inline int adopt_pin(PinnedBuffer buf, Attachment att, uint64_t i,
                          uint64_t generation) except -1:
    # The pin is taken; from here on `buf` gives it back. Where the order is not C, as_direct()
    # gives what is to stand in the place of `buf`.
    if not fill(buf, att, i, generation):
        refuse_slot(att, i)
    return 0


cdef inline bint take_over(PinnedBuffer buf, Attachment att, const Found *found,
                           int got) except -1:
    # The pin that find() took, which ended with `got`, is the buffer's. True: as_direct() gives
    # what is to stand in its place.
    adopt_pin(buf, att, found.slot, found.generation)
    if got > 0:
        recover_blocker_if_dead(&att.view, got)
    count(&att.view, COUNT_GETS, 1)
    return att.view.slots[found.slot].order != c'C'


cdef PinnedBuffer as_direct(PinnedBuffer buf):
    cdef DirectBuffer other = DirectBuffer.__new__(DirectBuffer)
    other.att = buf.att
    other.tag = buf.tag
    other.slot = buf.slot
    other.generation = buf.generation
    other.nbytes = buf.nbytes
    other.data = buf.data
    other.pinned = True
    buf.pinned = False
    return other


cdef PinnedBuffer pinned(Attachment att, uint64_t i, uint64_t generation):
    cdef PinnedBuffer buf = PinnedBuffer.__new__(PinnedBuffer)
    cdef int got = pin(&att.view, i, generation)
    if got != 0:
        recover_blocker_of(&att.view, got)
        raise get_error(&att.view, got, make_ref(att.view.tag, i, generation), False)
    adopt_pin(buf, att, i, generation)
    return buf if att.view.slots[i].order == c'C' else as_direct(buf)


_buffers.PinnedBuffer.register(PinnedBuffer)
_buffers.PinnedBuffer.register(DirectBuffer)
