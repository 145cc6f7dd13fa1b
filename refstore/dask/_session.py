"""The store that a process shares with the others of its host, and the messages that go by it."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import itertools
import logging
import os
import pickle
import re
import socket
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dask.config
from distributed.comm import CommClosedError, get_address_host_port

import refstore
from refstore.dask import _families, _values
from refstore.dask._frames import with_writeable
from refstore.dask._keeper import Keeper, Placed

__all__ = ["KEY", "Session", "store_name"]

KEY = "refstore"  # of what is added to headers and handshakes
PREFIX = "dask-"
LOCK_PATIENCE = 2.0  # seconds for other processes that come or go
LEFT_ALONE, TRACKED, HANDED_OVER = range(3)  # what the receiver does with an object in the end

logger = logging.getLogger("refstore.dask")


class Session:
    """This process's part in one store, from the first worker or client in it to the last."""

    def __init__(self, name: str, *, is_ours: bool) -> None:
        """`is_ours`: the store goes with the last process that uses it."""
        self.name, self._is_ours = name, is_ours
        self._store = _open(name, is_ours=is_ours)
        self._pid, self._path = os.getpid(), self._store.path
        # A pickle says which store it is, wherever it is opened.
        self._identity = hashlib.sha256(pickle.dumps(self._store)).hexdigest()[:32]
        self._threshold = _values.threshold()
        self._comms: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self.keeper = Keeper(self._store)
        self.places_arrivals = False  # what came as bytes is put into the store for others

    def close(self) -> None:
        """Leaves the store. The last one removes it."""
        if self._pid != os.getpid():
            return  # a forked child has neither the thread nor what its parent owns
        self.keeper.close()
        with _locked(os.path.dirname(self._store.path)), self._store:
            if self._is_ours and _is_alone(self._store):
                with contextlib.suppress(FileNotFoundError):
                    self._store.unlink()

    def clear_away(self) -> None:
        """Removes the store, after close(), if the others that were in it have been killed."""
        if self._is_ours and self._pid == os.getpid() and os.path.exists(self._path):
            with _locked(os.path.dirname(self._path)):
                _remove_if_abandoned(self._path)

    # --- messages

    def introduce(self, comm: Any) -> dict[str, Any]:
        """Tells the other end of a connection about this process, which knows it again by that."""
        number = next(self._numbers)
        self._comms[number] = comm
        return {"store": self._identity, "comm": number}

    def dumps(self, family: str, value: Any, context: dict[str, Any]) -> _families.Frames:
        """Serializes a value for the other end of a connection: by ref, if it is in the store."""
        told = context.get("recipient", {}).get(KEY)
        if not isinstance(told, dict) or told.get("store") != self._identity:
            return self._as_bytes(*_families.original(family).dumps(value, context))
        packed, header, frames = _values.pack(family, value, context)
        large = _values.large_frames(frames, self._threshold)
        sent = self._send(list(large.values()), self._is_open(context)) if large else None
        if sent is None:
            if packed != family:
                return self._as_bytes(*_families.original(family).dumps(value, context))
            return self._as_bytes(header, frames)
        header[KEY] = {**sent, "family": packed, "at": list(large), "count": len(frames)}
        return header, [frame for k, frame in enumerate(frames) if k not in large]

    def _as_bytes(self, header: dict[str, Any], frames: Sequence[Any]) -> _families.Frames:
        """A message to where the store is not."""
        large = _values.large_frames(frames, self._threshold)
        if any(map(self.keeper.has, large.values())):
            header = with_writeable(header, True)  # it is not here, but will be a copy there
        if large:
            header[KEY] = {}  # the receiver may put it into a store of its own
        return header, frames

    def _is_open(self, context: dict[str, Any]) -> Callable[[], bool]:
        """Whether the connection that a message goes by is open, as far as is known."""
        number = context.get("sender", {}).get(KEY, {}).get("comm")
        comms = weakref.ref(self._comms)

        def is_open() -> bool:
            known = comms()
            comm = known.get(number) if known is not None else None
            return number is None or (comm is not None and not comm.closed())

        return is_open

    def _send(self, views: list[memoryview], is_open: Callable[[], bool]) -> dict[str, Any] | None:
        try:
            placed, new = self.keeper.place(views)
            token = self.keeper.send(placed, is_open)
        except (refstore.RefstoreError, ValueError) as error:  # ValueError: it is closed
            logger.info("a message goes as bytes: %s", error)
            return None
        refs = {each.buf.ref: 0 for each in placed}
        index = {ref: k for k, ref in enumerate(refs)}
        ends = {ref: TRACKED if self.keeper.tracks(ref) else LEFT_ALONE for ref in refs}
        if new is not None:
            ends[new] = HANDED_OVER
        return {
            "token": bytes(token),
            "objects": [[bytes(ref), end] for ref, end in ends.items()],
            "frames": [
                [index[each.buf.ref], each.offset, view.nbytes]
                for each, view in zip(placed, views, strict=True)
            ],
        }

    def loads(self, family: str, header: dict[str, Any], frames: Sequence[Any]) -> Any:
        """Makes a value of what was received, over the memory of the store."""
        told = header.get(KEY)
        if not told:
            value = _families.original(family).loads(header, frames)
            if told is None or not self.places_arrivals:
                return value
            return _values.place(self.keeper, value, self._threshold)
        try:
            whole, writable = self._receive(header, told, frames)
        except (refstore.RefstoreError, ValueError) as error:
            # as of a connection that broke: distributed asks somebody else, or computes it again
            raise CommClosedError(f"what the message is about is gone: {error}") from error
        return _values.load(told["family"], header, whole, writable)

    def _receive(
        self, header: dict[str, Any], told: dict[str, Any], frames: Sequence[Any]
    ) -> tuple[list[Any], bool]:
        writable = _values.is_writable(header)
        token = refstore.ObjectRef(told["token"])
        with contextlib.ExitStack() as stack:
            stack.callback(self.keeper.has_arrived, token)
            bufs = [
                stack.enter_context(self._pinned(refstore.ObjectRef(ref), end))
                for ref, end in told["objects"]
            ]
            rest, looked = iter(frames), {}
            for k, (number, offset, nbytes) in zip(told["at"], told["frames"], strict=True):
                placed = Placed(bufs[number], offset)
                looked[k] = _values.look_at(self.keeper, placed, nbytes, writable)
        return [looked[k] if k in looked else next(rest) for k in range(told["count"])], writable

    def _pinned(self, ref: refstore.ObjectRef, end: int) -> refstore.PinnedBuffer:
        buf = self._store.get(ref)
        if end != LEFT_ALONE:
            self.keeper.track(ref)
        if end == HANDED_OVER:
            with contextlib.suppress(refstore.ObjectNotFoundError):
                self._store.adopt(ref)
        return buf


