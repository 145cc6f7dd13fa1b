"""Python that a page of docs/ shows, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PRINTED = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)


def run(page: str) -> list[str]:
    """Runs all blocks of a page in one namespace; what the page says that they print."""
    if not DOCS.exists():
        pytest.skip("needs the sources")
    text = (DOCS / page).read_text()
    namespace: dict[str, Any] = {}
    blocks = BLOCK.findall(text)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    return PRINTED.findall(text)
