"""The file of the filelock engine: every byte of it, and how it is made and checked.

All numbers are 64-bit words in the machine's order. Offsets in words, sizes by geometry:

    0        header, fixed        16 words; only boot id, home and inode change
    64       header, moving       the words named below
    128      journal              PAIRS times (index of a word, its new value)
    640      recoveries           RECOVERIES_KEPT times PAST_WORDS: the last ones, a ring
    ...      bins                 BINS words: first free extent of each size class, as unit + 1
    ...      rows                 MAX_ROWS times ROW_WORDS: one for each attached process
    ...      buckets              slot + 1 of the first object of each chain of names
    ---      committed when the file is made; from here on as it is reached, by whole pages
    ...      slots                max_objects times SLOT_WORDS
    ...      labels               max_objects times LABEL_NBYTES: name, then the array's description
    ...      pins                 MAX_ROWS times max_objects cells of 32 bits: pins[row][slot]
    ...      origins              ORIGIN_WORDS for each process whose objects are there
    ...      metas                max_objects times META_INLINE: the user's own bytes
    ...      queues               2 rings of slots for "s3fifo", and what its small one lost
    ...      tags                 2 words for each unit: boundary tags and links of free extents
    ...      data                 units of 64 bytes; the payload

Words. *Unit*: 64 bytes of data. *Extent*: neighbouring units, free or one object's block. *Slot*:
an object's entry, which says where its block lies. *Row*: a process's place in the process table.
*Cell*: how many pins one row has on one slot. *Label*: what a slot has to say in bytes. *Origin*:
what is told of the process that put an object, which outlives its row.

All that moves is read and written under the change lock of the store only, but for the payload and
the label of a slot that is being written, which belong to its writer, and the block and the label
of a slot that is pinned, which nobody changes. Each field says by whom it is written:

    creator  who makes the file, before others see it
    lock     who holds the change lock, through the journal
    first    who holds the change lock and attaches at another place or after a boot, at once
    taker    who holds the change lock, at once
    row      the row's process, at once

Labels and metas are written by the slot's maker, at once; queues by `taker`; cells of pins and all
other words by `lock`.

Equations over these fields. Each holds whenever nobody has the lock and the journal is empty;
a problem that check() reports begins with the name of what does not hold:

    journal      no pair waits to be applied
    damage       every list ends; a free extent has its length at both its ends
    state        each slot's state is one of FREE to RETIRED
    owner        a slot in WRITING or CLAIMED has a row in use as its maker
    owned        a slot's OWNED_BY is 0, or the slot is SEALED and that is of a row in use
    kind         is an index into KINDS
    origin       of a slot with a block, and of a row in use, is 0, UNKNOWN or <= `origins used`
    size         bytes of the payload, and of a description and meta behind it, <= the units of the
                 block
    offset       offset + units <= the units of the file; of a claim without a block it is 0, or
                 leads to a slot
    overlap      no unit is in two blocks or free extents
    lost units   units of slots in WRITING, SEALED, CONDEMNED, CLAIMED + units of free extents
                 == all units
    split        no two free extents are neighbours
    free slots   a slot below `slots used` is in their list if and only if it is FREE
    index        a slot is in a chain, and of its own name, if and only if it is CLAIMED, or SEALED
                 and has a name; of one name there are at most one of each
    label        the name of such a slot has the slot's hash
    pins         a bit of a mask is of a row in use whose cell is not 0 (without the bit a cell says
                 nothing), and of a slot in WRITING, SEALED, CONDEMNED or CLAIMED
    lost reap    a slot in CONDEMNED is pinned
    turn         whose turn it is to wait for room has a row in use
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import sys
import time
from typing import Final, Literal, NamedTuple, cast

from refstore import _messages
from refstore._arguments import POLICIES, require_capacity, require_max_objects
from refstore._header import MAGIC, number_of
from refstore.payload.headers import KINDS as KINDS

CAPACITY_LIMIT: Final = 1 << 43
OBJECTS_LIMIT: Final = 1 << 28
FORMAT_VERSION: Final = 3
ENGINE_NATIVE: Final = 1
ENGINE_FILELOCK: Final = 2

LOW_64: Final = (1 << 64) - 1  # what a word holds: sums and differences of counts go round
UNIT: Final = 64  # bytes
PAGE: Final = 4096  # bytes; tables begin at multiples
CHUNK: Final = 1 << 16  # bytes that are committed together; the data begin at a multiple

# --- the header's words; see `Header` for the fixed ones

FIXED_WORDS: Final = 16
HOME: Final = 12  # where the file was when its locks were first used; by: first
INODE: Final = 13  # its own, to tell a copy from the same file elsewhere; by: first
BOOT: Final = 14  # of the boot after which it was last checked, 0 if not known; by: first

COUNT: Final = 64  # pairs in the journal that are yet to be applied; by: taker
HOLDER: Final = 65  # pid of who has the lock; by: taker
LOCK_COUNT: Final = 66  # how often the lock was taken, or its holder went on; by: taker
SLOTS_USED: Final = 67  # slots from here on were never used; by: lock
FREE_SLOT: Final = 68  # slot + 1 of the first free one; by: lock
TRIMS: Final = 69  # how often free memory was given back; by: taker
CHANGES: Final = 70  # how often a name got an object, lost it or lost a claim; by: lock
TURN: Final = 71  # row + 1 of who may try first of those who wait for room, or 0; by: lock
TOTALS: Final = 72  # COUNTERS words, folded in from rows that are gone; by: lock
BITMAP: Final = 80  # BITMAP_WORDS words: a bit for each bin that has extents; by: lock
ORIGINS_USED: Final = 96  # origins from here on were never used; by: lock
TICK: Final = 97  # counts puts and gets, for USE; by: taker
SMALL: Final = 98  # 2 words, of a ring: entries that were ever taken out, and put in; by: taker
MAIN: Final = 100  # the same; by: taker
GHOSTS: Final = 102  # how many names the small ring lost so far; by: taker
WRITES: Final = 103  # odd while a change is written, and another one after it; by: taker
RECOVERIES_KNOWN: Final = 104  # how many dead processes were ever recovered; by: lock
JOURNAL: Final = 128

PAIRS: Final = 256  # no change has more
PAST: Final = JOURNAL + 2 * PAIRS  # RECOVERIES_KEPT times PAST_WORDS: the last recoveries, a ring
RECOVERIES_KEPT: Final = 16
PAST_WORDS: Final = 19
PAST_AT: Final = 0  # seconds since the epoch, 0: there was none; by: lock
PAST_PID: Final = 1  # of the dead process; by: lock
PAST_NBYTES: Final = 2  # that came free; by: lock
PAST_COMMAND: Final = 3  # as ROW_COMMAND, 12 words; by: lock
PAST_LABEL: Final = 15  # as ROW_LABEL, 4 words; by: lock
PER_DOUBLING: Final = 8
BINS: Final = 320
BITMAP_WORDS: Final = BINS // 64

# --- a row

MAX_ROWS: Final = 256
ROW_WORDS: Final = 32
ROW_STATE: Final = 0  # 0: free, else of these bits; by: lock
ATTACHED, HAS_CHILDREN, LEFT = 1, 2, 4  # without a row, but with the row's lock; in good order
ROW_PID: Final = 1  # for messages; by: lock, row, first
ROW_COUNTERS: Final = 2  # of its process: COUNTERS words; by: lock, row
ROW_WAITING: Final = 7  # of its threads; by: lock, row
ROW_COMMAND: Final = 8  # 12 words, for messages; by: lock
ROW_LABEL: Final = 20  # 4 words, what its process calls itself, for messages; by: lock
ROW_ORIGIN: Final = 24  # of its process, 0: it has put nothing yet; by: lock
ROW_WAITS_FOR: Final = 25  # 7 words, the call that began to wait last, for reports; by: lock, row
COMMAND_NBYTES: Final = 96
LABEL_OF_PROCESS: Final = 32  # bytes
WAIT_NBYTES: Final = 56
COUNTERS: Final = 5
PUTS, GETS, DELETES, EVICTIONS, RECOVERIES = range(COUNTERS)

# --- an origin; they count from 1

ORIGIN_WORDS: Final = 18
ORIGIN_PID: Final = 0  # by: lock
ORIGIN_COMMAND: Final = 1  # 12 words; by: lock
ORIGIN_LABEL: Final = 13  # 4 words, as ROW_LABEL; by: lock
ORIGINS_LIMIT: Final = 1 << 16
UNKNOWN: Final = (1 << 32) - 1  # in place of an origin's number: none was left

# --- a slot

SLOT_WORDS: Final = 16
WORD: Final = 0  # generation 48 bits | state 8 bits; by: lock
OFFSET: Final = 1  # units; by: lock
WAITS_FOR: Final = OFFSET  # of a claim without a block: slot + 1 of a claim, or 0; by: lock
UNITS: Final = 2  # of the block; 0: an empty object has none; by: lock
NBYTES: Final = 3  # of the payload; by: lock
SHAPE: Final = 4  # kind 8 bits | bytes of name 16 | HARD_CLAIM 8 | of description 32; by: lock
MAKER: Final = 5  # row that is writing it; by: lock
HASH: Final = 6  # of the name; by: lock
NEXT: Final = 7  # slot + 1: in the chain of names, or in the list of free slots; by: lock
OWNED_BY: Final = 8  # row + 1 of an object's owner, 0: the store; by: lock
ORIGIN: Final = 9  # number of its origin 32 bits | when it was put 32, in 1/16 s; by: lock
USE: Final = 10  # see the constants below; by: lock, taker
META: Final = 11  # bytes of meta; by: lock
MASK: Final = 12  # 4 words: a bit for each row that pins it; by: lock

FREE, WRITING, SEALED, CONDEMNED, CLAIMED, RETIRED = range(6)
HARD_CLAIM: Final = 1 << 24  # in SHAPE: a claim that keeps others from publishing under its name
GENERATION_LAST: Final = (1 << 48) - 1
PIN_LIMIT: Final = 1 << 30  # of one process on one object
# In a cell of pins: a child that has no row inherited the block. It stays as long as the row, whose
# lock such a child has, too.
KEPT: Final = 1 << 31

# In USE. The bits below are what TICK was when the object was last put or got.
EVICTABLE: Final = 1 << 63
UNSEALED: Final = 1 << 62  # condemned before it was an object
HIT: Final = 1 << 60  # 2 bits count up to MOST_HITS gets, and down as it is passed over
MOST_HITS: Final = 3
TICKS: Final = (1 << 60) - 1

CREATED_PER_SECOND: Final = 16  # of the clock of ORIGIN

LABEL_NBYTES: Final = 1024
NAME_AT: Final = 0  # bytes in a label
TEXT_AT: Final = 256
LABEL_TEXT: Final = 766  # longer descriptions lie behind the payload
META_INLINE: Final = 256  # more lies at the end of the block

# --- what "s3fifo" knows; see `eviction`

GHOST_WAYS: Final = 8  # words that are looked at for a name

FLAG_TEMPORARY: Final = 1

HEADER: Final = struct.Struct("=QIIQQQQQQ16sIIQQQQQ")
assert HEADER.size == 8 * FIXED_WORDS


class Header(NamedTuple):
    """The fixed words, in order."""

    magic: int  # MAGIC; by: creator
    version: int  # FORMAT_VERSION; by: creator
    engine: int  # ENGINE_FILELOCK; by: creator
    fingerprint: int  # of every size and constant above; another build is refused; by: creator
    capacity: int  # bytes of payload; by: creator
    max_objects: int  # slots in the table, at most; by: creator
    tag: int  # 48 bits, never 0: in every ref of this store; by: creator
    seed: int  # keys the name hash; by: creator
    seed_more: int  # the same; by: creator
    uuid: bytes  # tells a store from a later one of its name; by: creator
    flags: int  # FLAG_TEMPORARY or 0; by: creator
    evict: int  # index into POLICIES: which objects make room for others; by: creator
    file_size: int  # bytes; by: creator
    home: int  # HOME; by: first
    inode: int  # INODE, 0 until the file is made; by: first
    boot: int  # BOOT; by: first
    made_at: int  # 1/16 s since the epoch, from which ORIGIN counts; by: creator


class Geometry(NamedTuple):
    """The offsets of all regions: tables in words, what is not made of words in bytes."""

    max_objects: int
    units: int
    bucket_mask: int
    bins: int  # words
    rows: int  # words
    buckets: int  # words
    committed: int  # bytes: all before this is there from the start
    slots: int  # words
    labels: int  # bytes
    pins: int  # words
    pin_words: int  # of one row
    origins: int  # words
    n_origins: int
    metas: int  # bytes
    rings: int  # words
    ring_words: int  # of one of the two: a power of two
    ghosts: int  # words
    ghost_mask: int  # of groups of GHOST_WAYS words
    tags: int  # words
    data: int  # bytes
    file_size: int  # bytes


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def lay_out(capacity: int, max_objects: int) -> Geometry:
    units = _up(capacity, PAGE) // UNIT  # what is over has room for a long description
    n_buckets = 1 << max(max_objects // 4 - 1, 63).bit_length()
    n_origins = min(max_objects + MAX_ROWS, ORIGINS_LIMIT)
    ring_words = 1 << max(2 * max_objects - 1, 511).bit_length()  # half may be of what is gone
    n_ghosts = ring_words // GHOST_WAYS
    bins = _up((PAST + RECOVERIES_KEPT * PAST_WORDS) * 8, PAGE)
    rows = _up(bins + BINS * 8, PAGE)
    buckets = _up(rows + MAX_ROWS * ROW_WORDS * 8, PAGE)
    slots = committed = _up(buckets + n_buckets * 8, PAGE)
    labels = _up(slots + max_objects * SLOT_WORDS * 8, PAGE)
    pins = _up(labels + max_objects * LABEL_NBYTES, PAGE)
    row_nbytes = _up(max_objects * 4, 8)  # rows of small stores share pages
    origins = _up(pins + MAX_ROWS * row_nbytes, PAGE)
    metas = _up(origins + n_origins * ORIGIN_WORDS * 8, PAGE)
    rings = _up(metas + max_objects * META_INLINE, PAGE)
    ghosts = rings + 2 * ring_words * 8
    tags = ghosts + n_ghosts * GHOST_WAYS * 8
    data = _up(tags + units * 16, CHUNK)
    return Geometry(
        max_objects=max_objects,
        units=units,
        bucket_mask=n_buckets - 1,
        bins=bins // 8,
        rows=rows // 8,
        buckets=buckets // 8,
        committed=committed,
        slots=slots // 8,
        labels=labels,
        pins=pins // 8,
        pin_words=row_nbytes // 8,
        origins=origins // 8,
        n_origins=n_origins,
        metas=metas,
        rings=rings // 8,
        ring_words=ring_words,
        ghosts=ghosts // 8,
        ghost_mask=n_ghosts - 1,
        tags=tags // 8,
        data=data,
        file_size=data + _up(units * UNIT, PAGE),
    )


def bin_of(units: int) -> int:
    """The size class of an extent: each size below 16 units, then eight for each doubling."""
    doublings = max(units.bit_length() - 4, 0)
    return PER_DOUBLING * doublings + (units >> doublings)


def fingerprint() -> int:
    constants = {k: v for k, v in globals().items() if k.isupper() and type(v) in (int, str)}
    text = repr([sorted(constants.items()), sys.byteorder, lay_out(1 << 30, 1 << 20)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


# --- where a file is


def boot_id() -> int:
    """A number for this boot of the machine; 0 where it has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return int.from_bytes(hashlib.blake2b(file.read(), digest_size=8).digest(), "little")
    except OSError:
        return 0


