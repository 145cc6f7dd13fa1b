# One process's view of one store file: where its parts are mapped, which row it holds, what it
# remembers; what a slot says of its block, and whether it can be so; which rows are live or dead,
# by the file's descriptor.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from refstore.engines.native.atomics cimport (
    ctz64, load_acquire, load_relaxed, load_relaxed_u32, load_seq_cst, store_relaxed,
)
from refstore.engines.native.error_codes cimport ERR_DAMAGED
from refstore.engines.native.layout cimport (
    Bucket, CLASSES, Header, KEPT, Label, LIVE_WORDS, MAX_ROWS, Meta, NameLock, Origin, PAGE,
    PageTag, Pool, Row, Run, RUN_BLOCKS, Slot, SLOTS_PER_STEP,
)
from refstore.engines.native.geometry cimport Geometry
from refstore.engines.native.system cimport (
    byte_is_locked, close, high_descriptor, open_file, same_file,
)

cdef extern from *:
    const uint64_t NO_ROW "UINT64_MAX"

cdef enum:
    RECENT = 8
    SAMPLES = 10                # among which eviction chooses
    PIDS_KEPT = 256

cdef struct Recovered:  # what this process took back from dead ones since it was last asked
    uint64_t processes
    uint64_t known              # of them, by pid
    uint32_t pids[PIDS_KEPT]  # the last of them: a process that nobody asks may see any number die
    uint64_t pins
    uint64_t unfinished         # objects
    uint64_t published          # objects
    uint64_t locks
    uint64_t nbytes             # of blocks

cdef struct View:
    void *room                  # address space for both mappings
    size_t room_nbytes
    char *base                  # the file, read-write
    char *ro_base               # the file again, read-only: what get() hands out
    Geometry g
    Header *header
    Pool *pool
    Slot *slots
    Run *runs
    PageTag *tags
    uint32_t *pins              # our row's cells
    uint64_t *counters          # our row's
    uint64_t tag
    uint64_t row                # NO_ROW where this process only looks
    uint64_t row_bit            # in a slot's mask
    uint64_t slot_limit
    uint64_t *alive             # 1; the kernel makes it 0 in a child that no hook has seen
    uint64_t life  # forks between the first process that had this and us: rows are used again
    int fd  # of the description that holds the row's lock; maybe closed by the program
    int access                  # O_RDWR, or O_RDONLY where this process only looks
    const char *path            # to open the file again, if the program closed our descriptor
    uint64_t dev
    uint64_t ino
    uint8_t *pins_ready         # by step: our row's pins are committed
    uint64_t runs_seen          # run records below this are committed
    uint64_t data_nbytes
    bint evicts                 # what does not say otherwise may be evicted
    bint has_queues             # by s3fifo: gets count, where else they say when
    uint64_t random             # never 0
    uint32_t[SAMPLES] drawn     # slots that are looked at next for what may go, if `has_drawn`
    bint has_drawn
    uint64_t evicts_until       # ns; without a policy: when a put tries all else again first, or 0
    # what a put found full lately, where eviction comes first
    bint is_full                # no block has come free by us since
    uint32_t full_at            # tick
    uint64_t full_nbytes        # for so many bytes, and for more
    int full_error
    int64_t until_tick          # bytes that we have yet to put before the clock of ages moves on
    uint32_t class_sizes[256]   # bytes of a block by size_class, 0 of those that are none
    uint32_t current[CLASSES]   # run + 1 that we cut from, or 0
    uint32_t recent[RECENT]     # slots + 1 whose extents we freed last
    View *next                  # of this process's attachments, for the fork hooks
    uint64_t child_row          # taken for a child before a fork
    int child_fd
    int recovery_fd             # has a dead row's lock while that is recovered, else -1
    int loss                    # why a child had to go without a row, or 0: none had to
    bint has_warned             # of that
    bint has_looked_for_origin
    uint16_t origin             # + 1: our entry of `origins`, or 0: there was none
    uint64_t kept               # blocks that are KEPT in our row
    uint64_t forks_seen         # of those that took nothing for their children
    uint64_t waits_for_room     # calls that ever did
    uint64_t turn_of            # which of these has the turn among those of all processes, or 0
    bint dirty                  # something of ours can only come back as a dead process's does
    const char *damaged         # what the last ERR_DAMAGED found, with a place for a number
    uint64_t damaged_number
    uint32_t huge_refusals      # by the kernel, one after the other
    uint32_t huge_pause         # blocks to go before it is asked again
    Recovered recovered
    # what was told to `logging` of what happens by the way
    uint64_t told_at            # ns
    uint64_t told_evictions     # of `counters`
    uint64_t told_dead          # of `recovered`


cdef inline int damage(View *v, const char *what, uint64_t number) noexcept nogil:
    # `what`, as in b"the extent of slot %d lies outside of the data"
    v.damaged = what
    v.damaged_number = number
    return ERR_DAMAGED


