# A look at a store from outside: it is mapped to be read, and nobody there takes notice. No row is
# taken, so that it works when all are; what the dead have left is shown as it is.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t

from refstore.engines.native.layout cimport EVICT_S3FIFO, Header
from refstore.engines.native.view cimport View
from refstore.engines.native.mapping cimport unmap_view
from refstore.engines.native.page_states cimport fill_page_states
from refstore.engines.native.holders cimport past_recoveries
from refstore.engines.native.opening cimport look_into, read_header

import os
from refstore import _arguments


@cython.final
cdef class Look(Reports):
    """A Look of the interface of engines."""

    cdef View view
    cdef readonly str path
    cdef readonly bytes uuid
    cdef bytes encoded_path

    def __cinit__(self):
        self.view.fd = -1

    def __dealloc__(self):
        unmap_view(&self.view)

    cdef object in_use(self, View **v):
        v[0] = &self.view
        return self

    cdef int open_it(self, str path, int fd, const Header *h, object found) except -1:
        self.path = path
        self.encoded_path = os.fsencode(path)
        self.uuid = PyBytes_FromStringAndSize(<const char*>h.uuid, 16)
        self.view.path = PyBytes_AS_STRING(self.encoded_path)
        self.view.dev, self.view.ino = found.st_dev, found.st_ino
        look_into(&self.view, fd, h, path)
        return 0

    @property
    def capacity(self):
        return self.view.header.capacity

    @property
    def max_objects(self):
        return self.view.header.max_objects

    @property
    def evict(self):
        return _arguments.POLICIES[min(self.view.header.evict, <uint32_t>EVICT_S3FIFO)]

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
        one.open_it(path, fd, <Header*>PyBytes_AS_STRING(head), found)
        return one
    finally:
        os.close(fd)
