"""Call sites, for `Store(track=True)`: the lines of a program that put objects, and pin them.

Each process that tracks has a table of its own, in a file in memory that has no name and ends with
the process. Others find it among the process's descriptors, by what it is called there. So a
process that does not track has nothing to do with it, and nothing is left behind.

A pin lasts as long as any view of the buffer that took it, which nobody is told of. So an entry
stays after its buffer is closed as long as the process has more pins on the object than open
buffers. That is looked at before the next pin on the object, so that of two entries which may be
over the older one is known to stay for a view; and, of all objects, from time to time. Who reads
the table knows how many pins there are, and takes that many, the newest.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from refstore._refs import ObjectRef

__all__ = ["Told", "Tracker", "call_site", "tracker_of", "tracks_by_environment"]

ENTRY: Final = struct.Struct("=16sBxHQ228s")  # ref, kind, bytes of the text, number, text
FREE, PUT, PIN = range(3)  # kinds
PUTS_KEPT: Final = 16384
SWEEP: Final = 64  # calls between two looks at what is over

_TEXT_NBYTES: Final = 228
_WHERE: Final = "/proc/{}/fd"


OwnPins = Callable[[bytes], int]


class Pinned(NamedTuple):
    """An entry of a pin, and the buffer that took it, as long as there is one."""

    place: int  # of the entry
    buffer: Callable[[], Any]

    def is_over(self) -> bool:
        """Whether only views can keep the pin."""
        buffer = self.buffer()
        return buffer is None or bool(buffer.closed)


class Tracker:
    """The table of this process for one store."""

    def __init__(self, uuid: bytes) -> None:
        self._name = f"refstore-sites-{uuid.hex()}"
        self._lock = threading.RLock()
        self._pins: dict[bytes, list[Pinned]] = {}
        self._puts: deque[int] = deque()
        self._calls = 0
        self._begin()

    def _begin(self) -> None:
        self.file = _file_in_memory(self._name)
        self._free: list[int] = []
        self._end = self._number = 0

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the program closed it
            self.file.close()

    def put(self, ref: ObjectRef, site: str) -> None:
        """Notes where an object was put."""
        with self._lock:
            if len(self._puts) >= PUTS_KEPT:
                self._clear(self._puts.popleft())
            self._puts.append(self._write(PUT, bytes(ref), site))

    def pin(self, buffer: Any, site: str, own_pins: OwnPins) -> None:
        """Notes where a buffer was got. `own_pins`: how many pins this process has on an object."""
        with self._lock:
            ref = bytes(buffer.ref)
            if ref in self._pins:
                self._drop_what_is_over(ref, own_pins, new=1)
            entry = Pinned(self._write(PIN, ref, site), weakref.ref(buffer))
            self._pins.setdefault(ref, []).append(entry)
            self._calls += 1
            if self._calls >= SWEEP:
                self.sweep(own_pins)

    def sweep(self, own_pins: OwnPins) -> None:
        """Forgets all pins that are no more."""
        with self._lock:
            self._calls = 0
            for ref in list(self._pins):
                self._drop_what_is_over(ref, own_pins)

    def _drop_what_is_over(self, ref: bytes, own_pins: OwnPins, new: int = 0) -> None:
        # `new`: pins that have no entry yet
        entries = self._pins[ref]
        over = [entry for entry in entries if entry.is_over()]
        if over:
            kept = max(own_pins(ref) - new - (len(entries) - len(over)), 0)
            self._forget(ref, over[kept:])

    def _forget(self, ref: bytes, entries: list[Pinned]) -> None:
        for entry in entries:
            self._clear(entry.place)
            self._pins[ref].remove(entry)
        if not self._pins[ref]:
            del self._pins[ref]

    def _write(self, kind: int, ref: bytes, site: str) -> int:
        text = site.encode("utf-8", "replace")[-_TEXT_NBYTES:]
        index = self._free.pop() if self._free else self._end
        self._end = max(self._end, index + 1)
        self._number += 1
        self._at(index, ENTRY.pack(ref, kind, len(text), self._number, text))
        return index

    def _clear(self, index: int) -> None:
        self._at(index, bytes(ENTRY.size))
        self._free.append(index)

    def _at(self, index: int, octets: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # the program closed it
            self.file.seek(index * ENTRY.size)
            self.file.write(octets)

    def after_fork_in_child(self) -> None:
        """Begins a table of the child's own, with the pins that it inherited."""
        entries = dict(_entries(self.file.fileno()))
        self._lock = threading.RLock()
        self.close()
        self._begin()
        self._puts.clear()
        for ref, pins in self._pins.items():
            self._pins[ref] = [
                entry._replace(place=self._write(PIN, ref, entries[entry.place].site))
                for entry in pins
                if entry.place in entries
            ]


