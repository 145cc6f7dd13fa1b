# From any Python object to a slot that is filled and not yet sealed.

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t

from refstore.engines.native.atomics cimport assign, load_relaxed
from refstore.engines.native.layout cimport KIND_OBJECT
from refstore.engines.native.view cimport View
from refstore.engines.native.points cimport look_for_signals, python_ran
from refstore.engines.native.put cimport begin_object, block_of, copy_in, discard, Draft

from refstore.payload import encode, fill


@cython.final
cdef class Room:
    """A part of the block that a put is filling.

    `room[a:b]` is a part of it, `room[:] = octets` writes to it.

    What is pickled is written by Python code, which may end up in a child of ours, or be kept for
    longer than the put.
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
            raise ValueError(f"a part of {self.nbytes} bytes of a block is {part}: it must be in "
                             "one piece")
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
        cdef View *v = &self.att.view
        cdef Py_buffer view
        PyObject_GetBuffer(octets, &view, PyBUF_SIMPLE)
        try:
            python_ran(v, self.draft.life, "filling a block")
            if load_relaxed(&v.slots[self.draft.slot].word) != self.word:   # relaxed: ours
                raise ValueError("the put that this block was for is over")
            if view.len != room.nbytes:
                raise ValueError(f"{view.len} bytes do not fill {room.nbytes}")
            copy_in(v, &unowned, room.at, <char*>view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)


cdef int put_pickled(Attachment att, Draft *draft, object obj) except -1:
    cdef Room room = Room.__new__(Room)
    frame = encode(obj)
    python_ran(&att.view, draft.life, "pickling")
    begin_object(&att.view, draft, <uint64_t>frame.nbytes, 0)
    try:
        room.att = att
        room.draft = draft[0]
        room.word = load_relaxed(&att.view.slots[draft.slot].word)         # relaxed: ours
        room.at = block_of(&att.view, draft)
        room.nbytes = frame.nbytes
        fill(frame, room)
        look_for_signals(&att.view, draft.life, "filling a block from Python")
    except BaseException:
        discard(&att.view, draft)
        raise
    assign(att.view.slots[draft.slot].kind, KIND_OBJECT)
    return 0
