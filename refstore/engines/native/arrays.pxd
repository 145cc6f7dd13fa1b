# How arrays lie in blocks: from one, or the description of one, to a slot that is filled and not
# yet sealed; and from a block to views, headers of objects of all kinds, their metadata, private
# copies.

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint64_t, uint8_t
from libc.string cimport memcpy

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport assign
from refstore.engines.native.layout cimport (
    INLINE_DIMS, KIND_ARRAY, KIND_OBJECT, LABEL_TEXT, META_INLINE, META_LIMIT, PAGE, Slot,
)
from refstore.engines.native.system cimport (
    close, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, mmap, O_RDONLY, PROT_READ, PROT_WRITE, reopen,
)
from refstore.engines.native.view cimport (
    block_nbytes, file_of, label_at, labels_are_committed, meta_at, View,
)
from refstore.engines.native.metas cimport meta_nbytes
from refstore.engines.native.points cimport look_for_signals, path_of, python_ran
from refstore.engines.native.put cimport (
    begin_object, block_of, copy_in, discard, Draft, require_committed,
)

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "<stdlib.h>":
    void *aligned_alloc(size_t alignment, size_t nbytes) noexcept nogil

cdef extern from "numpy/arrayobject.h":
    cnp.ndarray PyArray_NewFromDescr(type subtype, cnp.dtype descr, int nd, cnp.npy_intp *dims,
                                     cnp.npy_intp *strides,
                                     void *data, int flags, object obj)
    int PyArray_SetBaseObject(cnp.ndarray array, object base) except -1
    int PyArray_CopyInto(cnp.ndarray target, cnp.ndarray source) except -1
    cnp.dtype PyArray_DescrFromType(int number)
    int NPY_ARRAY_WRITEABLE
    void PyArray_CLEARFLAGS(cnp.ndarray array, int flags)

cdef enum:
    NPY_LAST_PLAIN = 16         # bool to clongdouble
    NPY_HALF = 23
    MAX_DIMS = 64

cdef struct Shape:
    int ndim
    cnp.npy_intp dims[MAX_DIMS]
    cnp.npy_intp strides[MAX_DIMS]


cdef inline bint is_plain(int number) noexcept nogil:
    return 0 <= number <= NPY_LAST_PLAIN or number == NPY_HALF


cdef inline int plain_number(cnp.dtype dtype):
    # numpy's number + 1 of a dtype that the number says all about, else 0
    cdef int number = dtype.num
    if is_plain(number):
        if PyArray_DescrFromType(number) is dtype:
            return number + 1
    return 0


cdef inline tuple dims_of(Shape *shape):
    cdef int axis
    return tuple([shape.dims[axis] for axis in range(shape.ndim)])


cdef inline cnp.ndarray view_of(cnp.dtype dtype, Shape *shape, bint strided, char *data, int flags,
                                object base):
    cdef cnp.ndarray array
    Py_INCREF(dtype)            # NewFromDescr steals one
    array = PyArray_NewFromDescr(cnp.ndarray, dtype, shape.ndim, shape.dims,
                                 shape.strides if strided else NULL,
                                 data, flags, None)
    if base is not None:
        Py_INCREF(base)         # so does SetBaseObject
        PyArray_SetBaseObject(array, base)
    return array


# Into a block

cdef inline void set_dims(Shape *shape, cnp.ndarray array) noexcept:
    cdef int axis
    shape.ndim = cnp.PyArray_NDIM(array)
    for axis in range(shape.ndim):
        shape.dims[axis] = cnp.PyArray_DIM(array, axis)


cdef inline int set_layout(Shape *shape, cnp.ndarray array, tuple axes) except -1:
    # That of a copy of `array` without gaps, whose axes lie in memory in the order `axes`.
    from refstore.payload.arrays import strides_of
    cdef int axis
    set_dims(shape, array)
    strides = strides_of(dims_of(shape), axes, array.dtype.itemsize)
    for axis in range(shape.ndim):
        shape.strides[axis] = strides[axis]
    return 0


cdef inline void set_shape(View *v, uint64_t i, int number, char order, Shape *shape) noexcept:
    # of an array that plain numbers describe
    cdef Slot *slot = &v.slots[i]
    cdef int axis
    assign(slot.kind, KIND_ARRAY)
    assign(slot.order, <unsigned char>order)
    assign(slot.dtype, <unsigned char>number)
    assign(slot.ndim, <unsigned char>shape.ndim)
    for axis in range(shape.ndim):
        assign(slot.shape[axis], <uint64_t>shape.dims[axis])


