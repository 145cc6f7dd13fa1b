# Return codes of functions that do not raise: 0 or more for success, else one of these. Some carry
# the row of a process.

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    BLOCKED_STEP = 64       # more than there are errors

cdef enum Error:
    ERR_NOT_FOUND = -1
    ERR_FULL = -2           # no room for the bytes
    ERR_FULL_SLOTS = -3     # max_objects live
    ERR_EXISTS = -4
    ERR_BUSY = -5           # a change is half way: a stopped process's, or a publication's
    ERR_NO_MEMORY = -6      # the file system has no page left
    ERR_PINS = -8           # one process holds 2**30 pins on one object
    ERR_INDEX = -9          # both buckets of a name are full
    ERR_MORE = -10          # the page map must grow first
    ERR_DEAD = -11          # a dead process holds a lock: recover, then try again
    ERR_RECOVERY = -12      # it is dead, and cannot be recovered from here: no descriptor left
    ERR_DAMAGED = -13       # an invalid number in the file
    ERR_HELD = -14          # a process that lives holds a lock for long: wait, then try again
    ERR_UNCOMMITTED = -15   # no error: the block has yet to get its memory, which takes long
    ERR_SIGNALS = -16       # this takes long, or one came: look at them, then go on
    ERR_CLAIMED = -17       # a living process has claimed the name
    ERR_TOO_LARGE = -18     # for the whole store, with what lies behind the payload


# ERR_DEAD, ERR_HELD, and ERR_BUSY of a stopped process carry the row that is in the way, so that it
# goes where the error goes. So do others whose pin was undone, and then ended a reap: the row that
# pins the block.

cdef inline int blocked_by(int error, uint64_t row) noexcept nogil:
    return error - BLOCKED_STEP * (<int>row + 1)


cdef inline int with_blocker(int error, int64_t reaped) noexcept nogil:
    # `error`, and who pins the block that a reap was to free, if anybody does.
    return blocked_by(error, <uint64_t>reaped - 1) if reaped > 0 else error


cdef inline int left_behind(int error) noexcept nogil:
    # The row + 1 that an error carries, or 0; as the result of a reap has it.
    return -error // BLOCKED_STEP


cdef inline int kind_of_error(int error) noexcept nogil:
    return -(-error & (BLOCKED_STEP - 1)) if error < 0 else 0       # else a row, or nothing


cdef inline uint64_t blocker_of(int error) noexcept nogil:
    # of an error that carries one
    return <uint64_t>left_behind(error) - 1
