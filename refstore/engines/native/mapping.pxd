# The file itself: made complete or not at all, checked before a number in it is believed,
# mapped twice.

from libc.errno cimport EFAULT, ENOMEM, ENOSPC, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from refstore.engines.native.layout cimport (
    CAPACITY_LIMIT, CHUNK, CLASSES, ENGINE_NATIVE, EVICT_NONE, EVICT_S3FIFO, FORMAT_VERSION, Header,
    HUGE_PAGE, Label, MAGIC, MAX_ROWS, Meta, OBJECTS_LIMIT, PAGE, PageTag, Pool, Run, Slot,
    SLOTS_PER_STEP,
)
from refstore.engines.native.geometry cimport fingerprint, lay_out, round_up
from refstore.engines.native.system cimport (
    allocate, close, MADV_POPULATE_READ, MADV_WIPEONFORK, madvise, MAP_ANONYMOUS, MAP_FAILED,
    MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, mmap, munmap, O_RDWR, PROT_NONE, PROT_READ,
    PROT_WRITE, same_file,
)
from refstore.engines.native.view cimport (
    bits_at, class_nbytes, map_end, pins_ready_of, runs_used, slots_used, View,
)
from refstore.engines.native.memory cimport next_ready, next_unready

cdef extern from *:
    """
    static inline int refstore_link_unnamed(int fd, const char *path) {
        char unnamed[40];
        snprintf(unnamed, sizeof unnamed, "/proc/self/fd/%d", fd);
        return linkat(AT_FDCWD, unnamed, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
    }
    """
    # gives a complete file its name; EEXIST if another process was first
    int link_unnamed "refstore_link_unnamed"(int fd, const char *path) noexcept nogil

cdef enum HeaderFault:
    HEADER_SOUND
    HEADER_NOT_A_STORE
    HEADER_OTHER_ENGINE
    HEADER_OTHER_VERSION
    HEADER_OTHER_BUILD
    HEADER_DAMAGED
    HEADER_TRUNCATED

cdef enum:
    ALIVE_NBYTES = 4096


cdef inline void fill_header(Header *h, uint64_t capacity, uint64_t max_objects, unsigned int flags,
                             const unsigned char *entropy, const char *boot_id) noexcept nogil:
    # `entropy`: 38 random bytes
    memset(h, 0, sizeof(Header))
    h.magic = MAGIC
    h.version = FORMAT_VERSION
    h.engine = ENGINE_NATIVE
    h.fingerprint = fingerprint()
    h.capacity = capacity
    h.max_objects = max_objects
    h.flags = flags
    memcpy(&h.tag, entropy, 6)
    h.tag |= 1                  # never 0, so that no ref is all zeros
    memcpy(h.seed, entropy + 6, 16)
    memcpy(h.uuid, entropy + 22, 16)
    memcpy(h.boot_id, boot_id, 36)


cdef inline HeaderFault validate_header(const Header *h, uint64_t file_nbytes) noexcept nogil:
    cdef View v
    if h.magic != MAGIC:
        return HEADER_NOT_A_STORE
    if h.engine != ENGINE_NATIVE:
        return HEADER_OTHER_ENGINE
    if h.version != FORMAT_VERSION:
        return HEADER_OTHER_VERSION
    if h.fingerprint != fingerprint():
        return HEADER_OTHER_BUILD
    if h.capacity == 0 or h.capacity > CAPACITY_LIMIT or h.max_objects == 0 \
            or h.max_objects > OBJECTS_LIMIT:
        return HEADER_DAMAGED
    lay_out(h.capacity, h.max_objects, &v.g)
    if v.g.file_size != file_nbytes:
        return HEADER_TRUNCATED
    if h.slots_used > h.max_objects or h.tag == 0 or h.tag >> 48 or h.evict > EVICT_S3FIFO:
        return HEADER_DAMAGED
    return HEADER_SOUND


