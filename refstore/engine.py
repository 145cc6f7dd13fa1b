"""What the two engines have in common, and which of them a store gets.

An engine is a module: `refstore._core`, compiled, or `refstore.fallback`, in Python over file
locks. It makes and attaches to files, and its class `Engine` does the work of a `Store`.
"""

from __future__ import annotations

import functools
import importlib
import os
import struct
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol, SupportsIndex, cast

from refstore.errors import RefstoreError, RefstoreWarning
from refstore.paths import open_store

if TYPE_CHECKING:
    import numpy.typing as npt

    from refstore.blocks import PinnedBuffer, Writer
    from refstore.refs import ObjectRef

Backend = Literal["native", "filelock"]
BACKENDS: tuple[Backend, ...] = ("native", "filelock")
_MODULES: dict[str, str] = {"native": "refstore._core", "filelock": "refstore.fallback"}
_NUMBERS: dict[int, Backend] = {1: "native", 2: "filelock"}  # as the file's header has them
_HEADER = struct.Struct("=QII")  # magic, version, engine: of every store, whoever owns it
_MAGIC = 0x65726F7473666572  # "refstore"


class Attachment(Protocol):
    """This process's membership in one store, shared by all that uses it here."""

    @property
    def path(self) -> str: ...
    @property
    def uuid(self) -> bytes: ...
    @property
    def capacity(self) -> int: ...
    @property
    def max_objects(self) -> int: ...
    def is_of(self, fd: int) -> bool: ...


class Engine(Protocol):
    """What a `Store` is made of: it has the signatures and the errors of the methods there."""

    @property
    def _attachment(self) -> Attachment: ...
    @property
    def closed(self) -> bool: ...
    def _open(self, att: Attachment) -> None: ...
    def close(self) -> None: ...
    def put(
        self, obj: object, *, name: str | None, replace: bool, timeout: float | None
    ) -> ObjectRef: ...
    def create(
        self,
        nbytes: SupportsIndex | None,
        *,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | None,
        dtype: npt.DTypeLike | None,
        name: str | None,
        replace: bool,
        timeout: float | None,
    ) -> Writer: ...
    def get(
        self, key: ObjectRef | str, *, timeout: float | None, writable: bool
    ) -> PinnedBuffer: ...
    def delete(self, key: ObjectRef | str) -> None: ...
    def refcount(self, key: ObjectRef | str) -> int: ...
    def ref(self, name: str) -> ObjectRef: ...
    def __contains__(self, key: ObjectRef | str, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ObjectRef]: ...
    def names(self) -> list[str]: ...
    def trim(self) -> int: ...
    def _census(self) -> tuple[int, ...]:
        """The fields of StoreStats, in its order."""

    def _problems(self) -> set[str]:
        """A sentence for each invariant that does not hold at this moment."""

    def _recover_all(self) -> tuple[int, tuple[int, ...], int, int, int, int, int]:
        """Recovers; the fields of Recovery, in its order."""

    def _holders(
        self, key: ObjectRef | str | None
    ) -> list[tuple[int, str, ObjectRef | None, str | None, int, int, bool]]:
        """The fields of Holder, for each holder of one object or of any."""


class Claim(Protocol):
    """That the creator of a temporary store lives, for others to see: as long as this does."""

    def give_back(self) -> None:
        """The creator is none any more."""


class Module(Protocol):
    """What a module that is an engine has."""

    BACKEND: Backend  # its name
    Engine: type[Engine]
    OBJECTS_LIMIT: int

    def file_nbytes(self, capacity: int, max_objects: int) -> int:
        """Apparent size of the file of such a store."""

    def make_file(
        self, path: str, capacity: int, max_objects: int, mode: int, temporary: bool
    ) -> Claim | None:
        """Makes a whole store file; FileExistsError if the path is taken.

        Returns the creator's claim on a temporary store.
        """

    def is_creator_alive(self, fd: int, path: str) -> bool | None:
        """Of the temporary store behind `fd`; None if it is none of this engine's."""

    def is_unused(self, fd: int, path: str) -> bool:
        """Whether nobody is attached to the store behind `fd`, and nothing was ever put there."""

    def attach(self, path: str, foreign: bool) -> Attachment:
        """Joins the store; FileNotFoundError and all that a bad file can be."""

    def why_not(self, folder: str) -> str | None:
        """What keeps this engine's stores out of a folder; None if nothing does."""


