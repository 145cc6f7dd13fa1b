"""`ObjectRef`, the address of one object: the compiled core's, or the same in Python without it.

    bytes 0..3     slot
    bytes 4..9     generation
    bytes 10..15   tag of the store, never 0

each with its lowest byte first. One installation has one class, whichever engine its stores have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn, final

from refstore import _messages
from refstore._pickled import named_in_pickles

__all__ = ["ObjectRef", "Parts", "make_ref", "parts_of"]

_GENERATION_AT, _TAG_AT = 32, 80  # in bits
_SLOT_MASK, _GENERATION_MASK = 2**32 - 1, 2**48 - 1


class Parts(NamedTuple):
    """The parts of the sixteen bytes of a ref."""

    slot: int
    generation: int
    tag: int


@final
class _PythonRef:
    """The address of one object, in 16 bytes: immutable, hashable, picklable.

    A ref of a deleted object, or of another store's, never leads to a live one.

    Parameters:
        raw: the 16 bytes of a ref, as bytes(ref) has them.

    Errors:
        TypeError: `raw` is not bytes.
        ValueError: it does not have 16 of them.

    Example:
        >>> ref = store.put(b"x")
        >>> refstore.ObjectRef(bytes(ref)) == ref
        True
    """

    __slots__ = ("__weakref__", "_raw")

    def __new__(cls, raw: bytes) -> _PythonRef:
        if not isinstance(raw, bytes):
            raise _messages.wrong_ref_type(raw)
        if len(raw) != 16:
            raise _messages.wrong_ref_size(len(raw))
        self = super().__new__(cls)
        object.__setattr__(self, "_raw", bytes(raw))
        return self

    def __init_subclass__(cls, **options: object) -> NoReturn:
        raise TypeError("ObjectRef has no subclasses")

    @staticmethod
    def from_hex(text: str) -> _PythonRef:
        """Makes the ref whose hex() this is.

        Parameters:
            text: 32 hexadecimal digits.

        Returns:
            The ref.

        Errors:
            TypeError: `text` is not a str.
            ValueError: it does not have 32 such digits.

        Example:
            >>> ref = store.put(b"x")
            >>> refstore.ObjectRef.from_hex(ref.hex()) == ref
            True
        """
        if not isinstance(text, str):
            raise _messages.wrong_hex_type(text)
        return _PythonRef(bytes.fromhex(text))

    def hex(self) -> str:
        """Writes the 16 bytes as hexadecimal digits.

        Returns:
            32 digits, of which from_hex() makes the ref again.

        Example:
            >>> len(store.put(b"x").hex())
            32
        """
        raw: bytes = self._raw
        return raw.hex()

    def __bytes__(self) -> bytes:
        raw: bytes = self._raw
        return raw

    def __eq__(self, other: object) -> bool:
        if type(other) is not _PythonRef:
            return NotImplemented
        return bytes(self) == bytes(other)

    def __hash__(self) -> int:
        return hash(bytes(self))

    def __setattr__(self, name: str, value: object = None) -> NoReturn:
        raise AttributeError("an ObjectRef cannot be changed")

    __delattr__ = __setattr__

    def __reduce__(self) -> tuple[object, ...]:
        return restore_ref, (bytes(self),)

    def __repr__(self) -> str:
        return f"ObjectRef.from_hex('{self.hex()}')"

    if TYPE_CHECKING:
        _raw: bytes


if TYPE_CHECKING:
    from refstore._core import ObjectRef
else:
    try:
        from refstore import _core
    except ImportError:
        ObjectRef = _PythonRef
        ObjectRef.__name__ = ObjectRef.__qualname__ = "ObjectRef"
    else:
        ObjectRef = _core.ObjectRef
        _core.adopt_docs(ObjectRef, _PythonRef, "(raw)")


def make_ref(slot: int, generation: int, tag: int) -> ObjectRef:
    """The ref of these parts."""
    number = slot | generation << _GENERATION_AT | tag << _TAG_AT
    return ObjectRef(number.to_bytes(16, "little"))


def parts_of(ref: ObjectRef) -> Parts:
    """The parts of `ref`."""
    number = int.from_bytes(bytes(ref), "little")
    return Parts(
        number & _SLOT_MASK, number >> _GENERATION_AT & _GENERATION_MASK, number >> _TAG_AT
    )


@named_in_pickles
def restore_ref(raw: bytes) -> ObjectRef:
    """Rebuilds a ref; named in pickles."""
    return ObjectRef(raw)


# Pickles name a function of this package, and not the class: the process that unpickles a ref may
# have no compiled core, or have one where this one has none.
if not TYPE_CHECKING and ObjectRef is not _PythonRef:
    _core.reduce_refs_by(restore_ref)
