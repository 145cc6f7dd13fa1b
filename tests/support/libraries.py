"""Large libraries that a few tests need: imported when these run, and not as tests are collected.

A process that has them forks slowly, and most tests run in one that never needs them.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest


def needed(*names: str) -> pytest.MarkDecorator:
    """The mark of tests that are skipped where one of these is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")


def are_needed_by(item: pytest.Item) -> bool:
    module = getattr(item, "module", None)
    return any(type(one) is Late for one in vars(module).values()) if module else False


class Late:
    """Stands for a module until its first attribute is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest looks whether it is a class, or a mock
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)
