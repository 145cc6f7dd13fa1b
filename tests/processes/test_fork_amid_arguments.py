"""A fork while a call reads its arguments: the call is the parent's, and the child does nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import helpers
import numpy as np
import pytest

import refstore
from refstore import payload


class Forking:
    """An argument of any kind; to look at it forks once, and the child comes back, too."""

    def __init__(self) -> None:
        self.child = -1

    def fork(self) -> None:
        if self.child < 0:
            with helpers.forking_on_purpose():
                self.child = os.fork()

    def __bool__(self) -> bool:
        self.fork()
        return True

    def __index__(self) -> int:
        self.fork()
        return 300

    def __float__(self) -> float:
        self.fork()
        return 0.0

    def each(self, *values: Any) -> Iterator[Any]:
        for value in values:
            yield value
            self.fork()

    def __reduce__(self) -> Any:
        self.fork()
        return int, ()


Call = Callable[[refstore.Store, Forking], object]
CALLS: dict[str, Call] = {
    "put, replace": lambda store, it: store.put(b"x", name="n", replace=it),  # type: ignore[arg-type]
    "put, owned": lambda store, it: store.put(b"x", owned=it),  # type: ignore[arg-type]
    "put, evictable": lambda store, it: store.put(np.ones(3), evictable=it),  # type: ignore[arg-type]
    "put, what": lambda store, it: store.put([it, b"x" * 900]),
    "create, size": lambda store, it: store.create(it).seal(),
    "create, shape": lambda store, it: store.create(shape=(2, it)).seal(),
    "create, replace": lambda store, it: store.create(3, replace=it).seal(),  # type: ignore[arg-type]
    "create, claim": lambda store, it: store.create(3, name="c", claim=it).seal(),  # type: ignore[arg-type]
    "put_many": lambda store, it: store.put_many(it.each(b"x", b"y")),
    "put_many, owned": lambda store, it: store.put_many([b"x", b"y"], owned=it),  # type: ignore[arg-type]
    "get_many": lambda store, it: store.get_many(it.each("kept", "n")),
    "delete_many": lambda store, it: store.delete_many(it.each("kept")),
    "wait_any": lambda store, it: store.wait_any(it.each("kept", "n")),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_child_of_a_fork_amid_arguments_does_nothing(store: refstore.Store, name: str) -> None:
    store["kept"] = store["n"] = b"old"
    me, argument = os.getpid(), Forking()
    outcome: BaseException | None = None
    try:
        CALLS[name](store, argument)
    except BaseException as error:
        outcome = error
    if os.getpid() != me:
        os._exit(0 if type(outcome) is refstore.RefstoreError else 1)
    assert argument.child > 0
    status = os.waitstatus_to_exitcode(os.waitpid(argument.child, 0)[1])
    assert outcome is None
    assert status == 0, "the child went on"
    new = {"put, replace": 0, "put_many": 2, "put_many, owned": 2, "delete_many": -1}
    new |= dict.fromkeys(("get_many", "wait_any"), 0)
    assert len(store) == 2 + new.get(name, 1)


def test_a_fork_amid_the_copy_of_an_object_leaves_all_to_the_parent(
    store: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, argument, copy = os.getpid(), Forking(), payload._copy

    def forking(target: Any, source: memoryview) -> None:
        argument.fork()
        copy(target, source)

    monkeypatch.setattr(payload, "_copy", forking)
    outcome: BaseException | None = None
    try:
        ref = store.put([1, b"A" * 800])
    except BaseException as error:
        outcome = error
    if os.getpid() != me:
        os._exit(0 if type(outcome) is refstore.RefstoreError else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(argument.child, 0)[1]) == 0, "the child went on"
    assert store.get(ref).value == [1, b"A" * 800]
    assert len(store) == 1
    assert store.check() == []
