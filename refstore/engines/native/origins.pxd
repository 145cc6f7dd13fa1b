# Who put an object. The process's pid and command stand in an entry of `origins`, which outlives
# its row: a process takes one when it first puts something, and an entry is free again when no live
# row and no slot names it. For reports only: without one, an object is put by nobody.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport (
    assign, cas_acq_rel, load_acquire, load_acquire_u32, store_release_u32,
)
from refstore.engines.native.layout cimport (
    MAX_ROWS, Origin, ORIGIN_WORDS, ORIGINS, Row,
)
from refstore.engines.native.system cimport now_ns
from refstore.engines.native.view cimport is_ready, origin_at, row_at, slots_used, View
from refstore.engines.native.slots cimport is_spare

cdef enum:
    ROW_BITS = 11               # of Origin.taken: row + 1
    ROW_MASK = 0x7FF


cdef inline bint has_process(View *v, uint64_t k, uint64_t row) noexcept nogil:
    # Whether the process of the row may put objects by entry k: it says so, or has yet to say what
    # it has taken.
    cdef uint32_t says
    if row == v.row or row >= MAX_ROWS or not is_ready(v.header.live, row):
        return False
    says = load_acquire_u32(&row_at(v, row).origin)                      # [origin]
    return says == 0 or says == k + 1


cdef inline void mark_named(View *v, uint64_t *named) noexcept nogil:
    # the entries that slots name
    cdef uint64_t i, k, word
    for i in range(slots_used(v)):
        word = load_acquire(&v.slots[i].word)                            # [seal]
        k = <uint64_t>v.slots[i].put_by - 1
        if not is_spare(word) and k < ORIGINS:
            named[k >> 6] |= <uint64_t>1 << (k & 63)


cdef inline int64_t free_entry(View *v, uint64_t mine) noexcept nogil:
    # An entry that nobody has, and now we: `mine` is in it. -1: there is none. Rows are looked at
    # before slots: what a process put that has left by now, its slots show.
    cdef:
        uint64_t[ORIGINS] seen
        uint64_t[ORIGIN_WORDS] named
        uint64_t k
        Origin *origin
    for k in range(<uint64_t>ORIGINS):
        origin = origin_at(v, k)
        seen[k] = load_acquire(&origin.taken)                            # [origin]
        if seen[k] == 0 and cas_acq_rel(&origin.taken, &seen[k], mine):  # [origin]
            return <int64_t>k
        if has_process(v, k, (seen[k] & ROW_MASK) - 1):
            seen[k] = 0
    memset(named, 0, sizeof(named))
    mark_named(v, named)
    for k in range(<uint64_t>ORIGINS):
        if seen[k] and named[k >> 6] >> (k & 63) & 1 == 0 \
                and cas_acq_rel(&origin_at(v, k).taken, &seen[k], mine):  # [origin]
            return <int64_t>k
    return -1


cdef inline void take_origin(View *v) noexcept nogil:
    # The time keeps what we write from what an earlier process of our row has left.
    cdef:
        Row *row = row_at(v, v.row)
        uint64_t mine = now_ns() << ROW_BITS | v.row + 1
        int64_t k = free_entry(v, mine)
        Origin *origin
    v.has_looked_for_origin = True
    if k < 0:
        return
    origin = origin_at(v, <uint64_t>k)
    assign(origin.pid, row.pid)
    memcpy(origin.command, row.command, sizeof(origin.command))
    memcpy(origin.label, row.label, sizeof(origin.label))
    failpoint()
    store_release_u32(&row.origin, <uint32_t>k + 1)                      # [origin]
    v.origin = <uint16_t>(k + 1)


cdef inline void set_label(View *v, const char *label, size_t nbytes) noexcept nogil:
    # Of our process, and of what it has put; shorter than the field.
    cdef Row *row = row_at(v, v.row)
    memset(row.label, 0, sizeof(row.label))
    memcpy(row.label, label, nbytes)
    failpoint()
    if v.origin:
        memcpy(origin_at(v, <uint64_t>v.origin - 1).label, row.label, sizeof(row.label))
        failpoint()
