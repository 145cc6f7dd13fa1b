"""A few seconds of `make fuzz`, and that it finds what is wrong.

A run names its seed and each image by its own; `python -m tests.fuzz --replay IMAGE` plays one
again.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import engines
import pytest

ROOT = Path(__file__).parents[2]
IMAGES = {"native": 400, "filelock": 100}

both = (pytest.mark.native("either engine's"), pytest.mark.filelock("either engine's"))
pytestmark = [*both, pytest.mark.timeout(300)]


def fuzz(engine: str, images: int, *options: str, planted: str = "") -> tuple[int, str]:
    """Exit status and output of a run, in which Python code may have planted a fault."""
    program = f"import sys; sys.path.append({str(ROOT)!r})\n{textwrap.dedent(planted)}\n"
    program += "from tests.fuzz.__main__ import main\nsys.exit(main())"
    arguments = [f"--engine={engine}", f"--images={images}", "--seed=1", "--jobs=1", *options]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_no_file_is_too_bad(engine: str) -> None:
    if engine == "native" and not engines.is_debug():
        pytest.skip("a release build waits 5 s for each lock that seems to be somebody's")
    status, output = fuzz(engine, IMAGES[engine])
    assert status == 0, output
    assert f"{IMAGES[engine]} images" in output


def test_nothing_is_found_in_sound_files(engine: str) -> None:
    for image in ("-2", "-7", "-8"):
        status, output = fuzz(engine, 1, f"--replay={image}")
        assert status == 0, output


def test_a_planted_exception_is_found(engine: str) -> None:
    status, output = fuzz(
        engine,
        10,
        planted="""
            from refstore._reports import StoreStats
            def planted(self): raise IndexError("planted")
            from refstore._store import Store
            Store.stats = planted
        """,
    )
    assert status == 1
    assert "x exception: IndexError from fuzz/" in output or "IndexError from" in output
    assert "planted" in output


def test_a_planted_signal_is_found_and_others_are_played_on(engine: str) -> None:
    status, output = fuzz(
        engine,
        10,
        planted="""
            import os, signal
            from tests.fuzz.calls import Player
            def planted(self, store): os.kill(os.getpid(), signal.SIGSEGV)
            Player.tend = planted
        """,
    )
    assert status == 1
    assert "x signal: SIGSEGV" in output
    assert "10 images in" in output


def test_a_planted_hang_is_found(engine: str) -> None:
    status, output = fuzz(
        engine,
        4,
        "--hang=0.5",
        planted="""
            from tests.fuzz.calls import Player
            def planted(self, store):
                while True: pass
            Player.tend = planted
        """,
    )
    assert status == 1
    assert "x hang: " in output
    assert "in planted" in output


def test_planted_gluttony_is_found(engine: str) -> None:
    status, output = fuzz(
        engine,
        4,
        planted="""
            from tests.fuzz.calls import Player
            def planted(self, store): b"x" * (200 << 20)
            Player.tend = planted
        """,
    )
    assert status == 1
    assert "x memory: " in output


def test_an_image_is_played_again_by_its_name(engine: str) -> None:
    _, first = fuzz(engine, 1, "--replay=123+456")
    _, again = fuzz(engine, 1, "--replay=123+456")
    assert first.splitlines()[:1] == again.splitlines()[:1]
    assert engine in first


@pytest.mark.once("opens no store")
def test_the_layout_is_the_core_s() -> None:
    """Where the fuzzer has the native engine's fields from: its file as the core makes it."""
    if not engines.HAS_CORE:
        pytest.skip("there is no core")
    from tests.fuzz import layout

    g = layout.geometry(1 << 20, 3000)
    assert layout.constants()["SEALED"] == 3
    assert layout.structs()["Slot"].nbytes.offset == 24
    assert g.slots % 4096 == 0