cdef inline void set_text(View *v, Slot *slot, uint64_t i, const char *text, Py_ssize_t n) noexcept:
    # The description goes into the label if it fits (whose memory is committed), else behind the
    # payload.
    if n <= LABEL_TEXT:
        assign(slot.text_nbytes, <unsigned char>n)
        memcpy(label_at(v, i).text, text, <size_t>n)
        failpoint()
    else:
        assign(slot.spill_nbytes, <unsigned int>n)
        memcpy(v.base + slot.offset + slot.nbytes, text, <size_t>n)
        failpoint()


cdef inline int start_array(View *v, Draft *draft, cnp.dtype dtype, Shape *shape, char order,
                            tuple axes, uint64_t nbytes) except -1:
    # A slot for an array, with its description written. `axes`: None stands for C order.
    cdef int number = plain_number(dtype)
    if not number or shape.ndim > INLINE_DIMS or order == c'K':
        from refstore.payload.arrays import describe
        text = describe(dtype, dims_of(shape), tuple(range(shape.ndim)) if axes is None else axes)
        return start_described(v, draft, text, order, nbytes)
    begin_object(v, draft, nbytes, 0)
    set_shape(v, draft.slot, number, order, shape)
    return 0


cdef inline int start_described(View *v, Draft *draft, bytes text, char order,
                                uint64_t nbytes) except -1:
    # The same by a text that says all of it.
    from refstore.payload.arrays import has_plain_view
    cdef Slot *slot
    if not has_plain_view(text):
        order = c'K'
    python_ran(v, draft.life, "describing an array")
    slot = begin_object(v, draft, nbytes, <uint64_t>len(text) if len(text) > LABEL_TEXT else 0)
    assign(slot.kind, KIND_ARRAY)
    assign(slot.order, <uint8_t>order)
    if len(text) <= LABEL_TEXT:
        require_committed(v, draft, True)
    set_text(v, slot, draft.slot, PyBytes_AS_STRING(text), len(text))
    return 0


cdef inline char order_of(tuple axes) except 0:
    # of the axes from the slowest to the fastest
    cdef tuple rising = tuple(range(len(axes)))
    return c'C' if axes == rising else c'F' if axes == rising[::-1] else c'K'


cdef inline int put_strided(View *v, Draft *draft, cnp.ndarray array, Shape *shape) except -1:
    # Not in C order: the axes keep the order in which they lie, without the gaps and what they
    # repeat.
    from refstore.payload.arrays import axes_in_memory, plain_axes, stored_part
    cdef:
        tuple axes = axes_in_memory(array)
        cnp.dtype dtype = array.dtype
        cnp.ndarray stored = stored_part(array, axes)
        size_t nbytes = <size_t>cnp.PyArray_NBYTES(stored)
        Shape dense
    set_layout(&dense, stored, plain_axes(axes))
    start_array(v, draft, dtype, shape, order_of(axes), axes, nbytes)
    if cnp.PyArray_IS_F_CONTIGUOUS(stored):
        return copy_in(v, draft, block_of(v, draft), <char*>cnp.PyArray_DATA(stored), nbytes)
    try:
        PyArray_CopyInto(view_of(dtype, &dense, True, block_of(v, draft), NPY_ARRAY_WRITEABLE,
                                 None), stored)
        look_for_signals(v, draft.life, "copying what has gaps")
    except BaseException:
        discard(v, draft)
        raise
    return 0


cdef inline int put_array(View *v, Draft *draft, cnp.ndarray array) except -1:
    cdef:
        Shape shape
        size_t nbytes = <size_t>cnp.PyArray_NBYTES(array)
    set_dims(&shape, array)
    if not cnp.PyArray_IS_C_CONTIGUOUS(array):
        return put_strided(v, draft, array, &shape)
    start_array(v, draft, array.dtype, &shape, c'C', None, nbytes)
    return copy_in(v, draft, block_of(v, draft), <char*>cnp.PyArray_DATA(array), nbytes)


cdef inline int start_shaped(View *v, Draft *draft, object shape, cnp.dtype dtype,
                             object order) except -1:
    from refstore._arguments import checked_size
    from refstore.payload.arrays import measure
    cdef Shape dims
    cdef tuple axes
    cdef int axis
    extents, nbytes = measure(shape, dtype)
    dims.ndim = <int>len(extents)
    for axis in range(dims.ndim):
        dims.dims[axis] = <cnp.npy_intp>checked_size(extents[axis])
    axes = tuple(range(dims.ndim))
    if order == "F":
        axes = axes[::-1]
    return start_array(v, draft, dtype, &dims, order_of(axes), axes, checked_size(nbytes))


