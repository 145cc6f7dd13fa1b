"""Exceptions of signal handlers are told from those of what was called."""

from __future__ import annotations

import functools
import pickle
import signal
import types
from collections.abc import Iterator
from typing import Any

import pytest

from refstore._signals import is_from_handler
from refstore.payload import arrays


class Alarm:
    """A handler that is an object, and one that is a method."""

    def __call__(self, *_: object) -> None:
        raise TimeoutError("an alarm")

    def ring(self, *_: object) -> None:
        raise TimeoutError("an alarm")


def alarm(*_: object) -> None:
    raise TimeoutError("an alarm")


HANDLERS = {
    "function": alarm,
    "object": Alarm(),
    "method": Alarm().ring,
    "partial": functools.partial(alarm, 1),
    "partial of a method": functools.partial(Alarm().ring),
    "cached": functools.lru_cache(alarm),
    "method of a partial": types.MethodType(functools.partial(alarm), 1),
}


@pytest.fixture(params=list(HANDLERS.values()), ids=list(HANDLERS))
def handler(request: pytest.FixtureRequest) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, request.param)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("handler")
def test_what_a_handler_raises_is_told_apart() -> None:
    with pytest.raises(TimeoutError) as caught:
        signal.raise_signal(signal.SIGUSR1)
    assert is_from_handler(caught.value)


@pytest.mark.usefixtures("handler")
def test_what_others_raise_is_not_a_handlers() -> None:
    with pytest.raises(pickle.UnpicklingError) as caught:
        pickle.loads(b"no pickle")
    assert not is_from_handler(caught.value)
    assert not is_from_handler(TimeoutError("of nobody"))


@pytest.mark.usefixtures("handler")
def test_a_handler_amid_the_pickle_of_a_dtype_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: bytes) -> Any:
        signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(pickle, "loads", interrupted)
    with pytest.raises(TimeoutError, match="an alarm"):
        arrays._dtype_from_pickle(b"")


def test_whatever_comes_may_be_of_a_handler_without_python_code() -> None:
    before = signal.signal(signal.SIGUSR1, functools.partial(int, "no number"))
    try:
        with pytest.raises(TypeError) as caught:  # of a call with a frame
            signal.raise_signal(signal.SIGUSR1)
        assert is_from_handler(caught.value)
    finally:
        signal.signal(signal.SIGUSR1, before)
