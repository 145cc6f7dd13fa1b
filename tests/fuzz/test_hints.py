"""A wrong hint costs time, and no sealed object: a sample of `python -m tests.fuzz.hints`.

REFSTORE_ALL_HINTS=1 flips every bit, which takes some minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVERY = 1.0 if os.environ.get("REFSTORE_ALL_HINTS") else 0.01


@pytest.mark.timeout(3600 if EVERY == 1.0 else 300)
def test_no_bit_of_a_hint_changes_an_object() -> None:
    program = f"import sys; sys.path.append({str(ROOT)!r})\n"
    program += "from tests.fuzz.hints import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, f"--every={EVERY}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert ": 0 findings" in done.stdout
