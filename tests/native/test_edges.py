"""Each atomic of the core names its edge, each edge has both ends, each relaxed access a reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "refstore"
NATIVE = PACKAGE / "engines" / "native"
GLOSSARY = NATIVE / "atomics.pxd"

CALL = re.compile(
    r"\b(load|store|cas|fetch_(?:add|sub|or|and))_(relaxed|acquire|release|acq_rel|seq_cst)(?:_u16|_u32)?\("
)
ENTRY = re.compile(r"^#   \[([a-z]+)\] +\S", re.MULTILINE)
TAG = re.compile(r"(?<![\w\]])\[([a-z]+)\]")
REASON = re.compile(r"relaxed: \S")
DOCSTRING = re.compile(r'"""[\s\S]*?"""')
STRING = re.compile(r'"[^"\n]*"')
RELEASES = {"release", "acq_rel", "seq_cst"}
ACQUIRES = {"acquire", "acq_rel", "seq_cst"}
# What an atomic's first argument ends with, where that is not the field.
FIELDS = {
    ("pin", "cells"): "pins",
    ("pin", "pins_of()"): "pins",
    ("pin", "bits"): "pins_ready",
    ("ready", "bits"): "a ready bit",
    ("hint", "words"): "a word of hints",
    ("summary", "summary_of()"): "summary",
    ("index", "at"): "cells",
    ("lock", "word"): "lock",
    ("seal", "label_at() + k"): "label",
    ("wait", "until"): "*_until",
    ("wait", "any_until"): "*_until",
    ("wait", "awake_until"): "*_until",
    ("wait", "room_until"): "*_until",
    ("wait", "word"): "changes, any or room",
    ("wait", "changes"): "changes, any or room",
    ("wait", "any"): "changes, any or room",
    ("wait", "room"): "changes, any or room",
}
# Fields of an edge with one end: the other end is the word's, as the glossary says of [seal].
CARRIED = {("seal", "name_hash"), ("seal", "label"), ("seal", "replaces_slot")}


class Line(NamedTuple):
    """A statement of any number of lines, or a line of comment."""

    number: int
    code: str
    comment: str
    above: str  # the comment right above it


def logical_lines(text: str) -> list[Line]:
    found = []
    text = STRING.sub('""', DOCSTRING.sub(lambda m: "\n" * m[0].count("\n"), text))
    code, comment, above, start, depth = "", "", "", 1, 0
    for number, physical in enumerate(text.splitlines(), 1):
        before, _, after = physical.partition("#")
        code, comment = code + " " + before, comment + " " + after
        depth += sum(before.count(c) for c in "([{") - sum(before.count(c) for c in ")]}")
        if depth > 0 or before.rstrip().endswith("\\"):
            continue
        found.append(Line(start, code, comment, above))
        # a comment is of the statement that follows it at once
        above = above + comment if not code.strip() and comment.strip() else ""
        code, comment, start, depth = "", "", number + 1, 0
    return found


def glossary(text: str) -> list[str]:
    return ENTRY.findall(text)


def edge_faults(sources: dict[str, str], tags: list[str]) -> list[str]:
    """What is wrong with the edges of the files, as sentences."""
    found = []
    ends: dict[str, dict[str, set[tuple[str, int]]]] = {}
    for file, text in sources.items():
        for line in logical_lines(text):
            where = f"{file}:{line.number}"
            calls = CALL.findall(line.code)
            orders = {order for _, order in calls} - {"relaxed"}
            here = TAG.findall(line.comment) or (TAG.findall(line.above) if orders else [])
            found += [f"{where}: [{tag}] is not in the glossary" for tag in here if tag not in tags]
            if len(orders) < len({order for _, order in calls}) and not REASON.search(line.comment):
                found.append(f"{where}: a relaxed access without a reason")
            if orders and not here:
                found.append(f"{where}: an atomic without a tag")
            for operation, order in calls:
                for tag in here:
                    sides = ends.setdefault(tag, {"releases": set(), "acquires": set()})
                    if order in RELEASES and operation != "load":
                        sides["releases"].add((file, line.number))
                    if order in ACQUIRES and operation != "store":
                        sides["acquires"].add((file, line.number))
    for tag in tags:
        sides = ends.get(tag, {"releases": set(), "acquires": set()})
        found += [f"nothing {side} [{tag}]" for side, places in sides.items() if not places]
        if all(sides.values()) and len(set.union(*sides.values())) < 2:
            found.append(f"[{tag}] stands at one place only")
    found += [f"[{tag}] is twice in the glossary" for tag in {t for t in tags if tags.count(t) > 1}]
    return found


def first_argument(text: str) -> str:
    """The field that an atomic is of: `text` begins behind its name and parenthesis."""
    depth = 0
    for at, letter in enumerate(text):
        if not depth and letter in ",)":
            text = text[:at]
            break
        depth += (letter in "([") - (letter in ")]")
    text = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", text))
    text = re.sub(r"<[^<>]*>", "", re.sub(r"\(.*\)", "()", text))
    return text.strip().lstrip("&").rpartition(".")[2]


def one_sided(sources: dict[str, str]) -> list[str]:
    """Fields with one end of an edge: what is written there for others, nobody reads so, or nobody
    has written so."""
    ends: dict[tuple[str, str], set[str]] = {}
    for text in sources.values():
        for line in logical_lines(text):
            for call in CALL.finditer(line.code):
                if call[2] == "relaxed":
                    continue
                for tag in TAG.findall(line.comment) or TAG.findall(line.above):
                    field = first_argument(line.code[call.end() :])
                    field = FIELDS.get((tag, field), field)
                    there = ends.setdefault((tag, field), set())
                    if call[2] in RELEASES and call[1] != "load":
                        there.add("released")
                    if call[2] in ACQUIRES and call[1] != "store":
                        there.add("acquired")
    return [
        f"[{tag}] of {field} is {there.pop()} only"
        for (tag, field), there in ends.items()
        if len(there) == 1 and (tag, field) not in CARRIED
    ]


def core() -> dict[str, str]:
    paths = [*NATIVE.glob("*.px[di]"), PACKAGE / "_core.pyx"]
    return {path.name: path.read_text() for path in sorted(paths) if path != GLOSSARY}


def test_every_edge_of_the_core_has_a_tag_and_both_ends() -> None:
    sources = core()
    assert sum(len(CALL.findall(text)) for text in sources.values()) > 150
    assert edge_faults(sources, glossary(GLOSSARY.read_text())) == []


def test_every_field_of_an_edge_has_both_ends() -> None:
    assert one_sided(core()) == []
    assert one_sided({"a.pxd": GIVE + TAKE}) == []
    assert one_sided({"a.pxd": GIVE + TAKE.replace("word", "nbytes")}) == [
        "[seal] of word is released only",
        "[seal] of nbytes is acquired only",
    ]


def test_the_names_of_all_atomics_are_known_here() -> None:
    text = GLOSSARY.read_text()
    declared = set(re.findall(r'(\w+) "refstore_(?:load|store|cas|fetch)_\w+"', text))
    assert len(declared) > 20
    assert {name for name in declared if not CALL.fullmatch(f"{name}(")} == set()


GIVE = "store_release(&slot.word, 1)  # [seal]\n"
TAKE = "load_acquire(&slot.word)  # [seal] it is whole\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GIVE + TAKE, None),
        (GIVE + "# [seal] it is whole\nload_acquire(&slot.word)\n", None),
        (GIVE + "cas_acq_rel(&word,\n            &expected, 1)  # [seal]\n", None),
        (GIVE + TAKE + "load_relaxed(&word)  # relaxed: ours\n", None),
        (GIVE + TAKE + "# as in pins[row]\nx = y\n", None),
        (GIVE, "nothing acquires [seal]"),
        (TAKE, "nothing releases [seal]"),
        ("", "nothing releases [seal]"),
        (TAKE + TAKE.replace("load_acquire", "load_seq_cst"), "nothing releases [seal]"),
        ("cas_acq_rel(&word, &expected, 1)  # [seal]\n", "[seal] stands at one place only"),
        (GIVE + TAKE + TAKE.replace("seal", "seel"), "a.pxd:3: [seel] is not in the glossary"),
        (GIVE + TAKE + "x = 1  # by [seel]\n", "a.pxd:3: [seel] is not in the glossary"),
        (GIVE + TAKE + "load_acquire(&slot.word)\n", "a.pxd:3: an atomic without a tag"),
        (GIVE + TAKE + "f(\n    load_acquire_u32(&x),\n)\n", "a.pxd:3: an atomic without a tag"),
        (GIVE + TAKE + 'f("a (#)")  # (\nload_acquire(&x)\n', "a.pxd:4: an atomic without a tag"),
        (GIVE + TAKE + '"""(\n"""\nload_acquire(&x)\n', "a.pxd:5: an atomic without a tag"),
        (GIVE + TAKE + "# [seal]\n\nload_acquire(&x)\n", "a.pxd:5: an atomic without a tag"),
        (GIVE + TAKE + "load_relaxed(&x)\n", "a.pxd:3: a relaxed access without a reason"),
        (
            GIVE + TAKE + "load_relaxed(&x)  # relaxed:\n",
            "a.pxd:3: a relaxed access without a reason",
        ),
        (
            GIVE + TAKE + "# relaxed: ours\nload_relaxed(&x)\n",
            "a.pxd:4: a relaxed access without a reason",
        ),
        (
            TAKE + "store_release(&x,\n    load_relaxed(&y))  # [seal]\n",
            "a.pxd:2: a relaxed access without a reason",
        ),
    ],
)
def test_the_check_finds(text: str, fault: str | None) -> None:
    found = edge_faults({"a.pxd": text}, ["seal"])
    assert fault in found if fault else found == []


def test_an_entry_says_what_it_orders() -> None:
    assert glossary("#   [pin]  what\n#   [seal]\n#   more [lock] text\n") == ["pin"]
    assert "[pin] is twice in the glossary" in edge_faults({}, ["pin", "pin"])
