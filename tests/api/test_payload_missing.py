"""Objects of classes and modules that the reading process does not have: what the error says."""

from __future__ import annotations

import sys
from typing import Any

import helpers
import pytest

import refstore


def test_a_class_of_another_programs_main(store: refstore.Store, path: str) -> None:
    helpers.run_clean(
        """
        import sys, refstore
        class Config:
            pass
        def work():
            pass
        with refstore.Store(sys.argv[1], create=False) as store:
            store["object"] = [Config()]
            store["function"] = work
        """,
        path,
    )
    for name, what in (("object", "Config"), ("function", "work")):
        with (
            store.get(name) as buf,
            pytest.raises(AttributeError, match=rf"{what}.*__main__ is another program; move"),
        ):
            buf.value  # noqa: B018


def test_a_class_of_another_programs_main_where_main_has_a_name(
    store: refstore.Store, path: str, tmp_path: Any
) -> None:
    helpers.run_clean(
        """
        import sys, refstore
        class Config:
            pass
        refstore.Store(sys.argv[1], create=False)["object"] = Config()
        """,
        path,
    )
    (tmp_path / "reader_by_name.py").write_text(
        "import sys, refstore\n"
        "with refstore.Store(sys.argv[1], create=False) as store, store.get('object') as buf:\n"
        "    try: buf.value\n"
        "    except AttributeError as error: print(error)\n"
    )
    said = helpers.run_clean(
        "import runpy, sys; sys.path.insert(0, sys.argv[2]); "
        "runpy.run_module('reader_by_name', run_name='__main__', alter_sys=True)",
        path,
        tmp_path,
    )
    assert "whose __main__ is another program; move" in said


def test_a_module_that_is_not_here(store: refstore.Store, tmp_path: Any) -> None:
    (tmp_path / "lent_by_a_test.py").write_text("class Thing: pass\nclass Other: pass\n")
    helpers.run_clean(
        """
        import sys, refstore
        sys.path.insert(0, sys.argv[2])
        import lent_by_a_test
        with refstore.Store(sys.argv[1], create=False) as store:
            store["thing"] = lent_by_a_test.Thing()
        """,
        store.path,
        tmp_path,
    )
    with (
        store.get("thing") as buf,
        pytest.raises(ModuleNotFoundError, match=r"a_test': .* put it on sys.path") as raised,
    ):
        buf.value  # noqa: B018
    assert raised.value.name == "lent_by_a_test"
    del raised


def test_a_class_that_its_module_has_no_more(
    store: refstore.Store, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "altered_by_a_test.py").write_text("class Thing: pass\n")
    import altered_by_a_test  # type: ignore[import-not-found]

    store["thing"] = altered_by_a_test.Thing()
    del altered_by_a_test.Thing
    with (
        store.get("thing") as buf,
        pytest.raises(AttributeError, match=r"Thing.*same version of that module"),
    ):
        buf.value  # noqa: B018
    del sys.modules["altered_by_a_test"]


class Refuses:
    """Says when it is unpickled what unpickling itself might."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return refuse, (type(self.error), self.error.args)


def refuse(cls: type[Exception], args: tuple[str, ...]) -> None:
    raise cls(*args)


@pytest.mark.parametrize(
    "error",
    [AttributeError("Can't get attribute 'x' on <module '__main__'>"), ModuleNotFoundError("mine")],
)
def test_what_an_objects_own_code_raises_is_left_alone(
    store: refstore.Store, error: Exception
) -> None:
    with store.get(store.put(Refuses(error))) as buf, pytest.raises(type(error)) as raised:
        buf.value  # noqa: B018
    assert str(raised.value) == str(error)
    del raised
