"""fsspec's own tests of file systems, on `RefstoreFileSystem`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

fsspec: Any = pytest.importorskip("fsspec")
abstract: Any = pytest.importorskip("fsspec.tests.abstract")


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    """A store that is there, and a folder in it."""

    @pytest.fixture
    def fs(self, store: Any) -> Iterator[Any]:
        fs = fsspec.filesystem("refstore", directory=os.path.dirname(store.path))
        yield fs
        fs.clear_instance_cache()
        fs.invalidate_cache()

    @pytest.fixture
    def fs_path(self, store: Any) -> str:
        return f"{os.path.basename(store.path)}/folder"

    @pytest.fixture
    def local_fs(self) -> Any:
        return fsspec.filesystem("file", auto_mkdir=True)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[misc]
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[misc]
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[misc]
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc]
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc]
    pass
