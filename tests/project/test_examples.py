"""The short examples do what they say, end well, and leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import documented
import helpers
import libraries
import pytest

SOURCES = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (SOURCES / "examples").is_dir(), reason="needs the sources")

NEEDS = {"frames": ("pandas",), "web": ("fastapi", "uvicorn")}
SAYS = {
    "actors": (
        r"after 60 updates off by 0\.\d\d at most; "
        r"left in the store: \['weights'\], problems: 0\n"
    ),
    "consumer": (
        r"200 coroutines and 2 threads followed 4000 readings\n"
        r"\d{3,4} were seen, the last of each sensor among them\n"
    ),
    "dataset": (
        r"4 readers of 100000 records, memory of each:\n"
        r"a list:       [2-9]\d(, [2-9]\d){3} MB\n"
        r"a SharedList: 1?\d(, 1?\d){3} MB\n"
    ),
    "frames": (
        r"a table of 12\.\d MB, of which each process copied [0-2]\.\d(, [0-2]\.\d){3} MB\n"
        r"50 cities, 49\d{4} rows; all saw the same: True\n"
    ),
    "loader": r"40 batches, mean [+-]0\.00\d\d, 0 left in the store\n",
    "parameters": r"after 60 steps off by \d\.\de-(0[3-9]|1\d) at most\n",
    "service": (
        r"killed in answer 3: 8\d{6} bytes came back, 3 answers stay\n"
        r"killed in answer 6: 8\d{6} bytes came back, 6 answers stay\n"
        r"8 answers are whole; problems: 0\n"
    ),
    "web": (
        r"300 answers by [2-4] workers; 1 made the matrix\n"
        r"\d\d results are cached, \d\d were evicted\n"
    ),
}


def said(folder: Path, *program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *program],
        cwd=SOURCES,
        env=os.environ | {"REFSTORE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_an_example_does_what_it_says(folder: Path, name: str) -> None:
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module)
    text = said(folder, "-m", f"examples.{name}")
    assert re.fullmatch(SAYS[name], text), text


def test_the_notebook_runs(folder: Path) -> None:
    pytest.importorskip("pandas")
    notebook = json.loads((SOURCES / "examples" / "notebook.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    text = said(folder, "-c", "\n".join("".join(cell["source"]) for cell in cells))
    assert re.fullmatch(
        r"2000000 rows, 128 MB, after \d+\.\d+ s\nagain, after 0\.0\d+ s\n"
        r"another process: (\d+\.\d+)\nthis one:        \1\n",
        text,
    ), text
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert helpers.stores(folder) == []


@pytest.mark.once("opens no store")
@pytest.mark.parametrize("name", SAYS)
def test_an_example_is_short(name: str) -> None:
    assert len((SOURCES / "examples" / f"{name}.py").read_text().splitlines()) <= 80  # a page


@libraries.needed("pandas")
def test_the_page_on_them_works(folder: Path) -> None:
    documented.run_page("examples.md", folder)
