# What is asked of the kernel: byte locks, committed memory, mappings, time. Nothing here knows the
# store.
#
# A process is alive while the kernel holds its row's lock. The lock is an open-file-description
# (OFD) lock, and the file is mapped through that same description: the mapping keeps the
# description, hence the lock, until the address space is gone, whatever the program does to its
# descriptors.

from libc.errno cimport EACCES, EAGAIN, EINTR, errno, ETIMEDOUT
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <limits.h>
    #include <linux/futex.h>
    #include <sched.h>
    #include <stdio.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/statvfs.h>
    #include <sys/syscall.h>
    #include <sys/types.h>
    #include <time.h>
    #include <unistd.h>

    static inline int refstore_byte_lock(int fd, int command, int type, off_t at) {
        struct flock lock = {
            .l_type = (short)type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
        int got = fcntl(fd, command, &lock);
        return got < 0 ? -errno : lock.l_type;
    }
    static inline int refstore_reopen(int fd, int flags) {
        char path[40];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return open(path, flags | O_CLOEXEC);
    }
    static inline int refstore_open(const char *path, int flags) {
        return open(path, flags | O_CLOEXEC | O_NOFOLLOW);
    }
    /* Out of the way of programs that expect, or close, the low numbers; and below 64, since the
       kernel takes ten milliseconds to make the table of a process with threads larger. */
    static inline int refstore_high_descriptor(int fd) {
        int high = fcntl(fd, F_DUPFD_CLOEXEC, 40);
        if (high < 0)
            return fd;
        close(fd);
        return high;
    }
    #ifndef MADV_COLLAPSE
    #define MADV_COLLAPSE 25            /* Linux 6.1; an older kernel says EINVAL */
    #endif
    #ifndef MADV_POPULATE_READ
    #define MADV_POPULATE_READ 22       /* Linux 5.14; the same */
    #endif
    /* Shared futexes: their key is the file and the offset, whatever mapping they are reached by.
       The deadline is absolute, by CLOCK_MONOTONIC: a sleeper that is stopped on the way, or whom a
       signal interrupts, does not sleep longer. */
    static inline int refstore_futex_wait(const void *word, uint32_t expected,
                                          const struct timespec *deadline) {
        return syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, deadline, NULL,
                       FUTEX_BITSET_MATCH_ANY) == 0 ? 0 : errno;
    }
    static inline void refstore_futex_wake(void *word) {
        syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }
    /* Linux 5.16. The numbers are those of its headers, which may be older here. */
    struct refstore_watched { uint64_t expected, word; uint32_t flags, reserved; };
    static inline int refstore_futex_waitv(const struct refstore_watched *words, unsigned n,
                                           const struct timespec *deadline) {
        return syscall(449, words, n, 0, deadline, CLOCK_MONOTONIC) >= 0 ? 0 : errno;
    }
    static inline int refstore_is_unlinked(int fd, const char *path) {
        struct stat st;
        if (fstat(fd, &st) == 0)
            return st.st_nlink == 0;
        return stat(path, &st) != 0 && errno == ENOENT;
    }
    static inline int refstore_may_ever_have(int fd, uint64_t nbytes) {
        struct stat st;
        struct statvfs fs;
        if (fstat(fd, &st) != 0 || fstatvfs(fd, &fs) != 0 || fs.f_blocks == 0)
            return 1;
        return nbytes <= (uint64_t)fs.f_bavail * fs.f_frsize + (uint64_t)st.st_blocks * 512;
    }
    static inline int refstore_same_file(int fd, dev_t dev, ino_t ino) {
        struct stat st;
        return fstat(fd, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
    }
    """
    int _byte_lock "refstore_byte_lock"(int fd, int command, int type, int64_t at) noexcept nogil
    # a new description of the file behind `fd`: works when the name is gone
    int reopen "refstore_reopen"(int fd, int flags) noexcept nogil
    int open_file "refstore_open"(const char *path, int flags) noexcept nogil
    int high_descriptor "refstore_high_descriptor"(int fd) noexcept nogil
    bint same_file "refstore_same_file"(int fd, uint64_t dev, uint64_t ino) noexcept nogil
    # whether so many bytes are free on its file system, together with those that it has
    bint may_ever_have "refstore_may_ever_have"(int fd, uint64_t nbytes) noexcept nogil
    # whether a file has no name any more; without a descriptor, whether there is none at the path
    bint is_unlinked "refstore_is_unlinked"(int fd, const char *path) noexcept nogil
    int F_OFD_SETLK
    int F_OFD_GETLK
    int F_WRLCK
    int F_UNLCK
    int O_RDWR
    int O_RDONLY
    int FALLOC_FL_KEEP_SIZE
    int FALLOC_FL_PUNCH_HOLE
    int _fallocate "fallocate"(int fd, int mode, int64_t at, int64_t nbytes) noexcept nogil
    int close(int fd) noexcept nogil
    int getpid() noexcept nogil
    int sched_yield() noexcept nogil
    int PROT_NONE
    int PROT_READ
    int PROT_WRITE
    int MAP_SHARED
    int MAP_PRIVATE
    int MAP_NORESERVE
    int MAP_ANONYMOUS
    int MAP_FIXED
    void *MAP_FAILED
    int MADV_COLLAPSE
    int MADV_POPULATE_READ
    int MADV_WIPEONFORK
    int MADV_DONTFORK
    void *mmap(void *at, size_t nbytes, int prot, int flags, int fd, int64_t offset) noexcept nogil
    int munmap(void *at, size_t nbytes) noexcept nogil
    int madvise(void *at, size_t nbytes, int advice) noexcept nogil
    cdef struct timespec:
        int64_t tv_sec
        int64_t tv_nsec
    int _futex_wait "refstore_futex_wait"(const void *word, uint32_t expected,
                                          const timespec *deadline) noexcept nogil
    # all who sleep on it
    void futex_wake "refstore_futex_wake"(void *word) noexcept nogil
    cdef struct Watched "refstore_watched":
        uint64_t expected
        uint64_t word           # its address
        uint32_t flags          # WATCHED_32_BITS
        uint32_t reserved
    int _futex_waitv "refstore_futex_waitv"(const Watched *words, unsigned int n,
                                            const timespec *deadline) noexcept nogil
    int CLOCK_MONOTONIC
    int CLOCK_MONOTONIC_COARSE
    int CLOCK_REALTIME_COARSE
    int clock_gettime(int clock, timespec *now) noexcept nogil
    int nanosleep(const timespec *asked, timespec *left) noexcept nogil


cdef enum:
    MAX_WATCHED = 128
    WATCHED_32_BITS = 2         # and not private to a process

cdef enum:
    LEAST_PIECE = 4096          # of memory that is asked for
    MAX_TRIES = 64             # to get that much between two signals


cdef inline bint lock_byte(int fd, uint64_t at) noexcept nogil:
    # true if the lock is now held by the description behind `fd`
    return _byte_lock(fd, F_OFD_SETLK, F_WRLCK, <int64_t>at) >= 0


cdef inline bint locks_bytes(int fd) noexcept nogil:
    # whether the file system has such locks; asked when no byte could be locked
    cdef int got = _byte_lock(fd, F_OFD_SETLK, F_WRLCK, 0)
    return got >= 0 or got == -EAGAIN or got == -EACCES


cdef inline bint byte_is_locked(int fd, uint64_t at) noexcept nogil:
    # by another description than that of `fd`; an error counts as locked: nothing may be taken over
    # then
    return _byte_lock(fd, F_OFD_GETLK, F_WRLCK, <int64_t>at) != F_UNLCK


cdef inline int allocate(int fd, uint64_t at, uint64_t nbytes) noexcept nogil:
    # Memory for these bytes of the file, or the errno. The raw call: glibc's emulation writes to
    # the file. A kernel that a signal interrupts here undoes what it has, so the pieces become
    # smaller until one gets through; EINTR if none does. The size is kept: should the program have
    # put another file at our number, that does not grow.
    cdef uint64_t end = at + nbytes, piece = nbytes
    cdef int tries = 0
    while at < end:
        if _fallocate(fd, FALLOC_FL_KEEP_SIZE, <int64_t>at, <int64_t>min(piece, end - at)) == 0:
            at += piece
            tries = 0
        elif errno != EINTR:
            return errno
        elif piece > LEAST_PIECE:
            piece = max(piece // 2 // LEAST_PIECE, <uint64_t>1) * LEAST_PIECE
        else:
            tries += 1
            if tries == MAX_TRIES:
                return EINTR
    return 0


cdef inline int punch_hole(int fd, uint64_t at, uint64_t nbytes) noexcept nogil:
    return _fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, <int64_t>at, <int64_t>nbytes)


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef inline uint64_t coarse_ms() noexcept nogil:
    # some milliseconds late, and much cheaper than now_ms()
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef inline uint64_t now_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef inline void sleep_us(int64_t microseconds) noexcept nogil:
    cdef timespec asked
    asked.tv_sec = 0
    asked.tv_nsec = microseconds * 1000
    nanosleep(&asked, NULL)


cdef inline timespec as_timespec(uint64_t ns) noexcept nogil:
    cdef timespec spec
    spec.tv_sec = <int64_t>(ns // 1000000000)
    spec.tv_nsec = <int64_t>(ns % 1000000000)
    return spec


cdef inline int futex_wait(const uint32_t *word, uint32_t expected, uint64_t until) noexcept nogil:
    # `until`: as now_ns(). 0 or the errno: EAGAIN if the word is another by then, ETIMEDOUT, EINTR;
    # another one if the kernel refuses.
    cdef timespec deadline = as_timespec(until)
    return _futex_wait(word, expected, &deadline)


cdef inline int futex_waitv(const Watched *words, unsigned int n, uint64_t until) noexcept nogil:
    # The same of any of up to MAX_WATCHED words.
    cdef timespec deadline = as_timespec(until)
    return _futex_waitv(words, n, &deadline)


cdef inline bint is_answer(int got) noexcept nogil:
    # of a kernel that has such a futex call, and lets this process use it
    return got == 0 or got == EAGAIN or got == ETIMEDOUT or got == EINTR