# Headers

cdef inline bytes description_of(View *v, uint64_t i, Py_ssize_t nbytes):
    # Of an array in a slot that is pinned; `nbytes`: of its payload, which lies in the file.
    from refstore.payload.arrays import describe
    cdef Shape shape
    cdef bint strided
    cdef cnp.dtype dtype
    cdef tuple axes
    if not v.slots[i].dtype:
        return get_text(v, i, <uint64_t>nbytes)
    dtype = read_shape(v, i, nbytes, &shape, &strided)
    axes = tuple(range(shape.ndim))
    return describe(dtype, dims_of(&shape), axes[::-1] if strided else axes)


cdef inline bytes header_of_slot(View *v, uint64_t i, Py_ssize_t nbytes):
    from refstore.payload.headers import header_of, KINDS
    cdef int kind = kind_of(v, i)
    return header_of(KINDS[kind], nbytes,
                     description_of(v, i, nbytes) if kind == KIND_ARRAY else b"")


cdef inline int start_by_header(View *v, Draft *draft, object header, uint64_t nbytes) except -1:
    # A slot for what has this header, without its payload.
    from refstore.payload.headers import KINDS, read_header
    name, text = read_header(header, nbytes)
    if name == KINDS[KIND_ARRAY]:
        return start_by_description(v, draft, text, nbytes)
    assign(begin_object(v, draft, nbytes, 0).kind, <uint8_t>KINDS.index(name))
    return 0


cdef inline int start_by_description(View *v, Draft *draft, bytes text, uint64_t nbytes) except -1:
    from pickle import UnpicklingError
    from refstore.payload.arrays import axes_of, read
    cdef Shape dims
    cdef tuple axes = axes_of(text)
    cdef int axis
    try:
        dtype, extents, _ = read(text, nbytes)
    except UnpicklingError:     # of a package that is not here: it is carried all the same
        return start_described(v, draft, text, order_of(axes), nbytes)
    dims.ndim = <int>len(extents)
    for axis in range(dims.ndim):
        dims.dims[axis] = <cnp.npy_intp>extents[axis]
    return start_array(v, draft, dtype, &dims, order_of(axes), axes, nbytes)


# From a block

cdef inline object damaged(View *v, uint64_t i, str what):
    # `what` of slot `i` is invalid, as in "the shape of the array"
    from refstore import _messages
    return _messages.damaged_object(path_of(v), what, i)


cdef inline void fortran_strides(Shape *shape, Py_ssize_t itemsize) noexcept:
    cdef int axis
    cdef cnp.npy_intp step = itemsize
    for axis in range(shape.ndim):
        shape.strides[axis] = step
        step *= max(shape.dims[axis], <cnp.npy_intp>1)


cdef inline bint fits(Shape *shape, Py_ssize_t itemsize, uint64_t nbytes) noexcept:
    # A damaged file must not lead a view out of its block. numpy counts no extent of 0 into the
    # size that it takes.
    cdef uint64_t whole = <uint64_t>itemsize
    cdef uint64_t extent
    cdef bint is_empty = False
    cdef int axis
    for axis in range(shape.ndim):
        extent = <uint64_t>shape.dims[axis]
        if extent == 0:
            is_empty = True
        elif extent > <uint64_t>PY_SSIZE_T_MAX // whole:
            return False
        else:
            whole *= extent
    return nbytes == (0 if is_empty else whole)


cdef inline object damaged_kind(View *v, uint64_t i):
    from refstore import _messages
    return damaged(v, i, _messages.KIND_OF_OBJECT)


cdef inline int kind_of(View *v, uint64_t i) except -1:
    cdef int kind = v.slots[i].kind
    if kind > KIND_OBJECT:
        raise damaged_kind(v, i)
    return kind


