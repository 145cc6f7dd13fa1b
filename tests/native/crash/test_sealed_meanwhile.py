"""What is sealed while the map of pages is rebuilt keeps its block; a row is not a name.

A process that gets a dead one's row must not be taken for it.
"""

from __future__ import annotations

import os
import signal

import helpers
import pytest

import refstore
from refstore import _core
from tests.native.crash.stopping import killed_at, stopped_at

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

USED = ("take_top", "assign(v.pool.top, first + pages)")
OWNED = ("own_block", "assign(run.unowned")


@pytest.mark.parametrize("name", [None, "n"])
@pytest.mark.parametrize("skip", range(3))
def test_an_object_that_is_sealed_amid_a_rebuild_keeps_its_block(
    store: refstore.Store, name: str | None, skip: int
) -> None:
    before = [store.create(50, name=name) for _ in range(1)]
    kept = [store.put(helpers.pattern(n, 50)) for n in range(3)]
    killed_at(USED, lambda: store.put(bytes(100_000)))
    (writer,) = before
    memoryview(writer)[:] = helpers.pattern(9, 50)
    with stopped_at(OWNED, lambda: store.put(bytes(100_000)), skip=skip):
        ref = writer.seal()
    with store.get(ref) as buf:
        refs = [store.put(bytes([n % 256]) * 50) for n in range(300)]
        assert bytes(buf) == helpers.pattern(9, 50)
    assert [bytes(store.get(one)) for one in kept] == [helpers.pattern(n, 50) for n in range(3)]
    for one in refs:
        store.delete(one)
    assert store.check() == []


def test_a_grandchild_with_a_dead_ones_row_ends_its_call(path: str) -> None:
    """A forks B amid its put and dies; B recovers A's row, and forks C, which gets that row."""

    def a() -> None:
        store = refstore.Store(path, capacity="1MiB", max_objects=64, create=True)
        _core._visit_points(lambda _: b(store))
        try:
            store.put(bytes(300_000))
        except refstore.RefstoreError:
            os._exit(0)  # C
        os._exit(1)

    def b(store: refstore.Store) -> None:
        _core._visit_points(None)
        pipe = os.pipe()
        me = os.getpid()
        if os.fork():
            os.close(pipe[1])
            os.read(pipe[0], 1)  # B has what is its own
            os.kill(me, signal.SIGKILL)
        os.write(pipe[1], b".")
        while os.getppid() == me:
            signal.sigtimedwait([], 0.001)
        while not (recovery := store.recover()):  # its lock falls when its memory is gone
            signal.sigtimedwait([], 0.001)
        assert recovery.pids == (me,)
        ref = store.put(b"V" * 300_000)
        with store.get(ref) as buf:
            child = os.fork()
            if child == 0:
                return  # C, back into A's put
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert bytes(buf) == b"V" * 300_000
        with open(f"{path}.ended", "w") as file:
            file.write(str(ended))
        os._exit(0)

    assert helpers.forked(a) == -signal.SIGKILL
    wait_for(f"{path}.ended")  # before we attach: that would recover A's row
    with open(f"{path}.ended") as file:
        assert file.read() == "0"
    os.unlink(f"{path}.ended")
    with refstore.Store(path, create=False) as store:
        store.unlink()


def wait_for(path: str) -> None:
    """The end of a process that is not our child any more, by the file that it leaves."""
    for _ in range(int(helpers.BUSY_TIMEOUT * 1000)):
        if os.path.exists(path) and os.path.getsize(path):
            return
        signal.sigtimedwait([], 0.001)
    raise TimeoutError(path)
