# The bytes of a store file: every structure that two processes share is described here, once.
#
# What the file answers: which objects are live and where (slots), who reads them (pins), who is
# attached (rows), what they are called (index), where there is room (runs, page map).
#
#   header      one page       who made this file, how large it is; which rows are live
#   pool        one page       the space lock, free page runs by size
#   rows        128 B each     one per attached process; its kernel lock is byte `row` of the file
#   name locks  64 B each      writers of names, by hash
#   hint bits                  free slots, runs with free blocks, committed pages
#   runs        320 B each     pages cut into blocks of one size class
#   slots       128 B each     one per object: the truth
#   pins        4 B            pins[row][slot]: a count, and KEPT
#   labels      512 B each     a slot's name and long type description
#   index       64 B each      buckets of eight cells, name -> slot
#   page map    16 B a page    free runs of pages, with boundary tags
#   used bits   1 bit a page   which pages belong to a run or a slot
#   data        4 KiB pages    the payloads; `capacity` counts these and nothing else
#
# docs/glossary.md defines the words. In short: a slot is the record of an object, and its number
# and generation are the object's ref; a block is the bytes of an object, in a run or an extent of
# its own; a row is a process's place in the process table.
#
# Numbers are in the machine's byte order, since a file never leaves the machine that made it.
# Everything is an offset or an index, never a pointer. Tables are committed (fallocate) before
# they are touched: the fixed ones when the file is made, the others as they grow.
#
# Truths and hints. A wrong hint costs time: it is never enough for giving anything away, since
# another field has to agree, and what disagrees is rebuilt from the slots. A wrong truth is
# damage: each number is bounded where it is read, what contradicts itself is a
# StoreCorruptedError, and check() reports what can be seen. A truth has one writer at a time, and
# nothing that it could be rebuilt from.
#
#   truths  header: all but `moves` and `totals`; in particular `live` and `live_words` (whose pins
#           count) and `slots_used` (how far the table goes)
#           pool: `lock`, `map_committed`, `runs_used`
#           rows: `state`; name locks: `lock`
#           slots: every field but `last_use`. The word says whether the object lives, `extent`,
#           or `run` and `block`, which pages are its own; `mask` says which rows may pin it
#           runs: `live`, `committed`, `first`, `pages`, `blocks`, of which `twin` is a second copy
#           pins, labels, and the bits of memory that is there: pins_ready (also whose pins count),
#           labels_ready, index_ready, data_ready
#   hints   bits of empty slots and of spare extents, of runs by class and of dead runs, their
#           summaries, and a run's `free`: the slot's word decides, and the slot's own `run` and
#           `block`
#           a run's `slots` and `unowned`: an unowned block is one in both; else the slot decides
#           pool: `top`, `bin_bits`, `bin_head`; page map; used bits: pages are free if their tags
#           and links say so and no used bit denies it
#           pool: `orphans`, `class_pages`, `release_next`: how large, where to begin
#           index: a cell leads to a slot, whose word and label decide; a lost one hides a name
#           rows: `pid`, `command`, `recoverer`, counters; header: `moves`, `totals`
#
# The slot word:
#
#   63                                16 15   12 11         0
#   | generation 48                     | state 4 | row 12  |
#
# All changes of it, and the effect if the process dies right after:
#
#   from        to           operation   primitive       if the process dies here
#   FREE        WRITING      claim       CAS acq_rel     recovery: -> CONDEMNED, and reaped
#   FREE        HELD         take space  CAS acq_rel     recovery: -> FREE
#   HELD        WRITING      take space  store release   recovery: -> CONDEMNED, and reaped
#   HELD        FREE         unclaim     store release   a sweep sets the hint bit
#   WRITING     FREE         unclaim     store release   a sweep sets the hint bit
#   WRITING     FREE(gen+1)  give up     store release   a sweep sets the hint bit
#   WRITING     RETIRED      give up     store release   a sweep sets the hint bit of its space
#   WRITING     SEALED       seal        store release   it is whole and lives on
#   WRITING     PUBLISHING   publish     store release   recovery: the index decides
#   WRITING     CONDEMNED    abort       store seq_cst   the last unpin or a sweep reaps it
#   WRITING     CONDEMNED    recovery    CAS seq_cst     the last unpin or a sweep reaps it
#   PUBLISHING  SEALED       publish     CAS seq_cst     it is whole and lives on
#   PUBLISHING  CONDEMNED    give up     CAS seq_cst     the last unpin or a sweep reaps it
#   SEALED      CONDEMNED    delete      CAS seq_cst     the last unpin or a sweep reaps it
#   CONDEMNED   RECLAIMING   reap        CAS seq_cst     recovery: -> FREE(gen+1)
#   RECLAIMING  FREE(gen+1)  reap        store release   a sweep sets the hint bit
#   RECLAIMING  RETIRED      reap        store release   a sweep sets the hint bit of its space
#
# The generation stays but where (gen+1) says so. RETIRED, for ever, follows the last generation.
# Plain stores are by the owner, or by who recovers it: nobody else changes the word meanwhile.
# Recovery makes the changes of unclaim, publish, give up and reap for a dead owner as well. Delete
# takes a PUBLISHING slot too if it holds the lock of its name, so that the word must be wrong.
#
# The row is the owner in WRITING, PUBLISHING, RECLAIMING and HELD, and 0 otherwise.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free

