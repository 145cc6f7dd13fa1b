"""A subinterpreter is told that refstore is not for it."""

from __future__ import annotations

import importlib.util

import helpers
import pytest

pytestmark = pytest.mark.once("no interpreter gets as far as an engine")

IN_A_SUBINTERPRETER = """
    import sys
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    source = '''
    try:
        import refstore
    except ImportError as error:
        assert "main interpreter only" in str(error), error
        assert "start a process instead" in str(error), error
    else:
        raise AssertionError("it came in")
    '''
    if sys.argv[1] == "after":
        import refstore
    made = interpreters.create()
    failed = interpreters.run_string(made, source)
    assert failed is None, failed
    interpreters.destroy(made)
    import refstore
    with refstore.Store.temporary("1MiB") as store:
        store.put(b"x")
"""


@pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("_interpreters", "_xxsubinterpreters"))),
    reason="a Python without subinterpreters",
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_subinterpreter_is_refused(when: str) -> None:
    helpers.run_clean(IN_A_SUBINTERPRETER, when)
