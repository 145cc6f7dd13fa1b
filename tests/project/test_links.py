"""Links in the documents lead to files, and to headings, that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once("reads documents")

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
# Words in quotes that look like paths of the project.
PATH = re.compile(r"`((?:refstore|tests|benchmarks|stress|docs|examples)/[\w/.-]+)`")


def anchor(heading: str) -> str:
    """The one that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def dead_links(document: Path) -> list[str]:
    text = document.read_text()
    dead = []
    for link in LINK.findall(text):
        path, _, part = link.partition("#")
        if ":" in path:
            continue
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (part and part not in anchors(target)):
            dead.append(link)
    return dead + [path for path in PATH.findall(text) if not (ROOT / path).exists()]


def anchors(document: Path) -> set[str]:
    return {anchor(heading) for heading in HEADING.findall(document.read_text())}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert dead_links(document) == []


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("# One\n[a](absent.md) [b](#one) [c](#two) `refstore/absent.py`\n")
    assert dead_links(document) == ["absent.md", "#two", "refstore/absent.py"]
