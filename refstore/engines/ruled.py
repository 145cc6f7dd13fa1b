"""An engine's calls by the rules of `Store(pickler=, allow_pickle=)`.

A class of its own, so that a store without such rules takes no step for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from refstore.payload.rules import bind, guard, require_safe

if TYPE_CHECKING:
    from refstore._buffers import PinnedBuffer, Writer
    from refstore._refs import ObjectRef
    from refstore.engines.interface import Engine
    from refstore.payload.rules import Rules

__all__ = ["ruled"]


def ruled(engine: type[Engine]) -> type[Engine]:
    """The engine's class, by the rules that a store's own class has."""
    return cast("type[Engine]", type("Ruled", (RuledCalls, engine), {"__slots__": ()}))


class RuledCalls:
    """The calls that pickle objects, or get them."""

    __slots__ = ()
    _rules: ClassVar[Rules]  # of the store's own class

    def _engine_calls(self) -> Engine:
        return cast("Engine", super())

    def _given(self, buf: PinnedBuffer) -> PinnedBuffer:
        return buf if self._rules.allows else cast("PinnedBuffer", guard(buf))

    def put(self, obj: object, **options: Any) -> ObjectRef:
        return self._engine_calls().put(bind(obj, self._rules), **options)

    def put_many(self, objs: Iterable[object], **options: Any) -> list[ObjectRef]:
        bound = [bind(obj, self._rules) for obj in objs]
        return self._engine_calls().put_many(bound, **options)

    def create(
        self, nbytes: Any = None, *, dtype: Any = None, header: Any = None, **options: Any
    ) -> Writer:
        if not self._rules.allows:
            require_safe(dtype, header)
        return self._engine_calls().create(nbytes, dtype=dtype, header=header, **options)

    def get(self, key: ObjectRef | str, **options: Any) -> PinnedBuffer:
        return self._given(self._engine_calls().get(key, **options))

    def wait(self, name: str, **options: Any) -> PinnedBuffer:
        return self._given(self._engine_calls().wait(name, **options))

    def get_many(self, keys: Iterable[ObjectRef | str], **options: Any) -> list[PinnedBuffer]:
        return list(map(self._given, self._engine_calls().get_many(keys, **options)))

    def get_or_put(self, name: str, factory: Callable[[], object], **options: Any) -> PinnedBuffer:
        given = (lambda: bind(factory(), self._rules)) if callable(factory) else factory
        return self._given(self._engine_calls().get_or_put(name, given, **options))
