# The bytes of a store file: every structure that two processes share is described here, once.
#
# What the file answers: which objects are live and where (slots), who reads them (pins), who is
# attached (rows), what they are called (index), where there is room (runs, page map).
#
#   header      one page       who made this file, how large it is; which rows are live
#   pool        one page       the space lock, free page runs by size
#   rows        384 B each     one per attached process; its kernel lock is byte `row` of the file
#   name locks  64 B each      writers of names, by hash; who waits for names
#   origins     144 B each     who has put objects: outlives its row
#   hint bits                  free slots, runs with free blocks, committed pages
#   runs        320 B each     pages cut into blocks of one size class
#   slots       128 B each     one per object: the truth
#   pins        4 B            pins[row][slot]: a count, and KEPT
#   labels      512 B each     a slot's name and long type description
#   metas       264 B each     a slot's bytes of the user's own
#   index       64 B each      buckets of eight cells, name -> slot
#   queues      8 B each       slots by when they came, for s3fifo: the small queue, the main one
#   ghosts      64 B each      buckets of eight names that were evicted, for s3fifo
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
# Truths and hints. A wrong hint costs time: it alone never lets memory be handed out, since
# another field has to agree, and hints that disagree are rebuilt from the slots. A wrong truth is
# damage: each number is bounded where it is read, a contradiction is a StoreCorruptedError, and
# check() reports what can be seen. A truth has one writer at a time, and nothing that it could be
# rebuilt from.
#
#   truths  header: all but the hints below; in particular `live` and `live_words` (whose pins
#           count) and `slots_used` (how far the table goes)
#           pool: `lock`, `map_committed`, `runs_used`
#           rows: `state`, `owns_any`; name locks: `lock`
#           slots: every field; of `last_use` the bit EVICTABLE. The word says whether the object
#           lives, `extent`, or `run` and `block`, which pages are its own; `mask` says which rows
#           may pin it
#           runs: `live`, `committed`, `first`, `pages`, `blocks`, of which `twin` is a second copy
#           pins, labels, and the bits of memory that is there: pins_ready (also whose pins count),
#           labels_ready, metas_ready, index_ready, queues_ready, data_ready
#   hints   bits of empty slots and of spare extents, of runs by class and of dead runs, their
#           summaries, and a run's `free`: the slot's word decides, and the slot's own `run` and
#           `block`
#           a run's `slots` and `unowned`: an unowned block is one in both; else the slot decides
#           pool: `top`, `bin_bits`, `bin_head`; page map; used bits: pages are free if their tags
#           and links say so and no used bit denies it; otherwise slots and runs determine the
#           owner
#           pool: `queue_end`, `queue_begin`, `ghosts_known`; queues; ghosts: what is evicted first
#           pool: `unowned_blocks`, `class_pages`, `release_next`: how large, where to begin
#           index: a cell leads to a slot, whose word and label decide; a lost one hides a name
#           rows: `pid`, `command`, `label`, `recoverer`, `origin`, counters; origins
#           rows: `waiting`, `waits_for`, `has_children`; pool: `turn`: who waits for whom
#           futex words and the deadlines beside them: a sleep ends by itself, too
#           header: `moves`, `totals`, `tick`, `recoveries`, `recoveries_known`
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
#   WRITING     CLAIMED      claim name  store release   recovery: -> CONDEMNED, and reaped
#   CLAIMED     PUBLISHING   publish     store release   it is whole and lives on
#   CLAIMED     FREE(gen+1)  give up     store release   a sweep sets the hint bit
#   CLAIMED     RETIRED      give up     store release   a sweep sets the hint bit of its space
#   CLAIMED     CONDEMNED    abort       store seq_cst   the last unpin or a sweep reaps it
#   CLAIMED     CONDEMNED    recovery    CAS seq_cst     the last unpin or a sweep reaps it
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
#   SEALED      OFFERED      evict       CAS seq_cst     any reader, or recovery: -> SEALED
#   OFFERED     SEALED       rescue      CAS seq_cst     it lives on
#   OFFERED     CONDEMNED    delete      CAS seq_cst     the last unpin or a sweep reaps it
#   OFFERED     RECLAIMING   evict       CAS seq_cst     recovery: -> FREE(gen+1)
#   CONDEMNED   RECLAIMING   reap        CAS seq_cst     recovery: -> FREE(gen+1)
#   RECLAIMING  FREE(gen+1)  reap        store release   a sweep sets the hint bit
#   RECLAIMING  RETIRED      reap        store release   a sweep sets the hint bit of its space
#   RECLAIMING  WRITING      evict       store release   recovery: -> CONDEMNED, and reaped (gen+1)
#
# The generation stays but where (gen+1) says so. RETIRED, for ever, follows the last generation.
# Plain stores are by the owner, or by who recovers it: nobody else changes the word meanwhile.
# Recovery makes the changes of unclaim, publish, give up and reap for a dead owner as well. Delete
# takes a PUBLISHING slot too if it holds the lock of its name, so that the word must be wrong.
#
# The row is the owner in WRITING, PUBLISHING, RECLAIMING, HELD, CLAIMED and OFFERED, and 0
# otherwise. MOVING and SETTLING are reserved: blocks that are moved to make room.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free

