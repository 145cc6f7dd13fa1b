"""`aio.get_or_put`: one maker, in this loop and beside it; what it raises, and cancelling."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import helpers
import loops
import numpy as np
import pytest

import refstore
from refstore import _making, aio

Factory = Callable[[], Any]


@pytest.fixture(params=loops.LOOPS)
def in_loop(request: pytest.FixtureRequest) -> Iterator[loops.InLoop]:
    with loops.at_rest(request.param) as run:
        yield run


class Kitchen:
    """Factories that count their calls and wait until they are served."""

    def __init__(self) -> None:
        self.calls = 0
        self.threads: list[threading.Thread] = []
        self._served = threading.Event()

    def serve(self) -> None:
        self._served.set()

    def cook(self) -> bytes:
        self._begin()
        assert self._served.wait(helpers.BUSY_TIMEOUT)
        return b"made"

    async def simmer(self) -> bytes:
        self._begin()
        while not self._served.is_set():
            await asyncio.sleep(0.001)
        return b"made"

    def _begin(self) -> None:
        self.calls += 1
        self.threads.append(threading.current_thread())

    async def began(self, calls: int = 1) -> None:
        while self.calls < calls:
            await asyncio.sleep(0.001)


def claims(store: refstore.Store) -> list[str | None]:
    return [row.name for row in store.objects() if row.state == "claimed"]


KINDS: dict[str, Callable[[Kitchen], Factory]] = {
    "function": lambda kitchen: kitchen.cook,
    "coroutine function": lambda kitchen: kitchen.simmer,
    "partial": lambda kitchen: functools.partial(Kitchen.simmer, kitchen),
    "awaitable": lambda kitchen: lambda: kitchen.simmer(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_of_many_tasks_one_makes_it(
    store: refstore.Store, in_loop: loops.InLoop, kind: str
) -> None:
    kitchen = Kitchen()

    async def main() -> None:
        factory = KINDS[kind](kitchen)
        tasks = [asyncio.ensure_future(aio.get_or_put(store, "a", factory)) for _ in range(100)]
        before = threading.active_count()
        await kitchen.began()
        assert claims(store) == ["a"]
        assert threading.active_count() <= before + 1
        kitchen.serve()
        bufs = await asyncio.gather(*tasks)
        assert {buf.ref for buf in bufs} == {store.ref("a")}
        assert store.refcount("a") == 101
        for buf in bufs:
            buf.release()
        is_in_loop = kitchen.threads == [threading.current_thread()]
        assert is_in_loop is (kind != "function")

    in_loop(main())
    assert kitchen.calls == 1
    loops.assert_at_rest(store)


def test_threads_and_other_loops_wait_for_it_too(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    kitchen, seen = Kitchen(), list[bytes]()

    def in_a_thread() -> None:
        with store.get_or_put("a", kitchen.cook) as buf:
            seen.append(bytes(buf))

    def in_another_loop() -> None:
        with loops.running("asyncio") as run, run(aio.get_or_put(store, "a", kitchen.cook)) as buf:
            seen.append(bytes(buf))

    async def main() -> None:
        task = asyncio.ensure_future(aio.get_or_put(store, "a", kitchen.simmer))
        await kitchen.began()
        threads = [threading.Thread(target=one) for one in (in_a_thread, in_another_loop)]
        for thread in threads:
            thread.start()
        await asyncio.sleep(0.2)
        kitchen.serve()
        with await task as buf:
            seen.append(bytes(buf))
        for thread in threads:
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    in_loop(main())
    assert (seen, kitchen.calls) == ([b"made"] * 3, 1)


def test_a_task_waits_for_a_threads_factory(store: refstore.Store, in_loop: loops.InLoop) -> None:
    kitchen = Kitchen()

    async def main() -> None:
        thread = threading.Thread(target=lambda: store.get_or_put("a", kitchen.cook))
        thread.start()
        await kitchen.began()
        (task,) = await loops.begin(aio.get_or_put(store, "a", kitchen.simmer))
        kitchen.serve()
        with await task as buf:
            assert bytes(buf) == b"made"
        await asyncio.get_running_loop().run_in_executor(None, thread.join)

    in_loop(main())
    assert kitchen.calls == 1


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
def test_what_a_factory_raises_is_its_own_callers(
    store: refstore.Store, in_loop: loops.InLoop, kind: str
) -> None:
    class Failure(Exception):
        pass

    calls: list[int] = []

    def fail_twice(number: int) -> int:
        calls.append(number)
        if len(calls) < 3:
            raise Failure(number)
        return number

    async def fail_twice_in_the_loop(number: int) -> int:
        await asyncio.sleep(0)
        return fail_twice(number)

    async def main() -> None:
        factory: Any = fail_twice if kind == "function" else fail_twice_in_the_loop
        results: list[Any] = await asyncio.gather(
            *(aio.get_or_put(store, "a", functools.partial(factory, n)) for n in range(10)),
            return_exceptions=True,
        )
        failed = [one.args[0] for one in results if isinstance(one, Failure)]
        assert failed == calls[:2]
        assert [one.value for one in results if not isinstance(one, Failure)] == [calls[2]] * 8

    in_loop(main())
    loops.assert_at_rest(store)


@pytest.mark.parametrize("value", [threading.Lock(), lambda: 0, bytes(1 << 25)])
def test_what_cannot_be_stored_is_an_error_and_the_next_one_makes_it(
    store: refstore.Store, in_loop: loops.InLoop, value: Any
) -> None:
    async def main() -> None:
        with pytest.raises(Exception) as raised:  # noqa: PT011  whichever
            await aio.get_or_put(store, "a", lambda: value, timeout=5)
        assert not isinstance(raised.value, TimeoutError)
        with await aio.get_or_put(store, "a", lambda: b"made") as buf:
            assert bytes(buf) == b"made"

    in_loop(main())
    loops.assert_at_rest(store)


def test_a_timeout_names_who_makes_it(store: refstore.Store, in_loop: loops.InLoop) -> None:
    kitchen = Kitchen()

    async def main() -> None:
        maker = asyncio.ensure_future(aio.get_or_put(store, "a", kitchen.simmer))
        await kitchen.began()
        for timeout in (0, 0.01):
            with pytest.raises(refstore.GetTimeoutError, match="is making 'a'") as raised:
                await aio.get_or_put(store, "a", kitchen.simmer, timeout=timeout)
            assert raised.value.pid == os.getpid()
        kitchen.serve()
        (await maker).release()

    in_loop(main())
    assert kitchen.calls == 1


def test_a_factory_may_time_out_by_itself(store: refstore.Store, in_loop: loops.InLoop) -> None:
    async def main() -> None:
        for work in (aio.wait(store, "absent", timeout=0.01), asyncio.wait_for(forever(), 0.01)):
            with pytest.raises((asyncio.TimeoutError, TimeoutError)):  # one, from 3.11 on
                await aio.get_or_put(store, "a", functools.partial(passed_on, work))

    async def passed_on(work: Awaitable[Any]) -> Any:
        return await work

    in_loop(main())
    loops.assert_at_rest(store)


async def forever() -> None:
    await asyncio.Event().wait()


# -- factories that ask for names


@pytest.mark.parametrize("way", ["await", "task", "thread", "store"])
def test_a_factory_that_asks_for_its_own_name_is_an_error(
    store: refstore.Store, in_loop: loops.InLoop, way: str
) -> None:
    async def ask() -> Any:
        again = functools.partial(aio.get_or_put, store, "a", ask)
        if way == "await":
            return await again()
        if way == "task":
            return await asyncio.ensure_future(again())
        if way == "thread":
            return await asyncio.to_thread(asyncio.run, again())
        return store.get_or_put("a", lambda: b"x")

    async def main() -> None:
        with pytest.raises(refstore.RefstoreError, match="would wait for ever"):
            await aio.get_or_put(store, "a", ask)
        assert claims(store) == []

    in_loop(main())
    loops.assert_at_rest(store)


def test_two_factories_that_ask_for_each_others_names_are_an_error(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    began: list[str] = []

    def factory_of(name: str, other: str) -> Callable[[], Awaitable[Any]]:
        async def make() -> Any:
            began.append(name)
            while len(began) < 2:
                await asyncio.sleep(0.001)
            return (await aio.get_or_put(store, other, factory_of(other, name))).value

        return make

    async def main() -> None:
        errors = await asyncio.gather(
            aio.get_or_put(store, "a", factory_of("a", "b")),
            aio.get_or_put(store, "b", factory_of("b", "a")),
            return_exceptions=True,
        )
        assert all(isinstance(one, refstore.RefstoreError) for one in errors)
        assert "would wait for ever" in str(errors)
        assert claims(store) == []

    in_loop(main())
    loops.assert_at_rest(store)


def test_factories_may_ask_for_other_names(store: refstore.Store, in_loop: loops.InLoop) -> None:
    def factory_of(number: int) -> Callable[[], Awaitable[int]]:
        async def make() -> int:
            if number == 0:
                return 1
            with await aio.get_or_put(store, f"{number - 1}", factory_of(number - 1)) as buf:
                return 2 * int(buf.value)

        return make

    async def main() -> None:
        numbers = (10, 10, 5, 7)
        bufs = await asyncio.gather(
            *(aio.get_or_put(store, f"{n}", factory_of(n)) for n in numbers)
        )
        assert [buf.value for buf in bufs] == [2**n for n in numbers]

    in_loop(main())


def test_who_puts_the_name_meanwhile_is_first(store: refstore.Store, in_loop: loops.InLoop) -> None:
    kitchen = Kitchen()

    async def main() -> None:
        task = asyncio.ensure_future(aio.get_or_put(store, "a", kitchen.simmer))
        await kitchen.began()
        ref = await aio.put(store, b"first", name="a")
        kitchen.serve()
        with await task as buf:
            assert (buf.ref, bytes(buf)) == (ref, b"first")

    in_loop(main())
    loops.assert_at_rest(store)


def test_a_claimed_name_is_waited_for(store: refstore.Store, in_loop: loops.InLoop) -> None:
    async def main() -> None:
        with store.create(5, name="a", claim=True) as writer:
            (task,) = await loops.begin(aio.get_or_put(store, "a", lambda: 1 / 0))
            writer.write_at(0, b"first")
        with await task as buf:
            assert bytes(buf) == b"first"

    in_loop(main())


def test_a_factory_waits_for_room_under_its_claim(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    kitchen = Kitchen()
    kitchen.serve()

    async def main() -> None:
        full = store.put(bytes(store.capacity - 1000))

        def large() -> Any:
            return np.frombuffer(kitchen.cook() * 300_000, np.uint8)

        tasks = [asyncio.ensure_future(aio.get_or_put(store, "a", large)) for _ in range(3)]
        await kitchen.began()
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in tasks)
        store.delete(full)
        for task in tasks:
            with await task as buf:
                assert buf.nbytes == 1_200_000

    in_loop(main())
    assert kitchen.calls == 1
    loops.assert_at_rest(store)


def test_an_owned_one_is_owned(store: refstore.Store, in_loop: loops.InLoop) -> None:
    async def main() -> None:
        with await aio.get_or_put(store, "a", lambda: 1, owned=True, evictable=True):
            info = store.info("a")
        assert (info.owned, info.evictable) == (True, True)

    in_loop(main())


# -- cancelling


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
def test_a_cancelled_maker_lets_its_claim_go_and_another_makes_it(
    store: refstore.Store, in_loop: loops.InLoop, kind: str
) -> None:
    first, second = Kitchen(), Kitchen()
    second.serve()

    async def main() -> None:
        maker = asyncio.ensure_future(aio.get_or_put(store, "a", KINDS[kind](first)))
        await first.began()
        other = asyncio.ensure_future(aio.get_or_put(store, "a", second.simmer))
        await asyncio.sleep(0)
        maker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await maker
        if kind == "function":  # which goes on till it is through
            assert claims(store) == ["a"]
            first.serve()
        with await other as buf:
            assert bytes(buf) == b"made"

    in_loop(main())
    assert (first.calls, second.calls) == (1, 1)
    loops.assert_at_rest(store)


def test_a_factory_cleans_up_before_its_claim_goes(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    cleaned: list[list[str | None]] = []

    async def make() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(claims(store))

    async def main() -> None:
        task = asyncio.ensure_future(aio.get_or_put(store, "a", make))
        while not claims(store):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert claims(store) == []

    in_loop(main())
    assert cleaned == [["a"]]


def test_cancelled_waiters_leave_nothing(store: refstore.Store, in_loop: loops.InLoop) -> None:
    kitchen = Kitchen()

    async def main() -> None:
        maker = asyncio.ensure_future(aio.get_or_put(store, "a", kitchen.simmer))
        await kitchen.began()
        waiters = [asyncio.ensure_future(aio.get_or_put(store, "a", forever)) for _ in range(10)]
        await asyncio.sleep(0.01)
        for task in waiters:
            task.cancel()
        await asyncio.wait(waiters)
        kitchen.serve()
        (await maker).release()
        await loops.rest(store)

    in_loop(main())
    assert _making._makers == {}


def test_what_is_made_for_a_cancelled_call_is_unpinned(
    store: refstore.Store, in_loop: loops.InLoop
) -> None:
    async def main() -> None:
        for _ in range(10):
            task = asyncio.ensure_future(aio.get_or_put(store, "a", lambda: b"made"))
            while "a" not in store:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result().release()
            del task
            while [row for row in store.objects() if row.state == "claimed" or row.pins]:
                await asyncio.sleep(0.001)
            store.delete("a")

    in_loop(main())
    loops.assert_at_rest(store)


def test_a_loop_that_ends_amid_a_factory_lets_its_claim_go(store: refstore.Store) -> None:
    kitchen = Kitchen()
    loop = loops.new_loop("asyncio")
    task = loop.create_task(aio.get_or_put(store, "a", kitchen.simmer))
    loop.run_until_complete(kitchen.began())
    loop.close()
    with store.get_or_put("a", lambda: b"other", timeout=helpers.BUSY_TIMEOUT) as buf:
        assert bytes(buf) == b"other"
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task, loop
    loops.end_threads()
    loops.assert_at_rest(store)