# --- which one


def check_backend(backend: str) -> str:
    """`backend`, or what the environment says in place of "auto"; ValueError if it is none."""
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend is {backend!r}: it is 'auto', 'native' or 'filelock'")
    chosen = os.environ.get("REFSTORE_BACKEND") or "auto"
    if chosen not in ("auto", *BACKENDS):
        raise ValueError(f"REFSTORE_BACKEND is {chosen!r}: it is 'auto', 'native' or 'filelock'")
    return chosen if backend == "auto" else backend


def choose(backend: str, path: str) -> Module:
    """The engine for the store at `path`: the one asked for, its owner, or the best there is."""
    backend = check_backend(backend)
    if backend == "auto":
        backend = owner_of(path) or _best_for(path)
    return load(backend)


def usual() -> Module:
    """The engine of stores of which nothing is known yet."""
    backend = check_backend("auto")
    return load(_best() if backend == "auto" else backend)


def load(backend: str) -> Module:
    """The module of an engine. RefstoreError if it is not there."""
    try:
        return _imported(backend)
    except ImportError as error:
        raise RefstoreError(
            f"the {backend} engine is needed and is not there ({error}): {_how_to_get(error)}"
        ) from error


def owner_of(path: str) -> Backend | None:
    """The engine that the store file at `path` belongs to; None if it is no store's, or absent."""
    number = _engine_number(path)
    return None if number is None else _NUMBERS.get(number)


def is_store(path: str) -> bool:
    """Whether the file at `path` is a store's, of whatever version."""
    return _engine_number(path) is not None


def holds_store(fd: int) -> bool:
    """The same for an open file."""
    return _number_in(fd) is not None


def _engine_number(path: str) -> int | None:
    try:
        with open_store(path, os.O_RDONLY) as file:
            return _number_in(file.fileno())
    except OSError:  # nothing that can be opened
        return None


def _number_in(fd: int) -> int | None:
    try:
        head = os.read(fd, _HEADER.size)
    except OSError:  # a device, or the like
        return None
    if len(head) != _HEADER.size:
        return None
    magic, _, number = _HEADER.unpack(head)
    return int(number) if magic == _MAGIC else None


def why_no_core() -> str | None:
    """Why the native engine is not there, and what to do; None if it is."""
    try:
        _imported("native")
    except ImportError as error:
        return f"the compiled core is not there ({error}): {_how_to_get(error)}"
    return None


def _how_to_get(error: ImportError) -> str:
    """What to do about a module of an engine that could not be imported."""
    if error.name not in (None, _MODULES["native"]):
        return "install what it names"
    package = os.path.dirname(os.path.abspath(__file__))
    if os.path.exists(os.path.join(package, "_core.pyx")):
        python = ".".join(map(str, sys.version_info[:2]))
        return (
            f"this is refstore's source tree, where the core is not built for Python {python}: run "
            f"`pip install .` in {os.path.dirname(package)}, or start Python in another folder"
        )
    if not sys.platform.startswith("linux"):
        return "it is for Linux"
    if not isinstance(error, ModuleNotFoundError):  # it is there, and does not load
        return "install refstore again with this Python and this numpy"
    return "install a wheel of refstore, or a C compiler and refstore again"


def _best() -> str:
    why = why_no_core()
    if why is not None:
        _warn(why)
        return "filelock"
    return "native"


def _best_for(path: str) -> str:
    best, folder = _best(), os.path.dirname(path)
    if best == "native" and not os.path.lexists(path):
        obstacle = _imported("native").why_not(folder)
        if obstacle is not None:
            _warn(f"{folder} cannot hold a store of the native engine: {obstacle}")
            return "filelock"
    return best


@functools.cache  # once for each reason
def _warn(why: str) -> None:
    warnings.warn(
        f"{why}; refstore works through file locks there, which is slower "
        "(backend='filelock' says that this is wanted)",
        RefstoreWarning,
        stacklevel=_caller(),
    )


def _caller() -> int:
    """How far up the first frame is that is not of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    return level


def _imported(backend: str) -> Module:
    return cast(Module, importlib.import_module(_MODULES[backend]))
