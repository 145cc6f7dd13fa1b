# From any Python object to a slot that is filled and not yet sealed.

from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport uint64_t

from refstore.engines.native.atomics cimport assign
from refstore.engines.native.layout cimport KIND_OBJECT
from refstore.engines.native.view cimport View
from refstore.engines.native.points cimport python_ran
from refstore.engines.native.put cimport begin_object, block_of, copy_in, Draft

from refstore import payload

cdef object copy_a_piece = payload._copy


cdef int put_pickled(Attachment att, Draft *draft, object obj) except -1:
    cdef:
        View *v = &att.view
        Py_buffer *buffer
        char *block
        uint64_t at
        bint is_plain
    frame = payload.encode(obj)
    is_plain = payload._copy is copy_a_piece
    begin_object(v, draft, <uint64_t>frame.nbytes, 0)
    block = block_of(v, draft)
    for at, piece in <list>frame.pieces:
        if not is_plain:
            piece = copied(piece)
            python_ran(v, draft.life, "copying a piece")
        buffer = PyMemoryView_GET_BUFFER(piece)         # contiguous, by the contract of frames
        copy_in(v, draft, block + at, <char*>buffer.buf, <size_t>buffer.len)
    assign(v.slots[draft.slot].kind, KIND_OBJECT)
    return 0


cdef memoryview copied(memoryview piece):
    # By a test's own function, and not into the block, which may be another's when that returns.
    target = bytearray(len(piece))
    payload._copy(target, piece)
    return memoryview(target)
