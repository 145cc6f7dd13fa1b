"""Who takes part: rows, the lock files by which they live, and what becomes of the dead's things.

A process is alive as long as the lock on `<row>.lock` in the store's folder of locks is held. It is
the lock that `filelock.FileLock` takes, and any FileLock sees it; but where there is flock() the
engine takes it itself, by a mapping of that file. So it goes when the process's memory goes, and
neither before, when a program closes all descriptors or the interpreter tears itself down, nor
later, by an explicit unlock in a forked child. Elsewhere a FileLock holds it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import mmap
import os
import sys
import weakref
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from refstore import children
from refstore.locked import slots
from refstore.locked.journal import Change
from refstore.locked.layout import (
    ATTACHED,
    COMMAND_NBYTES,
    COUNTERS,
    HAS_CHILDREN,
    LEFT,
    MAKER,
    MASK,
    RECOVERIES,
    ROW_COMMAND,
    ROW_COUNTERS,
    ROW_PID,
    ROW_STATE,
    ROW_WORDS,
    ROWS,
    SLOT_WORDS,
    TOTALS,
    UNIT,
    UNITS,
    WORD,
    WRITING,
)
from refstore.locked.mapping import UNTRACKED, Mapping

_LOW_64 = (1 << 64) - 1
PIDS_KEPT = 256  # in a report of the dead

try:
    _fcntl: Any = importlib.import_module("fcntl")
except ImportError:
    _fcntl = None


def new_lock(path: str, mode: int = 0o600) -> FileLock:
    """A lock of this process, whichever of its threads takes it."""
    return FileLock(path, thread_local=False, timeout=0, mode=mode)


def lock_mode(mode: int) -> int:
    return mode & 0o777 | 0o600


def make_folder(folder: str, mode: int) -> bool:
    """The folder of locks of a store whose file has this mode; whether it was not there yet."""
    mode = lock_mode(mode)
    mode |= mode >> 2 & 0o111  # to look into what may be read
    try:
        os.mkdir(folder, mode)
    except FileExistsError:
        return False
    with contextlib.suppress(FileNotFoundError):
        os.chmod(folder, mode)
    return True


def demand_kernel_lock(lock: FileLock) -> None:
    """After the first acquisition: filelock falls back to a mere file where there are no locks."""
    if isinstance(lock, SoftFileLock):
        lock.release(force=True)
        raise OSError(
            errno.EOPNOTSUPP,
            "the file system has no locks that the system drops when a process dies: put the "
            "store elsewhere",
            lock.lock_file,
        )


_claims: weakref.WeakSet[Claim] = weakref.WeakSet()  # of this process


class Claim:
    """A lock file, held from when this is made until it is given back or the process is gone."""

    __slots__ = ("__weakref__", "_fds", "_lock", "_memory", "is_inherited")

    def __init__(self, lock: FileLock | None = None) -> None:
        self._fds: list[int] = []  # the descriptor, until it is mapped
        self._lock = lock
        self._memory: mmap.mmap | None = None
        self.is_inherited = False  # its process is gone or our parent's, and keeps things for us
        _claims.add(self)

    def __del__(self) -> None:
        self.let_go()

    def take(self, path: str, mode: int) -> bool:
        """Whether the lock on the file, which is made if need be, is ours from here on."""
        access = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        # In one step: a child that is forked at any moment finds it here, and closes it.
        self._fds.extend(map(os.open, (path,), (access,), (mode,)))
        (fd,) = self._fds
        if not _flock(fd):
            self.let_go()
            return False
        if not os.fstat(fd).st_size:
            os.ftruncate(fd, 1)  # so that it can be mapped
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, mode)  # whatever the umask is
        return True

    def settle(self) -> None:
        """From here on the lock is held by the process's memory."""
        if self._fds:
            (fd,) = self._fds
            self._memory = mmap.mmap(fd, 1, access=mmap.ACCESS_READ, **UNTRACKED)
            self.let_go()

    def let_go(self) -> None:
        """Closes the descriptor; the lock stays with whoever else has the same description."""
        if self._fds:
            with contextlib.suppress(OSError):  # the program closed it
                next(map(os.close, map(self._fds.pop, (0,))))  # once, whoever interrupts

    def leave_to_parent(self) -> None:
        """In a forked child: the lock is its parent's."""
        self.let_go()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def give_back(self) -> None:
        self.leave_to_parent()
        if self._lock is not None:
            self._lock.release(force=True)
            self._lock = None


