"""Each part of the package uses only parts before it, in the list of docs/internals.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "refstore"
DOC = ROOT / "docs" / "internals.md"
NATIVE = "engines/native"

ENTRY = re.compile(r"^\| \[`([^`]+)`\]\([^)]*refstore/\1\) \| \S.* \|$", re.MULTILINE)
CIMPORT = re.compile(
    r"^[ \t]*from[ \t]+(refstore(?:\.\w+)*|\.+\w*)[ \t]+c?import[ \t]+(\([^)]*\)|[^\n]*)",
    re.MULTILINE,
)
PLAIN_IMPORT = re.compile(r"^[ \t]*c?import[ \t]+(refstore(?:\.\w+)+)", re.MULTILINE)
ANY_CIMPORT = re.compile(r"^[ \t]*from ([\w.]+) cimport (\([^)]*\)|[^\n]*)", re.MULTILINE)
PYTHON_IMPORT = re.compile(r"^[ \t]*from [\w.]+ import (\([^)]*\)|[^\n]*)", re.MULTILINE)
INCLUDE = re.compile(r'^include "([^"]+)"', re.MULTILINE)
# The names that a .pxi defines at its top level.
DEFINED = re.compile(r"^(?:cdef|def|class) (?!enum:)[^(:=\n]*?(\w+) *(?:[(:=]|$)", re.MULTILINE)
COMMENT = re.compile(r"#[^\n]*")


def listed(text: str) -> list[str]:
    """The parts that docs/internals.md lists, lowest first, by path within refstore/."""
    return ENTRY.findall(text)


def sources(package: Path) -> dict[str, str]:
    """Every source file of the package, by path within it. Stubs describe other files."""
    paths = (path for path in package.rglob("*") if path.suffix in {".py", ".pyx", ".pxd", ".pxi"})
    return {path.relative_to(package).as_posix(): path.read_text() for path in sorted(paths)}


def modules(parts: dict[str, str]) -> dict[str, str]:
    """Paths by the dotted names by which imports name them."""
    named = {}
    for path in parts:
        if not path.endswith(".pxi"):
            dotted = "refstore/" + path.rpartition(".")[0]
            named[dotted.removesuffix("/__init__").replace("/", ".")] = path
    return named


def python_imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that are imported anywhere, but for what stands under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from python_imports(ast.Module([other], []))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports of the package are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from python_imports(node)


def named_modules(text: str) -> Iterator[str]:
    """What a file that imports by a computed name may mean: modules that its strings name."""
    if "import_module(" in text:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and str(node.value).startswith("refstore."):
                yield str(node.value)


def cython_imports(path: str, text: str) -> Iterator[str]:
    package = ["refstore", *path.split("/")[:-1]]
    yield from PLAIN_IMPORT.findall(text)
    for source, names in CIMPORT.findall(text):
        dots = len(source) - len(source.lstrip("."))
        base = package[: len(package) - dots + 1] if dots else []
        module = ".".join([*base, *filter(None, [source.lstrip(".")])])
        for name in COMMENT.sub("", names).strip("() \t\n").split(","):
            yield f"{module}.{name.split(' as ')[0].strip()}"


def shared_names(path: str, parts: dict[str, str]) -> Iterator[str]:
    """The other .pxi whose names this one uses: they are all parts of one module."""
    text = re.sub(r'"""[\s\S]*?"""', "", COMMENT.sub("", parts[path]))
    words = set(re.findall(r"(?<![.\w])\w+", text))
    for other in parts:
        is_beside = other.endswith(".pxi") and other != path
        if is_beside and words.intersection(DEFINED.findall(parts[other])):
            yield other


def uses(path: str, parts: dict[str, str]) -> set[str]:
    """The parts that one part imports, includes, or shares a namespace with and uses."""
    text, named = parts[path], modules(parts)
    found = set()
    if path.endswith(".py"):
        imported = {*python_imports(ast.parse(text)), *named_modules(text)}
    else:
        imported = set(cython_imports(path, text))
        found.update(INCLUDE.findall(text))
    for name in imported:
        # `from refstore import _paths` names a module, `from refstore import Store` a name in one.
        target = named.get(name) or named.get(name.rpartition(".")[0])
        if target is not None:
            found.add(target)
    if path.endswith(".pxi"):
        found.update(shared_names(path, parts))
    return found - {path}


def cimport_faults(parts: dict[str, str]) -> list[str]:
    """Names that a part of the core cimports in vain, or from where they are not defined, or calls
    by a cimport of another part."""
    found = []
    natives = {path: text for path, text in parts.items() if path.endswith((".pxd", ".pxi"))}
    owners = {name: path for path in natives for name in functions(natives[path])}
    for path, text in natives.items():
        body = COMMENT.sub("", PYTHON_IMPORT.sub("", ANY_CIMPORT.sub("", text)))
        cimported = {}
        for module, names in ANY_CIMPORT.findall(text):
            for name in re.findall(r"(\w+)(?: as \w+)? *(?:[,)\n]|$)", COMMENT.sub("", names)):
                cimported[name] = module.replace(".", "/").removeprefix("refstore/") + ".pxd"
        words = set(re.findall(r"\w+", body))
        found += [f"{path} does not use {name}" for name in cimported if name not in words]
        others = {*functions(body), *re.findall(r"\w+", " ".join(PYTHON_IMPORT.findall(text)))}
        calls = set(re.findall(r"(?<![.\w])(\w+)\(", body)) - others
        for name in sorted(calls.union(cimported)):
            owner = owners.get(name, "")
            if owner.endswith(".pxd") and cimported.get(name) != owner:
                found.append(f"{path} does not cimport {name} of {owner}")
    return found


def functions(text: str) -> list[str]:
    """The functions that a part of the core defines, methods among them."""
    return re.findall(r"^ *(?:cdef|def) [^(:=\n]*?(\w+)\(", text, re.MULTILINE)


def faults(order: list[str], parts: dict[str, str]) -> list[str]:
    """What contradicts the order, as sentences."""
    found = [f"{path} is not in the list" for path in parts if path not in order]
    found += [
        f"{path} is in the list, and there is no such file" for path in order if path not in parts
    ]
    found += [f"{path} is in the list twice" for path in {p for p in order if order.count(p) > 1}]
    height = {path: k for k, path in enumerate(order)}
    for path in parts:
        for other in sorted(uses(path, parts)):
            if height.get(other, -1) > height.get(path, len(order)):
                found.append(f"{path} uses {other}, which is listed after it")
    return found


def test_every_part_uses_only_parts_before_it() -> None:
    order = listed(DOC.read_text())
    assert len(order) > 80
    assert faults(order, sources(PACKAGE)) == []


def test_every_part_of_the_core_cimports_what_it_uses() -> None:
    assert cimport_faults(sources(PACKAGE)) == []


def test_the_core_includes_its_parts_in_their_order() -> None:
    included = INCLUDE.findall((PACKAGE / "_core.pyx").read_text())
    assert included == [path for path in listed(DOC.read_text()) if path.endswith(".pxi")]


def test_what_both_engines_have_goes_by_one_name() -> None:
    text = DOC.read_text()
    paragraph = text[text.index("Parts that do the same thing in both") :].partition("\n\n")[0]
    stems = [
        {path.stem for path in (PACKAGE / "engines" / engine).glob("*.p*")} - {"__init__"}
        for engine in ("native", "filelock")
    ]
    assert sorted(re.findall(r"`(\w+)`", paragraph)) == sorted(set.intersection(*stems))


def test_every_part_says_at_its_head_what_it_is_for() -> None:
    for path, text in sources(PACKAGE).items():
        if path.endswith((".pxd", ".pxi")):
            comment = re.findall(r"\A(?:#.*\n)*", text)[0]
            assert ". " in comment.replace("\n", " "), path
        else:
            head = ast.get_docstring(ast.parse(text)) if path.endswith(".py") else text[3:]
            assert head, path
            first = head.partition("\n")[0]
            assert first.endswith((".", ":")), f"{path}: its first line is not a sentence"


LOW = {"low.py": "", "high.py": ""}


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("low.py", "from refstore.high import thing"),
        ("low.py", "from refstore import high"),
        ("low.py", "import refstore.high"),
        ("low.py", "def call():\n    from refstore import high"),
        (
            "low.py",
            "import importlib\nimportlib.import_module(NAMES[0])\nNAMES = ['refstore.high']",
        ),
        ("low.pxd", "from .high cimport a, b"),
        ("low.pxd", "from .high cimport (\n    a,\n    b,\n)"),
        ("low.pxd", "cdef f():\n    from refstore.high import a"),
        ("low.pxd", "from refstore cimport high"),
        ("low.pyx", 'include "high.pxi"'),
        ("low.pxi", "cdef f(High x):\n    pass"),
    ],
)
def test_a_use_upwards_is_found(part: str, text: str) -> None:
    high = "high.pxi" if "pxi" in part + text else "high.py"
    parts = {part: text, high: "cdef class High:\n    pass\n" if high == "high.pxi" else ""}
    assert faults([part, high], parts) == [f"{part} uses {high}, which is listed after it"]
    assert faults([high, part], parts) == []


def test_a_cimport_in_vain_and_one_that_is_missing_are_found() -> None:
    parts = {
        "low.pxd": "cdef inline int f(int x):\n    return x\n",
        "mid.pxd": "from refstore.low cimport f\ncdef int g():\n    return f(1)\n",
        "high.pxi": (
            "from libc.math cimport (\n    sin, cos,\n)\ncdef int h():\n    f(sin(1))  # cos\n"
        ),
        "top.pxi": "from refstore.mid cimport f\ncdef int k():\n    return f(1)\n",
    }
    assert cimport_faults(parts) == [
        "high.pxi does not use cos",
        "high.pxi does not cimport f of low.pxd",
        "top.pxi does not cimport f of low.pxd",
    ]


def test_a_type_that_is_only_named_does_not_count() -> None:
    named, used = "from refstore.high import T", "from refstore.other import T"
    text = f"if TYPE_CHECKING:\n    {named}\nelse:\n    {used}"
    parts = {"low.py": text, "high.py": "", "other.py": ""}
    assert faults(["low.py", "high.py", "other.py"], parts) == [
        "low.py uses other.py, which is listed after it"
    ]


def test_a_part_that_is_missing_or_has_no_file_is_found() -> None:
    assert faults(["low.py"], LOW) == ["high.py is not in the list"]
    assert faults(["low.py", "high.py", "gone.py"], LOW) == [
        "gone.py is in the list, and there is no such file"
    ]
    assert faults(["low.py", "high.py", "low.py"], LOW) == ["low.py is in the list twice"]


def test_an_entry_of_the_list_is_read_with_its_purpose() -> None:
    row = "| [`a/b.py`](../../refstore/a/b.py) | what it is for |\n"
    assert listed(row) == ["a/b.py"]
    assert listed(row.replace("what it is for", "")) == []
    assert listed(row.replace("refstore/a", "refstore/c")) == []
