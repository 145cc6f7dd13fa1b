"""What a player notes while it plays: findings, by where they were; what is new; where it is."""

from __future__ import annotations

import collections
import json
import mmap
import os
import pickle
import re
import struct
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from refstore._errors import (
    GetTimeoutError,
    ObjectExistsError,
    ObjectNotFoundError,
    RefstoreError,
    StoreFullError,
)

EXPECTED = (
    *(RefstoreError, OSError, ValueError, TypeError, KeyError, MemoryError, pickle.PickleError),
)
UNEXPECTED = (UnicodeError,)  # a ValueError, by chance: a text of the file that nobody looked at
# Of a sound file.
USUAL = (ObjectExistsError, ObjectNotFoundError, StoreFullError, GetTimeoutError)
# Not of every kind, dtype and order: these may be BufferErrors, too.
EXPORTS = (
    *("array", "touch array", "memoryview", "asarray", "frombuffer"),
    *("dlpack", "private view", "scribble"),
)
SILENT = (RefstoreError, OSError, pickle.PickleError)  # the others are worth a note
_NUMBERS = re.compile(r"\d+|0x[0-9a-f]+|'[^']*'|\([^)]*\)")


class Finding(NamedTuple):
    """Something that must not be, or that a person may want to look at."""

    kind: str  # "exception", "signal", "hang", "memory", "descriptors", "note"
    where: str  # findings of one place are one
    image: str
    detail: str = ""


class Clock:
    """Shared with whoever watches: since when the last call and the image are played, and which."""

    _FORM = struct.Struct("=ddB239s")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._FORM.size)

    def begin(self, image: str) -> None:
        text = image.encode()
        at = time.monotonic()
        self._FORM.pack_into(self._memory, 0, at, at, len(text), text)

    def tick(self) -> None:
        struct.pack_into("=d", self._memory, 0, time.monotonic())

    def image(self) -> str:
        _, _, length, text = self._FORM.unpack_from(self._memory)
        return str(text[:length], "utf-8")

    def seconds(self) -> tuple[float, float]:
        """How long the call and the image take by now; 0 while either is written."""
        at = time.monotonic()
        call, image, _, _ = self._FORM.unpack_from(self._memory)
        return (at - call if call else 0.0), (at - image if image else 0.0)


class Notes:
    """Of one player. They go down a pipe, a line each, so that nothing is lost when it dies."""

    def __init__(
        self,
        fd: int,
        clock: Clock,
        seen: set[str],
        told: collections.Counter[tuple[str, str]],
    ) -> None:
        self.fd = fd
        self.clock = clock
        self.image = ""
        self.seen = seen  # features
        self.is_new = False  # whether the image had one that was not seen
        self.busy = 0  # calls that waited for somebody in vain
        self.is_sound = False  # the file: nothing is wrong with it
        self.told = told  # findings of each kind and place; it costs much to format an exception

    def begin(self, image: str) -> None:
        self.image, self.is_new, self.busy = image, False, 0
        self.clock.begin(image)

    def tell(self, kind: str, **values: object) -> None:
        line = json.dumps({"kind": kind, **values}).encode() + b"\n"
        os.write(self.fd, line)

    def find(self, kind: str, where: str, detail: str | BaseException = "") -> None:
        """What an exception says at length is told the first few times only."""
        self.told[kind, where] += 1
        if isinstance(detail, BaseException):
            is_new = self.told[kind, where] < 3
            detail = "".join(traceback.format_exception(detail)) if is_new else ""
        self.tell("finding", finding=Finding(kind, where, self.image, detail[-3000:]))

    def feature(self, feature: str) -> None:
        """Something that an image can make happen."""
        if feature not in self.seen:
            self.seen.add(feature)
            self.is_new = True
            self.tell("feature", feature=feature)

    def attempt(self, what: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What the call returns; None if it raises what it may."""
        self.clock.tick()
        try:
            return call(*args, **options)
        except EXPECTED as error:
            self.expected(what, error)
        except Exception as error:
            if not isinstance(error, BufferError) or what not in EXPORTS:
                self.unexpected(what, error)
        return None

    def expected(self, what: str, error: BaseException) -> None:
        name = type(error).__name__
        is_unusual = not isinstance(error, USUAL) and what not in EXPORTS
        if isinstance(error, UNEXPECTED) or (self.is_sound and is_unusual):
            self.unexpected(what, error)
            return
        if name == "_ArrayMemoryError" or (name == "MemoryError" and not error.args):
            # Python's or numpy's: more was asked for than a player's limit, far above what may be.
            self.find("memory", f"{name} from {where(error.__traceback__)}", error)
        if name == "StoreBusyError":
            self.busy += 1
        if not isinstance(error, SILENT):
            self.find("note", f"{name} from {where(error.__traceback__)}", f"{what}: {error}")
        self.feature(f"{what} {name} {_NUMBERS.sub('#', str(error)[:300])[:120]}")

    def unexpected(self, what: str, error: BaseException) -> None:
        self.find("exception", f"{type(error).__name__} from {where(error.__traceback__)}", error)

    def unraisable(self, hook: Any) -> None:
        """As `sys.unraisablehook`: what a finalizer raises is a finding, whatever it is."""
        name = getattr(hook.exc_type, "__name__", "?")
        place = f"unraisable {name} from {where(hook.exc_traceback)}"
        self.find("exception", place, hook.exc_value or "")

    def watch_finalizers(self) -> None:
        sys.unraisablehook = self.unraisable


def where(trace: TracebackType | None) -> str:
    """The innermost frame that is refstore's: its file and function, or that of the caller."""
    found = "the program"
    while trace is not None:
        code = trace.tb_frame.f_code
        if "refstore" in code.co_filename.split("/")[-3:-1] or code.co_filename.startswith(
            "refstore/"
        ):
            file = code.co_filename.rpartition("refstore/")[2]
            found = f"{file}:{trace.tb_lineno} {code.co_name}"
        elif found == "the program" and "/fuzz/" in code.co_filename:
            found = f"fuzz/{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return found