# Where things are, and how many there are

cdef inline Row *row_at(View *v, uint64_t row) noexcept nogil:
    return <Row*>(v.base + v.g.rows) + row

cdef inline NameLock *name_lock_at(View *v, uint64_t i) noexcept nogil:
    return <NameLock*>(v.base + v.g.name_locks) + i

cdef inline Origin *origin_at(View *v, uint64_t i) noexcept nogil:
    return <Origin*>(v.base + v.g.origins) + i

cdef inline Meta *meta_at(View *v, uint64_t slot) noexcept nogil:
    return <Meta*>(v.base + v.g.metas) + slot

cdef inline Label *label_at(View *v, uint64_t slot) noexcept nogil:
    return <Label*>(v.base + v.g.labels) + slot

cdef inline Bucket *bucket_at(View *v, uint64_t i) noexcept nogil:
    return <Bucket*>(v.base + v.g.index) + i

cdef inline uint32_t *pins_of(View *v, uint64_t row) noexcept nogil:
    return <uint32_t*>(v.base + v.g.pins + row * v.g.pins_stride)

cdef inline uint64_t *pins_ready_of(View *v, uint64_t row) noexcept nogil:
    return <uint64_t*>(v.base + v.g.pins_ready) + row * v.g.pins_ready_words

cdef inline uint64_t slots_used(View *v) noexcept nogil:
    # numbers that others wrote are bounded before they are used
    return min(load_acquire(&v.header.slots_used), v.slot_limit)         # [grow]

cdef inline uint64_t runs_used(View *v) noexcept nogil:
    return min(load_acquire(&v.pool.runs_used), v.g.max_runs)            # [runs]

cdef inline bint run_is_there(View *v, uint64_t run) noexcept nogil:
    # `run`: as in a slot, + 1
    if run - 1 >= v.runs_seen:
        v.runs_seen = runs_used(v)
    return run - 1 < v.runs_seen

cdef inline uint64_t map_end(View *v) noexcept nogil:
    return min(load_acquire(&v.pool.map_committed), v.g.pages + 1)       # [map]

cdef inline uint64_t top_of(View *v) noexcept nogil:
    return min(v.pool.top, min(map_end(v), v.g.pages))

cdef inline PageTag *tag_at(View *v, uint64_t page) noexcept nogil:
    # a damaged link leads to some tag, never out of the map
    return &v.tags[page if page < map_end(v) else 0]

cdef inline uint64_t *used_bits(View *v) noexcept nogil:
    # one bit a page, there as far as the page map is
    return <uint64_t*>(v.base + v.g.used_bits)

cdef inline uint64_t *bits_at(View *v, uint64_t offset) noexcept nogil:
    return <uint64_t*>(v.base + offset)

cdef inline uint64_t *class_bits_at(View *v, int size_class) noexcept nogil:
    return bits_at(v, v.g.class_bits + <uint64_t>size_class * v.g.class_bits_stride)


# What a slot says of its block: its extent, or its size class

cdef inline uint64_t make_extent(uint64_t first, uint64_t pages) noexcept nogil:
    return first << 32 | pages

cdef inline uint64_t extent_first(uint64_t extent) noexcept nogil:
    return extent >> 32

cdef inline uint64_t extent_pages(uint64_t extent) noexcept nogil:
    return <uint32_t>extent


cdef inline uint64_t class_nbytes(int size_class) noexcept nogil:
    cdef uint64_t floor, step
    if size_class < 8:
        return (size_class + 1) * 64
    floor = 9 + (size_class - 8) // 8
    step = (size_class - 8) % 8 + 1
    return (<uint64_t>1 << floor) + (step << (floor - 3))


cdef inline uint64_t block_nbytes(Slot *slot) noexcept nogil:
    if slot.extent:
        return extent_pages(slot.extent) * PAGE
    return class_nbytes(slot.size_class) if slot.run and slot.size_class < CLASSES else 0


# Whether what the file says can be so

cdef inline bint run_is_sound(View *v, Run *run, uint64_t live) noexcept nogil:
    # whether it is a live run of this class + 1, and lies in the data
    return (run.twin == run_twin(run, live) and live - 1 < CLASSES
            and <uint32_t>(run.blocks - 1) < RUN_BLOCKS
            and run.first + <uint64_t>run.pages <= v.g.pages)

cdef inline bint is_plausible(View *v, Slot *slot, uint64_t offset, uint64_t nbytes) noexcept nogil:
    # Of what a get hands out, each number read once: within the data, and no more than its block
    # holds. Where the block lies if it is in a run is check()'s to see: the run's record is a cache
    # line more.
    cdef uint64_t at = offset - v.g.data
    if slot.extent:
        return at == extent_first(slot.extent) * PAGE \
            and nbytes <= extent_pages(slot.extent) * PAGE \
            and nbytes <= v.data_nbytes and at <= v.data_nbytes - nbytes
    # no class is larger than the data
    return nbytes <= v.class_sizes[slot.size_class if slot.run else 255] \
        and at <= v.data_nbytes - nbytes

