# From any Python object to a slot that is filled and not yet sealed.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from refstore.engines.native.layout cimport KIND_OBJECT
from refstore.engines.native.view cimport View
from refstore.engines.native.points cimport python_ran
from refstore.engines.native.put cimport begin_object, block_of, copy_in, Draft, write_kind

from refstore import payload
from refstore.payload.frames import alone

cdef object copy_a_piece = payload._copy


cdef int put_object(Attachment att, Draft *draft, object obj) except -1:
    cdef:
        View *v = &att.view
        Dense dense
        bint is_dense = type(obj) is tensor_class and see_tensor(obj, &dense)
    if is_dense and put_tensor(v, draft, obj, &dense):
        return 0
    made = payload.pickled(obj)
    if type(made) is bytes:
        if payload._copy is copy_a_piece:
            return put_pickle(v, draft, made)
        made = alone(made)
    elif is_dense:
        keep_front(obj, &dense, made)
    elif tensor_class is None and payload.torch.tensor_class is not None:
        learn_of_torch()
    return put_frame(v, draft, made)


cdef int put_pickle(View *v, Draft *draft, bytes stream) except -1:
    cdef:
        Py_ssize_t n = PyBytes_GET_SIZE(stream)
        bytes kept = None               # what `head` is of
        const char *head
        char *block
    if n <= LONGEST_KNOWN:
        head = head_of(n)
    else:
        kept = head_alone(n)
        head = PyBytes_AS_STRING(kept)
    begin_object(v, draft, <uint64_t>(HEAD_NBYTES + n), 0)
    block = block_of(v, draft)
    memcpy(block, head, HEAD_NBYTES)
    copy_in(v, draft, block + HEAD_NBYTES, PyBytes_AS_STRING(stream), <size_t>n)
    write_kind(v, draft, KIND_OBJECT)
    return 0


cdef int put_frame(View *v, Draft *draft, object frame) except -1:
    cdef:
        Py_buffer *buffer
        char *block
        uint64_t at
        bint is_plain = payload._copy is copy_a_piece
    begin_object(v, draft, <uint64_t>frame.nbytes, 0)
    block = block_of(v, draft)
    for at, piece in <list>frame.pieces:
        if not is_plain:
            piece = copied(piece)
            python_ran(v, draft.life, "copying a piece")
        buffer = PyMemoryView_GET_BUFFER(piece)         # contiguous, by the contract of frames
        copy_in(v, draft, block + at, <char*>buffer.buf, <size_t>buffer.len)
    write_kind(v, draft, KIND_OBJECT)
    return 0


cdef memoryview copied(memoryview piece):
    # By a test's own function, and not into the block, which may be another's when that returns.
    target = bytearray(len(piece))
    payload._copy(target, piece)
    return memoryview(target)
