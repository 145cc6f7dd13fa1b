"""`refstore.aio`: waiting in coroutines, in asyncio's loop and in uvloop's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import loops
import pytest
import workers
from children import child_process

import refstore
from refstore import _watching, aio

LONG = 3600.0  # seconds; more than any test takes


@pytest.fixture(params=loops.LOOPS)
def in_loop(request: pytest.FixtureRequest) -> Iterator[loops.InLoop]:
    with loops.at_rest(request.param) as run:
        yield run


def test_what_is_there_is_returned_at_once(store: refstore.Store, in_loop: loops.InLoop) -> None:
    ref = store.put(b"1", name="a")

    async def main() -> None:
        for work in (
            aio.get(store, "a"),
            aio.get(store, ref),
            aio.get(store, "a", timeout=None),
            aio.get(store, ref, timeout=1),
            aio.wait(store, "a"),
            aio.get_or_put(store, "a", lambda: 1 / 0),
        ):
            with await work as buf:
                assert bytes(buf) == b"1"
        assert await aio.wait_any(store, ["b", "a"]) == ["a"]
        with await aio.get(store, "a", writable=True) as buf:
            buf.array[0] = 2
        assert loops.waiting_threads() == []

    in_loop(main())


def test_a_name_that_is_published_ends_a_wait(store: refstore.Store, in_loop: loops.InLoop) -> None:
    async def main() -> None:
        got, waited, any_of = await loops.begin(
            aio.get(store, "a", timeout=None),
            aio.wait(store, "a"),
            aio.wait_any(store, ["b", "a", "c"], count=2),
        )
        store.put(b"1", name="a")
        for task in (got, waited):
            with await task as buf:
                assert bytes(buf) == b"1"
        store.put(b"2", name="b")
        assert await any_of == ["b", "a"]

    in_loop(main())


def test_a_newer_object_ends_a_wait_for_one(store: refstore.Store, in_loop: loops.InLoop) -> None:
    async def main() -> None:
        known = store.put(b"0", name="a")
        for version in (b"1", b"2", b"3"):
            (task,) = await loops.begin(aio.wait(store, "a", newer_than=known))
            store.put(version, name="a", replace=True)
            with await task as buf:
                assert bytes(buf) == version
                known = buf.ref

    in_loop(main())


def test_waits_end_with_their_time(store: refstore.Store, in_loop: loops.InLoop) -> None:
    ref = store.put(b"1", name="a")

    async def main() -> None:
        with pytest.raises(refstore.GetTimeoutError, match=r"as 'b' .* within 0\.01 seconds"):
            await aio.get(store, "b", timeout=0.01)
        with pytest.raises(refstore.GetTimeoutError, match=r"as 'b' .* within 0 seconds"):
            await aio.wait(store, "b", timeout=0)
        with pytest.raises(refstore.GetTimeoutError, match=r"no object newer than `newer_than`"):
            await aio.wait(store, "a", newer_than=ref, timeout=0.01)
        with pytest.raises(refstore.GetTimeoutError, match=r"^1 of 3 names") as raised:
            await aio.wait_any(store, ["c", "a", "b"], count=2, timeout=0.01)
        assert raised.value.ready == ["a"]
        with pytest.raises(refstore.ObjectNotFoundError):
            await aio.get(store, "b")
        store.delete("a")
        with pytest.raises(refstore.ObjectNotFoundError):
            await aio.get(store, ref, timeout=LONG)

    in_loop(main())
    loops.assert_at_rest(store)


def test_invalid_arguments_are_refused(store: refstore.Store, in_loop: loops.InLoop) -> None:
    wrong: Any = 1

    async def main() -> None:
        for error, work in (
            (ValueError, aio.get(store, "a", timeout=-1)),
            (TypeError, aio.get(store, wrong, timeout=1)),
            (ValueError, aio.get(store, "", timeout=1)),
            (ValueError, aio.wait(store, "a", timeout=float("nan"))),
            (TypeError, aio.wait(store, "a", newer_than=wrong)),
            (ValueError, aio.wait_any(store, [], timeout=1)),
            (ValueError, aio.wait_any(store, ["a"], count=2)),
            (TypeError, aio.wait_any(store, "abc", timeout=1)),
            (TypeError, aio.put(store, 1, timeout=wrong + 1j)),
            (TypeError, aio.put(store, threading.Lock())),
            (ValueError, aio.put(store, 1, name="")),
            (ValueError, aio.put(store, 1, meta=bytes(100_000))),
            (TypeError, aio.get_or_put(store, "a", wrong)),
            (ValueError, aio.get_or_put(store, "", lambda: 1)),
        ):
            with pytest.raises(error):
                await work

    in_loop(main())
    loops.assert_at_rest(store)


def test_a_thousand_coroutines_wait_in_one_thread(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    before = threading.active_count()

    async def main() -> None:
        tasks = await loops.begin(*(aio.wait(store, f"n{i}") for i in range(1000)))
        assert threading.active_count() == before + 1
        for i in (999, 0, 500):
            store.put(i, name=f"n{i}")
            with await tasks[i] as buf:
                assert buf.value == i
        assert sum(task.done() for task in tasks) == 3
        assert threading.active_count() == before + 1

    in_loop(main())
    loops.assert_at_rest(store)


@pytest.mark.parametrize("when", ["before it reads", "after it has read"])
def test_what_is_published_between_the_look_and_the_sleep_is_seen(
    store: refstore.Store, in_loop: loops.InLoop, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    class Publishing:
        """A watch in the middle of which the name is published."""

        def __init__(self, watch: Any) -> None:
            self._seen, self.sleep, self.poke = watch.seen, watch.sleep, watch.poke

        def seen(self, names: Sequence[str]) -> list[int]:
            if when == "before it reads":
                store.put(b"1", name="a", replace=True)
            seen: list[int] = self._seen(names)
            if when == "after it has read":
                store.put(b"1", name="a", replace=True)
            return seen

    class Watcher(_watching.Watcher):
        def __init__(self, attachment: Any, watch: Any) -> None:
            super().__init__(attachment, Publishing(watch))

    async def main() -> None:
        with await aio.wait(store, "a") as buf:
            assert bytes(buf) == b"1"

    monkeypatch.setattr(_watching, "Watcher", Watcher)
    monkeypatch.setattr(_watching, "NAP", LONG)  # no second look comes to the rescue
    in_loop(main())
    monkeypatch.undo()
    for watcher in list(_watching._watchers.values()):
        watcher._watch.poke()  # its thread may have begun to sleep for as long as that


# -- cancelling


def test_a_cancelled_wait_leaves_nothing(store: refstore.Store, in_loop: loops.InLoop) -> None:
    async def main() -> None:
        tasks = await loops.begin(
            aio.get(store, "a", timeout=None),
            aio.wait(store, "a", timeout=LONG),
            aio.wait_any(store, ["a", "b"]),
        )
        for task in tasks:
            task.cancel()
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task
        await loops.rest(store)

    in_loop(main())


def test_a_wait_that_is_cancelled_as_it_is_told_leaves_nothing(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    async def main() -> None:
        for _ in range(20):
            (task,) = await loops.begin(aio.wait(store, "a"))
            (request,) = loops.waiting()
            store.put(b"1", name="a")
            request.wake()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task, request
            loops.assert_at_rest(store)
            store.delete("a")

    in_loop(main())


def test_a_timeout_of_asyncios_ends_a_wait(store: refstore.Store, in_loop: loops.InLoop) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(aio.wait(store, "a"), 0.01)
        await loops.rest(store)

    in_loop(main())


# -- stores and loops that go


def test_a_store_that_is_closed_meanwhile_ends_its_waits(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    async def main() -> None:
        tasks = await loops.begin(aio.wait(store, "a"), aio.wait_any(store, ["a", "b"]))
        store.close()
        for task in tasks:
            with pytest.raises(ValueError, match="closed"):
                await task

    in_loop(main())


def test_another_store_object_on_the_file_can_be_closed(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    async def main() -> None:
        with refstore.Store(store.path) as other:
            (task,) = await loops.begin(aio.wait(other, "a"))
            (kept,) = await loops.begin(aio.wait(store, "a"))
        with pytest.raises(ValueError, match="closed"):
            await task
        store.put(b"1", name="a")
        with await kept as buf:
            assert bytes(buf) == b"1"

    in_loop(main())


def test_a_wait_that_nobody_can_end_is_an_error(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    async def main() -> None:
        tasks = await loops.begin(
            aio.wait(store, "a"),
            aio.get(store, "a", timeout=None),
            aio.wait_any(store, ["a", "b"]),
        )
        store.unlink()
        for task in tasks:
            with pytest.raises(refstore.RefstoreError, match="would wait for ever"):
                await task

    in_loop(main())


def test_a_store_without_a_file_is_waited_on_while_others_can_publish(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    async def main() -> None:
        (task,) = await loops.begin(aio.wait(store, "a"))
        with child_process(store) as child:
            store.unlink()
            await asyncio.sleep(2 * _watching.NAP)  # it looks, and goes on
            assert not task.done()
            child.do(workers.put, b"1", "a")
            with await task as buf:
                assert bytes(buf) == b"1"

    in_loop(main())


def test_a_loop_that_is_closed_is_no_error(store: refstore.Store, in_loop: loops.InLoop) -> None:
    closed = loops.new_loop("asyncio")
    task = closed.create_task(aio.wait(store, "a"))
    closed.run_until_complete(asyncio.sleep(0.01))
    closed.close()

    async def main() -> None:
        (other,) = await loops.begin(aio.wait(store, "a"))
        store.put(b"1", name="a")
        with await other as buf:
            assert bytes(buf) == b"1"

        await loops.rest(store)

    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    in_loop(main())


def test_two_loops_wait_at_once(store: refstore.Store, in_loop: loops.InLoop) -> None:
    seen: list[bytes] = []
    before = threading.active_count()

    def other() -> None:
        with loops.running("asyncio") as run, run(aio.wait(store, "a")) as buf:
            seen.append(bytes(buf))

    async def main() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        (task,) = await loops.begin(aio.wait(store, "a"))
        while len(loops.waiting()) < 2:
            await asyncio.sleep(0.001)
        assert threading.active_count() == before + 2
        store.put(b"1", name="a")
        with await task as buf:
            seen.append(bytes(buf))
        await asyncio.get_running_loop().run_in_executor(None, thread.join)

    in_loop(main())
    assert seen == [b"1", b"1"]


def test_no_thread_can_be_started(
    store: refstore.Store, in_loop: loops.InLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                await aio.wait(store, "a")
        (task,) = await loops.begin(aio.wait(store, "a"))
        store.put(b"1", name="a")
        with await task as buf:
            assert bytes(buf) == b"1"

    in_loop(main())
