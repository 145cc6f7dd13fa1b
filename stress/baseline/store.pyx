"""The store that refstore replaces, kept so that both can be measured side by side.

    header: one lock | next free byte | capacity | 1000 slots
    data

- One process-shared mutex guards everything, the copies included.
- Space is taken from the front of the data and never given back.
- A key is the caller's, a number from 1, and is found by walking the slots; so put, which must
  refuse a key that is there, walks them all.
- `get` copies the object out.

A process killed while it holds the lock hangs the others. That too is as it was.
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from posix.fcntl cimport O_CREAT, O_EXCL, O_RDWR, open
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.stat cimport fstat, struct_stat
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, ftruncate

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_mutexattr_t:
        pass
    int PTHREAD_PROCESS_SHARED
    int pthread_mutexattr_init(pthread_mutexattr_t *attr)
    int pthread_mutexattr_setpshared(pthread_mutexattr_t *attr, int shared)
    int pthread_mutexattr_destroy(pthread_mutexattr_t *attr)
    int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef enum:
    SLOTS = 1000

cdef struct Slot:
    uint64_t key       # 0: the slot is free
    uint64_t offset    # bytes from the start of the data
    uint64_t size      # bytes

cdef struct Header:
    pthread_mutex_t lock
    uint64_t next_free  # bytes from the start of the data
    uint64_t capacity   # bytes of data
    Slot slots[SLOTS]


cdef inline Slot *find(Header *header, uint64_t key) noexcept nogil:
    """The slot of that key, or a free one for key 0; NULL if there is none."""
    cdef size_t i
    for i in range(<size_t>SLOTS):
        if header.slots[i].key == key:
            return &header.slots[i]
    return NULL


cdef inline double now() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <double>time.tv_sec + <double>time.tv_nsec * 1e-9


cdef class BaselineStore:
    """A store of at most 1000 objects whose space is used once.

    `ring` starts again at the front when the end is reached, over whatever lies there: without
    it no loop of puts could be measured for longer than it takes to fill the file.
    """

    cdef Header *header
    cdef unsigned char *data
    cdef size_t length
    cdef bint ring
    cdef readonly str path

    def __cinit__(self, str name not None, uint64_t capacity=0, *, bint create=True,
                  bint ring=False):
        cdef bytes path
        cdef int fd
        cdef struct_stat status
        self.path = f"/dev/shm/refstore-baseline-{os.getuid()}-{name}"
        self.ring = ring
        path = self.path.encode()
        fd = open(path, O_RDWR | (O_CREAT | O_EXCL if create else 0), 0o600)
        if fd < 0:
            raise FileExistsError(self.path) if create else FileNotFoundError(self.path)
        try:
            if create and ftruncate(fd, sizeof(Header) + capacity) != 0:
                raise OSError(f"no space for {self.path}")
            fstat(fd, &status)
            self.length = <size_t>status.st_size
            self.map(fd)
        finally:
            close(fd)
        if create:
            self.initialise(capacity)

    cdef int map(self, int fd) except -1:
        cdef void *memory = mmap(NULL, self.length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if memory == MAP_FAILED:
            raise OSError(f"{self.path} cannot be mapped")
        self.header = <Header *>memory
        self.data = <unsigned char *>memory + sizeof(Header)
        return 0

    cdef void initialise(self, uint64_t capacity) noexcept:
        cdef pthread_mutexattr_t shared
        pthread_mutexattr_init(&shared)
        pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED)
        pthread_mutex_init(&self.header.lock, &shared)
        pthread_mutexattr_destroy(&shared)
        self.header.capacity = capacity

    def __dealloc__(self):
        if self.header != NULL:
            munmap(self.header, self.length)

    cdef int lock(self) except -1:
        if self.header == NULL:
            raise ValueError("the store is closed")
        # The GIL is kept throughout: who waits for this lock waits for another process.
        pthread_mutex_lock(&self.header.lock)
        return 0

    def put(self, uint64_t key, data not None):
        """Copies the bytes in, under a key that nobody uses."""
        cdef Py_buffer source
        if key == 0:
            raise ValueError("keys start from 1")
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            self.put_bytes(key, <const unsigned char *>source.buf, <uint64_t>source.len)
        finally:
            PyBuffer_Release(&source)

    cdef int put_bytes(self, uint64_t key, const unsigned char *source, uint64_t size) except -1:
        cdef Slot *slot
        cdef Header *header
        self.lock()
        header = self.header
        try:
            if find(header, key) != NULL:
                raise KeyError(f"key {key} is taken")
            slot = find(header, 0)
            if slot == NULL:
                raise MemoryError(f"all {SLOTS} slots are taken")
            if self.ring and size > header.capacity - header.next_free:
                header.next_free = 0
            if size > header.capacity - header.next_free:
                raise MemoryError(f"{size} bytes asked, {header.capacity - header.next_free} left")
            slot.offset = header.next_free
            slot.size = size
            memcpy(self.data + slot.offset, source, size)
            header.next_free += size
            slot.key = key
            return 0
        finally:
            pthread_mutex_unlock(&header.lock)

    def get(self, uint64_t key):
        """A copy of the bytes under that key."""
        cdef Slot *slot
        self.lock()
        try:
            slot = find(self.header, key)
            if slot == NULL:
                raise KeyError(key)
            return (<const char *>self.data + slot.offset)[:slot.size]
        finally:
            pthread_mutex_unlock(&self.header.lock)

    def contains(self, uint64_t key):
        """True if there is an object under that key."""
        cdef bint found
        self.lock()
        found = find(self.header, key) != NULL
        pthread_mutex_unlock(&self.header.lock)
        return found

    def delete(self, uint64_t key):
        """Frees the slot of that key; its bytes are lost to the store for good."""
        cdef Slot *slot
        self.lock()
        slot = find(self.header, key)
        if slot != NULL:
            slot.key = 0
        pthread_mutex_unlock(&self.header.lock)
        if slot == NULL:
            raise KeyError(key)

    def used(self):
        """Bytes taken from the front so far, of objects deleted since too."""
        cdef uint64_t used
        self.lock()
        used = self.header.next_free
        pthread_mutex_unlock(&self.header.lock)
        return used

    def lookup_loop(self, keys not None, size_t count):
        """Seconds that `count` lookups take in the core alone: lock, walk the slots, unlock.

        `keys` is an array of type code Q, gone through again and again.
        """
        cdef Py_buffer source
        cdef size_t missing = 0
        cdef double began = 0
        if self.header == NULL:
            raise ValueError("the store is closed")
        PyObject_GetBuffer(keys, &source, PyBUF_SIMPLE)
        try:
            with nogil:
                began = now()
                missing = self.look_up(<const uint64_t *>source.buf, source.len // 8, count)
                began = now() - began
        finally:
            PyBuffer_Release(&source)
        if missing:
            raise KeyError(f"{missing} of {count} keys were not found")
        return began

    cdef size_t look_up(self, const uint64_t *keys, size_t n, size_t count) noexcept nogil:
        cdef size_t i
        cdef size_t missing = 0
        for i in range(count):
            pthread_mutex_lock(&self.header.lock)
            missing += find(self.header, keys[i % n]) == NULL
            pthread_mutex_unlock(&self.header.lock)
        return missing

    def close(self):
        """Unmaps the file; the store cannot be used any more."""
        if self.header != NULL:
            munmap(self.header, self.length)
            self.header = NULL

    def unlink(self):
        """Removes the file."""
        os.unlink(self.path)
