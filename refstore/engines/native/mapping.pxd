# The file itself: made complete or not at all, looked over before a number in it is believed, mapped twice.

from libc.errno cimport ENOMEM, ENOSPC, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from .layout cimport (
    CAPACITY_LIMIT, CHUNK, class_nbytes, CLASSES, ENGINE_NATIVE, fingerprint, FORMAT_VERSION,
    Header, HUGE_PAGE, Label, lay_out, MAGIC, MAX_ROWS, OBJECTS_LIMIT, PAGE, PageTag, Pool,
    round_up, Run, Slot, SLOTS_PER_STEP,
)
from .system cimport (
    allocate, close, MADV_WIPEONFORK, madvise, MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE,
    MAP_PRIVATE, MAP_SHARED, mmap, munmap, PROT_NONE, PROT_READ, PROT_WRITE, same_file,
)
from .view cimport bits_at, map_end, pins_ready_of, runs_used, slots_used, Store
from .memory cimport next_ready, next_unready

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


cdef inline HeaderFault look_over(const Header *h, uint64_t file_nbytes) noexcept nogil:
    cdef Store s
    if h.magic != MAGIC:
        return HEADER_NOT_A_STORE
    if h.engine != ENGINE_NATIVE:
        return HEADER_OTHER_ENGINE
    if h.version != FORMAT_VERSION:
        return HEADER_OTHER_VERSION
    if h.fingerprint != fingerprint():
        return HEADER_OTHER_BUILD
    if h.capacity == 0 or h.capacity > CAPACITY_LIMIT or h.max_objects == 0 or h.max_objects > OBJECTS_LIMIT:
        return HEADER_DAMAGED
    lay_out(h.capacity, h.max_objects, &s.g)
    if s.g.file_size != file_nbytes:
        return HEADER_TRUNCATED
    if h.slots_used > h.max_objects or h.tag == 0 or h.tag >> 48:
        return HEADER_DAMAGED
    return HEADER_SOUND


cdef inline bint is_there(Store *s, uint64_t at, uint64_t nbytes) noexcept nogil:
    return nbytes == 0 or allocate(s.fd, at, nbytes) != ENOSPC


cdef inline bint marks_hold(Store *s, uint64_t *bits, uint64_t n, uint64_t at, uint64_t unit) noexcept nogil:
    # Whether there is memory for all of n units of the file that are marked as committed. Where there is, this takes
    # none.
    cdef uint64_t i = next_ready(bits, 0, n), until
    while i < n:
        until = next_unready(bits, i, n)
        if not is_there(s, at + i * unit, (until - i) * unit):
            return False
        i = next_ready(bits, until, n)
    return True


cdef inline const char *claim_without_memory(Store *s) noexcept nogil:
    # The field that says that memory is there, and none is to be had; NULL if all that is said is so. For a file system
    # that is full: elsewhere the kernel gives memory to who touches it.
    cdef uint64_t row
    if not is_there(s, s.g.slots, slots_used(s) * sizeof(Slot)):
        return b"slots_used"
    if not is_there(s, s.g.runs, runs_used(s) * sizeof(Run)):
        return b"runs_used"
    if not is_there(s, s.g.page_map, map_end(s) * sizeof(PageTag)) or not is_there(s, s.g.used_bits, map_end(s) // 8):
        return b"map_committed"
    if not marks_hold(s, bits_at(s, s.g.labels_ready), s.g.steps, s.g.labels, SLOTS_PER_STEP * sizeof(Label)):
        return b"labels_ready"
    if not marks_hold(s, bits_at(s, s.g.index_ready), (s.g.page_map - s.g.index) // PAGE, s.g.index, PAGE):
        return b"index_ready"
    if not marks_hold(s, bits_at(s, s.g.data_ready), (s.g.pages * PAGE + CHUNK - 1) // CHUNK, s.g.data, CHUNK):
        return b"data_ready"
    for row in range(<uint64_t>MAX_ROWS):
        if not marks_hold(s, pins_ready_of(s, row), s.g.steps, s.g.pins + row * s.g.pins_stride, PAGE):
            return b"pins_ready"
    return NULL


cdef inline void close_own(Store *s) noexcept nogil:
    # the program may have closed it, and have another file at its number
    if s.fd >= 0 and same_file(s.fd, s.dev, s.ino):
        close(s.fd)
    s.fd = -1


cdef inline void unmap_store(Store *s) noexcept nogil:
    # The row's lock goes with the last mapping and descriptor of our description.
    if s.room != NULL:
        munmap(s.room, s.room_nbytes)
    if s.alive != NULL:
        munmap(s.alive, ALIVE_NBYTES)
    free(s.pins_ready)
    close_own(s)
    memset(s, 0, sizeof(Store))
    s.fd = -1


cdef inline int map_twice(Store *s) noexcept nogil:
    # At multiples of a huge page, since the data begins at one in the file; in one piece of address space, which takes
    # the fewest calls. Returns 0 or the errno.
    cdef:
        size_t nbytes = s.g.file_size
        size_t each = round_up(nbytes, HUGE_PAGE)
        size_t room_nbytes = 2 * each + HUGE_PAGE
        void *room = mmap(NULL, room_nbytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        char *at
        int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED
    if room == MAP_FAILED:
        return errno
    s.room = room
    s.room_nbytes = room_nbytes
    at = <char*>round_up(<uint64_t>room, HUGE_PAGE)
    if mmap(at, nbytes, PROT_READ | PROT_WRITE, flags, s.fd, 0) == MAP_FAILED:
        return errno
    s.base = at
    if mmap(at + each, nbytes, PROT_READ, flags, s.fd, 0) == MAP_FAILED:
        return errno
    s.view = at + each
    return 0


cdef inline int map_store(Store *s, const Header *h) noexcept nogil:
    # `h` is sound and s.fd is a description of our own. Returns 0 or the errno, with nothing left behind but s.fd.
    cdef void *alive
    cdef int failed, size_class
    lay_out(h.capacity, h.max_objects, &s.g)
    failed = map_twice(s)
    if failed:
        return failed
    alive = mmap(NULL, ALIVE_NBYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if alive == MAP_FAILED:
        return errno
    s.alive = <uint64_t*>alive
    if madvise(alive, ALIVE_NBYTES, MADV_WIPEONFORK) != 0:
        return errno
    s.alive[0] = 1
    s.pins_ready = <unsigned char*>calloc(s.g.steps, 1)
    if s.pins_ready == NULL:
        return ENOMEM
    s.header = <Header*>s.base
    s.pool = <Pool*>(s.base + s.g.pool)
    s.slots = <Slot*>(s.base + s.g.slots)
    s.runs = <Run*>(s.base + s.g.runs)
    s.tags = <PageTag*>(s.base + s.g.page_map)
    for size_class in range(CLASSES):
        s.class_sizes[size_class] = <unsigned int>min(class_nbytes(size_class), s.g.file_size - s.g.data)
    s.tag = h.tag
    s.slot_limit = h.max_objects
    s.data_nbytes = s.g.file_size - s.g.data
    s.child_fd = s.recovery_fd = -1
    return 0
