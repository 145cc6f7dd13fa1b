"""The name of this process in reports and errors: its command in short, after its label.

A command line begins with what all have in common, the path of an interpreter. What tells one
process from another is the script or module, and its arguments.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Final

from refstore._errors import RefstoreWarning
from refstore._names import holds_control, require_text

__all__ = ["COMMAND_NBYTES", "LABEL_NBYTES", "command", "label", "on_label", "own_label", "shorten"]

COMMAND_NBYTES: Final = 95  # that both engines keep of a command, in UTF-8
LABEL_NBYTES: Final = 31

_VARIABLE: Final = "REFSTORE_LABEL"
_MOST: Final = 4096  # bytes of a command line that are looked at
_INTERPRETER: Final = re.compile(r"(python|pypy|graalpy)w?[0-9.]*[a-z]?(\.exe)?", re.IGNORECASE)
_TAKE_VALUE: Final = "WX"  # options of the interpreter; of the long ones the next
_LONG_WITH_VALUE: Final = "--check-hash-based-pycs"

_given: str | None = None  # by label()
_warned_of: set[str] = set()  # labels from outside
_listeners: list[Callable[[], None]] = []


# --- the label


def label(text: str) -> None:
    """Sets what this process is called, in front of its command, wherever a report or an error
    names it.

    It holds for all stores that this process has open or will open, and for its forked children
    until they set another one. The variable REFSTORE_LABEL sets it from outside.

    Parameters:
        text: up to 31 bytes of UTF-8; what is over is cut off at a character. "": none.

    Errors:
        TypeError: it is not a str.
        ValueError: it holds control characters, an end of a line, or a lone surrogate.

    Example:
        >>> refstore.label("actor 3")
        >>> with store.get(store.put(b"x")):
        ...     store.holders()[0].command.partition(": ")[0]
        'actor 3'
        >>> refstore.label("")
    """
    global _given
    _given = _checked(text, "a label")
    for listener in _listeners:
        listener()


def own_label() -> bytes:
    """The label of this process, as engines keep it."""
    return _fit(_from_outside() if _given is None else _given, LABEL_NBYTES)


def _from_outside() -> str:
    # whoever starts a job must not end it by a label
    text = os.environ.get(_VARIABLE, "")
    try:
        return _checked(text, _VARIABLE)
    except ValueError as error:
        cleaned = "".join(letter if letter.isprintable() else "?" for letter in text)
        if text not in _warned_of:
            _warned_of.add(text)
            warnings.warn(f"{error}; it is taken as {cleaned!r}", RefstoreWarning, stacklevel=2)
        return cleaned


def on_label(listener: Callable[[], None]) -> None:
    """Has an engine told when the label changes."""
    _listeners.append(listener)


def _checked(given: object, what: str) -> str:
    text = require_text(given, what)
    if holds_control(text):
        raise ValueError(
            f"{what} must not hold control characters, nor other ends of lines: {text!r}"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{what} must have an encoding in UTF-8, and {text!r} has a lone surrogate"
        ) from None
    return text


def _fit(text: str, nbytes: int) -> bytes:
    """The whole characters at the head of `text` that fit."""
    return text.encode("utf-8", "replace")[:nbytes].decode("utf-8", "ignore").encode()


# --- the command


def command() -> bytes:
    """The command of this process, as engines keep it."""
    return _fit(_started_by() or shorten(_arguments()), COMMAND_NBYTES)


def _arguments() -> list[str]:
    with contextlib.suppress(OSError), open("/proc/self/cmdline", "rb", buffering=0) as file:
        text = (file.read(_MOST) or b"").rstrip(b"\0")
        if text:
            return text.decode("utf-8", "replace").split("\0")
    return [sys.executable or "python", *sys.argv]


def shorten(arguments: list[str]) -> str:
    """A command line without what says nothing: the script or module, and its arguments."""
    program, rest = arguments[0], arguments[1:]
    if not rest and " " in program:  # a title that the program gave itself
        program, _, title = program.partition(" ")
        return f"{_base(program)} {title}"
    if not _INTERPRETER.fullmatch(_base(program)):
        return " ".join([_base(program), *rest])
    return " ".join(_without_options(rest)) or _base(program)


def _without_options(rest: list[str]) -> list[str]:
    """The script or module that an interpreter runs, and its arguments."""
    while rest:
        option, rest = rest[0], rest[1:]
        if option == "-":
            return ["python", "-", *rest]
        if not option.startswith("-"):
            return [_name_of(option), *rest]
        if option == _LONG_WITH_VALUE:
            rest = rest[1:]
        if option.startswith("--"):
            continue
        for k, letter in enumerate(option[1:], start=2):  # several may stand in one
            value = [option[k:]] if option[k:] else rest[:1]
            if letter in "cm":
                told = ["-c", *value] if letter == "c" else value
                return [*told, *(rest if option[k:] else rest[1:])]
            if letter in _TAKE_VALUE:
                rest = rest if option[k:] else rest[1:]
                break
    return []


def _name_of(script: str) -> str:
    """A script as it is known: a package or an archive that is run by the name of its folder."""
    base = _base(script)
    return _base(os.path.dirname(script)) if base == "__main__.py" else base


def _base(path: str) -> str:
    return os.path.basename(path.rstrip("/")) or path


def _started_by() -> str | None:
    """The name that a child of `multiprocessing` has there, since its command line is
    multiprocessing's own, or its parent's; None for other processes."""
    module = sys.modules.get("multiprocessing.process")
    if module is None:
        return None
    current = module.current_process()
    # A spawned child that is still unpickling what it was given knows its name, and no parent yet.
    if module.parent_process() is None and not getattr(current, "_inheriting", False):
        return None
    name, argv = str(current.name), list(getattr(sys, "argv", []))
    main = sys.modules.get("__mp_main__") or sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # of `python -m`
        argv[:1] = [spec.name.removesuffix(".__main__")]
    elif argv:
        argv[0] = _name_of(argv[0])
    return f"{name} of {' '.join(argv)}" if any(argv) else name
