"""Documentation of the public calls: complete, the same on both engines, with examples that run."""

from __future__ import annotations

import inspect
import pydoc
import re
from typing import Any

import documented
import pytest

import refstore
from refstore import aio
from refstore.engines import binding
from refstore.mapping import StoreMapping
from refstore.shared import SharedDict, SharedList

CLASSES = [getattr(refstore, name) for name in refstore.__all__]
CLASSES += [StoreMapping, SharedList, SharedDict]
BOUND = [name for name in binding._BOUND if not name.startswith("_")]


PUBLIC = documented.members(CLASSES) | {f"aio.{name}": getattr(aio, name) for name in aio.__all__}


@pytest.mark.once("opens no store")
def test_signatures_are_shown() -> None:
    assert "mode: 'SupportsIndex' = 0o600" in str(inspect.signature(refstore.Store))
    assert "= 0o600" in str(inspect.signature(refstore.Store.temporary))
    assert list(inspect.signature(refstore.ObjectRef).parameters) == ["raw"]


@pytest.mark.parametrize("cls", [refstore.PinnedBuffer, refstore.Writer])
def test_who_makes_a_buffer_is_told(cls: Any, store: refstore.Store) -> None:
    call = {"PinnedBuffer": "get", "Writer": "create"}[cls.__name__]
    with store.create(1, name="n") as writer:
        pass
    with store.get("n") as buf:
        for made in (cls, type(buf) if cls is refstore.PinnedBuffer else type(writer)):
            for arguments in ((), (b"x",)) if made is cls else ((),):
                with pytest.raises(TypeError, match=rf"^Store\.{call}\(\) makes {cls.__name__}s$"):
                    made(*arguments)


@pytest.mark.once("opens no store")
@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_call_is_documented(name: str) -> None:
    told = documented.require(name, PUBLIC[name])
    if name.startswith("Store.") and name not in ("Store.closed", "Store.backend"):
        assert told[documented.ERRORS]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_run(name: str, store: refstore.Store) -> None:
    documented.run_examples(name, PUBLIC[name], store)


def help_of(call: Any) -> str:
    """Without what says whose it is, and of the function the line of `self`."""
    text = pydoc.plain(pydoc.render_doc(call))
    text = re.sub(r" method of \S+ instance$", "", text, flags=re.MULTILINE)
    return text[text.index("    ") :].replace("    self,\n", "", 1)


@pytest.mark.parametrize("name", BOUND)
def test_a_bound_method_is_documented_like_the_class(name: str, store: refstore.Store) -> None:
    bound, plain = getattr(store, name), getattr(refstore.Store, name)
    assert inspect.getdoc(bound) == inspect.getdoc(plain)
    assert help_of(bound) == help_of(plain)
    assert bound.__name__ == plain.__name__ == name
    of_plain = inspect.signature(plain)
    _, *rest = of_plain.parameters.values()
    assert inspect.signature(bound) == of_plain.replace(parameters=rest)
    assert inspect.getsource(bound) == inspect.getsource(plain)
    assert inspect.getsourcefile(inspect.unwrap(bound)) == inspect.getsourcefile(plain)


@pytest.mark.parametrize("name", BOUND)
def test_an_engine_takes_what_the_documented_call_takes(name: str, store: refstore.Store) -> None:
    def taken(call: Any) -> list[tuple[str, Any, Any]]:
        itself = inspect.signature(call, follow_wrapped=False)
        return [(one.name, one.kind, one.default) for one in itself.parameters.values()]

    assert taken(getattr(store, name)) == taken(getattr(refstore.Store, name))[1:]


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.startswith("Store.")])
def test_the_class_of_a_store_has_the_same_documentation(name: str, store: refstore.Store) -> None:
    of_instance = getattr(type(store), name.partition(".")[2])
    assert inspect.getdoc(of_instance) == inspect.getdoc(PUBLIC[name])


@pytest.mark.parametrize("made", ["PinnedBuffer", "Writer", "ObjectRef"])
def test_what_an_engine_hands_out_is_documented_like_its_public_class(
    made: str, store: refstore.Store
) -> None:
    things: dict[str, Any] = {
        "ObjectRef": store.put(b"x"),
        "PinnedBuffer": store.get(store.put(b"x")),
        "Writer": store.create(1),
    }
    cls, public = type(things[made]), getattr(refstore, made)
    assert inspect.getdoc(cls) == inspect.getdoc(public)
    for name in dir(public):
        if f"{made}.{name}" in PUBLIC:
            member = getattr(cls, name)
            assert inspect.getdoc(member) == inspect.getdoc(PUBLIC[f"{made}.{name}"]), name
    things["PinnedBuffer"].release()
    things["Writer"].abort()
