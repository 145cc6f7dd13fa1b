# Where in the file the regions of layout.pxd lie. Everything follows from the capacity and the
# number of slots.

from libc.stdint cimport uint64_t

from refstore.engines.native.debug cimport IS_DEBUG
from refstore.engines.native.layout cimport (
    BINS, Bucket, BUCKET_CELLS, CHUNK, CLASSES, COUNTERS, EXACT_BINS, FORMAT_VERSION, Header,
    HUGE_PAGE, INLINE_DIMS, Label, MAX_ROWS, Meta, NAME_LOCKS, NameLock, Origin, ORIGINS, PAGE,
    PageTag, PastRecovery, Pool, QUEUES, Row, Run, RUN_BLOCKS, Slot, SLOTS_PER_STEP, SMALL_LIMIT,
)

cdef struct Geometry:
    uint64_t pages              # of data
    uint64_t max_runs
    uint64_t buckets            # a power of two
    uint64_t queue_cells        # of each queue
    uint64_t pins_stride        # bytes from one row's pins to the next row's
    uint64_t steps              # of the slot table
    uint64_t slot_words         # 64-bit words in a bitmap of slots
    uint64_t run_words
    uint64_t pins_ready_words   # words a row in the bitmap of committed pages of pins
    # offsets in the file
    uint64_t pool
    uint64_t rows
    uint64_t name_locks
    uint64_t origins
    uint64_t empty_bits
    uint64_t spare_bits
    uint64_t class_bits         # for each class
    uint64_t class_bits_stride
    uint64_t run_bits           # dead runs
    uint64_t pins_ready
    uint64_t labels_ready       # bit = step of the label table is committed
    uint64_t metas_ready        # the same of metas
    uint64_t index_ready        # bit = page of the index is committed
    uint64_t queues_ready       # bit = page of queues and ghosts is committed
    uint64_t data_ready         # bit = chunk of the data is committed
    uint64_t fixed_end          # everything before is committed when the file is made
    uint64_t runs
    uint64_t slots
    uint64_t pins
    uint64_t labels
    uint64_t metas
    uint64_t index
    uint64_t queues             # one after the other, in whole pages each
    uint64_t ghosts             # as many buckets as the index has
    uint64_t page_map
    uint64_t used_bits
    uint64_t data
    uint64_t file_size


cdef inline uint64_t fingerprint() noexcept nogil:
    # FNV-1a over everything that two builds must agree on; the debug flag keeps a build with
    # failpoints away from files in use
    cdef:
        uint64_t hashed = 0xcbf29ce484222325
        uint64_t[28] facts
        int i
    facts[:] = [
        sizeof(Header), sizeof(Pool), sizeof(Row), sizeof(NameLock), sizeof(Run), sizeof(Slot),
        sizeof(Label), sizeof(Bucket), sizeof(PageTag), PAGE, CHUNK, HUGE_PAGE, MAX_ROWS, CLASSES,
        SMALL_LIMIT, RUN_BLOCKS, SLOTS_PER_STEP, NAME_LOCKS, BINS, EXACT_BINS, INLINE_DIMS,
        COUNTERS, ORIGINS, sizeof(Origin), sizeof(Meta), sizeof(PastRecovery), FORMAT_VERSION,
        <uint64_t>IS_DEBUG,
    ]
    for i in range(28):
        hashed = (hashed ^ facts[i]) * <uint64_t>0x100000001b3
    return hashed


cdef inline uint64_t round_up(uint64_t n, uint64_t unit) noexcept nogil:
    return (n + unit - 1) // unit * unit