from refstore.engines.native.debug cimport STATIC_ASSERT

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
    FORMAT_VERSION = 3
    ENGINE_NATIVE = 1
    FLAG_TEMPORARY = 1

    PAGE = 4096                 # unit of extents and of the page map
    CHUNK = 65536               # unit in which data is committed
    HUGE_PAGE = 2097152         # the data begins at a multiple of it, and so does its mapping
    MAX_ROWS = 1024
    LIVE_WORDS = 16             # MAX_ROWS bits
    LOCK_CREATOR = MAX_ROWS     # byte locked for as long as a temporary store's creator lives
    LOCK_BOOT = MAX_ROWS + 1    # byte locked while a file from before a reboot is checked
    COUNTERS = 16
    COMMAND_NBYTES = 96
    LABEL_OF_PROCESS = 32       # bytes
    WAIT_NBYTES = 64
    ORIGINS = 1024
    ORIGIN_WORDS = 16           # ORIGINS bits
    RECOVERIES_KEPT = 16

    CLASSES = 56                # 64 B steps up to 512 B, then 8 classes per doubling
    SMALL_LIMIT = 32768         # larger blocks are extents
    RUN_BLOCKS = 64             # one bit each in the run's free word
    SLOTS_PER_STEP = 1024       # the slot table grows by this; its pins fill one page of a row

    BUCKET_CELLS = 8
    NAME_LOCKS = 1024
    NAME_LIMIT = 255            # bytes of UTF-8
    INLINE_DIMS = 5
    LABEL_TEXT = 254
    META_INLINE = 256           # bytes; longer ones lie in the block
    META_LIMIT = 65536

    QUEUES = 2                  # of s3fifo: the small one, the main one

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
    CLAIMED
    OFFERED
    MOVING                      # reserved
    SETTLING                    # reserved

cdef enum:
    # bit = state in which gets find the object; PUBLISHING: by its name alone
    LIVE_STATES = 1 << PUBLISHING | 1 << SEALED | 1 << OFFERED

cdef enum SlotFlag:
    FLAG_HARD_CLAIM = 1         # of CLAIMED: others get an error instead of the name
    FLAG_META = 2               # bytes of the user's own are in `metas`, or in the block
    FLAG_UNSEALED = 4           # of CONDEMNED: it was given up, and never was an object

cdef enum:
    # `last_use`
    EVICTABLE = 0x80000000      # the object may be evicted
    IN_MAIN = 0x40000000        # it came to the main queue
    USES = 0x30000000           # how often it was used since it came into a queue: two bits
    USE_ONE = 0x10000000
    TICK_MASK = 0x0FFFFFFF      # the tick of the last get; where there are queues, of the put
    # `owned_by`: the row's process has left or is dead, and the object is as good as deleted
    GOING = 0x8000
    CREATED_PER_SECOND = 16     # units of `created` in a second

cdef enum Evict:
    EVICT_NONE
    EVICT_LRU
    EVICT_S3FIFO

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
    COUNT_EVICTIONS
    COUNT_RECOVERIES
    COUNT_WAITS             # calls that slept
    COUNT_WAITED_NS
    COUNT_PUT_BYTES         # reserved
    COUNT_RESCUES           # objects that were offered for eviction, and read
    COUNT_HITS              # of get_or_put: the object was there
    COUNT_MISSES
    COUNT_MOVES             # reserved

# Each field says by whom it is written. `a + b`: the writer must be both; `a, b`: either may.
#
#   creator  who makes the file, before others see it
#   boot     who checks the file after a boot, holding LOCK_BOOT
#   grower   anyone, by a CAS that only raises it; the memory that it covers is committed before
#   anyone   anyone, by one atomic operation
#   row      who holds the kernel lock of the row: its process, or who recovers a dead one's
#   locker   who takes the lock, by a CAS from 0; who gives it back, or recovers its dead holder
#   space    who holds the space lock, or recovers its dead holder
#   state    as the table of the slot's word says
#   pinner   who has the object pinned, by a load and a store: one of two at once may be lost
#   owner    whose row the slot's word names, or who recovers that row. While the word names none,
#            what is the owner's does not change; but `space` alone clears the `run` of a RETIRED
#            slot, and one that leads nowhere as it rebuilds the page map
#   nobody   reserved: 0
#
# What is not a struct: `pins[row][slot]` is written by `row`; bitmaps, queues and ghosts by
# `anyone`; used bits by `space`.

