"""No function stands twice, and none is long; nor is a file."""

from __future__ import annotations

import ast
import copy
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("refstore", "tests", "stress", "benchmarks", "examples")
STATEMENTS = 3  # of a body, nested ones too: of 2 are fixtures that enter one context manager
LINES_OF_FILE = 500
LINES_OF_FUNCTION = 60  # without its docstring

# Functions with the same body that stay, and why.
KEPT = {
    "super() is that of another base in each": (
        "tests/api/test_payload_subclasses.py:Recipe.__reduce__",
        "tests/api/test_payload_subclasses.py:Slotted.__reduce__",
    ),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
HAS_STATEMENTS = ast.stmt | ast.ExceptHandler | ast.match_case
CYTHON_FUNCTION = re.compile(r"( *)(?:cdef|cpdef|def) (?!class |struct |enum )[^=\n]*?(\w+)\(")
DOCSTRING = re.compile(r'^ *"""(?:.|\n)*?"""', re.MULTILINE)


def files(*suffixes: str) -> Iterator[tuple[str, str]]:
    """The path of each file within the project, and its text."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes:
                yield path.relative_to(ROOT).as_posix(), path.read_text()


parsed = functools.cache(ast.parse)  # which takes longer than all that is looked for


def functions(node: ast.AST, within: str = "") -> Iterator[tuple[str, Function]]:
    """Each function by its name within the module, with those in classes and other functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, HAS_STATEMENTS):
            continue
        inner = within
        if isinstance(child, Function | ast.ClassDef):
            inner = f"{within}{child.name}."
        if isinstance(child, Function):
            yield within + child.name, child
        yield from functions(child, inner)


# -- twins ------------------------------------------------------------------------------------


class Renaming(ast.NodeTransformer):
    """Gives local names numbers, in the order in which they appear; takes types away."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.numbers: dict[str, str] = {}

    def renamed(self, name: str) -> str:
        return (
            self.numbers.setdefault(name, f"_{len(self.numbers)}") if name in self.names else name
        )

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.renamed(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg, node.annotation = self.renamed(node.arg), None
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        node.name = node.name and self.renamed(node.name)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = self.renamed(node.name), None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.name, node.returns = self.renamed(node.name), None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def local_names(function: Function) -> set[str]:
    """The names that it binds, and so could call otherwise."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, Function | ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found - {function.name}


def statements(function: Function) -> list[ast.stmt]:
    """Those of its body, less its docstring."""
    return function.body[0 if ast.get_docstring(function, clean=False) is None else 1 :]


def shape_of(function: Function) -> tuple[object, ...] | None:
    """What is the same in all functions with the same body, and quick to find; None if it has few
    statements."""
    nodes = [node for statement in statements(function) for node in ast.walk(statement)]
    kinds = [type(node) for node in nodes if isinstance(node, ast.stmt)]
    called = [
        node.func.attr
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    return None if len(kinds) < STATEMENTS else (*kinds, *called)


def body_of(function: Function) -> str:
    """Its statements as all have them who do the same."""
    body = ast.Module(copy.deepcopy(statements(function)), [])
    return ast.unparse(Renaming(local_names(function)).visit(body))


def twins(sources: dict[str, str]) -> list[tuple[str, ...]]:
    """Functions with the same body, by file and name."""
    alike: dict[tuple[object, ...], list[tuple[str, Function]]] = defaultdict(list)
    for path, text in sources.items():
        for name, function in functions(parsed(text)):
            shape = shape_of(function)
            if shape is not None:
                alike[shape].append((f"{path}:{name}", function))
    found: dict[str, list[str]] = defaultdict(list)
    for several in alike.values():
        if len(several) > 1:
            for place, function in several:
                found[body_of(function)].append(place)
    return [tuple(same) for same in found.values() if len(same) > 1]


def test_no_two_functions_have_the_same_body() -> None:
    sources = dict(files(".py"))
    assert len(sources) > 100
    assert twins(sources) == list(KEPT.values())


ONE = """
def one(store, names):
    "Deletes them."
    for name in names:
        with store.get(name) as buf:
            store.delete(buf.ref)
"""


@pytest.mark.parametrize(
    "other",
    [
        ONE.replace("name", "key"),
        ONE.replace("store, names", "store: Store, names: list[str]"),
        ONE.replace("Deletes them.", "Removes all."),
        ONE.replace("def ", "async def "),
        "class Two:" + ONE.replace("\n", "\n    "),
    ],
)
def test_a_twin_is_found(other: str) -> None:
    (found,) = twins({"a.py": ONE, "b.py": other})
    assert found[0] == "a.py:one"
    assert found[1].startswith("b.py:")


@pytest.mark.parametrize(
    "other",
    [
        ONE.replace("(buf.ref)", "(names)"),
        ONE.replace("store.delete", "stores.delete"),
        ONE.replace("store.get", "store.pin"),
    ],
)
def test_what_differs_is_no_twin(other: str) -> None:
    assert twins({"a.py": ONE, "b.py": other}) == []


def test_short_functions_may_be_alike() -> None:
    short = "def one():\n    with here() as x:\n        yield x\n"
    assert twins({"a.py": short, "b.py": short}) == []


# -- lengths ----------------------------------------------------------------------------------


def python_lengths(text: str) -> Iterator[tuple[str, int]]:
    """The lines of each function, without its docstring."""
    for name, function in functions(parsed(text)):
        first, count = function.body[0], (function.end_lineno or 0) - function.lineno + 1
        if ast.get_docstring(function, clean=False) is not None:
            count -= (first.end_lineno or 0) - first.lineno + 1
        yield name, count


def cython_lengths(text: str) -> Iterator[tuple[str, int]]:
    """The same of functions that end where something stands no deeper than they do."""
    lines = DOCSTRING.sub("", text).splitlines()
    for number, line in enumerate(lines):
        head = CYTHON_FUNCTION.match(line)
        if head is None:
            continue
        body = number
        while not lines[body].partition("#")[0].rstrip().endswith(":"):
            body += 1
        end = last = body + 1
        while end < len(lines) and (not lines[end] or lines[end].startswith(head[1] + " ")):
            end += 1
            last = end if lines[end - 1] else last
        yield head[2], last - number


def test_no_file_is_long() -> None:
    sources = dict(files(".py", ".pyx", ".pxd", ".pxi"))
    counts = {path: text.count("\n") for path, text in sources.items()}
    assert {path: count for path, count in counts.items() if count > LINES_OF_FILE} == {}


def test_no_function_is_long() -> None:
    found = {
        f"{path}:{name}": count
        for path, text in files(".py", ".pyx", ".pxd", ".pxi")
        for name, count in (python_lengths if path.endswith(".py") else cython_lengths)(text)
    }
    assert len(found) > 1000
    assert {name: count for name, count in found.items() if count > LINES_OF_FUNCTION} == {}


def test_a_docstring_does_not_count() -> None:
    text = 'def one(a,\n        b):\n    """Adds\n\n    them."""\n    return a + b\n'
    assert dict(python_lengths(text)) == {"one": 3}


def test_lengths_are_found_in_cython() -> None:
    text = (
        "cdef int one(int a,\n        int b) noexcept nogil:  # adds\n    return a + b\n\n\n"
        "cdef class C:\n    def two(\n        self\n    ):\n        pass\n\n        pass\n"
        "cdef int THREE = one(1, 2)\n"
    )
    assert dict(cython_lengths(text)) == {"one": 3, "two": 6}