cdef inline cnp.dtype read_shape(View *v, uint64_t i, Py_ssize_t nbytes, Shape *shape,
                                 bint *strided):
    # How the array in slot `i` lies in its `nbytes` bytes; anything else is bytes.
    cdef:
        Slot *slot = &v.slots[i]
        int number = slot.dtype
        int order = slot.order
        int axis
        cnp.dtype dtype
    strided[0] = False
    if kind_of(v, i) != KIND_ARRAY:
        shape.ndim = 1
        shape.dims[0] = nbytes
        return PyArray_DescrFromType(cnp.NPY_UINT8)
    if not number:
        strided[0] = True
        return read_description(v, i, nbytes, shape)
    if not is_plain(number - 1):
        raise damaged(v, i, "the dtype of the array")
    if order != c'C' and order != c'F':
        raise damaged(v, i, "the order of the axes of the array")
    shape.ndim = slot.ndim
    if shape.ndim > INLINE_DIMS:
        raise damaged(v, i, "the number of axes of the array")
    dtype = PyArray_DescrFromType(number - 1)
    for axis in range(shape.ndim):
        shape.dims[axis] = <cnp.npy_intp>slot.shape[axis]
    if not fits(shape, dtype.itemsize, <uint64_t>nbytes):
        raise damaged(v, i, "the shape of the array")
    if order == c'F':
        strided[0] = True
        fortran_strides(shape, dtype.itemsize)
    return dtype


cdef inline cnp.dtype read_description(View *v, uint64_t i, Py_ssize_t nbytes, Shape *shape):
    from refstore.payload.arrays import DescriptionError, read
    cdef int axis
    try:
        dtype, dims, strides = read(get_text(v, i, <uint64_t>nbytes), nbytes)
    except DescriptionError as error:
        raise damaged(v, i, f"{error} of the array") from error
    shape.ndim = <int>len(dims)
    for axis in range(shape.ndim):
        shape.dims[axis] = dims[axis]
        shape.strides[axis] = strides[axis]
    return dtype


cdef inline object damaged_text(View *v, uint64_t i):
    return damaged(v, i, "the length of the description of the array")


cdef inline bytes get_text(View *v, uint64_t i, uint64_t nbytes):
    # `nbytes`: of the payload, which lies in the file
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t spill = slot.spill_nbytes
        uint64_t length = slot.text_nbytes
        uint64_t offset = slot.offset
        uint64_t size = block_nbytes(slot)
    if spill:
        if (nbytes > size or spill > size - nbytes or offset < v.g.data or offset > v.g.file_size
                or size > v.g.file_size - offset):
            raise damaged_text(v, i)
        return PyBytes_FromStringAndSize(v.ro_base + offset + nbytes, <Py_ssize_t>spill)
    if length > LABEL_TEXT or not labels_are_committed(v, i):
        raise damaged_text(v, i)
    return PyBytes_FromStringAndSize(<char*>label_at(v, i).text, <Py_ssize_t>length)


cdef inline bytes read_meta(View *v, uint64_t i, uint64_t nbytes):
    # Of a slot that is pinned; `nbytes`: of its payload, which lies in the file.
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t offset = slot.offset, spill = slot.spill_nbytes, size = block_nbytes(slot)
        uint64_t n = meta_nbytes(v, i)
    if n == 0:
        return b""
    if n <= META_INLINE:
        return PyBytes_FromStringAndSize(<char*>meta_at(v, i).octets, <Py_ssize_t>n)
    if n > META_LIMIT or nbytes + spill + n > size or offset < v.g.data \
            or offset > v.g.file_size or size > v.g.file_size - offset:
        raise damaged(v, i, "the length of the meta of the object")
    return PyBytes_FromStringAndSize(v.ro_base + offset + nbytes + spill, <Py_ssize_t>n)


cdef inline char *private_copy(View *v, uint64_t i, char *data, Py_ssize_t n, void **at,
                               size_t *mapped) except NULL:
    # Pages of its own are mapped again, copy-on-write, through a description without locks: no lock
    # outlives us by it. A block that shares its pages is copied: a private page would hide what its
    # neighbours become.
    import os
    from refstore import _limits
    cdef size_t nbytes
    cdef int fd
    if v.slots[i].extent == 0 or os.sysconf("SC_PAGE_SIZE") != PAGE:
        at[0] = aligned_alloc(64, (<size_t>n // 64 + 1) * 64)
        if at[0] == NULL:
            raise MemoryError(f"no {n} bytes for a private copy")
        memcpy(at[0], data, <size_t>n)
        return <char*>at[0]
    nbytes = max((<size_t>n + PAGE - 1) // PAGE, <size_t>1) * PAGE
    fd = reopen(file_of(v), O_RDONLY)
    if fd < 0:
        raise _limits.no_descriptor(os.fsdecode(<bytes>v.path), "a private view")
    at[0] = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd,
                 <int64_t>v.slots[i].offset)
    close(fd)
    if at[0] == MAP_FAILED:
        at[0] = NULL
        raise _limits.no_private_view(nbytes)
    mapped[0] = nbytes
    return <char*>at[0]
