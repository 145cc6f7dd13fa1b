"""The tests themselves: they run on the engine that they say, and exceptions are few and real."""

from __future__ import annotations

import ast
import struct
from collections.abc import Iterator
from pathlib import Path

import engines
import helpers
import pytest
import workers
from children import child_process

import refstore

FEW = 8
LETTERS = 60


def engine_of(path: str) -> str:
    """The engine that a file's header names."""
    (number,) = struct.unpack_from("=I", Path(path).read_bytes()[:16], 12)
    return engines.ENGINES[number - 1]


def test_a_store_is_of_the_engine_that_the_fixture_names(
    store: refstore.Store, path: str, engine: str
) -> None:
    assert engine_of(path) == engine == engines.current()


@pytest.mark.parametrize("method", helpers.START_METHODS)
def test_a_childs_store_is_of_the_same_engine(
    folder: Path, path: str, engine: str, method: str
) -> None:
    with child_process(None, method) as child:
        child.do(workers.attach, path, {"capacity": "1MiB"})
        assert engine_of(path) == engine
        child.do(workers.close)
    with refstore.Store(path, create=False) as store:
        store.unlink()


def test_a_scripts_store_is_of_the_same_engine(folder: Path, path: str, engine: str) -> None:
    helpers.run_clean("import sys, refstore; refstore.Store(sys.argv[1], capacity='1MiB')", path)
    assert engine_of(path) == engine
    with refstore.Store(path, create=False) as store:
        store.unlink()


def all_tests() -> Iterator[ast.FunctionDef]:
    for file in sorted(engines.TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node


@pytest.mark.once("opens no store")
def test_exceptions_are_few_and_of_tests_that_are_there() -> None:
    assert {*engines.NATIVE_ALONE, *engines.FORWARDED} <= {test.name for test in all_tests()}
    assert len(engines.NATIVE_ALONE) <= FEW
    assert all(engines.NATIVE_ALONE.values())


@pytest.mark.once("opens no store")
def test_a_name_of_a_test_is_a_short_sentence() -> None:
    assert not [test.name for test in all_tests() if len(test.name.removeprefix("test_")) > LETTERS]


@pytest.mark.once("opens no store")
def test_a_test_of_one_engine_says_why() -> None:
    marked = 0
    for test in all_tests():
        for mark in test.decorator_list:
            text = ast.unparse(mark)
            if text.startswith(("pytest.mark.native", "pytest.mark.filelock", "pytest.mark.once")):
                marked += 1
                assert isinstance(mark, ast.Call), f"{test.name} does not say why"
                assert mark.args
    assert marked
