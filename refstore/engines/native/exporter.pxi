# Buffers by classes in Python, for the filelock engine.

from cpython.exc cimport PyErr_Fetch, PyErr_Restore
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF


cdef class Exporter:
    """The base of a class in Python whose objects are buffers.

    `_buffer_for(flags)` says what exports in an object's place.

    A view belongs to what exported it, so whoever keeps a view, or only what lies behind it, keeps
    that.
    """

    cdef object __weakref__

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # torch.frombuffer() asks once more without having cleared the error of its first request
        cdef PyObject *kind
        cdef PyObject *value
        cdef PyObject *trace
        PyErr_Fetch(&kind, &value, &trace)
        try:
            export_as(self._buffer_for(flags), buffer, flags)
        except BaseException:
            Py_XDECREF(kind)
            Py_XDECREF(value)
            Py_XDECREF(trace)
            raise
        PyErr_Restore(kind, value, trace)


cdef class ReleasingExporter(Exporter):
    """One of which numpy.frombuffer() keeps a view, and not the object itself."""

    def __releasebuffer__(self, Py_buffer *buffer):
        # never called, see PinnedBuffer; numpy looks whether a type has this
        pass
