"""`refstore.aio` between processes: publishers, makers that die, forks, exits."""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import Iterator

import helpers
import lock_files
import loops
import pytest
import workers
from children import Command, child_process, child_processes

import refstore
from refstore import aio

TAKEOVER = 5.0  # seconds, on a busy machine; what it takes at rest is measured in benchmarks/


@pytest.fixture(params=loops.LOOPS)
def in_loop(request: pytest.FixtureRequest) -> Iterator[loops.InLoop]:
    with loops.at_rest(request.param) as run:
        yield run


def test_coroutines_follow_the_versions_of_another_process(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    last, size = 100, 1000

    async def follow() -> int:
        seen, ref = 0, None
        while seen < last:
            with await aio.wait(store, "a", newer_than=ref, timeout=helpers.BUSY_TIMEOUT) as buf:
                version, ref = buf.nbytes - size, buf.ref
                assert version > seen
                assert bytes(buf) == bytes([version % 251]) * buf.nbytes
                seen = version
        return seen

    async def main() -> None:
        tasks = await loops.begin(*(follow() for _ in range(10)))
        with child_process(store) as child:
            child.tell(workers.publish, "a", last, size)
            assert await asyncio.gather(*tasks) == [last] * 10
            child.answer()

    in_loop(main())
    loops.assert_at_rest(store)


def test_of_the_tasks_of_several_processes_one_makes_it(store: refstore.Store) -> None:
    with child_processes(3, store) as children:
        for number, child in enumerate(children):
            child.tell(workers.make_by_tasks, "a", b"%d" % number, 20)
        while not (claims := [row.pid for row in store.objects() if row.state == "claimed"]):
            time.sleep(0.01)
        (maker,) = (number for number, one in enumerate(children) if [one.pid] == claims)
        assert children[maker].receive() == ("said", "making")
        children[maker].go_on()
        assert sum(child.answer() for child in children) == 1
        with store.get("a") as buf:
            assert bytes(buf) == b"%d" % maker
    loops.assert_at_rest(store)


@pytest.mark.parametrize("how", [workers.make, workers.make_by_tasks])
def test_a_task_takes_over_from_a_process_that_is_killed(
    store: refstore.Store, in_loop: loops.InLoop, how: Command
) -> None:
    async def main() -> None:
        with child_process(store) as child:
            child.tell(how, "a", b"lost", *([5] if how is workers.make_by_tasks else []))
            assert child.receive() == ("said", "making")
            (task,) = await loops.begin(aio.get_or_put(store, "a", lambda: b"made"))
            child.kill()
            killed = time.monotonic()
            with await task as buf:
                assert bytes(buf) == b"made"
            assert time.monotonic() - killed < TAKEOVER

    in_loop(main())
    loops.assert_at_rest(store)


def test_a_thread_takes_over_from_a_task_of_a_process_that_is_killed(store: refstore.Store) -> None:
    with child_process(store) as child:
        child.tell(workers.make_by_tasks, "a", b"lost", 5)
        assert child.receive() == ("said", "making")
        child.kill()
        with store.get_or_put("a", lambda: b"made", timeout=helpers.BUSY_TIMEOUT) as buf:
            assert bytes(buf) == b"made"
    loops.assert_at_rest(store)


def test_a_process_that_is_stopped_is_waited_for_and_named(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    async def main() -> None:
        with child_process(store) as child:
            child.tell(workers.make_by_tasks, "a", b"made", 1)
            assert child.receive() == ("said", "making")
            with lock_files.stopped(child, store.path):
                with pytest.raises(refstore.GetTimeoutError) as raised:
                    await aio.get_or_put(store, "a", lambda: 1 / 0, timeout=0.5)
                assert raised.value.pid == child.pid
            child.go_on()
            assert child.answer() == 1
            with await aio.get_or_put(store, "a", lambda: 1 / 0) as buf:
                assert bytes(buf) == b"made"

    in_loop(main())
    loops.assert_at_rest(store)


def test_a_forked_child_waits_in_a_loop_and_a_thread_of_its_own(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    def work() -> None:
        async def wait() -> None:
            (task,) = await loops.begin(aio.wait(store, "b", timeout=helpers.BUSY_TIMEOUT))
            assert len(loops.waiting_threads()) == 1
            store.put(b"2", name="b")
            with await task as buf:
                assert bytes(buf) == b"2"
            with await aio.get_or_put(store, "c", asyncio.Event().is_set) as buf:
                assert buf.value is False
            ref = await aio.put(store, bytes(aio.LARGE))
            store.delete(ref)

        asyncio.run(wait())

    async def main() -> None:
        (task,) = await loops.begin(aio.wait(store, "a"))
        assert helpers.forked(work) == 0
        assert not task.done()
        store.put(b"1", name="a")
        with await task as buf:
            assert bytes(buf) == b"1"

    in_loop(main())
    loops.assert_at_rest(store)


BEGIN = """
import asyncio, sys, threading, time
import refstore
from refstore import aio

store = refstore.Store(sys.argv[1])

def watching():
    return any(one.name == "refstore.aio" for one in threading.enumerate())
"""
EXITS = {
    "a loop in a thread": """
        def wait():
            asyncio.run(aio.wait(store, "a"))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        while not watching():
            time.sleep(0.001)
    """,
    "a task that is cancelled": """
        async def main():
            task = asyncio.ensure_future(aio.wait(store, "a"))
            while not watching():
                await asyncio.sleep(0.001)

        asyncio.run(main())
    """,
    "a loop that is not run any more": """
        loop = asyncio.new_event_loop()
        task = loop.create_task(aio.wait(store, "a"))
        while not watching():
            loop.run_until_complete(asyncio.sleep(0.001))
        task._log_destroy_pending = False
        loop.close()
    """,
    "a factory in a thread": """
        began = threading.Event()

        def make():
            began.set()
            time.sleep(3600)

        async def main():
            task = asyncio.ensure_future(aio.get_or_put(store, "a", make))
            while not began.is_set():
                await asyncio.sleep(0.001)

        asyncio.run(main())
    """,
    "a factory in a loop that is closed": """
        began = []

        async def make():
            began.append(1)
            await asyncio.Event().wait()

        loop = asyncio.new_event_loop()
        task = loop.create_task(aio.get_or_put(store, "a", make))
        while not began:
            loop.run_until_complete(asyncio.sleep(0.001))
        for one in asyncio.all_tasks(loop):
            one._log_destroy_pending = False
        del one
        loop.close()
    """,
}


@pytest.mark.parametrize("state", EXITS)
def test_a_program_ends_whatever_its_coroutines_wait_for(store: refstore.Store, state: str) -> None:
    began = time.monotonic()
    assert helpers.run_clean(BEGIN + textwrap.dedent(EXITS[state]), store.path) == ""
    assert time.monotonic() - began < helpers.BUSY_TIMEOUT / 2
    with store.get_or_put("a", lambda: b"made", timeout=helpers.BUSY_TIMEOUT) as buf:
        assert bytes(buf) == b"made"
    loops.assert_at_rest(store)
