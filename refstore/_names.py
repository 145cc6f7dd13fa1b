"""Rules for names, for both engines."""

from __future__ import annotations

import re

__all__ = ["NAME_LIMIT", "encode_key", "encode_name", "holds_control", "require_text"]

NAME_LIMIT = 255  # bytes of UTF-8
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def holds_control(text: str) -> bool:
    """Whether a text has control characters, or ends of lines of whatever kind."""
    return _CONTROL.search(text) is not None


def require_text(text: object, what: str = "a name") -> str:
    """`text`, if it is a str; TypeError otherwise."""
    if isinstance(text, str):
        return text if type(text) is str else str.__str__(text)  # whatever a subclass says
    raise TypeError(f"{what} is a str, not {type(text).__name__}")


def encode_name(name: object) -> bytes:
    """The UTF-8 of an object's name. TypeError or ValueError if it is not valid."""
    text = require_text(name)
    try:
        utf8 = str.encode(text)  # as it is, whatever a subclass says
    except UnicodeEncodeError:
        raise ValueError(
            f"a name must have an encoding in UTF-8, and {text!r} has a lone surrogate"
        ) from None
    if not 0 < len(utf8) <= NAME_LIMIT:
        raise ValueError(f"a name has 1 to {NAME_LIMIT} bytes of UTF-8, this one has {len(utf8)}")
    return utf8


def encode_key(key: object) -> bytes:
    """The same of a key that is not a ref; its TypeError says what finds an object."""
    try:
        return encode_name(key)
    except TypeError as error:
        advice = "to find an object, give an ObjectRef or a name"
        if isinstance(key, bytes) and len(key) == 16:
            advice = "give an ObjectRef or a name; of a ref's bytes, ObjectRef(raw)"
        raise TypeError(f"{error}: {advice}") from None
