"""The programs of docs/meeting.md run as they stand, and print what their comments say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import helpers
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "meeting.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="needs the sources")


def programs() -> dict[str, str]:
    """By the heading under which they stand."""
    if not PAGE.exists():
        return {}
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        (program,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        found[section.partition("\n")[0]] = program
    return found


PROGRAMS = programs()


def promised(program: str) -> list[str]:
    """What comments behind calls of print() say that they print."""
    return re.findall(r"^ *print\(.*\)  # (\S.*)$", program, re.MULTILINE)


@pytest.mark.parametrize("heading", PROGRAMS)
def test_a_program_runs_and_prints_what_it_says(folder: Path, tmp_path: Path, heading: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[heading])
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        env=os.environ | {"REFSTORE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=helpers.BUSY_TIMEOUT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for line in promised(PROGRAMS[heading]):
        assert line in lines


@pytest.mark.once("opens no store")
def test_the_page_has_a_program_for_each_way_to_meet() -> None:
    assert len(PROGRAMS) >= 9
    assert sum(len(promised(program)) for program in PROGRAMS.values()) >= 6
