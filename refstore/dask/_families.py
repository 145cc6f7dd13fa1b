"""Replacements in distributed: two serialization families, and what connections say at first.

Of distributed's own, beside its public calls, this uses `distributed.protocol.serialize.families`,
`Comm.handshake_info()`, and that what it returns comes back as `context["sender"]` and
`context["recipient"]` of dumps().
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import distributed
from distributed.comm import Comm
from distributed.protocol import register_serialization_family

__all__ = ["FAMILIES", "Hooks", "install", "is_installed", "original", "uninstall"]

FAMILIES = ("dask", "pickle")
_HANDSHAKE = "handshake_info"
_TESTED = "2025.7 to 2026.8"

Frames = tuple[dict[str, Any], Sequence[Any]]


class Family(NamedTuple):
    """The two functions of a family."""

    dumps: Callable[[Any, dict[str, Any] | None], Frames]
    loads: Callable[[dict[str, Any], Sequence[Any]], Any]


class Hooks(Protocol):
    """Functions that are called in their place."""

    def dumps(self, family: str, value: Any, context: dict[str, Any]) -> Frames: ...
    def loads(self, family: str, header: dict[str, Any], frames: Sequence[Any]) -> Any: ...
    def introduce(self, comm: Any) -> dict[str, Any]:
        """Description of this process that a connection tells the other end."""


_originals: dict[str, Any] = {}  # families by name, and the method; empty if nothing is replaced


def is_installed() -> bool:
    return bool(_originals)


def original(name: str) -> Family:
    """distributed's own family, whether it is replaced or not."""
    dumps, loads, wants_context = _originals.get(name) or _families()[name]
    return Family(dumps if wants_context else lambda value, context: dumps(value), loads)


def install(hooks: Hooks) -> None:
    """Replaces both families; a second time does nothing.

    Errors: RuntimeError, if this version of distributed lacks something.
    """
    if _originals:
        return
    found, handshake_info = _families(), getattr(Comm, _HANDSHAKE, None)
    if not callable(handshake_info):
        raise _unknown_version(f"Comm.{_HANDSHAKE}()")
    _originals.update({name: found[name] for name in FAMILIES}, **{_HANDSHAKE: handshake_info})

    def introduced(comm: Any) -> dict[str, Any]:
        return {**handshake_info(comm), **hooks.introduce(comm)}

    setattr(Comm, _HANDSHAKE, introduced)
    for name in FAMILIES:
        register_serialization_family(name, *_replacement(name, hooks))


def _replacement(name: str, hooks: Hooks) -> tuple[Callable[..., Frames], Callable[..., Any]]:
    dumps, _ = original(name)

    def dumps_for(value: Any, context: dict[str, Any] | None = None) -> Frames:
        return hooks.dumps(name, value, context) if context else dumps(value, context)

    def loads(header: dict[str, Any], frames: Sequence[Any]) -> Any:
        return hooks.loads(name, header, frames)

    return dumps_for, loads


def uninstall() -> None:
    """Gives distributed its own back."""
    if not _originals:
        return
    setattr(Comm, _HANDSHAKE, _originals[_HANDSHAKE])
    for name in FAMILIES:
        dumps, loads, _ = _originals[name]
        register_serialization_family(name, dumps, loads)
    _originals.clear()


def _families() -> dict[str, tuple[Any, Any, bool]]:
    # not by an import: the package has a function of the module's name
    found = getattr(importlib.import_module("distributed.protocol.serialize"), "families", None)
    if not isinstance(found, dict) or any(len(found.get(name, ())) != 3 for name in FAMILIES):
        raise _unknown_version(" and ".join(f"the family {name!r}" for name in FAMILIES))
    return found


def _unknown_version(what: str) -> RuntimeError:
    return RuntimeError(
        f"refstore.dask replaces {what} of distributed, and version {distributed.__version__} has "
        f"nothing of that kind. It is known to work with {_TESTED}: install one of these"
    )