def _file_in_memory(name: str) -> io.FileIO:
    """A file that ends with this process; others see it where there is memfd_create()."""
    if hasattr(os, "memfd_create"):
        return io.FileIO(os.memfd_create(name), "rb+")
    import tempfile  # as in _paths: each process that starts would pay for it

    fd, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)
    return io.FileIO(fd, "rb+")


# --- of this process


def tracks_by_environment() -> bool:
    """Whether REFSTORE_TRACK says so."""
    return os.environ.get("REFSTORE_TRACK", "") not in ("", "0")


_trackers: weakref.WeakKeyDictionary[Any, Tracker] = weakref.WeakKeyDictionary()


def tracker_of(attachment: Any) -> Tracker:
    """The tracker of an attachment of this process, which ends with it."""
    tracker = _trackers.get(attachment)
    if tracker is None:
        made = Tracker(attachment.uuid)
        tracker = _trackers.setdefault(attachment, made)
        if tracker is made:
            weakref.finalize(attachment, made.close).atexit = False
        else:
            made.close()
    return tracker


def _after_fork_in_child() -> None:
    for tracker in list(_trackers.values()):
        tracker.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def call_site() -> str:
    """The line of the program that called this package: file, number and function."""
    frame: FrameType | None = sys._getframe(1)
    outside = None
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package != "refstore":
            outside = outside or frame
            if package not in sys.stdlib_module_names:
                break
        frame = frame.f_back
    told = frame or outside or sys._getframe(1)
    return f"{_short(told.f_code.co_filename)}:{told.f_lineno} in {told.f_code.co_name}"


def _short(path: str) -> str:
    with contextlib.suppress(OSError):
        here = os.path.join(os.getcwd(), "")
        if path.startswith(here):
            return path[len(here) :]
    return path


# --- of all processes


class Site(NamedTuple):
    """An entry, read."""

    ref: bytes
    kind: int
    number: int  # that entries of one table count by
    site: str


def sites_of(pid: int, uuid: bytes) -> list[Site]:
    """The entries of a process for one store, oldest first; none if it does not track, or may not
    be looked at."""
    name = f"/memfd:refstore-sites-{uuid.hex()} (deleted)"
    folder = _WHERE.format(pid)
    found: list[Site] = []
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            with contextlib.suppress(OSError):
                path = os.path.join(folder, entry)
                if os.readlink(path) == name:
                    with open(path, "rb") as file:
                        found += [site for _, site in _entries(file.fileno())]
    return sorted(found, key=lambda site: site.number)


def _entries(fd: int) -> Iterator[tuple[int, Site]]:
    octets, at = b"", 0
    with contextlib.suppress(OSError):
        size = os.fstat(fd).st_size
        while at < size and (piece := os.pread(fd, size - at, at)):
            octets += piece
            at += len(piece)
    whole = len(octets) // ENTRY.size * ENTRY.size
    for index, (ref, kind, nbytes, number, text) in enumerate(ENTRY.iter_unpack(octets[:whole])):
        if kind in (PUT, PIN):
            yield index, Site(ref, kind, number, text[:nbytes].decode("utf-8", "replace"))


class Told:
    """The sites of objects of one store, as far as those processes tell that live: `processes` has
    the fields of ProcessInfo."""

    def __init__(self, uuid: bytes, processes: Iterable[tuple[Any, ...]]) -> None:
        self._of: dict[tuple[int, int, bytes], list[str]] = {}
        self._puts: dict[bytes, str] = {}
        self._living = Counter(row[0] for row in processes if row[3])
        for pid in self._living:
            for site in sites_of(pid, uuid):
                self._of.setdefault((pid, site.kind, site.ref), []).append(site.site)
                if site.kind == PUT:
                    self._puts[site.ref] = site.site

    def pins(self, pid: int, ref: bytes, most: int) -> tuple[str, ...]:
        """The lines where a process got its pins on an object: the newest, oldest first.

        Empty if there are several processes of that pid: whose lines they are is not known.
        """
        if self._living[pid] != 1:
            return ()
        found = self._of.get((pid, PIN, ref), [])
        return tuple(found[max(len(found) - most, 0) :])

    def put(self, ref: bytes) -> str | None:
        """The line where an object was put; None if no process tells."""
        return self._puts.get(ref)
