"""What the package exports: its names, and the bases of its exceptions."""

from __future__ import annotations

import pytest

import refstore

BASES: dict[type[BaseException], type[BaseException] | None] = {
    refstore.ObjectNotFoundError: KeyError,
    refstore.ObjectExistsError: FileExistsError,
    refstore.StoreFullError: MemoryError,
    refstore.GetTimeoutError: TimeoutError,
    refstore.StoreCorruptedError: None,
    refstore.StoreVersionError: None,
    refstore.StoreBusyError: TimeoutError,
    refstore.NodeLostError: ConnectionError,
}


@pytest.mark.parametrize(
    ("error", "base"), BASES.items(), ids=lambda cls: getattr(cls, "__name__", "-")
)
def test_each_error_has_its_bases(
    error: type[BaseException], base: type[BaseException] | None
) -> None:
    assert issubclass(error, refstore.RefstoreError)
    assert base is None or issubclass(error, base)
    assert issubclass(refstore.RefstoreError, Exception)


def test_everything_public_is_in_all() -> None:
    names = {"Store", "ObjectRef", "PinnedBuffer", "Writer", "StoreStats", "RefstoreError"}
    names |= {error.__name__ for error in BASES}
    assert names <= set(refstore.__all__)
    assert all(hasattr(refstore, name) for name in refstore.__all__)
