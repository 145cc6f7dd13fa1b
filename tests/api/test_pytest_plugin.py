"""The fixture `refstore_store`: tests that leak fail by it, and say where."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

OPTIONS = ("-p", "refstore.pytest_plugin", "-p", "no:cacheprovider", "-q", "--rootdir", ".")


def run_tests(where: Path, source: str, settings: str = "") -> tuple[int, str]:
    """The exit status of pytest, and what it says."""
    (where / "test_of_a_user.py").write_text(textwrap.dedent(source))
    (where / "pytest.ini").write_text(f"[pytest]\n{settings}\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "test_of_a_user.py"],
        cwd=where,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def test_a_test_that_lets_go_passes(tmp_path: Path) -> None:
    status, said = run_tests(
        tmp_path,
        """
        def test_it(refstore_store):
            assert len(refstore_store) == 0
            assert refstore_store.capacity == 64 << 20
            ref = refstore_store.put(b"x", name="n")
            with refstore_store.get(ref) as buf:
                assert bytes(buf) == b"x"

        def test_garbage_is_no_leak(refstore_store):
            circle = [refstore_store.get(refstore_store.put(b"x"))]
            circle.append(circle)

        def test_a_store_that_is_closed_is_not_looked_at(refstore_store):
            refstore_store.close()
        """,
    )
    assert (status, "3 passed" in said) == (0, True), said


def test_the_capacity_can_be_set(tmp_path: Path) -> None:
    status, said = run_tests(
        tmp_path,
        """
        def test_it(refstore_store):
            assert refstore_store.capacity == 1 << 20
        """,
        "refstore_capacity = 1MiB",
    )
    assert status == 0, said


@pytest.mark.parametrize(
    ("leak", "told"),
    [
        (
            "kept.append(store.get(store.put(b'x' * 1000, name='weights')))",
            "weights, 1.0 KiB: 1 pin",
        ),
        ("kept.append(store.get(store.put(array)).array[:1])", "pinned at test_of_a_user.py:"),
        ("kept.append(store.create(1000, name='half'))", ", 1.0 KiB: a Writer that is open"),
    ],
    ids=["buffer", "view", "writer"],
)
def test_a_leak_fails_the_test(tmp_path: Path, leak: str, told: str) -> None:
    status, said = run_tests(
        tmp_path,
        f"""
        import numpy as np
        array, kept = np.ones(100), []

        def test_it(refstore_store):
            store = refstore_store
            {leak}

        def test_another(refstore_store):
            assert refstore_store.holders() == []
        """,
    )
    assert status == 1, said
    assert "1 object still held at the end of the test" in said
    assert told in said
    assert f"process {os.getpid()}" not in said
    assert "2 passed, 1 error" in said


def test_a_leak_in_another_process_fails_the_test(tmp_path: Path) -> None:
    status, said = run_tests(
        tmp_path,
        """
        import subprocess, sys
        children = []

        def test_it(refstore_store):
            refstore_store["n"] = b"x"
            program = '''
        import sys, refstore
        buf = refstore.Store(sys.argv[1]).get("n")
        print("held", flush=True)
        sys.stdin.read()
        '''
            child = subprocess.Popen([sys.executable, "-c", program, refstore_store.path],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert child.stdout.readline() == b"held\\n"
            children.append(child)

        def test_the_end():
            for child in children:
                child.communicate()
        """,
    )
    assert status == 1, said
    assert "n, 64 B: 1 pin, process" in said


def test_a_test_that_fails_says_why_and_no_more(tmp_path: Path) -> None:
    status, said = run_tests(
        tmp_path,
        """
        def test_it(refstore_store):
            buf = refstore_store.get(refstore_store.put(b"x"))
            assert bytes(buf) == b"y"
        """,
    )
    assert status == 1, said
    assert "still held" not in said
    assert "1 failed in" in said


@pytest.mark.once("opens no store")
def test_pytest_finds_it_by_itself() -> None:
    found = importlib.metadata.entry_points(group="pytest11")
    assert "refstore.pytest_plugin" in [one.value for one in found]
