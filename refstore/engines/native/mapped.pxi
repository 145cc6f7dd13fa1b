# A store file that this process has mapped: what an attachment and a look have in common.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t

from refstore.engines.native.layout cimport EVICT_S3FIFO, Header
from refstore.engines.native.view cimport View
from refstore.engines.native.mapping cimport unmap_view

import os
from refstore import _arguments, _messages


cdef class Mapped(Reports):
    # A Mapped of the interface of engines.

    cdef View view
    cdef readonly str path
    cdef readonly bytes uuid
    cdef bytes encoded_path

    def __cinit__(self):
        self.view.fd = -1

    def __dealloc__(self):
        unmap_view(&self.view)

    cdef object in_use(self, View **v):
        if self.view.base == NULL:
            raise _messages.closed()        # as what was never open
        v[0] = &self.view
        return self

    cdef int note_file(self, str path, const Header *h, object found) except -1:
        # before it is mapped
        self.path = path
        self.encoded_path = os.fsencode(path)
        self.uuid = PyBytes_FromStringAndSize(<const char*>h.uuid, 16)
        self.view.path = PyBytes_AS_STRING(self.encoded_path)
        self.view.dev, self.view.ino = found.st_dev, found.st_ino
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
