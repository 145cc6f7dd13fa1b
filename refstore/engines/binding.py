"""How a `Store` gets its engine's methods: by a class that derives from both.

    class Store(refstore.Store, engine.Engine):     # made by `bound`, once for each face and engine
        put, get, delete, ... = engine.Engine.put, engine.Engine.get, ...

The methods stand in the class itself, so that a call takes no step in between. Where a subclass of
Store has its own, those stay, and reach the engine by super(). For `store.py` alone.
"""

from __future__ import annotations

from typing import Any

from refstore.engines.interface import Module

__all__ = ["bound"]

_OF_THE_ENGINE = (
    *("put", "create", "get", "delete", "refcount", "ref", "names", "trim", "closed"),
    *("__contains__", "__len__", "__iter__"),
)

_made: dict[tuple[type, str], type] = {}


def bound(face: type, base: type, module: Module) -> type:
    """`face`, which is `base` or a subclass of it, with the methods of an engine."""
    key = face, module.BACKEND
    if key not in _made:
        _made[key] = _bind(face, base, module)
    return _made[key]


def _bind(face: type, base: type, module: Module) -> type:
    members: dict[str, Any] = {
        name: getattr(module.Engine, name)
        for name in _OF_THE_ENGINE
        if getattr(face, name) is getattr(base, name)
    }
    members |= {
        # not in Store itself: before 3.11 a subclass with a __dict__ would then fit no engine
        "__slots__": () if face.__weakrefoffset__ else ("__weakref__",),
        "__doc__": face.__doc__,
        "__module__": face.__module__,
        "__qualname__": face.__qualname__,
        "_module": module,
        "_face": face,
    }
    return type(face.__name__, (face, module.Engine), members)
