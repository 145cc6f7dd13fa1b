# From an array, or the description of one, to a slot that is filled and not yet sealed.

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint64_t, uint8_t

from refstore.engines.native.atomics cimport assign
from refstore.engines.native.layout cimport INLINE_DIMS, KIND_ARRAY, LABEL_TEXT, Slot
from refstore.engines.native.view cimport View
from refstore.engines.native.points cimport look_for_signals, python_ran
from refstore.engines.native.arrays cimport (
    dims_of, get_text, kind_of, NPY_ARRAY_WRITEABLE, plain_number, PyArray_CopyInto, read_shape,
    set_layout, set_text, Shape, view_of,
)
from refstore.engines.native.opening cimport read_header
from refstore.engines.native.put cimport (
    begin_object, block_of, copy_in, discard, Draft, require_committed,
)

cdef inline int start_array(View *v, Draft *draft, cnp.dtype dtype, Shape *shape, char order,
                            tuple axes, uint64_t nbytes) except -1:
    # A slot for an array, with its description written. `axes`: None stands for C order.
    cdef int number = plain_number(dtype)
    cdef Slot *slot
    cdef int axis
    if not number or shape.ndim > INLINE_DIMS or order == c'K':
        from refstore.payload.arrays import describe
        text = describe(dtype, dims_of(shape), tuple(range(shape.ndim)) if axes is None else axes)
        return start_described(v, draft, text, order, nbytes)
    slot = begin_object(v, draft, nbytes, 0)
    assign(slot.kind, KIND_ARRAY)
    assign(slot.order, <uint8_t>order)
    assign(slot.dtype, <uint8_t>number)
    assign(slot.ndim, <uint8_t>shape.ndim)
    for axis in range(shape.ndim):
        assign(slot.shape[axis], <uint64_t>shape.dims[axis])
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
        int axis
        size_t nbytes = <size_t>cnp.PyArray_NBYTES(array)
    shape.ndim = cnp.PyArray_NDIM(array)
    for axis in range(shape.ndim):
        shape.dims[axis] = cnp.PyArray_DIM(array, axis)
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
