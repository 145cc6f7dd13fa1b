# Opening a store: created atomically, validated before use, joined under a row of its own.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from refstore.engines.native.debug cimport failpoint
from refstore.engines.native.atomics cimport assign
from refstore.engines.native.layout cimport (
    CAPACITY_LIMIT, FLAG_TEMPORARY, FORMAT_VERSION, Header, LIVE_WORDS, LOCK_BOOT, LOCK_CREATOR,
    MAX_ROWS, OBJECTS_LIMIT, PAGE, Row,
)
from refstore.engines.native.geometry cimport Geometry, lay_out
from refstore.engines.native.system cimport (
    allocate, byte_is_locked, close, getpid, high_descriptor, lock_byte, locks_bytes, MAP_FAILED,
    MAP_SHARED, mmap, munmap, O_RDONLY, O_RDWR, PROT_READ, PROT_WRITE, reopen,
)
from refstore.engines.native.view cimport NO_ROW, View
from refstore.engines.native.process_table cimport lock_row
from refstore.engines.native.recovery cimport enter
from refstore.engines.native.mapping cimport (
    claim_without_memory, fill_header, HEADER_NOT_A_STORE, HEADER_OTHER_BUILD, HEADER_OTHER_ENGINE,
    HEADER_OTHER_VERSION, HEADER_SOUND, HEADER_TRUNCATED, link_unnamed, map_store, map_to_look,
    validate_header,
)
from refstore.engines.native.check cimport find_problems
from refstore.engines.native.points cimport not_the_same

cdef enum:
    ALL_BUT_FULL = 4 << 20      # bytes


cdef inline str missing_feature(str folder):
    # What keeps stores of this engine out of a folder whose files can be made otherwise; None if
    # nothing does.
    import errno
    import os
    cdef int fd, second
    cdef bint holds
    cdef void *at
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        is_missing = error.errno in (errno.EOPNOTSUPP, errno.EISDIR)
        return "its file system has no unnamed files" if is_missing else None
    try:
        second = reopen(fd, O_RDONLY)
        if second < 0:
            return None if os.path.isdir("/proc/self/fd") else "there is no /proc"
        holds = lock_byte(fd, 0) and byte_is_locked(second, 0)
        close(second)
        if not holds:
            return "its file system's byte locks do not hold between descriptors"
        at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if at == MAP_FAILED:
            return "its file system shares no memory"
        munmap(at, PAGE)
    finally:
        os.close(fd)
    return None


cdef inline bytes beginning_of(str path, int nbytes):
    # three system calls, where a file object takes six
    import os
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, nbytes)
    finally:
        os.close(fd)


cdef inline bytes boot_id():
    return beginning_of("/proc/sys/kernel/random/boot_id", 36).ljust(36, b"\0")


cdef inline int fill_file(int fd, str path, uint64_t capacity, uint64_t max_objects,
                          bint temporary, unsigned int evict) except -1:
    import os
    import time
    from refstore import _limits
    cdef:
        Geometry g
        Header h
        bytes entropy = os.urandom(38)
        bytes boot = boot_id()
        int failed
    lay_out(capacity, max_objects, &g)
    os.ftruncate(fd, g.file_size)
    failed = allocate(fd, 0, g.fixed_end)
    if failed:
        raise _limits.no_room_for_tables(path, fd, g.fixed_end, capacity, max_objects, failed)
    fill_header(&h, capacity, max_objects, FLAG_TEMPORARY if temporary else 0, entropy, boot)
    h.evict = evict
    h.made_at = <uint64_t>time.time()
    os.pwrite(fd, PyBytes_FromStringAndSize(<char*>&h, sizeof(Header)), 0)
    if temporary:
        lock_byte(fd, LOCK_CREATOR)
    return 0


