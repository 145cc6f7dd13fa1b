# Bytes of the user's own beside an object: a few of them in a table by slot, which takes nothing of
# the capacity; more lie in the block, behind the payload and the description.

from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memcpy, memmove

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport assign
from refstore.engines.native.layout cimport FLAG_META, Meta, META_INLINE, META_LIMIT, Slot
from refstore.engines.native.view cimport is_within_block, meta_at, metas_are_committed, View

cdef inline uint64_t meta_room(uint64_t nbytes) noexcept nogil:
    # bytes of the block for so many of the user's own
    return nbytes if nbytes > META_INLINE else 0


cdef inline void write_meta(View *v, uint64_t i, const char *octets, uint64_t nbytes,
                            uint64_t spill) noexcept nogil:
    # Into a slot of ours, for which the table has memory. `spill`: bytes of the description.
    cdef Slot *slot = &v.slots[i]
    cdef Meta *meta = meta_at(v, i)
    assign(meta.nbytes, nbytes)
    memcpy(v.base + slot.offset + slot.nbytes + spill if meta_room(nbytes) else <char*>meta.octets,
           octets, nbytes)
    failpoint()
    assign(slot.flags, slot.flags | FLAG_META)


cdef inline uint64_t meta_nbytes(View *v, uint64_t i) noexcept nogil:
    # More than META_LIMIT: a slot says that it has some, and there is no memory for it.
    if not v.slots[i].flags & FLAG_META:
        return 0
    return meta_at(v, i).nbytes if metas_are_committed(v, i) else META_LIMIT + 1


cdef inline bint set_nbytes(View *v, uint64_t i, uint64_t nbytes) noexcept nogil:
    # Of bytes that are being written and become fewer: what lies behind them follows. False: what
    # the slot says of them is not so.
    cdef:
        Slot *slot = &v.slots[i]
        uint64_t offset = slot.offset, before = slot.nbytes
        uint64_t meta = meta_room(meta_nbytes(v, i))
    if meta > META_LIMIT or nbytes > before or before > UINT64_MAX - meta \
            or not is_within_block(v, slot, offset, before + meta):
        return False
    if meta:
        memmove(v.base + offset + nbytes, v.base + offset + before, meta)
        failpoint()
    assign(slot.nbytes, nbytes)
    return True