cdef inline uint64_t bits_nbytes(uint64_t n) noexcept nogil:
    # a bitmap of n bits and its summary, one bit per word; cache lines of its own
    cdef uint64_t words = (n + 63) // 64
    return round_up(words * 8, 64) + round_up((words + 63) // 64 * 8, 64)


cdef inline uint64_t reserve(uint64_t *cursor, uint64_t nbytes, uint64_t unit) noexcept nogil:
    cdef uint64_t at = round_up(cursor[0], unit)
    cursor[0] = at + nbytes
    return at


cdef inline void lay_out(uint64_t capacity, uint64_t max_objects, Geometry *g) noexcept nogil:
    # The one place where regions get their offsets. The caller has bounds-checked both numbers.
    cdef uint64_t at = sizeof(Header)
    g.pages = (capacity + PAGE - 1) // PAGE
    g.max_runs = min(g.pages, max(max_objects // 16, <uint64_t>64))
    g.buckets = PAGE // sizeof(Bucket)
    while g.buckets * BUCKET_CELLS < 2 * max_objects:
        g.buckets *= 2
    g.queue_cells = round_up(max_objects, PAGE // 8)
    g.steps = (max_objects + SLOTS_PER_STEP - 1) // SLOTS_PER_STEP
    g.slot_words = (max_objects + 63) // 64
    g.run_words = (g.max_runs + 63) // 64
    g.pins_stride = g.steps * PAGE
    g.pins_ready_words = (g.steps + 63) // 64

    g.pool = reserve(&at, sizeof(Pool), PAGE)
    g.rows = reserve(&at, MAX_ROWS * sizeof(Row), PAGE)
    g.name_locks = reserve(&at, NAME_LOCKS * sizeof(NameLock), PAGE)
    g.origins = reserve(&at, ORIGINS * sizeof(Origin), PAGE)
    g.empty_bits = reserve(&at, bits_nbytes(max_objects), 64)
    g.spare_bits = reserve(&at, bits_nbytes(max_objects), 64)
    g.class_bits_stride = bits_nbytes(g.max_runs)
    g.class_bits = reserve(&at, CLASSES * g.class_bits_stride, 64)
    g.run_bits = reserve(&at, bits_nbytes(g.max_runs), 64)
    g.pins_ready = reserve(&at, MAX_ROWS * g.pins_ready_words * 8, 64)
    g.labels_ready = reserve(&at, g.pins_ready_words * 8, 64)
    g.metas_ready = reserve(&at, g.pins_ready_words * 8, 64)
    g.index_ready = reserve(&at, (g.buckets * sizeof(Bucket) // PAGE // 64 + 1) * 8, 64)
    g.queues_ready = reserve(
        &at, ((QUEUES * g.queue_cells * 8 + g.buckets * sizeof(Bucket)) // PAGE // 64 + 1) * 8, 64)
    g.data_ready = reserve(&at, (g.pages * PAGE // CHUNK // 64 + 1) * 8, 64)
    g.fixed_end = round_up(at, PAGE)
    at = g.fixed_end
    g.runs = reserve(&at, g.max_runs * sizeof(Run), PAGE)
    g.slots = reserve(&at, g.steps * SLOTS_PER_STEP * sizeof(Slot), PAGE)
    g.pins = reserve(&at, MAX_ROWS * g.pins_stride, PAGE)
    g.labels = reserve(&at, g.steps * SLOTS_PER_STEP * sizeof(Label), PAGE)
    g.metas = reserve(&at, g.steps * SLOTS_PER_STEP * sizeof(Meta), PAGE)
    g.index = reserve(&at, g.buckets * sizeof(Bucket), PAGE)
    g.queues = reserve(&at, QUEUES * g.queue_cells * 8, PAGE)
    g.ghosts = reserve(&at, g.buckets * sizeof(Bucket), PAGE)
    g.page_map = reserve(&at, (g.pages + 1) * sizeof(PageTag), PAGE)
    g.used_bits = reserve(&at, (g.pages // 64 + 1) * 8, PAGE)     # committed with the page map
    g.data = reserve(&at, g.pages * PAGE, HUGE_PAGE if g.pages * PAGE >= HUGE_PAGE else CHUNK)
    g.file_size = at
