# Tensors of torch, by the interface that it has for the C code of other libraries (DLPack 1.3). All
# that lies in front of a tensor's elements is known from an earlier one of its dtype and shape.

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int32_t, int64_t, intptr_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy

from refstore.engines.native.layout cimport KIND_OBJECT
from refstore.engines.native.view cimport View
from refstore.engines.native.put cimport (
    begin_object, block_of, copy_in, discard, Draft, RELEASES_GIL, write_kind,
)

from refstore import _messages, payload

cdef enum:
    DL_CPU = 1
    DL_COMPLEX = 5
    TENSOR_DIMS = 8             # `payload` makes the frames of those that have more
    FRONTS_KEPT = 256
    REQUIRES_GRAD = 65536       # a bit of the first word of a form

cdef struct DLTensor:
    void *data
    int32_t device_type
    int32_t device_id
    int32_t ndim
    uint8_t code
    uint8_t bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides
    uint64_t byte_offset

ctypedef int (*LookAt)(void *tensor, DLTensor *out) except -1

cdef struct DLExchange:
    # DLPackExchangeAPI of version 1
    uint32_t major
    uint32_t minor
    void *earlier
    void *allocate
    void *export
    void *make
    LookAt look_at

cdef struct Form:
    # What the front of a dense tensor's frame depends on, and nothing else.
    size_t n_words
    int64_t words[2 + 2 * TENSOR_DIMS]

cdef struct Dense:
    # A tensor without gaps.
    const char *elements
    uint64_t nbytes
    Form form
    bint is_complex

cdef struct Front:
    Form form
    PyObject *octets                        # bytes, or NULL

cdef object tensor_class = None             # torch's, once an object with a tensor was met
cdef LookAt look_at = NULL                  # NULL: this torch has none
cdef Front[FRONTS_KEPT] fronts              # each at its own place, from where it drives others


cdef int learn_of_torch() except -1:
    global tensor_class, look_at
    cdef DLExchange *known
    tensor_class = payload.torch.tensor_class
    capsule = getattr(tensor_class, "__dlpack_c_exchange_api__", None)
    if capsule is not None:
        known = <DLExchange*>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
        if known.major == 1:
            look_at = known.look_at
    return 0


cdef bint see_elements(object tensor, Dense *dense) except -1:
    # Whether it has elements, in C order, in this process's memory. No Python runs here.
    cdef:
        DLTensor t
        int64_t items = 1
        int axis
    try:
        look_at(<void*>tensor, &t)
    except Exception:           # it has no plain memory
        return False
    if t.device_type != DL_CPU or t.data == NULL or t.ndim > TENSOR_DIMS or t.lanes != 1 \
            or t.bits % 8 != 0:
        return False
    for axis in range(t.ndim - 1, -1, -1):
        if t.shape[axis] != 1 and t.strides[axis] != items:
            return False
        items *= t.shape[axis]
        dense.form.words[2 + axis] = t.shape[axis]
        dense.form.words[2 + t.ndim + axis] = t.strides[axis]
    dense.form.words[0] = t.code | t.bits << 8
    dense.form.words[1] = 0
    dense.form.n_words = 2 + 2 * t.ndim
    dense.elements = <char*>t.data + t.byte_offset
    dense.nbytes = <uint64_t>items * (t.bits // 8)
    dense.is_complex = t.code == DL_COMPLEX
    return items != 0


cdef bint see_tensor(object tensor, Dense *dense) except -1:
    # Whether it is those elements and nothing else. What is not, `payload` takes apart.
    if look_at == NULL or not see_elements(tensor, dense):
        return False
    if tensor.is_neg() or dense.is_complex and tensor.is_conj() or tensor.__dict__:
        return False
    if dense.form.words[0] >> 8 == 8:   # torch has many dtypes that DLPack takes for one
        dense.form.words[1] = <int64_t><intptr_t><PyObject*>tensor.dtype
    if tensor.requires_grad:
        dense.form.words[0] |= REQUIRES_GRAD
        return not tensor._backward_hooks
    return True


cdef bint put_tensor(View *v, Draft *draft, object tensor, const Dense *dense) except -1:
    # False: nothing was done, since the front of its frame is not known.
    cdef:
        Dense now
        Front *known = place_of(&dense.form)
        bytes front                         # ours: others may drive it away meanwhile
        cnp.ndarray kept = None             # what the elements lie in
        char *block
        Py_ssize_t n
    if known.octets == NULL or not are_same(&known.form, &dense.form):
        return False
    front = <bytes>known.octets
    n = PyBytes_GET_SIZE(front)
    if dense.nbytes >= RELEASES_GIL:        # else others might take it away amid the copy
        kept = payload.torch.held(tensor)
    begin_object(v, draft, <uint64_t>n + dense.nbytes, 0)
    if not see_elements(tensor, &now) or not are_alike(&now.form, &dense.form) \
            or kept is not None and not lies_in(kept, now.elements, now.nbytes):
        discard(v, draft)
        raise _messages.changed_tensor()    # by others, who may have run meanwhile
    block = block_of(v, draft)
    memcpy(block, PyBytes_AS_STRING(front), <size_t>n)
    copy_in(v, draft, block + n, now.elements, <size_t>now.nbytes)
    write_kind(v, draft, KIND_OBJECT)
    return True


cdef inline bint lies_in(cnp.ndarray octets, const char *first, uint64_t nbytes) noexcept:
    cdef const char *start = <char*>cnp.PyArray_DATA(octets)
    return start <= first and first + nbytes <= start + cnp.PyArray_NBYTES(octets)


cdef inline bint are_same(const Form *one, const Form *other) noexcept:
    return one.n_words == other.n_words \
        and memcmp(one.words, other.words, one.n_words * sizeof(int64_t)) == 0


cdef inline bint are_alike(const Form *one, const Form *other) noexcept:
    # But for what see_elements() does not see.
    return one.n_words == other.n_words \
        and (one.words[0] ^ other.words[0]) & ~<int64_t>REQUIRES_GRAD == 0 \
        and memcmp(&one.words[2], &other.words[2], (one.n_words - 2) * sizeof(int64_t)) == 0


cdef inline Front *place_of(const Form *form) noexcept:
    cdef uint64_t mixed = 0
    cdef size_t k
    for k in range(form.n_words):
        mixed = (mixed ^ <uint64_t>form.words[k]) * <uint64_t>0x9E3779B97F4A7C15
    return &fronts[mixed >> 56]


cdef int keep_front(object tensor, const Dense *dense, object frame) except -1:
    # Of the frame that `payload` made of this tensor, which was like that before.
    cdef Dense now
    cdef Front *place
    cdef PyObject *before
    if not see_tensor(tensor, &now) or not are_same(&now.form, &dense.form):
        return 0                            # others were at it meanwhile
    front = payload.torch.front_of(frame)
    place = place_of(&dense.form)
    before = place.octets
    Py_INCREF(front)
    place.form = dense.form
    place.octets = <PyObject*>front
    Py_XDECREF(before)
    return 0