cdef inline bint is_within_block(View *v, Slot *slot, uint64_t offset,
                                 uint64_t nbytes) noexcept nogil:
    # whether the slot's offset and size, each read once, are those of the block that it owns
    cdef uint64_t at = 0, size = 0, run = slot.run
    if slot.extent:
        at = extent_first(slot.extent) * PAGE
        size = extent_pages(slot.extent) * PAGE
    elif run_is_there(v, run):
        size = v.class_sizes[slot.size_class]
        at = v.runs[run - 1].first * <uint64_t>PAGE + slot.block * size
    return offset == v.g.data + at and nbytes <= size and at + size <= v.g.file_size - v.g.data


# Statistics

cdef inline uint64_t counted(View *v, int counter) noexcept nogil:
    return load_relaxed(&v.counters[counter])  # relaxed: statistics, and our own


cdef inline void count(View *v, int counter, uint64_t n) noexcept nogil:
    # nobody else writes the cell
    store_relaxed(&v.counters[counter], counted(v, counter) + n)  # relaxed: statistics

# Rows

cdef inline int64_t next_live_row(View *v, uint64_t row) noexcept nogil:
    # The first live row from `row` on, or -1; for reports and recovery, which need no one moment. A
    # reaper's scan has stricter orders of its own.
    cdef uint64_t words = min(load_acquire(&v.header.live_words), <uint64_t>LIVE_WORDS)  # [row]
    cdef uint64_t w = row >> 6, rows
    while w < words:
        rows = load_acquire(&v.header.live[w])                           # [row]
        if w == row >> 6:
            rows = rows >> (row & 63) << (row & 63)
        if rows:
            return <int64_t>(w * 64 + <uint64_t>ctz64(rows))
        w += 1
    return -1


cdef inline int file_of(View *v) noexcept nogil:
    # Our descriptor, or -1. The program may have closed it, and another file may sit at its number.
    cdef int fd
    if same_file(v.fd, v.dev, v.ino):
        return v.fd
    fd = open_file(v.path, v.access)
    if fd < 0 or not same_file(fd, v.dev, v.ino):
        close(fd)
        return -1
    v.fd = high_descriptor(fd)
    return v.fd


cdef inline bint row_is_dead(View *v, uint64_t r) noexcept nogil:
    return r >= MAX_ROWS or r != v.row and not byte_is_locked(file_of(v), r)


# What has its memory, and the pins

cdef inline bint is_ready(uint64_t *bits, uint64_t i) noexcept nogil:
    # seq_cst: a reaper that condemned after a pin must see the pin's memory
    return load_seq_cst(&bits[i >> 6]) >> (i & 63) & 1 != 0              # [ready] [pin]


cdef inline bint labels_are_committed(View *v, uint64_t slot) noexcept nogil:
    return is_ready(bits_at(v, v.g.labels_ready), slot // SLOTS_PER_STEP)


cdef inline bint metas_are_committed(View *v, uint64_t slot) noexcept nogil:
    return is_ready(bits_at(v, v.g.metas_ready), slot // SLOTS_PER_STEP)


cdef inline uint32_t *pin_cells(View *v, uint64_t row, uint64_t slot) noexcept nogil:
    # The row's pins of a slot and, up to the end of its step, of those after it; NULL where there
    # is no memory for them yet, and so none.
    if is_ready(pins_ready_of(v, row), slot // SLOTS_PER_STEP):
        return &pins_of(v, row)[slot]
    return NULL


cdef inline bint pins_are_committed(View *v, uint64_t slot) noexcept nogil:
    return v.pins_ready[slot // SLOTS_PER_STEP] != 0


cdef inline uint32_t pins_in(uint32_t cell) noexcept nogil:
    # what is kept for children has a pin, though nobody else holds one
    return max(cell & ~KEPT, cell >> 31)


# Which blocks of a run are whose

cdef inline bint slot_is_of(View *v, uint64_t i, uint64_t run, uint64_t block) noexcept nogil:
    return v.slots[i].run == run + 1 and v.slots[i].block == block


cdef inline uint64_t run_slot(View *v, uint64_t r, uint64_t block) noexcept nogil:
    # slot + 1 of a block, or 0
    cdef uint64_t i = load_relaxed_u32(&v.runs[r].slots[block])  # relaxed: the slot decides
    return i if i <= slots_used(v) else 0


cdef inline uint64_t run_twin(Run *run, uint64_t live) noexcept nogil:
    # `live`: class + 1. Never 0, and no two runs that differ in one bit have the same.
    return ~((<uint64_t>run.first << 32 | run.pages) ^ live << 56 ^ <uint64_t>run.blocks << 24)
