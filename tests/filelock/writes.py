"""Kill a process before a write of a word that an operation of the filelock engine does.

The file's words are wrapped in the child that is to die, so that it ends before its n-th write.
"""

from __future__ import annotations

import functools
import os
import signal
import traceback
from pathlib import Path
from typing import Any

import helpers
import numpy as np

import refstore
from refstore.engines.filelock.mapping import Mapping
from tests.filelock.kills import KEPT, META, NEW, OLD, Work, get_many, truncate

CAPACITY = 256 << 10
LARGE = helpers.pattern(0, 50_000)
HUGE = bytes(220_000)
KNOWN = {KEPT, OLD, NEW, LARGE, HUGE, b"x"}


class Words:
    """The words of a file, as a process has them that dies before its n-th write."""

    written = 0  # by all of them in this process
    last: int | None = None

    def __init__(self, words: memoryview) -> None:
        self.words = words

    def __getitem__(self, i: Any) -> Any:
        return self.words[i]

    def __setitem__(self, i: Any, value: Any) -> None:
        Words.written += 1
        if Words.written == Words.last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.words[i] = value


def in_child(path: str, work: Work, last: int | None, opens: bool) -> int | None:
    """Does it in a child that dies before that write; how many there were if it does not die."""
    ours, theirs = os.pipe()
    with helpers.forking_on_purpose():
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            plain = Mapping.__init__

            def wrapping(self: Any, *arguments: Any) -> None:
                plain(self, *arguments)
                self.words = Words(self.words)

            Mapping.__init__ = wrapping  # type: ignore[assignment, method-assign]
            Words.written, Words.last = 0, last if opens else None
            store = refstore.Store(path, create=False)
            if not opens:
                Words.written, Words.last = 0, last
            work(store)
            os.write(theirs, Words.written.to_bytes(4, "little"))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(theirs)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    counted = os.read(ours, 4)
    os.close(ours)
    assert status in (0, -signal.SIGKILL), "it failed by itself"
    return int.from_bytes(counted, "little") if status == 0 else None


@functools.cache
def make_image(path: str, after_a_death: bool) -> bytes:
    """The bytes of a store, with what a dead process left if there is one; no file is left."""
    options: dict[str, Any] = {"capacity": CAPACITY, "max_objects": 9, "evict": "s3fifo"}
    with refstore.Store(path, create=True, **options) as store:
        store.put(KEPT, name="kept", evictable=False)
        first = store.put(b"x" * 3000)
        store.put(OLD, name="n", evictable=False)
        store.delete(first)
        store.put(LARGE)  # which may go
    if after_a_death:
        assert in_child(path, die_with_much_in_hand, None, False) is None
    image = Path(path).read_bytes()
    with refstore.Store(path, create=False) as store:
        store.unlink()
    return image


def die_with_much_in_hand(store: refstore.Store) -> None:
    held = [store.get("n"), store.get("kept"), store.get("n"), store.get(store.put(LARGE))]
    store.delete(held[3].ref)
    store.create(10_000)
    writer = store.create(20_000)
    view = memoryview(writer)
    os.kill(os.getpid(), signal.SIGKILL)
    del view


def require_sound(path: str, deletes: bool) -> None:
    with refstore.Store(path, create=False) as store:
        assert store.check() == []
        store.recover()
        assert store.check() == []
        with store["kept"] as kept:
            assert bytes(kept) == KEPT
        assert deletes or "n" in store, "the object is lost"
        live = 0
        for ref in list(store):
            with store.get(ref) as buf:
                assert buf.kind != "bytes" or bytes(buf) in KNOWN
                assert buf.meta in (b"", META)
                live += store.info(ref).block_nbytes
        stats = store.stats()
        assert (stats.used, stats.pinned, stats.condemned, stats.processes) == (live, 0, 0, 1)
        for ref in list(store):
            store.delete(ref)
        assert store.stats().used == 0
        helpers.assert_full_capacity_fits(store)
        assert store.check() == []
        store.unlink()


def write(store: refstore.Store, ends: bool) -> None:
    writer = store.create(len(NEW), name="n", replace=True)
    view = memoryview(writer)
    view[:] = NEW
    if ends:
        writer.seal()  # the view keeps a pin
    else:
        writer.abort()
    view.release()


def delete_pinned(store: refstore.Store) -> None:
    with store.get("n"):
        store.delete("n")


def fork(store: refstore.Store) -> None:
    with store.get("n"), helpers.forking_on_purpose():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def put_many(store: refstore.Store) -> None:
    store.put_many([NEW, b"x", LARGE], names=["n", "new", "newer"], replace=True)


def put_and_delete(store: refstore.Store) -> None:
    store.delete(store.put(b"x"))


# name: (work, whether it may delete "n", whether it comes after a death, whether opening counts)
OPERATIONS: dict[str, tuple[Work, bool, bool, bool]] = {
    "put": (lambda store: store.put(b"x"), False, False, False),
    "put large": (lambda store: store.put(LARGE), False, False, False),
    "put named": (lambda store: store.put(np.zeros(9), name="new"), False, False, False),
    "replace": (lambda store: store.put(NEW, name="n", replace=True), False, False, False),
    "put with meta": (lambda store: store.put(b"x", meta=META), False, False, False),
    "put many": (put_many, False, False, False),
    "evict": (lambda store: store.put(HUGE), False, False, False),
    "truncate": (truncate, False, False, False),
    "get many": (get_many, False, False, False),
    "delete many": (lambda store: store.delete_many(["n", "gone"]), True, False, False),
    "put and delete": (put_and_delete, False, False, False),
    "seal": (lambda store: write(store, True), False, False, False),
    "abort": (lambda store: write(store, False), False, False, False),
    "get": (lambda store: store.get("n").release(), False, False, False),
    "delete": (lambda store: store.delete("n"), True, False, False),
    "delete pinned": (delete_pinned, True, False, False),
    "trim": (lambda store: store.trim(), False, False, False),
    "fork": (fork, False, False, False),
    "come and go": (lambda store: store.close(), False, False, True),
    "come after a death": (lambda store: store.close(), False, True, True),
}


def trial(path: str, name: str, last: int | None) -> int | None:
    """An operation, in a child that dies before that write; how many there are if it does not."""
    work, deletes, after_a_death, opens = OPERATIONS[name]
    image = make_image(path, after_a_death)
    Path(path).write_bytes(image)
    writes = in_child(path, work, last, opens)
    require_sound(path, deletes)
    assert helpers.mappings(path) == []
    assert helpers.open_files(Path(path).parent) == []
    return writes
