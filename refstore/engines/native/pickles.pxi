# Frames that hold a short pickle and nothing else: small objects of built-in types. They are told
# by the bytes in front of the pickle, and read without a step in Python.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcmp, memcpy

import pickle
from refstore import payload
from refstore.payload.frames import head_alone

cdef enum:
    HEAD_NBYTES = 24
    LONGEST_KNOWN = 512         # bytes of a pickle whose head is kept

cdef struct Head:
    bint is_known
    char octets[HEAD_NBYTES]

cdef Head[LONGEST_KNOWN + 1] heads


cdef const char *head_of(Py_ssize_t pickle_nbytes) except NULL:
    # Of a frame with such a pickle, which is at most LONGEST_KNOWN bytes long.
    cdef Head *head = &heads[pickle_nbytes]
    cdef bytes octets
    if not head.is_known:
        octets = head_alone(pickle_nbytes)
        assert len(octets) == HEAD_NBYTES
        memcpy(head.octets, PyBytes_AS_STRING(octets), HEAD_NBYTES)
        head.is_known = True
    return head.octets


cdef inline bytes short_pickle(const char *frame, Py_ssize_t nbytes):
    # The one in a frame, or None: it is another frame.
    cdef Py_ssize_t n = nbytes - HEAD_NBYTES
    if not 0 < n <= LONGEST_KNOWN or memcmp(frame, head_of(n), HEAD_NBYTES) != 0:
        return None
    return PyBytes_FromStringAndSize(frame + HEAD_NBYTES, n)


cdef object unpickled(bytes stream):
    try:
        return pickle.loads(stream)
    except (AttributeError, ModuleNotFoundError, EOFError) as error:
        payload.explain(error)
        raise