def take(path: str, mode: int = 0o600) -> Claim | None:
    """The lock on a file, which is made if need be; None if somebody has it."""
    if _fcntl is None:
        lock = new_lock(path, mode)
        try:
            lock.acquire()
        except Timeout:
            return None
        demand_kernel_lock(lock)
        return Claim(lock)
    claim = Claim()
    return claim if claim.take(path, mode) else None


def leave_all_to_parent(own: list[Claim]) -> None:
    """In a forked child: the locks that it inherited, but for those that were taken for it, or
    have to last as long as it does."""
    for claim in list(_claims):
        if claim not in own and not claim.is_inherited:
            claim.leave_to_parent()


def _flock(fd: int) -> bool:
    try:
        _fcntl.flock(fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            return False
        raise
    return True


def is_held(path: str) -> bool:
    """Whether somebody has the lock on a file; one that is not there is nobody's."""
    if not os.path.exists(path):
        return False
    claim = take(path)
    if claim is None:
        return True
    claim.give_back()
    return False


def shows(path: str, mode: int) -> bool:
    """Whether a lock that we hold can be seen by the others, through filelock."""
    lock = new_lock(path, mode)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release(force=True)
    return False


# --- rows


def lock_path(folder: str, row: int) -> str:
    return os.path.join(folder, f"{row}.lock")


def row_at(file: Mapping, row: int) -> int:
    if not 0 <= row < ROWS:
        raise file.damaged(f"something leads to row {row} of {ROWS}")
    return file.g.rows + row * ROW_WORDS


def used_rows(c: Change) -> list[int]:
    first = c.file.g.rows
    states = c.words[first : first + ROWS * ROW_WORDS : ROW_WORDS].tolist()
    return [row for row, state in enumerate(states) if state]


def own_command() -> bytes:
    """How this process was started, cut short."""
    with contextlib.suppress(OSError), open("/proc/self/cmdline", "rb") as file:
        return file.read(200).replace(b"\0", b" ")[: COMMAND_NBYTES - 1]
    return " ".join([sys.executable or "python", *sys.argv]).encode()[: COMMAND_NBYTES - 1]


def enter(c: Change, row: int, pid: int, command: bytes) -> None:
    """A row whose lock is ours becomes a process's."""
    at = row_at(c.file, row)
    text = command.ljust(COMMAND_NBYTES, b"\0")
    for k in range(0, COMMAND_NBYTES, 8):
        c[at + ROW_COMMAND + k // 8] = int.from_bytes(text[k : k + 8], sys.byteorder)
    c[at + ROW_PID] = pid
    for k in range(COUNTERS):
        c[at + ROW_COUNTERS + k] = 0
    c[at + ROW_STATE] = ATTACHED


def command_of(c: Change, row: int) -> str:
    """On one line, whatever it holds: it is for people."""
    at = row_at(c.file, row) + ROW_COMMAND
    raw = b"".join(c[at + k].to_bytes(8, sys.byteorder) for k in range(COMMAND_NBYTES // 8))
    words = " ".join(raw.partition(b"\0")[0].decode("utf-8", "replace").split())
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def pid_of(c: Change, row: int) -> int:
    return c[row_at(c.file, row) + ROW_PID] & 0xFFFFFFFF


def is_alive(c: Change, folder: str, row: int) -> bool:
    """Whether somebody has the lock of a row that is in use.

    Without the file nobody can tell, and what one who lives still reads must not be given away:
    when a tidier of old files took it, whoever has that pid is believed to live.
    """
    path = lock_path(folder, row)
    if is_held(path):
        return True
    return not os.path.exists(path) and _exists(pid_of(c, row))


def _exists(pid: int) -> bool:
    if _fcntl is None or not pid:  # Windows removes no file that is open
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


# --- those that died


class Report:
    """What one process gave back of what dead processes held, since it last told."""

    def __init__(self) -> None:
        self.processes = self.pins = self.unfinished = self.locks = self.nbytes = 0
        self.pids: list[int] = []

    def take(self) -> tuple[int, tuple[int, ...], int, int, int, int, int]:
        """The fields of Recovery, in its order; counting begins anew."""
        told = (
            self.processes,
            tuple(self.pids),
            self.pins,
            self.unfinished,
            0,  # nothing is ever published in part
            self.locks,
            self.nbytes,
        )
        self.__init__()  # type: ignore[misc]
        return told


def _freed(c: Change, slot: int) -> int:
    """Bytes that are free again if the gathered change frees the slot."""
    at = c.file.slot(slot) + UNITS
    return (c.words[at] - c[at]) * UNIT


def used_slots(c: Change, field: int) -> list[int]:
    """One word of each slot that was ever used."""
    g = c.file.g
    n = slots.used(c)
    first = g.slots + field
    return c.words[first : first + n * SLOT_WORDS : SLOT_WORDS].tolist() if n else []


def pinned_slots(c: Change, row: int) -> list[int]:
    bit = 1 << row % 64
    return [i for i, mask in enumerate(used_slots(c, MASK + row // 64)) if mask & bit]


def clear_row(c: Change, row: int, report: Report, *, keeps: bool = False) -> None:
    """Drops the pins of a process that is gone, and what it was writing. `keeps`: but not what it
    keeps for children.

    Many small changes, each of which leaves a sound store: whoever dies amid them is followed by
    another one who goes on. Pins first, so that none of its own keeps what it was writing.
    """
    for slot in pinned_slots(c, row):
        given = slots.pins_of(c, row, slot)
        slots.unpin(c, slot, row, None, keeps=keeps)
        nbytes = _freed(c, slot)
        c.commit()
        report.pins += given
        report.nbytes += nbytes
    for slot, word in enumerate(used_slots(c, WORD)):
        if word & 0xFF == WRITING and c[c.file.slot(slot) + MAKER] == row:
            slots.condemn(c, slot)
            nbytes = _freed(c, slot)
            c.commit()
            report.unfinished += 1
            report.nbytes += nbytes


def kept_slots(c: Change, row: int) -> list[int]:
    """What a row keeps for children."""
    return [slot for slot in pinned_slots(c, row) if slots.is_kept(c, row, slot)]


def has_left(c: Change, row: int) -> bool:
    """Whether only what it keeps for children holds a row."""
    return c[row_at(c.file, row) + ROW_STATE] & LEFT != 0


def has_ended(c: Change, row: int) -> bool:
    """Of a row whose lock somebody has: whether that is children, and its process is gone."""
    state = c[row_at(c.file, row) + ROW_STATE]
    return state & LEFT != 0 or (state & HAS_CHILDREN != 0 and children.has_ended(pid_of(c, row)))


def fold(c: Change, row: int, died: bool) -> None:
    """The row's counts go to the store's, and the row is free."""
    at = row_at(c.file, row)
    for k in range(COUNTERS):
        c[TOTALS + k] = c[TOTALS + k] + c[at + ROW_COUNTERS + k] & _LOW_64
    if died:
        c[TOTALS + RECOVERIES] = c[TOTALS + RECOVERIES] + 1 & _LOW_64
    c[at + ROW_STATE] = 0
    c.commit()


def recover(c: Change, folder: str, rows: list[int], own: int | None, report: Report) -> bool:
    """Gives back what those of `rows` held that are dead; whether there were any."""
    found = False
    for row in rows:
        if row == own or not c[row_at(c.file, row) + ROW_STATE] or is_alive(c, folder, row):
            continue
        clear_row(c, row, report)
        pid = pid_of(c, row)
        fold(c, row, died=True)
        report.processes += 1
        report.pids = [*report.pids, *([pid] if pid else [])][-PIDS_KEPT:]
        found = True
    return found


def holds_condemned(c: Change, row: int) -> bool:
    """Whether a process pins what is deleted."""
    held = (slot for slot in pinned_slots(c, row) if slots.views_of(c, row, slot))
    return any(slots.is_condemned(c, slot) for slot in held)