# --- the store


def store_name(scheduler: str) -> str:
    """The name of the store of a cluster on this host, by its scheduler's address.

    Of a scheduler on this host it is the port alone, since its processes may know it by several
    addresses.
    """
    try:
        host, port = get_address_host_port(scheduler)
    except (ValueError, NotImplementedError):  # of what has no ports, such as inproc://
        return PREFIX + re.sub(r"[^\w.-]+", "-", scheduler)
    return f"{PREFIX}{port}" if _is_of_this_host(host) else f"{PREFIX}{host}-{port}"


def _is_of_this_host(host: str) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as end:
            end.bind(address)
    except OSError:
        return False
    return True


def _open(name: str, *, is_ours: bool) -> refstore.Store:
    """Attaches to the store of that name, or creates it."""
    while True:
        store, is_as_asked = _attached(name)
        with _locked(os.path.dirname(store.path)):
            _remove_abandoned(store)
            if is_ours and not is_as_asked and _is_alone(store) and not len(store):
                store.unlink()  # of a cluster that was killed
            elif _is_there(store):
                if not is_as_asked:
                    logger.warning("the store %r has %d bytes: others use it", name, store.capacity)
                return store
        store.close()  # it was removed just now, by its last process or here


def _attached(name: str) -> tuple[refstore.Store, bool]:
    """A store, and whether it has the capacity that was asked for."""
    capacity = dask.config.get("refstore.capacity", None)
    try:
        return refstore.Store(name, capacity=capacity), True
    except ValueError:
        if capacity is None:
            raise
        return refstore.Store(name, create=False), False


def _is_there(store: refstore.Store) -> bool:
    try:
        with refstore.Store(store.path, create=False) as other:
            return pickle.dumps(other) == pickle.dumps(store)
    except (FileNotFoundError, refstore.RefstoreError):
        return False


def _is_alone(store: refstore.Store) -> bool:
    store.recover()
    return store.stats().processes <= 1


def _remove_abandoned(store: refstore.Store) -> None:
    """Removes stores of clusters all of whose processes were killed, and which are empty now."""
    for path in glob.glob(os.path.join(os.path.dirname(store.path), f"{PREFIX}*")):
        if path != store.path and os.path.isfile(path):
            _remove_if_abandoned(path)


def _remove_if_abandoned(path: str) -> None:
    with (
        contextlib.suppress(refstore.RefstoreError, OSError, ValueError),
        refstore.Store(path, create=False) as other,
    ):
        if _is_alone(other) and not len(other):
            other.unlink()


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Nobody else comes to a store of the folder, or removes one, unless it takes too long."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + LOCK_PATIENCE
        while time.monotonic() < until:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)
