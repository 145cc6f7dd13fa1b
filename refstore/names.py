"""What may name an object: the rules of both engines."""

from __future__ import annotations

__all__ = ["NAME_LIMIT", "demand_text", "encode_name"]

NAME_LIMIT = 255  # bytes of UTF-8


def demand_text(name: object) -> str:
    """`name`, if it is a str; TypeError otherwise."""
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    return name


def encode_name(name: object) -> bytes:
    """The UTF-8 of an object's name. TypeError or ValueError if it can be none."""
    utf8 = demand_text(name).encode()
    if not 0 < len(utf8) <= NAME_LIMIT:
        raise ValueError(f"a name has 1 to {NAME_LIMIT} bytes of UTF-8, this one has {len(utf8)}")
    return utf8
