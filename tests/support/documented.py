"""Documentation of public calls: what a docstring has to have, and whether its examples run."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import helpers
import numpy as np

import refstore
from refstore.payload import serializers

PARAMETERS, RETURNS, ERRORS, EXAMPLE = "Parameters:", "Returns:", "Errors:", "Example:"
PROGRAM = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
BY_PYTHON = (
    *("with_traceback", "add_note", "count", "index"),  # of exceptions and tuples
)


def members(classes: Iterable[type]) -> dict[str, Any]:
    """Each class, and each public method and property of it, by its name."""
    found: dict[str, Any] = {}
    for cls in classes:
        found[cls.__name__] = cls
        for name in dir(cls):
            member = inspect.getattr_static(cls, name)
            is_call = isinstance(member, property | staticmethod | classmethod) or callable(member)
            is_call |= inspect.isgetsetdescriptor(member)
            if not name.startswith("_") and is_call and is_ours(cls, name):
                found[f"{cls.__name__}.{name}"] = getattr(cls, name)
    return found


def is_ours(cls: type, name: str) -> bool:
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return owner.__module__.startswith("refstore") and name not in BY_PYTHON


def of_module(module: ModuleType) -> dict[str, Any]:
    """What a module exports: its functions, its classes and their members."""
    exported = {name: getattr(module, name) for name in module.__all__}
    classes = {name: one for name, one in exported.items() if inspect.isclass(one)}
    return exported | members(classes.values())


def sections(doc: str) -> dict[str, str]:
    """The parts of a docstring by their headings; "" is what comes first."""
    found, heading = {"": ""}, ""
    for line in doc.splitlines():
        if line in (PARAMETERS, RETURNS, ERRORS, EXAMPLE):
            heading = line
            assert heading not in found, f"{heading} stands twice"
            found[heading] = ""
        elif line and not line.startswith(" "):
            heading = "" if heading == EXAMPLE or heading == "" else f"{heading} ended"
            found[heading] = found.get(heading, "") + line + "\n"
        else:
            found[heading] += line + "\n"
    return found


def parameters(name: str, call: Any) -> list[str]:
    """Those that its documentation has to tell of."""
    if inspect.isclass(call) and call.__init__ is object.__init__:
        return []
    if issubclass(call if inspect.isclass(call) else object, refstore.PinnedBuffer):
        return []
    try:
        names = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):  # a property
        return []
    plain = [one.name for one in names if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return [one for one in plain if one not in ("self", "message")]


def require(name: str, call: Any) -> dict[str, str]:
    """Fail if something is missing in the documentation of a call; its sections."""
    doc = inspect.getdoc(call)
    assert doc is not None
    told = sections(doc)
    assert doc.partition("\n\n")[0].endswith(".")
    assert ">>> " in told[EXAMPLE]
    for parameter in parameters(name, call):
        assert f"    {parameter}: " in told[PARAMETERS], f"{name} does not tell of {parameter}"
    is_call = inspect.isfunction(call) or inspect.ismethod(call)
    if is_call and inspect.signature(call).return_annotation not in ("None", None):
        assert told[RETURNS]
    return told


def run_examples(name: str, call: Any, store: refstore.Store, **names: object) -> None:
    doc = inspect.getdoc(call) or ""
    globs = {"refstore": refstore, "np": np, "os": os, "store": store, **names}
    test = doctest.DocTestParser().get_doctest(doc, globs, name, None, None)
    assert test.examples
    told: list[str] = []
    with mock.patch.dict(serializers._by_type), mock.patch.dict(serializers._by_name):
        result = doctest.DocTestRunner().run(test, out=told.append)
    assert result.failed == 0, "".join(told)


def require_all(module: ModuleType, store: refstore.Store) -> None:
    """Fail if something is missing in the documentation of what a module exports; run the examples,
    each on an empty store."""
    for name, call in of_module(module).items():
        require(name, call)
        run_examples(name, call, store)
        store.clear()


def run_page(page: str, stores: Path) -> None:
    """Run the programs of a page of the documentation, one after the other, in one process."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    program = "\n".join(PROGRAM.findall(text))
    assert program
    environment = os.environ | {
        "REFSTORE_DIR": str(stores),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=helpers.BUSY_TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    for name in helpers.stores(stores):
        helpers.remove(stores / name)
