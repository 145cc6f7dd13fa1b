# What went wrong, as the exception that says it: what was asked, what is the case, what to do.

from libc.stdint cimport uint64_t
from libc.string cimport memset

from refstore._layout cimport (
    ERR_BUSY, ERR_DAMAGED, ERR_EXISTS, ERR_FULL_SLOTS, ERR_INDEX, ERR_NO_MEMORY, ERR_NOT_FOUND,
    ERR_PINS, ERR_RECOVERY, MAX_ROWS, Row,
)
from refstore._holders cimport top_holders
from refstore._stats cimport Census, take_census
from refstore._store cimport row_at, Store

cdef enum:
    NAMED = 4                   # holders that a message names


cdef inline str path_of(Store *s):
    import os
    return os.fsdecode(<bytes>s.path)


cdef inline object busy(Store *s, str what):
    from refstore.errors import StoreBusyError
    cdef uint64_t row = s.blocked_by - 1 if s.blocked_by else 0
    cdef Row *holder = row_at(s, row % MAX_ROWS)
    cdef unsigned int pid = holder.recoverer if holder.recoverer else holder.pid
    return StoreBusyError(
        f"{what} waits for process {pid}, which is stopped in the middle of a change to store "
        f"{path_of(s)!r}: resume it (kill -CONT {pid}) or kill it", pid=pid)


cdef inline object no_recovery(Store *s):
    import errno
    return OSError(errno.EMFILE, "a process died in the middle of a change, and cleaning up after it takes a "
                   "descriptor, of which there are none left (ulimit -n)", path_of(s))


cdef inline str what_is_pinned(Census *census):
    if not census.pinned:
        return "no object is pinned"
    return f"objects pinned: {census.pinned}, of {census.pinned_nbytes} bytes, {census.condemned} of them deleted"


cdef inline str who_holds(tuple holders):
    if not holders:
        return ""
    named = [f"process {pid} ({command}) {nbytes} bytes" for pid, command, nbytes in holders[:NAMED]]
    if len(holders) > NAMED:
        named.append(f"{len(holders) - NAMED} more")
    return f" Pinned or being written: {', '.join(named)}."


cdef inline str why_full(Store *s, uint64_t needed, int error):
    if error == ERR_FULL_SLOTS:
        return f"all {s.header.max_objects} objects of max_objects are there"
    if error == ERR_NO_MEMORY:
        return "the file system has no memory left"
    if error == ERR_INDEX:
        return "the name index is full around this name"
    if needed > s.header.capacity:
        return "it is more than the capacity"
    return "no free extent is large enough"


cdef inline object full(Store *s, uint64_t needed, int error):
    from refstore.errors import StoreFullError
    cdef Census census
    cdef uint64_t free_bytes
    memset(&census, 0, sizeof(census))
    take_census(s, &census)
    free_bytes = s.header.capacity - min(census.used, s.header.capacity)
    holders = top_holders(s)
    return StoreFullError(
        f"no room for {needed} bytes in store {path_of(s)!r}: {why_full(s, needed, error)}. "
        f"Capacity {s.header.capacity}, free {free_bytes}, largest free extent "
        f"{census.largest_free}; {what_is_pinned(&census)}.{who_holds(holders)} "
        "Delete or release objects, or make a larger store",
        needed=needed, free=free_bytes, largest_free=census.largest_free, holders=holders)


cdef inline object damaged_file(Store *s):
    from refstore.errors import StoreCorruptedError
    return StoreCorruptedError(f"store {path_of(s)!r} is damaged: what it says of its space or its locks cannot be; "
                               "something else wrote to the file. Remove it, or see what check() finds")


cdef inline object put_error(Store *s, int error, uint64_t nbytes, object name):
    from refstore.errors import ObjectExistsError
    if error == ERR_EXISTS:
        return ObjectExistsError(f"store {path_of(s)!r} has an object named {name!r}: "
                                 "delete it, or put with replace=True")
    if error == ERR_RECOVERY:
        return no_recovery(s)
    if error == ERR_DAMAGED:
        return damaged_file(s)
    if error == ERR_BUSY:
        return busy(s, f"a put of {nbytes} bytes" if name is None else f"publishing {name!r}")
    return full(s, nbytes, error)


cdef inline object get_error(Store *s, int error, object key, bint other_store):
    from refstore.errors import ObjectNotFoundError, RefstoreError
    if error == ERR_PINS:
        return RefstoreError(f"this process holds 2**30 pins on {key!r}: release some")
    if error == ERR_RECOVERY:
        return no_recovery(s)
    if error == ERR_DAMAGED:
        return damaged_file(s)
    if error == ERR_BUSY:
        return busy(s, f"the deletion of {key!r}")
    if error != ERR_NOT_FOUND:
        return full(s, 0, error)
    if other_store:
        return ObjectNotFoundError(f"{key!r} is a ref of another store than {path_of(s)!r}")
    what = f"object named {key!r}" if isinstance(key, str) else f"object {key!r}"
    return ObjectNotFoundError(f"there is no {what} in store {path_of(s)!r}: "
                               "it was never put here, or it was deleted")
