# Between payloads and numpy: how an array lies in a block, and how it is seen again.

cimport numpy as cnp
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from refstore._layout cimport INLINE_DIMS, LABEL_TEXT, Label, Slot
from refstore._store cimport Store, label_at

cdef extern from "numpy/arrayobject.h":
    cnp.ndarray PyArray_NewFromDescr(type subtype, cnp.dtype descr, int nd, cnp.npy_intp *dims, cnp.npy_intp *strides,
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


cdef inline int plain_number(cnp.dtype dtype):
    # numpy's number + 1 of a dtype that the number says all about, else 0
    cdef int number = dtype.num
    if 0 <= number <= NPY_LAST_PLAIN or number == NPY_HALF:
        if PyArray_DescrFromType(number) is dtype:
            return number + 1
    return 0


cdef inline cnp.ndarray view_of(cnp.dtype dtype, Shape *shape, bint strided, char *data, int flags, object base):
    cdef cnp.ndarray array
    Py_INCREF(dtype)            # NewFromDescr steals one
    array = PyArray_NewFromDescr(cnp.ndarray, dtype, shape.ndim, shape.dims, shape.strides if strided else NULL,
                                 data, flags, None)
    if base is not None:
        Py_INCREF(base)         # so does SetBaseObject
        PyArray_SetBaseObject(array, base)
    return array


cdef inline void fortran_strides(Shape *shape, Py_ssize_t itemsize) noexcept:
    cdef int axis
    cdef cnp.npy_intp step = itemsize
    for axis in range(shape.ndim):
        shape.strides[axis] = step
        step *= max(shape.dims[axis], <cnp.npy_intp>1)


cdef inline bint fits(Shape *shape, Py_ssize_t itemsize, uint64_t nbytes) noexcept:
    # A damaged file must not lead a view out of its block.
    cdef uint64_t total = <uint64_t>itemsize
    cdef int axis
    for axis in range(shape.ndim):
        if shape.dims[axis] < 0:
            return False
        if shape.dims[axis] == 0:
            return True
    for axis in range(shape.ndim):
        if total and <uint64_t>shape.dims[axis] > nbytes // total:
            return False
        total *= <uint64_t>shape.dims[axis]
    return total <= nbytes


cdef inline void set_text(Store *s, Slot *slot, uint64_t i, const char *text, Py_ssize_t n) noexcept:
    # The description goes into the label if it fits (whose memory is committed), else behind the payload.
    if n <= LABEL_TEXT:
        slot.text_nbytes = <unsigned short>n
        memcpy(label_at(s, i).text, text, <size_t>n)
    else:
        slot.spill_nbytes = <unsigned int>n
        memcpy(s.base + slot.offset + slot.nbytes, text, <size_t>n)


cdef inline bytes get_text(Store *s, Slot *slot, uint64_t i):
    if slot.spill_nbytes:
        return PyBytes_FromStringAndSize(s.view + slot.offset + slot.nbytes, slot.spill_nbytes)
    return PyBytes_FromStringAndSize(<char*>label_at(s, i).text, min(slot.text_nbytes, LABEL_TEXT))
