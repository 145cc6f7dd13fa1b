"""Binding of an engine's methods to `Store`, by a class that derives from both.

    class Store(refstore.Store, engine.Engine):     # made by `bound`, once for each pair
        put, get, delete, ... = engine.Engine.put, engine.Engine.get, ...

The methods stand in the class itself, so that a call takes no step in between. Each of them wraps
the method of `Calls` in the sense of functools.update_wrapper(): so help() shows the
documentation and inspect the signature and the source that stand there, once for both engines.
Where a subclass of Store has a method of its own, that stays, and reaches the engine by super().
For `_store.py` alone.
"""

from __future__ import annotations

from typing import Any

from refstore._calls import Calls
from refstore._docs import adopt_docs
from refstore.engines.interface import Engine, Module
from refstore.engines.ruled import ruled
from refstore.engines.tracking import tracked
from refstore.payload.rules import FREE, Rules

__all__ = ["bound"]

_BOUND = (
    *("put", "create", "get", "delete", "refcount", "ref", "names", "trim", "__contains__"),
    *("put_many", "get_many", "delete_many", "get_or_put", "wait", "wait_any", "adopt", "disown"),
)

_engines: dict[tuple[str, bool, bool], type[Engine]] = {}


def bound(face: type, module: Module, tracks: bool, rules: Rules) -> type:
    """`face`, a public class (`Store` or a subclass of it), with the methods of an engine.

    `tracks`: with notes of the lines that call them. `rules`: how they pickle.
    """
    # kept by `face` itself, so that both go together
    made: dict[tuple[type, str, bool, Rules], type] = face._bound  # type: ignore[attr-defined]
    key = face, module.BACKEND, tracks, rules
    # one class, whichever thread is first
    return made[key] if key in made else made.setdefault(key, _bind(face, module, tracks, rules))


def _bind(face: type, module: Module, tracks: bool, rules: Rules) -> type:
    engine = _documented(module, tracks, rules != FREE)
    members: dict[str, Any] = {
        name: getattr(engine, name)
        for name in _BOUND
        if getattr(face, name) is getattr(Calls, name)
    }
    members |= {
        # not in Store itself: before 3.11 a subclass with a __dict__ would then fit no engine
        "__slots__": () if face.__weakrefoffset__ else ("__weakref__",),
        "__doc__": face.__doc__,
        "__module__": face.__module__,
        "__qualname__": face.__qualname__,
        "_module": module,
        "_face": face,
        "_tracks": tracks,
        "_rules": rules,
    }
    return type(face.__name__, (face, engine), members)


def _documented(module: Module, tracks: bool, has_rules: bool) -> type[Engine]:
    """The class of an engine, whose methods wrap those of `Calls` from here on."""
    key = module.BACKEND, tracks, has_rules
    if key not in _engines:
        engine = tracked(module.Engine) if tracks else module.Engine
        engine = ruled(engine) if has_rules else engine
        for part in engine.__mro__:
            adopt_docs(part, Calls)
        _engines.setdefault(key, engine)
    return _engines[key]
