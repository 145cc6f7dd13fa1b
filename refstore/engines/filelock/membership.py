"""A process's place in a store: how it comes, forks and goes."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from refstore import _children, _messages
from refstore._errors import RefstoreError, StoreBusyError, StoreCorruptedError
from refstore._paths import open_file
from refstore.engines.filelock import (
    check,
    file_locks,
    files,
    liveness,
    process_table,
    recovery,
    slots,
    writers,
)
from refstore.engines.filelock.journal import Change
from refstore.engines.filelock.layout import (
    BOOT,
    HAS_CHILDREN,
    HOME,
    INODE,
    LEFT,
    LOW_64,
    MAX_ROWS,
    ROW_COUNTERS,
    ROW_PID,
    ROW_STATE,
    ROW_WAITING,
    ROW_WAITS_FOR,
    WAIT_NBYTES,
    Header,
    boot_id,
    home_of,
    locks_of,
)
from refstore.engines.filelock.life import Life, finalize, here, raise_interrupt
from refstore.engines.filelock.mapping import Mapped, Mapping
from refstore.engines.filelock.transaction import BUSY_TIMEOUT, Deferred, Operation, StoreLock, T

_BATCH: Final = 200  # words of a large change that are committed together


class NoRowError(RefstoreError):
    """A process has no row: it was forked without one, or has left at the interpreter's exit."""


class Sleeper:
    """Stands for a thread that waits in a call."""

    __slots__ = ("__weakref__",)


