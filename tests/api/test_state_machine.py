"""A state machine against a dict: whatever is done in whatever order, the store agrees."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import engines
import helpers
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

import refstore

CAPACITY = 200_003
LIMIT = 40

sizes = st.one_of(st.integers(0, 300), st.integers(300, 40_000), st.sampled_from([64, 4096, 32768]))
seeds = st.integers(0, 2**20)
names = st.sampled_from(["a", "b", "c", "é" * 127])
kinds = st.sampled_from(["bytes", "array", "object"])


def payload(kind: str, seed: int, size: int) -> Any:
    """What is put: bytes, an array, or a dict that holds one."""
    data = helpers.pattern(seed, size)
    if kind == "bytes":
        return data
    array = np.frombuffer(data, "u1")
    return array if kind == "array" else {"array": array, "seed": seed}


def shown(buf: refstore.PinnedBuffer) -> bytes:
    """The payload's bytes, out of a buffer of whatever kind."""
    if buf.kind == "object":
        found: bytes = buf.value["array"].tobytes()
        return found
    return bytes(buf)


class StoreMachine(RuleBasedStateMachine):
    """`live` and `names` are the model; `pins` and `writers` are what this process holds."""

    refs: Bundle[refstore.ObjectRef] = Bundle("refs")

    def __init__(self) -> None:
        super().__init__()
        where = helpers.SHARED_MEMORY if helpers.SHARED_MEMORY.is_dir() else None
        self.folder = tempfile.mkdtemp(prefix="refstore-test-", dir=where)
        self.path = os.path.join(self.folder, "store")
        self.store = refstore.Store(self.path, capacity=CAPACITY, max_objects=LIMIT, create=True)
        self.live: dict[refstore.ObjectRef, bytes] = {}
        self.names: dict[str, refstore.ObjectRef] = {}
        self.pins: list[tuple[refstore.PinnedBuffer, Any, refstore.ObjectRef, bytes]] = []
        self.writers: list[tuple[refstore.Writer, str | None, bool, bytes]] = []

    # the model's side

    def held(self) -> int:
        """Bytes that may be in use: live, pinned or being written."""
        pinned = {ref: len(data) for _, _, ref, data in self.pins}
        pinned.update({ref: len(data) for ref, data in self.live.items()})
        return sum(pinned.values()) + sum(len(data) for *_, data in self.writers)

    def slots(self) -> int:
        """Slots that may be in use."""
        return len({*self.live, *(ref for _, _, ref, _ in self.pins)}) + len(self.writers)

    def added(self, ref: refstore.ObjectRef, name: str | None, data: bytes) -> None:
        if name is not None:
            self.live.pop(self.names.get(name, ref), None)
            self.names[name] = ref
        self.live[ref] = data

    def removed(self, ref: refstore.ObjectRef) -> None:
        del self.live[ref]
        self.names = {name: other for name, other in self.names.items() if other != ref}

    def may_be_full(self, size: int) -> None:
        """A refusal is right only if slots have run out or room is short."""
        assert self.slots() >= LIMIT or self.held() + 2 * size > CAPACITY // 3, (
            self.slots(),
            self.held(),
            size,
        )

    # rules

    @rule(
        target=refs, kind=kinds, seed=seeds, size=sizes, name=st.none() | names, swap=st.booleans()
    )
    def put(self, kind: str, seed: int, size: int, name: str | None, swap: bool) -> Any:
        data = helpers.pattern(seed, size)
        before = helpers.usage(self.store)
        try:
            ref = self.store.put(payload(kind, seed, size), name=name, replace=swap)
        except refstore.ObjectExistsError:
            assert name in self.names
            assert not swap
            assert helpers.usage(self.store) == before
            return multiple()
        except refstore.StoreFullError:
            self.may_be_full(size)
            assert helpers.usage(self.store) == before
            return multiple()
        assert swap or name not in self.names
        assert ref not in self.live
        self.added(ref, name, data)
        return ref

    @rule(seed=seeds, size=sizes, name=st.none() | names, swap=st.booleans())
    def create(self, seed: int, size: int, name: str | None, swap: bool) -> None:
        data = helpers.pattern(seed, size)
        try:
            writer = self.store.create(size, name=name, replace=swap)
        except refstore.ObjectExistsError:
            assert name in self.names
            assert not swap
            return
        except refstore.StoreFullError:
            self.may_be_full(size)
            return
        assert swap or name not in self.names
        memoryview(writer)[:] = data
        self.writers.append((writer, name, swap, data))

    @precondition(lambda self: self.writers)
    @rule(target=refs, which=st.integers(0, 100))
    def seal(self, which: int) -> Any:
        writer, name, swap, data = self.writers.pop(which % len(self.writers))
        try:
            ref = writer.seal()
        except refstore.ObjectExistsError:
            assert name in self.names
            assert not swap
            return multiple()
        assert swap or name not in self.names
        self.added(ref, name, data)
        return ref

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 100), drop=st.booleans())
    def abort(self, which: int, drop: bool) -> None:
        writer = self.writers.pop(which % len(self.writers))[0]
        if not drop:
            writer.abort()
        del writer

    @rule(ref=refs, writable=st.booleans())
    def get(self, ref: refstore.ObjectRef, writable: bool) -> None:
        if ref not in self.live:
            with pytest.raises(refstore.ObjectNotFoundError):
                self.store.get(ref, writable=writable)
            return
        buf = self.store.get(ref, writable=writable)
        assert buf.ref == ref
        assert shown(buf) == self.live[ref]
        self.pins.append((buf, None, ref, self.live[ref]))

    @rule(name=names)
    def get_by_name(self, name: str) -> None:
        if name not in self.names:
            with pytest.raises(refstore.ObjectNotFoundError):
                self.store.get(name)
            return
        buf = self.store.get(name)
        assert buf.ref == self.names[name] == self.store.ref(name)
        assert shown(buf) == self.live[buf.ref]
        self.pins.append((buf, None, buf.ref, self.live[buf.ref]))

    @precondition(lambda self: self.pins)
    @rule(which=st.integers(0, 100))
    def trade_a_buffer_for_a_view(self, which: int) -> None:
        buf, view, ref, _ = self.pins.pop(which % len(self.pins))
        if view is None:
            view = helpers.flat(buf)
            held = view.tobytes()  # of an object, the whole of its block
            buf.release()
            self.pins.append((buf, view, ref, held))

    @precondition(lambda self: self.pins)
    @rule(which=st.integers(0, 100))
    def release(self, which: int) -> None:
        buf, view, _, data = self.pins.pop(which % len(self.pins))
        if view is None:
            assert shown(buf) == data
            buf.release()
        assert buf.closed

    @rule(ref=consumes(refs))
    def delete(self, ref: refstore.ObjectRef) -> None:
        if ref not in self.live:
            with pytest.raises(refstore.ObjectNotFoundError):
                self.store.delete(ref)
            return
        self.store.delete(ref)
        self.removed(ref)

    @rule(name=names)
    def delete_by_name(self, name: str) -> None:
        if name not in self.names:
            with pytest.raises(refstore.ObjectNotFoundError):
                self.store.delete(name)
            return
        self.store.delete(name)
        self.removed(self.names[name])

    @rule()
    def trim(self) -> None:
        self.store.trim()

    @precondition(lambda self: not self.writers)
    @rule()
    def open_again(self) -> None:
        again = refstore.Store(self.path, create=False)
        self.store.close()
        self.store = again

    @rule()
    def check(self) -> None:
        assert self.store.check() == []

    # what holds after each step

    @invariant()
    def the_store_agrees(self) -> None:
        assert set(self.store) == set(self.live)
        assert {name: self.store.ref(name) for name in self.store.names()} == self.names
        stats = self.store.stats()
        pinned = {ref for _, _, ref, _ in self.pins}
        assert stats.objects == len(self.store) == len(self.live)
        assert stats.pinned == len(pinned)
        assert stats.condemned == len(pinned - set(self.live))
        assert stats.used >= self.held()
        for ref in self.live:
            assert self.store.refcount(ref) == 1 + sum(other == ref for _, _, other, _ in self.pins)

    @invariant()
    def views_show_what_was_put(self) -> None:
        for buf, view, _, data in self.pins:
            if view is not None:
                assert buf.closed
                assert view.tobytes() == data

    def teardown(self) -> None:
        try:
            assert self.store.check() == []
            self.pins.clear()
            while self.writers:
                self.writers.pop()[0].abort()
            for ref in self.live:
                with self.store.get(ref) as buf:
                    assert shown(buf) == self.live[ref]
                del buf
                self.store.delete(ref)
            assert self.store.stats().used == 0
            helpers.assert_full_capacity_fits(self.store)
            assert self.store.check() == []
        finally:
            self.store.close()
            shutil.rmtree(self.folder)
        assert helpers.mappings(self.folder) == []


def test_the_store_agrees_with_the_model() -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=engines.rounds(120, 3),
            stateful_step_count=60,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