def home_of(path: str) -> int:
    """A number for the file's name and the folder it is in: its locks are found from there."""
    folder = os.stat(os.path.dirname(path)).st_ino
    text = b"%d/%s" % (folder, os.fsencode(os.path.basename(path)))
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def locks_of(path: str, uuid: bytes) -> str:
    """The folder of the store's lock files."""
    return f"{path}.{uuid.hex()[:8]}.locks"


# --- a file that is made, and one that is checked


def new_header(
    path: str, capacity: int, max_objects: int, temporary: bool, evict: str | None
) -> Header:
    require_capacity(capacity, CAPACITY_LIMIT)
    require_max_objects(max_objects, OBJECTS_LIMIT)
    entropy = os.urandom(38)
    return Header(
        magic=MAGIC,
        version=FORMAT_VERSION,
        engine=ENGINE_FILELOCK,
        fingerprint=fingerprint(),
        capacity=capacity,
        max_objects=max_objects,
        tag=int.from_bytes(entropy[:6], "little") | 1,
        seed=int.from_bytes(entropy[6:14], "little"),
        seed_more=int.from_bytes(entropy[14:22], "little"),
        uuid=entropy[22:],
        flags=FLAG_TEMPORARY if temporary else 0,
        evict=POLICIES.index(evict),
        file_size=lay_out(capacity, max_objects).file_size,
        home=home_of(path),
        inode=0,
        boot=boot_id(),
        made_at=int(time.time() * CREATED_PER_SECOND),
    )