cdef inline bint is_there(View *v, uint64_t at, uint64_t nbytes) noexcept nogil:
    # Who only looks has the kernel read it, which says no where a touch is a SIGBUS.
    if nbytes == 0:
        return True
    if v.access == O_RDWR:
        return allocate(v.fd, at, nbytes) != ENOSPC
    return madvise(v.base + at // PAGE * PAGE, at % PAGE + nbytes, MADV_POPULATE_READ) == 0 \
        or errno != EFAULT


cdef inline bint marks_hold(View *v, uint64_t *bits, uint64_t n, uint64_t at,
                            uint64_t unit) noexcept nogil:
    # Whether there is memory for all of n units of the file that are marked as committed. Where
    # there is, this takes none.
    cdef uint64_t i = next_ready(bits, 0, n), until
    while i < n:
        until = next_unready(bits, i, n)
        if not is_there(v, at + i * unit, (until - i) * unit):
            return False
        i = next_ready(bits, until, n)
    return True


cdef inline const char *claim_without_memory(View *v) noexcept nogil:
    # The field that says that memory is there, and none is to be had; NULL if all that is said is
    # so. For a file system that is full: elsewhere the kernel gives memory to who touches it.
    cdef uint64_t row
    if not is_there(v, v.g.slots, slots_used(v) * sizeof(Slot)):
        return b"slots_used"
    if not is_there(v, v.g.runs, runs_used(v) * sizeof(Run)):
        return b"runs_used"
    if not is_there(v, v.g.page_map, map_end(v) * sizeof(PageTag)) \
            or not is_there(v, v.g.used_bits, map_end(v) // 8):
        return b"map_committed"
    if not marks_hold(v, bits_at(v, v.g.labels_ready), v.g.steps, v.g.labels,
                      SLOTS_PER_STEP * sizeof(Label)):
        return b"labels_ready"
    if not marks_hold(v, bits_at(v, v.g.metas_ready), v.g.steps, v.g.metas,
                      SLOTS_PER_STEP * sizeof(Meta)):
        return b"metas_ready"
    if not marks_hold(v, bits_at(v, v.g.index_ready), (v.g.page_map - v.g.index) // PAGE, v.g.index,
                      PAGE):
        return b"index_ready"
    # the data is not mapped to look
    if v.access == O_RDWR and not marks_hold(v, bits_at(v, v.g.data_ready),
                                             (v.g.pages * PAGE + CHUNK - 1) // CHUNK, v.g.data,
                                             CHUNK):
        return b"data_ready"
    for row in range(<uint64_t>MAX_ROWS):
        if not marks_hold(v, pins_ready_of(v, row), v.g.steps, v.g.pins + row * v.g.pins_stride,
                          PAGE):
            return b"pins_ready"
    return NULL


cdef inline void close_own(View *v) noexcept nogil:
    # the program may have closed it, and have another file at its number
    if v.fd >= 0 and same_file(v.fd, v.dev, v.ino):
        close(v.fd)
    v.fd = -1


cdef inline void unmap_view(View *v) noexcept nogil:
    # The row's lock goes with the last mapping and descriptor of our description.
    if v.room != NULL:
        munmap(v.room, v.room_nbytes)
    if v.alive != NULL:
        munmap(v.alive, ALIVE_NBYTES)
    free(v.pins_ready)
    close_own(v)
    memset(v, 0, sizeof(View))
    v.fd = -1


cdef inline int map_twice(View *v) noexcept nogil:
    # At multiples of a huge page, since the data begins at one in the file; in one piece of address
    # space, which takes the fewest calls. Returns 0 or the errno.
    cdef:
        size_t nbytes = v.g.file_size
        size_t each = round_up(nbytes, HUGE_PAGE)
        size_t room_nbytes = 2 * each + HUGE_PAGE
        void *room = mmap(NULL, room_nbytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                          -1, 0)
        char *at
        int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED
    if room == MAP_FAILED:
        return errno
    v.room = room
    v.room_nbytes = room_nbytes
    at = <char*>round_up(<uint64_t>room, HUGE_PAGE)
    if mmap(at, nbytes, PROT_READ | PROT_WRITE, flags, v.fd, 0) == MAP_FAILED:
        return errno
    v.base = at
    if mmap(at + each, nbytes, PROT_READ, flags, v.fd, 0) == MAP_FAILED:
        return errno
    v.ro_base = at + each
    return 0


cdef inline void find_parts(View *v, const Header *h) noexcept nogil:
    cdef int size_class
    v.header = <Header*>v.base
    v.pool = <Pool*>(v.base + v.g.pool)
    v.slots = <Slot*>(v.base + v.g.slots)
    v.runs = <Run*>(v.base + v.g.runs)
    v.tags = <PageTag*>(v.base + v.g.page_map)
    for size_class in range(CLASSES):
        v.class_sizes[size_class] = <unsigned int>min(class_nbytes(size_class),
                                                      v.g.file_size - v.g.data)
    v.tag = h.tag
    v.slot_limit = h.max_objects
    v.data_nbytes = v.g.file_size - v.g.data
    v.evicts = h.evict != EVICT_NONE
    v.has_queues = h.evict == EVICT_S3FIFO
    v.child_fd = v.recovery_fd = -1


cdef inline int map_to_look(View *v, const Header *h) noexcept nogil:
    # The tables, to read: `h` is sound. Returns 0 or the errno.
    cdef void *at
    lay_out(h.capacity, h.max_objects, &v.g)
    at = mmap(NULL, v.g.data, PROT_READ, MAP_SHARED | MAP_NORESERVE, v.fd, 0)
    if at == MAP_FAILED:
        return errno
    v.room = at
    v.room_nbytes = v.g.data
    v.base = v.ro_base = <char*>at
    find_parts(v, h)
    return 0


cdef inline int map_store(View *v, const Header *h) noexcept nogil:
    # `h` is sound and s.fd is a description of our own. Returns 0 or the errno, with nothing left
    # behind but s.fd.
    cdef void *alive
    cdef int failed
    lay_out(h.capacity, h.max_objects, &v.g)
    failed = map_twice(v)
    if failed:
        return failed
    alive = mmap(NULL, ALIVE_NBYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if alive == MAP_FAILED:
        return errno
    v.alive = <uint64_t*>alive
    if madvise(alive, ALIVE_NBYTES, MADV_WIPEONFORK) != 0:
        return errno
    v.alive[0] = 1
    v.pins_ready = <unsigned char*>calloc(v.g.steps, 1)
    if v.pins_ready == NULL:
        return ENOMEM
    find_parts(v, h)
    return 0
