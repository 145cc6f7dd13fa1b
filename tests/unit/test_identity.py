"""How a process is named: command lines in short, labels as they are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import refstore
from refstore import _identity


@pytest.mark.parametrize(
    ("line", "short"),
    [
        ("python -m pkg.mod --x 1", "pkg.mod --x 1"),
        ("python3.11 -mpkg.mod --x 1", "pkg.mod --x 1"),
        ("/usr/bin/python3 /long/path/train.py --lr 1", "train.py --lr 1"),
        ("/v/bin/python3.13t -u -X dev -W error -Bs train.py -c x", "train.py -c x"),
        ("python -Wignore -Xdev train.py", "train.py"),
        ("python -um pkg", "pkg"),
        ("python --check-hash-based-pycs always -I train.py", "train.py"),
        ("python -c print(1) a b", "-c print(1) a b"),
        ("python -Bcprint(1) a", "-c print(1) a"),
        ("/usr/bin/python3 - a", "python - a"),
        ("python", "python"),
        ("/usr/bin/python3 -i", "python3"),
        ("pypy3 train.py", "train.py"),
        ("/v/bin/python /v/bin/gunicorn -w 4 app:app", "gunicorn -w 4 app:app"),
        ("/v/bin/python /v/bin/uvicorn main:app --port 1", "uvicorn main:app --port 1"),
        ("/v/bin/python /v/bin/pytest -q tests", "pytest -q tests"),
        ("python -m pytest -q tests", "pytest -q tests"),
        ("python /src/pkg/__main__.py x", "pkg x"),
        ("python /src/pkg/ x", "pkg x"),
        ("/opt/bin/pythonic a", "pythonic a"),
        ("/opt/bin/service --port 1", "service --port 1"),
    ],
)
def test_a_command_line_is_told_by_what_it_runs(line: str, short: str) -> None:
    assert _identity.shorten(line.split(" ")) == short


@pytest.mark.parametrize(
    ("title", "short"),
    [
        ("gunicorn: worker [app]", "gunicorn: worker [app]"),
        ("/v/bin/ray::Actor.step is busy", "ray::Actor.step is busy"),
    ],
)
def test_a_title_that_a_program_gave_itself_stays(title: str, short: str) -> None:
    assert _identity.shorten([title]) == short


def test_a_command_is_cut_at_a_character() -> None:
    code = "from refstore import _identity; print(_identity.command().decode())"
    said = subprocess.run(
        [sys.executable, "-c", code, "aé" + "é" * 99], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert said == f"-c {code} a{'é' * 100}".encode()[:95].decode("utf-8", "ignore")
    assert len(said.encode()) == 94


SCRIPT = """\
import multiprocessing
from refstore import _identity

def tell(queue):
    queue.put(_identity.command().decode())

if __name__ == "__main__":
    for method in ("spawn", "forkserver", "fork"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        child = context.Process(target=tell, args=(queue,))
        child.start()
        print(queue.get())
        child.join()
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_children_of_multiprocessing_name_their_parents_script(
    tmp_path: Path, as_module: bool
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    started = ["-m", "train"] if as_module else [str(script)]
    path = os.pathsep.join([str(Path(_identity.__file__).parents[1]), str(tmp_path)])
    said = subprocess.run(
        [sys.executable, *started, "--lr", "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    ).stdout.splitlines()
    name = "train" if as_module else "train.py"
    assert said == [
        f"SpawnProcess-1 of {name} --lr 1",
        f"ForkServerProcess-2 of {name} --lr 1",
        f"ForkProcess-3 of {name} --lr 1",
    ]


# -- labels -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_identity, "_given", None)
    monkeypatch.setattr(_identity, "_warned_of", set())
    monkeypatch.delenv("REFSTORE_LABEL", raising=False)


def test_a_label_is_cut_at_a_character() -> None:
    _identity.label("a" * 30 + "é")
    assert _identity.own_label() == b"a" * 30
    _identity.label("a" * 29 + "é")
    assert _identity.own_label().decode() == "a" * 29 + "é"


def test_a_label_that_is_set_comes_before_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _identity.own_label() == b""
    monkeypatch.setenv("REFSTORE_LABEL", "from outside")
    assert _identity.own_label() == b"from outside"
    _identity.label("")
    assert _identity.own_label() == b""


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "a\x7f", "a\x85b", "a\u2028b", "\ud800"])
def test_what_would_break_a_line_is_no_label(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a label must"):
        _identity.label(text)
    if text.isascii():
        monkeypatch.setenv("REFSTORE_LABEL", text)
        with pytest.warns(refstore.RefstoreWarning, match="REFSTORE_LABEL must"):
            cleaned = _identity.own_label()
        assert cleaned == text.translate(dict.fromkeys(map(ord, "\n\x1b\x7f"), "?")).encode()
        assert _identity.own_label() == cleaned, "it is warned of once"
    with pytest.raises(TypeError, match="a label is a str, not int"):
        _identity.label(3)  # type: ignore[arg-type]