cdef struct PastRecovery:
    # of which the row is the one that was recovered
    uint64_t at                 # seconds since the epoch; 0: it is being written; by: row
    uint32_t pid                # of the dead process; by: row
    uint32_t _pad0
    uint64_t nbytes             # that came free; by: row
    char command[COMMAND_NBYTES]  # as the dead process's Row.command; by: row
    char label[LABEL_OF_PROCESS]  # as its Row.label; by: row

cdef struct Header:
    uint64_t magic              # written last when the file is made; by: creator
    uint32_t version            # FORMAT_VERSION; by: creator
    uint32_t engine             # ENGINE_NATIVE: another engine refuses the file; by: creator
    uint64_t fingerprint        # of every size and constant: another build is refused; by: creator
    uint64_t capacity           # bytes of payload; by: creator
    uint64_t max_objects        # slots in the table, at most; by: creator
    uint64_t tag                # 48 bits, in every ref of this store; by: creator
    uint64_t seed[2]            # keys the name hash; by: creator
    uint8_t uuid[16]            # tells a store from a later one of its name; by: creator
    char boot_id[40]            # of the boot after which it was last checked; by: creator, boot
    uint32_t flags              # FLAG_TEMPORARY or 0; by: creator
    uint32_t evict              # Evict: which objects make room for others; by: creator
    uint64_t made_at            # seconds since the epoch; Slot.created counts on; by: creator
    uint64_t limit              # reserved: pages in use at most; by: nobody
    uint64_t _pad0[14]
    uint64_t slots_used         # slots below this are committed; by: grower
    uint64_t _pad1[7]
    uint64_t live_words         # words of `live` that were ever used; by: grower
    uint64_t moves              # forks that copied pins: a scan across one is repeated; by: anyone
    uint64_t _pad2[6]
    uint64_t live[LIVE_WORDS]   # bit = row whose pins count; by: row
    uint64_t totals[COUNTERS]   # counters of rows that are gone; by: anyone
    uint32_t tick               # moves on with what is put: the clock of `last_use`; by: anyone
    uint32_t _pad3[15]
    uint32_t any                # futex word: a name changed, whichever; by: anyone
    uint32_t any_until          # as NameLock.awake_until; by: anyone
    uint32_t _pad4[14]
    PastRecovery recoveries[RECOVERIES_KEPT]  # the last ones, a ring; by: row
    uint64_t recoveries_known   # how many there ever were; by: anyone
    uint64_t _pad5[111]

cdef struct Pool:
    uint64_t lock               # 0, or row + 1 of the holder: the space lock; by: locker
    uint64_t _pad0[7]
    uint64_t top                # pages from here on were never used and are in no bin; by: space
    uint64_t map_committed      # page map entries below this are committed; by: grower
    uint64_t unowned_blocks     # unowned blocks of live runs; by: space
    uint64_t runs_used          # run records below this are committed; by: grower
    uint64_t bin_bits[BIN_WORDS]  # bit = bin with a list; by: space
    uint64_t class_pages[CLASSES]  # pages in runs of the class: how large the next is; by: space
    uint32_t bin_head[BINS]     # first page + 1 of the bin's list, or 0; by: space
    uint64_t release_next       # run at which the next look for empty ones begins; by: space
    uint64_t turn               # row + 1 of who alone tries for room, or 0; by: anyone
    uint64_t mover              # reserved: row + 1 of who moves blocks; by: nobody
    uint64_t _pad1[5]
    uint32_t room               # futex word: some room came free; by: anyone
    uint32_t room_until         # as NameLock.awake_until; by: anyone
    uint64_t _pad2[7]
    uint64_t queue_end[QUEUES]  # entries that ever came into each; by: anyone
    uint64_t ghosts_known       # names that ever became ghosts; by: anyone
    uint64_t _pad3[5]
    uint64_t queue_begin[QUEUES]  # entries that ever left each; by: anyone
    uint64_t _pad4[6]
    uint8_t _pad5[2240]