class Membership(Mapped, StoreLock):
    """This process's row, and the lock by which it lives."""

    def __init__(self, path: str, fd: int, header: Header, found: os.stat_result) -> None:
        self.row: int | None = None
        self._liveness: liveness.LivenessLock | None = None
        # reserved for a child, around a fork
        self.child_row: tuple[int, liveness.LivenessLock] | None = None
        self.is_lost = False  # a child without a row
        self._is_kept_for_child = False  # what one inherits that is forked now
        self._forget_sleepers()
        self._loss: str | None = None  # why a child had to go without one
        self._has_warned = False  # of that
        mapping = Mapping(path, fd, header, found)
        mode = liveness.lock_mode(found.st_mode)
        super().__init__(mapping, locks_of(path, header.uuid), mode)
        self.note_file(path, header)
        self.readable: mmap.mmap = mapping.readable
        self.writable: mmap.mmap = mapping.writable

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            finalize(self._leave_for_good, sys.is_finalizing)

    def _leave_for_good(self) -> None:
        try:
            self.leave()
        finally:
            self.drop_deferred()

    def is_of(self, file: int | str) -> bool:
        """Whether a descriptor, or a path, leads to the store's file."""
        found = os.stat(file)
        return (found.st_dev, found.st_ino) == self.file.found

    def is_alive(self) -> bool:
        """Whether this process has a row: not a child without one."""
        return self.pid == os.getpid() and not self.is_lost

    def require_alive(self) -> None:
        if not self.is_alive():
            raise RefstoreError(_messages.forked(self.path))

    def is_last(self, c: Change) -> bool:
        """Whether no other process is attached."""
        return not any(
            row != self.own
            and not process_table.row_is_dead(c, self.folder, row)
            and not recovery.has_left(c, row)
            for row in process_table.used_rows(c)
        )

    # --- operations

    def run(
        self,
        life: Life,
        what: str,
        operation: Operation[T],
        *args: object,
        until: float | None = 0.0,
    ) -> T:
        """Runs an operation under the lock, of a call that began in `life`.

        `until`: before that time of time.monotonic() a stopped process is no reason to give up;
        None: it never is.
        """
        life.require_ours(self.path)
        if self.pid != os.getpid() or self.is_lost:
            self.require_alive()
        raise_interrupt()
        if self.row is None:  # left at the interpreter's exit, and is used once more
            self.join()
        if len(self._sleepers) != self._counted:
            self._count_sleepers()
        timeout = BUSY_TIMEOUT
        while True:
            try:
                return self.run_locked(what, operation, *args, timeout=timeout, life=life)
            except NoRowError:  # noqa: PERF203  a wait, not a hot loop
                if not self.is_alive():
                    raise
                self.join()  # it was left since we looked
            except StoreBusyError as error:
                left = math.inf if until is None else until - time.monotonic()
                if left <= 0 or error.pid == self.pid:
                    raise
                timeout = min(BUSY_TIMEOUT, left)

    @property
    def own(self) -> int:
        """Our row."""
        if self.row is None:
            raise NoRowError(_messages.forked(self.path))
        return self.row

    def count(self, counter: int, n: int = 1) -> None:
        # one word, ours: a statistic needs no journal
        words, at = (
            self.file.words,
            process_table.row_at(self.file, self.own) + ROW_COUNTERS + counter,
        )
        words[at] = words[at] + n & LOW_64

    @contextlib.contextmanager
    def sleeping(self, what: str) -> Iterator[None]:
        """Counts a thread among those that wait, for reports; `what` does, as in "a put"."""
        me = Sleeper()
        try:
            self.note_sleeper(me, what)
            yield
        finally:
            self.note_sleeper(me, None)

    def note_sleeper(self, sleeper: object, what: str | None) -> None:
        """The same for who keeps no attachment while it waits: when that begins, and ends.

        A signal handler may keep the end from being noted: a sleeper that is not there any more
        sleeps no more, and the count is put right by whatever the process does next.
        """
        with self._sleepers_lock:
            if what is None:
                self._sleepers.discard(weakref.ref(sleeper))
            else:
                self._sleepers.add(weakref.ref(sleeper, self._sleepers.discard))
            if self.row is not None and self.is_alive():
                self._count_sleepers()
                if what is not None:
                    words, at = self.file.words, process_table.row_at(self.file, self.row)
                    text = what.encode("utf-8", "replace")
                    for k, word in enumerate(process_table.text_words(text, WAIT_NBYTES)):
                        words[at + ROW_WAITS_FOR + k] = word

    def _count_sleepers(self) -> None:
        self.file.words[process_table.row_at(self.file, self.own) + ROW_WAITING] = self._counted = (
            len(self._sleepers)
        )

    # --- coming and going

    def join(self) -> None:
        """Takes a row. Whoever died is cleaned up after before."""
        life = here()
        self.require_alive()
        self._require_descriptors()
        left = files.TRIES
        while True:
            is_new = liveness.make_folder(self.folder, self.mode)
            try:
                self.run_locked("attaching", self._enter, life=life)
                self.has_gone = False
                return
            except FileNotFoundError:  # of the store, or of a lock that was removed just now
                left -= 1
                if not left or not self._is_in_place():
                    self._leave_no_folder()
                    raise
            except BaseException:
                if is_new and life.is_ours():
                    self._leave_no_folder(has_store=True)
                raise

    def _is_in_place(self) -> bool:
        """Whether the store's path still leads to it."""
        try:
            return self.is_of(self.path)
        except FileNotFoundError:
            return False

    def _require_descriptors(self) -> None:
        # before there is anything that takes some to be removed again
        with contextlib.ExitStack() as some:
            for _ in range(3):
                some.enter_context(open_file(os.devnull, os.O_RDONLY))

    def _leave_no_folder(self, *, has_store: bool = False) -> None:
        with contextlib.suppress(OSError):
            files.remove_folder(self.folder, has_store=has_store, timeout=1.0)

    def _enter(self, c: Change) -> None:
        file_locks.require_kernel_lock(self.lock)
        if not self._is_in_place():
            raise FileNotFoundError(errno.ENOENT, "the store was removed just now", self.path)
        self._check_home(c)
        recovery.recover_rows(c, self.folder, process_table.used_rows(c), None, self.report)
        self._look_after_reboot(c)
        row, lock = self._free_row(c)
        lock.keep_by_mapping()
        if not liveness.shows(process_table.lock_path(self.folder, row), self.mode):
            lock.give_back()
            raise OSError(
                errno.EOPNOTSUPP, "the file system's locks do not hold between processes", self.path
            )
        self.pid, self.row, self._liveness = os.getpid(), row, lock
        process_table.enter(c, row, self.pid)
        c.commit()
        slots.prepare_pins(c, row)

    def _free_row(self, c: Change) -> tuple[int, liveness.LivenessLock]:
        for attempt in range(2):
            used = set(process_table.used_rows(c))
            for row in range(MAX_ROWS):
                if row not in used:
                    lock = liveness.take(process_table.lock_path(self.folder, row), self.mode)
                    if lock is not None:
                        return row, lock
            if attempt or not recovery.recover_rows(
                c, self.folder, sorted(used), self.row, self.report
            ):
                break
        raise RefstoreError(_messages.no_rows(self.path, MAX_ROWS))

    def _check_home(self, c: Change) -> None:
        # A copy of a store is another one, with locks of its own. But the same file under another
        # name would be used under two locks, which is none.
        home, inode = home_of(self.path), self.file.found[1] & LOW_64
        if c.words[INODE] == inode and c.words[HOME] != home:
            raise _messages.no_store(
                self.path, "was moved here, or is a link to a store: its locks are elsewhere"
            )
        if c.words[INODE] not in (0, inode) or c.words[BOOT] not in (0, boot_id()):
            for row in process_table.used_rows(
                c
            ):  # of a copy, or before a reboot: they are nobody's
                c.words[process_table.row_at(c.file, row) + ROW_PID] = 0
        c.words[HOME] = home  # first: killed between them, the next one still sees a copy
        c.words[INODE] = inode

    def _look_after_reboot(self, c: Change) -> None:
        # A file on disk that outlived a reboot: its pages may be of any age.
        boot = boot_id()
        if c.words[BOOT] in (0, boot):
            return
        problems = check.find_problems(c)
        if problems:
            raise _messages.no_store(self.path, f"did not survive a reboot ({min(problems)})")
        c.words[BOOT] = boot

    def leave(self) -> None:
        """Gives the row back, in good order. The last one to leave a store that was unlinked takes
        the locks along."""
        if self.row is None or not self.is_alive() or sys.is_finalizing():
            return
        self.defer(self._leave)
        if self.row is None and not os.path.exists(self.path):
            self._leave_no_folder()  # again: Windows removes no lock that is taken

    def _leave(self, c: Change) -> None:
        if self.row is None:
            return
        recovery.sweep(c, self.row, recovery.Report(), keeps=True)
        if recovery.kept_slots(c, self.row):  # it is a dead one's when the last child is gone
            c[process_table.row_at(c.file, self.row) + ROW_STATE] |= LEFT
            c.commit()
        else:
            process_table.free_row(c, self.row, died=False)
        self.row = None
        if self._liveness is not None:
            self._liveness.give_back()
            self._liveness = None
        # here, not after it: what is deferred to a later moment has nobody to come back for more
        if not files.is_store(self.path, self.uuid):
            with contextlib.suppress(OSError):
                self.has_gone = files.empty_unused(self.folder)

    def leave_at_exit(self) -> None:
        """Detaches at exit, unless this process holds pins: then it is recovered after it ends."""
        if self.row is None:
            if not os.path.exists(self.path):  # it was removed since
                self._leave_no_folder()
            return
        if self._loss is not None:  # children would keep what is half made, too
            home: Any = self  # an Attachment
            writers.give_up_writers(home)
        if self.run_locked("exit", self._is_idle):
            self.leave()
        elif not os.path.exists(self.path):
            self.run_locked("exit", self._remove_locks)

    def _is_idle(self, c: Change) -> bool:
        pinned = recovery.pinned_slots(c, self.own)
        views = any(slots.views_of(c, self.own, slot) for slot in pinned)
        return not views and not self._open_writers()

    def _remove_locks(self, c: Change) -> None:
        # nobody can come any more, and we are the last one
        if process_table.used_rows(c) == [self.row] and not files.is_store(self.path, self.uuid):
            files.empty(self.folder)
            self.has_gone = True

    def _open_writers(self) -> list[int]:
        home: Any = self  # an Attachment
        return writers.open_writers(home)

    def _forget_sleepers(self) -> None:
        self._sleepers: set[weakref.ref[object]] = set()  # one for each thread that waits
        self._counted = 0  # of them, as the row says
        self._sleepers_lock = threading.RLock()

    # --- fork

    def before_fork(self) -> None:
        """The child gets a row and pins before it exists, so its parent may release at once.

        The mutex stays taken till after the fork, so that no other thread pins or unpins.
        """
        self.child_row, self.is_forking = None, True  # before: a signal handler may raise after it
        self._is_kept_for_child, loss = False, _children.BUSY
        try:
            if not self.mutex.acquire(timeout=2 * BUSY_TIMEOUT):
                self.is_forking = False
            elif self._can_reserve_for_child() and not self._inside:
                self.child_row = self.run_locked("a fork", self._reserve_for_child)
        except Exception as error:
            loss = self._why_lost(error)
        finally:
            if self.child_row is None and self._can_reserve_for_child():
                self._keep_inherited(loss)

    def _can_reserve_for_child(self) -> bool:
        return self.is_alive() and self.row is not None

    def _why_lost(self, error: Exception) -> str:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return _children.NO_DESCRIPTOR
        if isinstance(error, slots.NoRoomError):
            return _children.NO_MEMORY
        return _children.BUSY if isinstance(error, TimeoutError) else _children.no_row(MAX_ROWS)

    def _keep_inherited(self, loss: str) -> None:
        # For a child without a row, which gets the parent's lock if it inherits anything. Whatever
        # this process gives back from here on is deferred, or comes after what was deferred.
        c = Change(self.file)  # only to read: our own pins change under our own lock
        try:
            pinned = recovery.pinned_slots(c, self.own)
        except StoreCorruptedError:  # then it is kept as long as our row is there
            self._loss, self._is_kept_for_child = loss, True
            return
        held = [*pinned, *self._open_writers()]
        if held or not self._inside:  # else the store is being opened
            self._loss = loss
        self._is_kept_for_child = bool(held)
        batches = range(0, len(held), _BATCH // 2)
        self._deferred.extend(
            Deferred(self._keep, (held[at : at + _BATCH // 2],)) for at in batches
        )

    def _keep(self, c: Change, held: list[int]) -> None:
        c[process_table.row_at(c.file, self.own) + ROW_STATE] |= HAS_CHILDREN
        for slot in held:
            slots.keep(c, slot, self.own)
        c.commit()

    def _reserve_for_child(self, c: Change) -> tuple[int, liveness.LivenessLock]:
        row, lock = self._free_row(c)
        try:
            process_table.enter(c, row, 0)
            pins = {i: slots.views_of(c, self.own, i) for i in recovery.pinned_slots(c, self.own)}
            for slot in self._open_writers():  # a child can write by them, too
                pins[slot] = pins.get(slot, 0) + 1
            for slot, n in pins.items():
                if n:  # else it is only kept
                    slots.pin(c, slot, row, n)
                if len(c.new) > _BATCH:
                    c.commit()
            c.commit()
        except BaseException:
            lock.let_go()  # what was committed belongs to a dead row
            raise
        return row, lock

    def after_fork_in_parent(self) -> None:
        if self.child_row is not None:
            self.child_row[1].let_go()
            self.child_row = None
        if self.is_forking:
            self.is_forking = False
            with contextlib.suppress(RuntimeError):  # interrupted before it had the mutex
                self.mutex.release()
        self._flush_deferred()
        if self._loss is not None and not self._has_warned:
            self._has_warned = True
            _children.warn(self.path, self._loss)

    def inherit(self) -> None:
        """Marks, in a forked child, the parent's lock that has to stay; before any is released."""
        if self._is_kept_for_child and self._liveness is not None:
            self._liveness.is_inherited = True

    def after_fork_in_child(self) -> None:
        self.is_lost = True
        self._forget_sleepers()
        self.report = recovery.Report()
        self.new_locks()
        self.file.stop_writing(is_lost=self.child_row is None)
        if self.child_row is None:
            return  # maybe with its parent's lock, by which what it inherited is kept
        self._loss, self._has_warned = None, False
        self._deferred = deque(one for one in self._deferred if one.operation != self._keep)
        (self.row, self._liveness), self.child_row = self.child_row, None
        self._liveness.keep_by_mapping()
        self.pid = os.getpid()
        self.file.words[process_table.row_at(self.file, self.row) + ROW_PID] = self.pid
        self.is_lost = False
