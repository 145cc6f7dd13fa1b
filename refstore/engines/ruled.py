"""An engine's calls by the rules of `Store(pickler=, allow_pickle=)`.

A class of its own, so that a store without such rules takes no step for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from refstore.payload.rules import Rules, bind, guard

if TYPE_CHECKING:
    from refstore._buffers import PinnedBuffer
    from refstore._refs import ObjectRef
    from refstore.engines.interface import Engine

__all__ = ["ruled"]


def ruled(engine: type[Engine], rules: Rules) -> type[Engine]:
    """The engine's class, with rules."""
    members = {"__slots__": (), "_rules": rules}
    return cast("type[Engine]", type("Ruled", (RuledCalls, engine), members))


class RuledCalls:
    """The calls that pickle objects, or get them."""

    __slots__ = ()
    _rules: ClassVar[Rules]

    def _calls(self) -> Engine:
        return cast("Engine", super())

    def _given(self, buf: PinnedBuffer) -> PinnedBuffer:
        return buf if self._rules.allows else cast("PinnedBuffer", guard(buf))

    def put(self, obj: object, **options: Any) -> ObjectRef:
        return self._calls().put(bind(obj, self._rules), **options)

    def put_many(self, objs: Iterable[object], **options: Any) -> list[ObjectRef]:
        return self._calls().put_many([bind(obj, self._rules) for obj in objs], **options)

    def get(self, key: ObjectRef | str, **options: Any) -> PinnedBuffer:
        return self._given(self._calls().get(key, **options))

    def wait(self, name: str, **options: Any) -> PinnedBuffer:
        return self._given(self._calls().wait(name, **options))

    def get_many(self, keys: Iterable[ObjectRef | str], **options: Any) -> list[PinnedBuffer]:
        return list(map(self._given, self._calls().get_many(keys, **options)))

    def get_or_put(self, name: str, factory: Callable[[], object], **options: Any) -> PinnedBuffer:
        given = (lambda: bind(factory(), self._rules)) if callable(factory) else factory
        return self._given(self._calls().get_or_put(name, given, **options))