def policy_of(header: Header) -> Literal["lru", "s3fifo"] | None:
    return cast('Literal["lru", "s3fifo"] | None', POLICIES[header.evict])


def first_words(header: Header) -> dict[int, int]:
    """The contents of a new file besides zeros and the fixed header: all its units, free."""
    g = lay_out(header.capacity, header.max_objects)
    whole = bin_of(g.units)
    return {
        BITMAP + whole // 64: 1 << whole % 64,
        g.bins + whole: 1,
        g.tags: g.units,
        g.tags + 2 * (g.units - 1): g.units,
    }


def read_header(fd: int, path: str, found: os.stat_result) -> Header:
    """The header of a file that is a sound store of this engine; an exception otherwise."""
    head = b""
    if stat.S_ISREG(found.st_mode):
        os.lseek(fd, 0, os.SEEK_SET)
        head = os.read(fd, HEADER.size)
    engine = number_of(head)
    if engine is None:
        raise _messages.no_store(path, _messages.NOT_A_STORE)
    if engine == ENGINE_NATIVE:
        raise _messages.other_engine(path, "native", "filelock")
    if len(head) < HEADER.size or engine != ENGINE_FILELOCK:
        raise _messages.no_store(path, _messages.NOT_A_STORE)
    header = Header._make(HEADER.unpack(head))
    if header.version != FORMAT_VERSION:
        raise _messages.other_version(path, header.version, FORMAT_VERSION)
    if header.fingerprint != fingerprint():
        raise _messages.other_build(path)
    if not 0 < header.capacity <= CAPACITY_LIMIT or not 0 < header.max_objects <= OBJECTS_LIMIT:
        raise _messages.no_store(path, _messages.DAMAGED_HEADER)
    size = lay_out(header.capacity, header.max_objects).file_size
    if found.st_size != size:
        raise _messages.no_store(path, "is truncated")
    is_known = 0 < header.tag < 1 << 48 and header.evict < len(POLICIES)
    if header.file_size != size or not is_known:
        raise _messages.no_store(path, _messages.DAMAGED_HEADER)
    return header