from refstore.engines.native.debug cimport IS_DEBUG, STATIC_ASSERT
from refstore.engines.native.atomics cimport clz64

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #define REFSTORE_MAGIC UINT64_C(0x65726F7473666572)        /* "refstore" */
    #define REFSTORE_GENERATION_LAST ((UINT64_C(1) << 48) - 1)
    #define REFSTORE_CAPACITY_LIMIT (UINT64_C(1) << 43)        /* page numbers fit 32 bits */
    #define REFSTORE_OBJECTS_LIMIT (UINT64_C(1) << 28)         /* a slot number fits a cell */
    /* In a cell of pins: a child that has no row inherited the block. It stays as long as the row,
       whose lock such a child has, too. */
    #define REFSTORE_KEPT (UINT32_C(1) << 31)
    """
    const uint64_t MAGIC "REFSTORE_MAGIC"
    const uint64_t GENERATION_LAST "REFSTORE_GENERATION_LAST"
    const uint64_t CAPACITY_LIMIT "REFSTORE_CAPACITY_LIMIT"
    const uint64_t OBJECTS_LIMIT "REFSTORE_OBJECTS_LIMIT"
    const uint32_t KEPT "REFSTORE_KEPT"

cdef enum:
    FORMAT_VERSION = 2
    ENGINE_NATIVE = 1
    FLAG_TEMPORARY = 1

    PAGE = 4096                 # unit of extents and of the page map
    CHUNK = 65536               # unit in which data is committed
    HUGE_PAGE = 2097152         # the data begins at a multiple of it, and so does its mapping
    MAX_ROWS = 1024
    LIVE_WORDS = 16             # MAX_ROWS bits
    LOCK_CREATOR = MAX_ROWS     # byte locked for as long as a temporary store's creator lives
    LOCK_BOOT = MAX_ROWS + 1    # byte locked while a file from before a reboot is checked
    COUNTERS = 5

    CLASSES = 56                # 64 B steps up to 512 B, then 8 classes per doubling
    SMALL_LIMIT = 32768         # larger blocks are extents
    RUN_BLOCKS = 64             # one bit each in the run's free word
    SLOTS_PER_STEP = 1024       # the slot table grows by this; its pins fill one page of a row

    BUCKET_CELLS = 8
    NAME_LOCKS = 1024
    NAME_LIMIT = 255            # bytes of UTF-8
    INLINE_DIMS = 6
    LABEL_TEXT = 254

    BINS = 256                  # free page runs by length: 1 to 32, then 8 bins per doubling
    BIN_WORDS = 4               # BINS bits
    EXACT_BINS = 32


cdef enum SlotState:
    FREE
    WRITING
    PUBLISHING
    SEALED
    CONDEMNED
    RECLAIMING
    HELD
    RETIRED

cdef enum RowState:
    ROW_FREE
    ROW_ATTACHED
    ROW_LEFT                    # in good order; what it kept waits for children with its lock

cdef enum Kind:
    KIND_BYTES
    KIND_ARRAY
    KIND_OBJECT

cdef enum Counter:
    COUNT_PUTS
    COUNT_GETS
    COUNT_DELETES
    COUNT_EVICTIONS         # reserved
    COUNT_RECOVERIES

# Each field says by whom it is written; `+`: by who is both at once, `,`: by either.
#
#   maker    who makes the file, before others see it
#   boot     who checks the file after a boot, holding LOCK_BOOT
#   grower   anyone who has committed what it covers, by a CAS that raises it
#   anyone   anyone, by one atomic operation
#   row      who holds the kernel lock of the row: its process, or who recovers a dead one's
#   locker   who takes the lock, by a CAS from 0; who gives it back, or recovers its dead holder
#   space    who holds the space lock, or recovers its dead holder
#   state    as the table of the slot's word says
#   owner    whose row the slot's word names; for RETIRED slots nobody, so that `space` alone does
#   nobody   reserved: 0
#
# What is not a struct: `pins[row][slot]` is written by `row`, all bitmaps by `anyone`, used bits by
# `space`.

cdef struct Header:
    uint64_t magic              # written last when the file is made; by: maker
    uint32_t version            # FORMAT_VERSION; by: maker
    uint32_t engine             # ENGINE_NATIVE: another engine refuses the file; by: maker
    uint64_t fingerprint        # of every size and constant: another build is refused; by: maker
    uint64_t capacity           # bytes of payload; by: maker
    uint64_t max_objects        # slots in the table, at most; by: maker
    uint64_t tag                # 48 bits, in every ref of this store; by: maker
    uint64_t seed[2]            # keys the name hash; by: maker
    uint8_t uuid[16]            # tells a store from a later one of its name; by: maker
    char boot_id[40]            # of the boot after which it was last checked; by: maker, boot
    uint32_t flags              # FLAG_TEMPORARY or 0; by: maker
    uint32_t evict              # reserved: which objects make room for others; by: nobody
    uint64_t _pad0[16]
    uint64_t slots_used         # slots below this are committed; by: grower
    uint64_t _pad1[7]
    uint64_t live_words         # words of `live` that were ever used; by: grower
    uint64_t moves              # forks that copied pins: a scan across one is repeated; by: anyone
    uint64_t _pad2[6]
    uint64_t live[LIVE_WORDS]   # bit = row whose pins count; by: row
    uint64_t totals[COUNTERS]   # counters of rows that are gone; by: anyone
    uint64_t _pad3[443]

cdef struct Pool:
    uint64_t lock               # 0, or row + 1 of the holder: the space lock; by: locker
    uint64_t _pad0[7]
    uint64_t top                # pages from here on were never used and are in no bin; by: space
    uint64_t map_committed      # page map entries below this are committed; by: grower
    uint64_t orphans            # unowned blocks of live runs; by: space
    uint64_t runs_used          # run records below this are committed; by: grower
    uint64_t bin_bits[BIN_WORDS]  # bit = bin with a list; by: space
    uint64_t class_pages[CLASSES]  # pages in runs of the class: how large the next is; by: space
    uint32_t bin_head[BINS]     # first page + 1 of the bin's list, or 0; by: space
    uint64_t release_next       # run at which the next look for empty ones begins; by: space
    uint8_t _pad1[2488]

cdef struct Row:
    uint64_t state              # ROW_FREE, or another; by: row
    uint32_t pid                # for messages only; by: row
    uint32_t recoverer          # pid of who recovers the dead one; for messages only; by: row
    char command[40]            # for messages only; by: row
    uint64_t counters[COUNTERS]  # of its process, by Counter; by: row
    uint64_t has_children       # 1: some without a row have its lock; for messages only; by: row
    uint64_t _pad1[3]

cdef struct NameLock:
    uint64_t lock               # 0, or row + 1 of the holder; by: locker
    uint32_t changes            # reserved: futex word, publications under this lock; by: nobody
    uint32_t _pad0
    uint64_t claimant           # reserved: row + 1 of who makes what has no slot yet; by: nobody
    uint64_t _pad1[5]

cdef struct Run:
    uint64_t live               # 0, or class + 1; by: space
    uint64_t free               # bit = block is probably in a FREE slot; by: anyone
    uint64_t committed          # 1 once its pages are; by: anyone
    uint32_t first              # page; this and the next two as long as it is live; by: space
    uint32_t pages              # in all; by: space
    uint32_t blocks             # cut from them: at most RUN_BLOCKS; by: space
    uint32_t _pad0
    uint64_t unowned            # bit = block that no slot owns: see detach_blocks(); by: space
    uint64_t twin               # a second copy of class, pages and blocks; 0 if not live; by: space
    uint64_t _pad1
    uint32_t slots[RUN_BLOCKS]  # slot of each block + 1, or 0; by: space

cdef struct Slot:
    uint64_t word               # generation 48 | state 4 | row 12; by: state
    uint64_t mask               # bit = row mod 64 of each that pinned it; by: anyone, owner
    uint64_t offset             # of the block, in the file; by: owner
    uint64_t nbytes             # of the payload; by: owner
    uint64_t extent             # first page << 32 | pages, 0 if none; by: owner + space
    uint32_t run                # run + 1 if the block is in one, else 0; by: owner + space
    uint8_t block               # in the run; by: owner + space
    uint8_t size_class          # of the run; by: owner + space
    uint8_t kind                # Kind; by: owner
    uint8_t dtype               # numpy's number of a plain dtype + 1; 0: see the label; by: owner
    uint64_t name_hash          # 0: no name; by: owner
    uint32_t last_use           # reserved: coarse clock, for eviction; by: nobody
    uint8_t ndim                # axes of an array; by: owner
    uint8_t order               # 'C', 'F'; 'K': see the label, or there is no format; by: owner
    uint16_t text_nbytes        # of the label's text, 0 if none; by: owner
    # second line: read by those who want more than the bytes
    uint64_t replaces_generation  # of the object that this one's publication replaces; by: owner
    uint32_t replaces_slot      # + 1, or 0: none; by: owner
    uint32_t spill_nbytes       # of the description behind the payload, if it is there; by: owner
    uint64_t shape[INLINE_DIMS]  # of at most INLINE_DIMS axes; else see the label; by: owner

cdef struct Label:
    uint8_t name_nbytes         # 0 to NAME_LIMIT; by: owner
    uint8_t name[NAME_LIMIT]    # UTF-8; by: owner
    uint8_t _pad0[2]
    uint8_t text[LABEL_TEXT]    # what a plain dtype and shape do not say; by: owner

cdef struct Bucket:
    uint64_t cells[BUCKET_CELLS]  # slot 28 | generation mod 2**20 | hash 16, or 0; by: anyone

cdef struct PageTag:
    uint32_t head               # length of the free run that starts here, or 0; by: space
    uint32_t tail               # length of the free run that ends here, or 0; by: space
    uint32_t next               # in the bin: first page + 1, or 0; by: space
    uint32_t prev               # the same, the other way; by: space

# Equations over these fields. Each holds as long as no change is under way and no dead process
# waits to be recovered; check() looks at each, and begins what it says of it with its name.
#
#   header        capacity, max_objects and tag are what they were when this process attached
#   live          a row is in `live` if and only if its state is not ROW_FREE
#   live_words    row // 64 < live_words for each row in `live`
#   row           each row's state is one of RowState
#   slots_used    is a multiple of SLOTS_PER_STEP, or max_objects; no slot past it is written
#   runs_used     no run past it is written
#   labels_ready  the bit of a step is set if one of its labels is written
#   index_ready   the bit of a page of the index is set if the page is written
#   pins_ready    the bit of a step is set if a live row pins one of its slots
#   data_ready    the bit of a chunk is set if bytes of an object lie in it
#   state         each slot's state is one of SlotState
#   owner         the word of a slot in WRITING, PUBLISHING, RECLAIMING or HELD names a live row,
#                 and that of any other none; outside of a call it has none in RECLAIMING or HELD
#   kind          is one of Kind
#   size          nbytes + spill_nbytes <= the bytes of the slot's block
#   offset        is where the block lies: at its extent, or in its run
#   run           twin is run_twin() of a live run, and 0 of others; a slot's run is live and of its
#                 size_class, and block < blocks
#   block         runs[r].slots[j] == i + 1 if and only if slots[i].run == r + 1 and .block == j
#   orphan        runs[r].unowned has bit j if and only if runs[r].slots[j] == 0, for j < blocks
#   orphans       pool.orphans == the bits in `unowned` of all live runs
#   class_pages   class_pages[c] == the pages of all live runs of class c
#   extent        extents and runs end at `top` or before, in pages that the map reaches
#   overlap       no page is in two extents or runs, no block in two slots
#   lost pages    pages below `top` == those of extents + those of live runs + those of free runs
#   used          the bit of a page is set if and only if it is in an extent or a live run
#   bins          a free run is in the list of its bin, and in no other; bin_bits has the bit of a
#                 bin if and only if it has a list
#   lost slot     a FREE slot has a hint by what it owns: empty_bits, spare_bits or its run's `free`
#   lost run      a run that is not live has a hint in run_bits
#   lost reap     a slot in CONDEMNED is pinned
#   pins          a cell that is not 0 is of a live row and a slot that has an object
#   mask          has the bit of each row with such a cell
#   label         the name of a SEALED slot with a name_hash has that hash
#   index         a cell of the name's buckets leads to such a slot; no two have one name
#   lock          nobody holds the space lock, or a name's

cdef struct Geometry:
    uint64_t pages              # of data
    uint64_t max_runs
    uint64_t buckets            # a power of two
    uint64_t pins_stride        # bytes from one row's pins to the next row's
    uint64_t steps              # of the slot table
    uint64_t slot_words         # 64-bit words in a bitmap of slots
    uint64_t run_words
    uint64_t pins_ready_words   # words a row in the bitmap of committed pages of pins
    # offsets in the file
    uint64_t pool
    uint64_t rows
    uint64_t name_locks
    uint64_t empty_bits
    uint64_t spare_bits
    uint64_t class_bits         # for each class
    uint64_t class_bits_stride
    uint64_t run_bits           # dead runs
    uint64_t pins_ready
    uint64_t labels_ready       # bit = step of the label table is committed
    uint64_t index_ready        # bit = page of the index is committed
    uint64_t data_ready         # bit = chunk of the data is committed
    uint64_t fixed_end          # everything before is committed when the file is made
    uint64_t runs
    uint64_t slots
    uint64_t pins
    uint64_t labels
    uint64_t index
    uint64_t page_map
    uint64_t used_bits
    uint64_t data
    uint64_t file_size


cdef inline void check_layout() noexcept nogil:
    STATIC_ASSERT(sizeof(Header) == 4096)
    STATIC_ASSERT(sizeof(Pool) == 4096)
    STATIC_ASSERT(sizeof(Row) == 128)
    STATIC_ASSERT(sizeof(NameLock) == 64)
    STATIC_ASSERT(sizeof(Run) == 320)
    STATIC_ASSERT(sizeof(Slot) == 128)
    STATIC_ASSERT(sizeof(Label) == 512)
    STATIC_ASSERT(sizeof(Bucket) == 64)
    STATIC_ASSERT(sizeof(PageTag) == 16)
    STATIC_ASSERT(<size_t>&(<Header*>NULL).version == 8)
    STATIC_ASSERT(<size_t>&(<Header*>NULL).slots_used == 256)
    STATIC_ASSERT(<size_t>&(<Header*>NULL).live == 384)
    STATIC_ASSERT(<size_t>&(<Slot*>NULL).name_hash == 48)
    STATIC_ASSERT(<size_t>&(<Slot*>NULL).replaces_generation == 64)
    STATIC_ASSERT(SLOTS_PER_STEP * 4 == PAGE)
    STATIC_ASSERT(LIVE_WORDS * 64 == MAX_ROWS)
    STATIC_ASSERT(BIN_WORDS * 64 == BINS)


cdef inline uint64_t fingerprint() noexcept nogil:
    # FNV-1a over everything that two builds must agree on; the debug flag keeps a build with
    # failpoints away from files in use
    cdef:
        uint64_t hashed = 0xcbf29ce484222325
        uint64_t[23] facts
        int i
    facts[:] = [
        sizeof(Header), sizeof(Pool), sizeof(Row), sizeof(NameLock), sizeof(Run), sizeof(Slot),
        sizeof(Label), sizeof(Bucket), sizeof(PageTag), PAGE, CHUNK, HUGE_PAGE, MAX_ROWS, CLASSES,
        SMALL_LIMIT, RUN_BLOCKS, SLOTS_PER_STEP, NAME_LOCKS, BINS, EXACT_BINS, INLINE_DIMS,
        FORMAT_VERSION, <uint64_t>IS_DEBUG,
    ]
    for i in range(23):
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
    g.steps = (max_objects + SLOTS_PER_STEP - 1) // SLOTS_PER_STEP
    g.slot_words = (max_objects + 63) // 64
    g.run_words = (g.max_runs + 63) // 64
    g.pins_stride = g.steps * PAGE
    g.pins_ready_words = (g.steps + 63) // 64

    g.pool = reserve(&at, sizeof(Pool), PAGE)
    g.rows = reserve(&at, MAX_ROWS * sizeof(Row), PAGE)
    g.name_locks = reserve(&at, NAME_LOCKS * sizeof(NameLock), PAGE)
    g.empty_bits = reserve(&at, bits_nbytes(max_objects), 64)
    g.spare_bits = reserve(&at, bits_nbytes(max_objects), 64)
    g.class_bits_stride = bits_nbytes(g.max_runs)
    g.class_bits = reserve(&at, CLASSES * g.class_bits_stride, 64)
    g.run_bits = reserve(&at, bits_nbytes(g.max_runs), 64)
    g.pins_ready = reserve(&at, MAX_ROWS * g.pins_ready_words * 8, 64)
    g.labels_ready = reserve(&at, g.pins_ready_words * 8, 64)
    g.index_ready = reserve(&at, (g.buckets * sizeof(Bucket) // PAGE // 64 + 1) * 8, 64)
    g.data_ready = reserve(&at, (g.pages * PAGE // CHUNK // 64 + 1) * 8, 64)
    g.fixed_end = round_up(at, PAGE)
    at = g.fixed_end
    g.runs = reserve(&at, g.max_runs * sizeof(Run), PAGE)
    g.slots = reserve(&at, g.steps * SLOTS_PER_STEP * sizeof(Slot), PAGE)
    g.pins = reserve(&at, MAX_ROWS * g.pins_stride, PAGE)
    g.labels = reserve(&at, g.steps * SLOTS_PER_STEP * sizeof(Label), PAGE)
    g.index = reserve(&at, g.buckets * sizeof(Bucket), PAGE)
    g.page_map = reserve(&at, (g.pages + 1) * sizeof(PageTag), PAGE)
    g.used_bits = reserve(&at, (g.pages // 64 + 1) * 8, PAGE)     # committed with the page map
    g.data = reserve(&at, g.pages * PAGE, HUGE_PAGE if g.pages * PAGE >= HUGE_PAGE else CHUNK)
    g.file_size = at


cdef inline uint64_t make_extent(uint64_t first, uint64_t pages) noexcept nogil:
    return first << 32 | pages

cdef inline uint64_t extent_first(uint64_t extent) noexcept nogil:
    return extent >> 32

cdef inline uint64_t extent_pages(uint64_t extent) noexcept nogil:
    return <uint32_t>extent


cdef inline int class_of(uint64_t nbytes) noexcept nogil:
    # 0 < nbytes <= SMALL_LIMIT; blocks are multiples of 64 B, so that each is 64-byte aligned in
    # its run
    cdef uint64_t last, floor
    if nbytes <= 512:
        return <int>((nbytes - 1) // 64)
    last = nbytes - 1
    floor = 63 - clz64(last)
    return <int>(8 + (floor - 9) * 8 + ((last - (<uint64_t>1 << floor)) >> (floor - 3)))


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
