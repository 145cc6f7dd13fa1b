"""Each field of a store file says who writes it, and check() looks at each equation over them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ENGINES = Path(__file__).resolve().parents[2] / "refstore" / "engines"
NATIVE, FILELOCK = ENGINES / "native", ENGINES / "filelock"

STRUCT = re.compile(r"^cdef struct (\w+):\n((?: +.*\n|\n)+)", re.MULTILINE)
MEMBER = re.compile(r"^    \w+ (\w+)(?:\[\w+\])?(?: *# *(.*))?$", re.MULTILINE)
CONSTANT = re.compile(r"^([A-Z_]+): Final = \w+(?: *# *(.*))?$", re.MULTILINE)
NAMED = re.compile(r"^    (\w+): \w+(?: *# *(.*))?$", re.MULTILINE)
WRITER = re.compile(r"(?:^|; )by: (\w+(?:(?:, | \+ )\w+)*)$")
WORD = re.compile(r"^(?:#  |   ) (\w+)  +\S", re.MULTILINE)
EQUATION = re.compile(r"^(?:#  |   ) (\w+(?: \w+)?)  +\S", re.MULTILINE)
SENTENCE = re.compile(r"""(?:add\(|yield )f?"(\w+(?: \w+)?): """)
IN_PROBLEMS = re.compile(r"""def (\w+)\(.*\n    return f"(\w+(?: \w+)?): """)
SHARED = re.compile(r"_problems\.(\w+)\(")  # a sentence that both engines say


def after(text: str, heading: str) -> str:
    """The list that follows a line."""
    rest = text[text.index(heading) :]
    return rest[rest.index("\n") : rest.index("\n\n", rest.index("   "))]


def fields_of_native(text: str) -> list[tuple[str, str]]:
    """Every field of the shared structs, and its comment."""
    return [
        (f"{struct}.{name}", comment)
        for struct, body in STRUCT.findall(text)
        for name, comment in MEMBER.findall(body)
        if not name.startswith("_pad")
    ]


def fields_of_filelock(text: str) -> list[tuple[str, str]]:
    """Every word of the file's tables, and the fixed words by their names in `Header`."""
    found = []
    for start, end in (
        ("HOME: Final", "JOURNAL: Final"),
        ("ROW_STATE: Final", "COMMAND_NBYTES"),
        ("ORIGIN_PID: Final", "ORIGINS_LIMIT"),
        ("PAST_AT: Final", "PER_DOUBLING"),
    ):
        found += CONSTANT.findall(text[text.index(start) : text.index(end)])
    found += CONSTANT.findall(text[text.index("\nWORD: Final") : text.index("FREE, WRITING")])
    header = text[text.index("class Header") : text.index("class Geometry")]
    return found + [(f"Header.{name}", comment) for name, comment in NAMED.findall(header)]


def writers(text: str) -> list[str]:
    """The words that say who writes a field."""
    return WORD.findall(after(text, "Each field says by whom it is written"))


def faults(fields: list[tuple[str, str]], words: list[str]) -> list[str]:
    """What is wrong with the notes, as sentences."""
    found = []
    for name, comment in fields:
        note = WRITER.search(comment)
        if note is None:
            found.append(f"{name} does not say who writes it")
            continue
        named = re.split(r", | \+ ", note[1])
        found += [
            f"{name} is written by {word}, whoever that is" for word in named if word not in words
        ]
        if ("nobody" in named) != ("reserved" in comment):
            found.append(f"{name} is reserved, or it is not")
    used = {
        word for _, comment in fields for word in re.findall(r"\w+", comment.rpartition("by:")[2])
    }
    return found + [f"nobody is {word}" for word in words if word not in used]


def test_every_field_of_the_native_engine_says_who_writes_it() -> None:
    text = (NATIVE / "layout.pxd").read_text()
    fields = fields_of_native(text)
    assert len(fields) > 60
    assert faults(fields, writers(text)) == []


def test_every_field_of_the_filelock_engine_says_who_writes_it() -> None:
    text = (FILELOCK / "layout.py").read_text()
    fields = fields_of_filelock(text)
    assert len(fields) > 30
    assert faults(fields, writers(text)) == []


@pytest.mark.parametrize("folder", [NATIVE, FILELOCK], ids=lambda path: path.name)
def test_check_looks_at_every_equation_and_at_nothing_else(folder: Path) -> None:
    (layout,) = folder.glob("layout.p*")
    (check,) = folder.glob("check.p*")
    shared = dict(IN_PROBLEMS.findall((ENGINES.parent / "_problems.py").read_text()))
    equations = EQUATION.findall(after(layout.read_text(), "Equations over these fields"))
    assert len(equations) > 10
    assert len(set(equations)) == len(equations)
    said = set(SENTENCE.findall(check.read_text()))
    said |= {shared[name] for name in SHARED.findall(check.read_text())}
    assert sorted(said) == sorted(equations)


STRUCTS = """\
# Each field says by whom it is written:
#
#   owner    whose it is
#   space    who holds the lock
#   nobody   reserved

cdef struct Thing:
    uint64_t word{word}
    uint8_t _pad[3]
    uint32_t many[SIZE]         # of these; by: owner + space
    uint32_t later              # reserved: for more; by: nobody
"""


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("  # what it is; by: owner", []),
        ("  # by: owner, space", []),
        ("", ["Thing.word does not say who writes it"]),
        ("  # what it is", ["Thing.word does not say who writes it"]),
        ("  # by: owner; what it is", ["Thing.word does not say who writes it"]),
        ("  # what it is; by: someone", ["Thing.word is written by someone, whoever that is"]),
        ("  # what it is; by: nobody", ["Thing.word is reserved, or it is not"]),
        ("  # reserved; by: owner", ["Thing.word is reserved, or it is not"]),
    ],
)
def test_a_field_without_a_right_note_is_found(comment: str, found: list[str]) -> None:
    text = STRUCTS.format(word=comment)
    assert writers(text) == ["owner", "space", "nobody"]
    assert faults(fields_of_native(text), writers(text)) == found


def test_a_word_for_nobody_is_found() -> None:
    text = STRUCTS.format(word="  # by: owner").replace("owner + space", "owner")
    assert faults(fields_of_native(text), writers(text)) == ["nobody is space"]