cdef struct Row:
    uint64_t state              # ROW_FREE, or another; by: row
    uint32_t pid                # for messages only; by: row
    uint32_t recoverer          # pid of who recovers the dead one; for messages only; by: row
    char command[COMMAND_NBYTES]  # for messages only; by: row
    char label[LABEL_OF_PROCESS]  # what its process calls itself, for messages only; by: row
    uint64_t counters[COUNTERS]  # of its process, by Counter; by: row
    uint64_t has_children       # 1: some without a row have its lock; for messages only; by: row
    uint64_t moved_to           # reserved: offset of the block that it moves; by: nobody
    uint64_t _pad0
    uint32_t waiting            # of its threads; for reports only; by: row
    uint32_t owns_any           # 1 once its process has owned an object; by: row
    uint32_t origin             # + 1: its process in `origins`, or 0: not there yet; by: row
    uint32_t _pad1[3]
    char waits_for[WAIT_NBYTES]  # the call that began to wait last, for reports only; by: row

cdef struct NameLock:
    uint64_t lock               # 0, or row + 1 of the holder; by: locker
    uint32_t changes            # futex word: a name under this lock changed; by: anyone
    uint32_t awake_until        # tick of 16 ms until which somebody may sleep; by: anyone
    uint64_t _pad0[6]

cdef struct Origin:
    uint64_t taken              # 0, or row + 1 of whose it is, and since when << 11; by: anyone
    uint32_t pid                # for reports only; by: row
    uint32_t _pad0
    char command[COMMAND_NBYTES]  # for reports only; by: row
    char label[LABEL_OF_PROCESS]  # as Row.label; by: row

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
    uint32_t last_use           # EVICTABLE and hints, see ages.pxd; by: owner, anyone, pinner
    uint8_t ndim                # axes of an array; by: owner
    uint8_t order               # 'C', 'F'; 'K': see the label, or there is no format; by: owner
    uint8_t text_nbytes         # of the label's text, 0 if none; by: owner
    uint8_t flags               # SlotFlag; by: owner
    # second line: read by those who want more than the bytes
    # of the object that this one's publication replaces; of a soft claim: of that for which its
    # maker waits
    uint64_t replaces_generation  # by: owner
    uint32_t replaces_slot      # + 1, or 0: none; by: owner
    uint32_t spill_nbytes       # of the description behind the payload, if it is there; by: owner
    uint64_t shape[INLINE_DIMS]  # of at most INLINE_DIMS axes; else see the label; by: owner
    uint32_t created            # after made_at, in 1/CREATED_PER_SECOND s; by: owner
    uint16_t put_by             # origin + 1, or 0: not known; by: owner
    uint16_t owned_by           # GOING, row + 1 of whom it goes with, or 0; by: owner, anyone

cdef struct Label:
    uint8_t name_nbytes         # 0 to NAME_LIMIT; by: owner
    uint8_t name[NAME_LIMIT]    # UTF-8; by: owner
    uint8_t _pad0[2]
    uint8_t text[LABEL_TEXT]    # what a plain dtype and shape do not say; by: owner

cdef struct Meta:
    uint64_t nbytes             # up to META_INLINE are here, more behind the payload; by: owner
    uint8_t octets[META_INLINE]  # of the user's own; by: owner

cdef struct Bucket:
    uint64_t cells[BUCKET_CELLS]  # slot 28 | generation mod 2**20 | hash 16, or 0; by: anyone

cdef struct PageTag:
    uint32_t head               # length of the free run that starts here, or 0; by: space
    uint32_t tail               # length of the free run that ends here, or 0; by: space
    # of a free run: the next and the previous one in its bin, first page + 1, or 0. Of the first
    # page of an extent: 0 in `prev`, and in `next` its slot + 1; of a run: 0, and its run + 1
    uint32_t next               # by: space
    uint32_t prev               # by: space

