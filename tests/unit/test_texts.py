"""Each sentence of the package stands once; docstrings begin plainly."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import refstore

PACKAGE = Path(refstore.__file__).parent
SENTENCE = 4  # words
DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
NOT_PLAIN = re.compile(
    r"(What|Who|Whose|That|Where|How|Which|When|Whoever|Whatever"  # a noun clause
    r"|Of|Into|Likewise|After|Before|Not|In|At|From|For|Till|Nor"  # half a sentence
    r"|Those|Its|Their|By|As|To|If|So)\b"
)
DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
STRING = r'f?"((?:[^"\\\n]|\\.)*)"'
STRINGS = re.compile(rf"{STRING}(?:\s*{STRING})*")


def files(*suffixes: str) -> list[Path]:
    found = [path for path in sorted(PACKAGE.rglob("*")) if path.suffix in suffixes]
    assert found
    return found


def docstring_of(node: ast.AST) -> ast.Constant | None:
    if not isinstance(node, DEFINITION) or not node.body:
        return None
    first = node.body[0]
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
        return None
    return first.value if isinstance(first.value.value, str) else None


def python_texts(source: str) -> Iterator[str]:
    """Each string, f-strings with {} in place of what changes."""
    tree = ast.parse(source)
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node)} - {id(node)}
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside
        ):
            yield node.value


def cython_texts(source: str) -> Iterator[str]:
    """Likewise."""
    yield from DOCSTRING.findall(source)
    code = re.sub(r"#.*", "", DOCSTRING.sub("", source))
    for match in STRINGS.finditer(code):
        text = "".join(part[1] for part in re.finditer(STRING, match[0]))
        yield re.sub(r"\{[^{}]*\}", "{}", text)


def texts(path: Path) -> Iterator[str]:
    source = path.read_text()
    for text in python_texts(source) if path.suffix == ".py" else cython_texts(source):
        yield " ".join(text.split())


def is_sentence(text: str) -> bool:
    return len(re.findall(r"(?<!\S)[A-Za-z']+(?=[\s,.:;]|$)", text)) >= SENTENCE


def repeated(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {what: where for what, where in found.items() if len(where) > 1}


def test_no_sentence_is_typed_twice() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in files(".py", ".pyx", ".pxd", ".pxi"):
        for text in texts(path):
            if is_sentence(text):
                found[text].append(str(path.relative_to(PACKAGE)))
    assert len(found) > 100
    assert repeated(found) == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = f'the store {path!r} is not there'", "the store {} is not there"),
        ("def f():\n    'Says what it is here.'", "Says what it is here."),
        ("raise E('in two '\n  f'parts of {n}')", "in two parts of {}"),
    ],
)
def test_sentences_are_found_in_python(source: str, expected: str) -> None:
    assert expected in list(python_texts(source))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise E(f"slot {i} is in state {word_state(w)}")  # "or not"', "slot {} is in state {}"),
        ('    """Says what it is here."""\n', "Says what it is here."),
        ('x = ("in two "\n     f"parts of {n}")', "in two parts of {}"),
    ],
)
def test_sentences_are_found_in_cython(source: str, expected: str) -> None:
    assert list(cython_texts(source)) == [expected]


def docstrings(path: Path) -> list[str]:
    source = path.read_text()
    if path.suffix != ".py":
        return [text.strip() for text in DOCSTRING.findall(source)]
    nodes = map(docstring_of, ast.walk(ast.parse(source)))
    return [str(node.value).strip() for node in nodes if node is not None]


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}: {text.splitlines()[0]}"
        for path in files(".py", ".pyx", ".pxd", ".pxi")
        for text in docstrings(path)
        if NOT_PLAIN.match(text)
    ]
    assert wrong == []
