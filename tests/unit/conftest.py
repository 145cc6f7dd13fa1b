"""A test of a part by itself opens no store."""

from __future__ import annotations

from typing import NoReturn

import pytest

import refstore


@pytest.fixture(autouse=True)
def no_store_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("a test that opens a store belongs into tests/api")

    monkeypatch.setattr(refstore.Store, "__new__", refuse)
    monkeypatch.setattr(refstore.Store, "temporary", refuse)