# Equations over these fields. Each holds as long as no change is under way and no dead process
# waits to be recovered; check() looks at each, and begins what it says of it with its name.
#
#   header        capacity in pages, max_objects and tag are what they were when this process
#                 attached
#   live          a row is in `live` if and only if its state is not ROW_FREE
#   live_words    row // 64 < live_words for each row in `live`
#   row           each row's state is one of RowState
#   slots_used    is a multiple of SLOTS_PER_STEP, or max_objects; no slot past it is written
#   runs_used     no run past it is written
#   labels_ready  the bit of a step is set if one of its labels is written
#   metas_ready   the bit of a step is set if one of its metas is written
#   index_ready   the bit of a page of the index is set if the page is written
#   queues_ready  the bit of a page of the queues and ghosts is set if the page is written
#   pins_ready    the bit of a step is set if a live row pins one of its slots
#   data_ready    the bit of a chunk is set if bytes of an object lie in it
#   state         each slot's state is one of SlotState
#   owner         the word of a slot in WRITING, PUBLISHING, RECLAIMING, HELD, CLAIMED or OFFERED
#                 names a live row, and that of any other none; the process that checks has none in
#                 RECLAIMING, HELD or OFFERED
#   kind          is one of Kind
#   origins       Row.origin is 0, or of an entry of `origins` that the row has taken
#   put_by        of an object is 0, or of an entry that is taken
#   owned_by      of an object is 0, or row + 1 of a live row with owns_any, and not GOING
#   size          nbytes + spill_nbytes, and a meta's that has no room in the table, <= the bytes of
#                 the slot's block
#   meta          an object with FLAG_META has at most META_LIMIT bytes of meta
#   offset        is where the block lies: at its extent, or in its run
#   run           twin is run_twin() of a live run, and 0 of others; a slot's run is live and of its
#                 size_class, and block < blocks
#   block         runs[r].slots[j] == i + 1 if and only if slots[i].run == r + 1 and .block == j
#   unowned       runs[r].unowned has bit j if and only if runs[r].slots[j] == 0, for j < blocks
#   unowned_blocks  pool.unowned_blocks == the bits in `unowned` of all live runs
#   class_pages   class_pages[c] == the pages of all live runs of class c
#   extent        extents and runs end at `top` or before, in pages that the map reaches
#   overlap       no page is in two extents or runs, no block in two slots
#   lost pages    pages below `top` == those of extents + those of live runs + those of free runs
#   used          the bit of a page is set if and only if it is in an extent or a live run
#   unit          the tag of the first page of an extent or a live run leads to it
#   bins          a free run is in the list of its bin, and in no other; bin_bits has the bit of a
#                 bin if and only if it has a list
#   lost slot     a FREE slot has a hint by what it owns: empty_bits, spare_bits or its run's `free`
#   lost run      a run that is not live has a hint in run_bits
#   lost reap     a slot in CONDEMNED is pinned
#   pins          a cell that is not 0 is of a live row and a slot that has an object
#   mask          has the bit of each row with such a cell
#   label         the name of a live object with a name_hash has that hash
#   index         a cell of the name's buckets leads to such a slot; no two have one name
#   claim         the name of a CLAIMED slot has its name_hash, and a cell of its buckets leads to
#                 the slot; no two hard ones have one name, and no two soft ones
#   lock          nobody holds the space lock, or a name's
#   turn          is 0, or row + 1 of a live row

cdef inline void check_layout() noexcept nogil:
    STATIC_ASSERT(sizeof(Header) == 4096)
    STATIC_ASSERT(sizeof(Pool) == 4096)
    STATIC_ASSERT(sizeof(PastRecovery) == 152)
    STATIC_ASSERT(sizeof(Row) == 384)
    STATIC_ASSERT(sizeof(Origin) == 144)
    STATIC_ASSERT(sizeof(Meta) == 264)
    STATIC_ASSERT(sizeof(NameLock) == 64)
    STATIC_ASSERT(sizeof(Run) == 320)
    STATIC_ASSERT(sizeof(Slot) == 128)
    STATIC_ASSERT(sizeof(Label) == 512)
    STATIC_ASSERT(sizeof(Bucket) == 64)
    STATIC_ASSERT(sizeof(PageTag) == 16)
    STATIC_ASSERT(<size_t>&(<Header*>NULL).version == 8)
    STATIC_ASSERT(<size_t>&(<Header*>NULL).slots_used == 256)
    STATIC_ASSERT(<size_t>&(<Header*>NULL).live == 384)
    STATIC_ASSERT(<size_t>&(<Header*>NULL).tick % 64 == 0)
    STATIC_ASSERT(<size_t>&(<Slot*>NULL).name_hash == 48)
    STATIC_ASSERT(<size_t>&(<Slot*>NULL).replaces_generation == 64)
    STATIC_ASSERT(<size_t>&(<Slot*>NULL).created == 120)
    STATIC_ASSERT(<size_t>&(<Header*>NULL).any % 64 == 0)
    STATIC_ASSERT(<size_t>&(<Pool*>NULL).room % 64 == 0)
    STATIC_ASSERT(<size_t>&(<Pool*>NULL).queue_end % 64 == 0)
    STATIC_ASSERT(<size_t>&(<Pool*>NULL).queue_begin % 64 == 0)
    STATIC_ASSERT(SLOTS_PER_STEP * 4 == PAGE)
    STATIC_ASSERT(LIVE_WORDS * 64 == MAX_ROWS)
    STATIC_ASSERT(BIN_WORDS * 64 == BINS)
    STATIC_ASSERT(ORIGIN_WORDS * 64 == ORIGINS)
