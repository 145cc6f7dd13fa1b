# A look at a store from outside: it is mapped to be read, and nobody there takes notice. No row is
# taken, so that it works when all are; what the dead have left is shown as it is.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from refstore.engines.native.layout cimport Header
from refstore.engines.native.page_states cimport fill_page_states
from refstore.engines.native.holders cimport past_recoveries
from refstore.engines.native.opening cimport look_into, read_header

import os


@cython.final
cdef class Look(Mapped):
    """A Look of the interface of engines."""

    @property
    def made_at(self):
        return <double>self.view.header.made_at

    def _recoveries(self):
        return past_recoveries(&self.view)

    def _page_states(self):
        cdef bytes states = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.view.g.pages)
        fill_page_states(&self.view, <unsigned char*>PyBytes_AS_STRING(states))
        return states


def look(str path not None, bint foreign):
    """A look at the store file at `path`."""
    cdef bytes head
    cdef Look one
    cdef int fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        head = read_header(fd, path, found, foreign)
        one = Look()
        one.note_file(path, <Header*>PyBytes_AS_STRING(head), found)
        look_into(&one.view, fd, <Header*>PyBytes_AS_STRING(head), path)
        return one
    finally:
        os.close(fd)