cdef inline int new_file(str path, uint64_t capacity, uint64_t max_objects, int mode,
                         bint temporary, unsigned int evict) except -1:
    # The file has no name until it is whole, so nobody ever sees half a store and a creator that
    # dies leaves nothing.
    import os
    from refstore._arguments import require_capacity, require_max_objects
    cdef int fd, failed, creator = getpid()
    require_capacity(capacity, CAPACITY_LIMIT)
    require_max_objects(max_objects, OBJECTS_LIMIT)
    fd = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        fill_file(fd, path, capacity, max_objects, temporary, evict)
        if getpid() != creator:
            raise not_the_same(path)
        failed = link_unnamed(fd, os.fsencode(path))
        if failed:
            raise OSError(failed, os.strerror(failed), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


cdef inline object header_error(int fault, str path, const Header *h):
    from refstore import _messages
    if fault == HEADER_NOT_A_STORE:
        return _messages.no_store(path, _messages.NOT_A_STORE)
    if fault == HEADER_OTHER_ENGINE:
        return _messages.other_engine(path, "filelock", "native")
    if fault == HEADER_OTHER_VERSION:
        return _messages.other_version(path, h.version, FORMAT_VERSION)
    if fault == HEADER_OTHER_BUILD:
        return _messages.other_build(path)
    what = "is truncated" if fault == HEADER_TRUNCATED else _messages.DAMAGED_HEADER
    return _messages.no_store(path, what)


cdef inline bytes read_header(int fd, str path, object found, bint foreign):
    # The first page of a file that may be joined; an exception otherwise. `found`: its stat.
    import os
    import stat
    from refstore import _messages
    cdef bytes head = os.pread(fd, sizeof(Header), 0) if stat.S_ISREG(found.st_mode) else b""
    cdef int fault
    if len(head) < <Py_ssize_t>sizeof(Header):
        raise _messages.no_store(path, _messages.NOT_A_STORE)
    if found.st_uid != os.geteuid() and not foreign:
        raise _messages.other_user(path, found.st_uid)
    fault = validate_header(<Header*>PyBytes_AS_STRING(head), found.st_size)
    if fault != HEADER_SOUND:
        raise header_error(fault, path, <Header*>PyBytes_AS_STRING(head))
    return head


cdef inline object no_descriptor(str path):
    from refstore import _limits
    return _limits.no_descriptor(path, "joining a store")


cdef inline object no_lasting_lock(str path):
    import errno
    return OSError(errno.EOPNOTSUPP,
                   "the file system's byte locks do not hold between descriptors: put the "
                   "store on tmpfs, ext4 or xfs, or use backend='filelock'", path)


cdef inline int require_lasting_lock(View *v, uint64_t row, str path) except -1:
    # Asks through a second description whether the lock shows: on some file systems it does not.
    cdef int second = reopen(v.fd, O_RDONLY)
    cdef bint holds
    if second < 0:
        raise no_descriptor(path)
    holds = byte_is_locked(second, row)
    close(second)
    if not holds:
        raise no_lasting_lock(path)
    return 0


cdef inline int require_memory(View *v, str path) except -1:
    # On a file system that is all but full, that what is said to be committed is: else to touch it
    # is a SIGBUS.
    import os
    from refstore import _messages
    cdef const char *field
    found = os.fstatvfs(v.fd)
    if found.f_blocks and found.f_bfree * found.f_frsize < ALL_BUT_FULL:
        field = claim_without_memory(v)
        if field != NULL:
            raise _messages.damaged_file(
                path, f"its {(<bytes>field).decode()} marks memory as committed that is not, and "
                      "its file system has none left")
    return 0


cdef inline int join(View *v, int fd, const Header *h, str path) except -1:
    # Through a description of our own, which nobody has but we. On an exception, unmap_view()
    # clears up.
    from refstore import _limits, _messages
    from refstore._errors import RefstoreError
    cdef int failed
    cdef int64_t row
    v.access = O_RDWR
    v.fd = reopen(fd, v.access)
    if v.fd < 0:
        raise no_descriptor(path)
    v.fd = high_descriptor(v.fd)
    failed = map_store(v, h)
    if failed:
        raise _limits.cannot_map(path, _limits.MAPPINGS * v.g.file_size, failed)
    require_memory(v, path)
    row = lock_row(v, v.fd)
    if row < 0 and not locks_bytes(v.fd):
        raise no_lasting_lock(path)
    if row < 0:
        raise RefstoreError(_messages.no_rows(path, MAX_ROWS))
    require_lasting_lock(v, <uint64_t>row, path)
    enter(v, <uint64_t>row)
    return 0


cdef inline int look_into(View *v, int fd, const Header *h, str path) except -1:
    # Without a row, and by a mapping that nobody writes through. On an exception, unmap_view()
    # clears up.
    import os
    from refstore import _limits
    cdef int failed
    v.access = O_RDONLY
    v.row = NO_ROW
    v.fd = high_descriptor(os.dup(fd))
    failed = map_to_look(v, h)
    if failed:
        raise _limits.cannot_map(path, v.g.data, failed)
    require_memory(v, path)
    return 0


cdef inline void identify(Row *row, bytes command, bytes label) noexcept:
    # for messages only; both are shorter than their fields
    assign(row.pid, <unsigned int>getpid())
    memcpy(row.command, PyBytes_AS_STRING(command), <size_t>len(command))
    memcpy(row.label, PyBytes_AS_STRING(label), <size_t>len(label))
    failpoint()


cdef inline int look_after_reboot(View *v, str path) except -1:
    # A file on disk that outlived a reboot: its pages may be of any age. Joining has recovered
    # every row.
    from refstore._errors import StoreBusyError, StoreCorruptedError
    cdef bytes boot = boot_id()
    if v.header.boot_id[:36] == boot:
        return 0
    if not lock_byte(v.fd, LOCK_BOOT):
        raise StoreBusyError(f"store {path!r} is being checked after a reboot: try again",
                             pid=0)
    problems = find_problems(v)
    if problems:
        raise StoreCorruptedError(f"store {path!r} did not survive a reboot: {min(problems)}; "
                                  "remove it")
    memcpy(v.header.boot_id, PyBytes_AS_STRING(boot), 36)
    failpoint()
    return 0


cdef inline object is_creator_locked(int fd):
    # None if the file is not a temporary store of ours
    import os
    cdef bytes head = os.pread(fd, sizeof(Header), 0)
    cdef Header *h = <Header*>PyBytes_AS_STRING(head)
    if len(head) < <Py_ssize_t>sizeof(Header) \
            or validate_header(h, os.fstat(fd).st_size) != HEADER_SOUND:
        return None
    if not h.flags & FLAG_TEMPORARY:
        return None
    return byte_is_locked(fd, LOCK_CREATOR)


cdef inline bint was_never_used(int fd):
    # or whoever did has left, and put nothing
    import os
    cdef bytes head = os.pread(fd, sizeof(Header), 0)
    cdef Header *h = <Header*>PyBytes_AS_STRING(head)
    cdef uint64_t w
    if len(head) < <Py_ssize_t>sizeof(Header) or h.slots_used:
        return False
    for w in range(<uint64_t>LIVE_WORDS):
        if h.live[w]:
            return False
    return True
