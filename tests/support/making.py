"""A factory that is held up, and what get_or_put() must not leave."""

from __future__ import annotations

import threading

import helpers

import refstore

LONG = helpers.BUSY_TIMEOUT


def never() -> object:
    raise AssertionError("it is there, or another makes it")


class Making:
    """A factory in a thread of its own, which is through when it is told."""

    def __init__(self, store: refstore.Store, name: str, value: object = b"made") -> None:
        self.store, self.name, self.value = store, name, value
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.outcome: bytes | BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Making:
        self._thread.start()
        assert self.has_begun.wait(LONG)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self.may_end.set()
        self._thread.join(LONG)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with self.store.get_or_put(self.name, self._make) as buf:
                self.outcome = bytes(buf)
        except BaseException as error:
            self.outcome = error
        finally:
            self.has_begun.set()

    def _make(self) -> object:
        self.has_begun.set()
        assert self.may_end.wait(LONG)
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def assert_nothing_left(store: refstore.Store, used: int = 0) -> None:
    stats = store.stats()
    assert (stats.used, stats.pinned, stats.condemned) == (used, 0, 0)
    assert list(store.objects()) == []
    assert store.holders() == []
    assert store.check() == []
