"""Places and sizes of stores: names to paths, text to capacities, and the defaults."""

from __future__ import annotations

import contextlib
import errno
import getpass
import io
import operator
import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator

from refstore._limits import MAPPINGS, free_address_space
from refstore._names import holds_control

__all__ = [
    "NO_NEW_FILES",
    "TEMPORARY_PREFIX",
    "check_name",
    "default_size",
    "memory_limits",
    "of_chosen",
    "open_file",
    "open_store",
    "parse_capacity",
    "store_folder",
    "store_path",
    "temporary_name",
]

NO_NEW_FILES = "takes no new files"
TEMPORARY_PREFIX = "tmp-"
MAX_NAME = 200  # bytes; file systems allow 255, and the engine adds to a name while it makes a file
MAX_CAPACITY = 1 << 43  # of both engines
MIN_DEFAULT_CAPACITY = 64 << 20
FEWEST_DEFAULT_OBJECTS = 4096
PAGE = 4096

_SHARED_MEMORY = "/dev/shm"
_OWN_GROUPS = "/proc/self/cgroup"
_GROUPS = "/sys/fs/cgroup"

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)}
_CAPACITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?b|b)?\s*", re.IGNORECASE | re.ASCII)


# --- sizes


def parse_capacity(value: object) -> int:
    """Bytes, from an int or text such as "64MiB", "1.5 GB" (powers of 1000) or "4096"."""
    if isinstance(value, str):
        match = _CAPACITY.fullmatch(value)
        if match is None:
            raise _no_size(value)
        number, unit = match.groups(default="")
        whole, _, part = number.partition(".")
        nbytes: int = int(whole + part) * _UNITS[unit.lower()] // 10 ** len(part)
    elif isinstance(value, bool):
        raise _no_size(value)
    else:
        try:
            nbytes = operator.index(value)  # type: ignore[arg-type]  # whatever came
        except TypeError:
            raise _no_size(value) from None
    if nbytes <= 0:
        raise ValueError(f"capacity {value!r} is too small: a store needs at least one byte")
    if nbytes > MAX_CAPACITY:
        raise ValueError(
            f"capacity {value!r} is too large: a store holds {MAX_CAPACITY >> 40} TiB "
            f"({MAX_CAPACITY} bytes) at most"
        )
    return nbytes


def _no_size(value: object) -> ValueError:
    return ValueError(
        f'capacity {value!r} is not a size: give bytes as an int, or text like "64MiB" or "1.5 GB"'
    )


def default_size(
    folder: str,
    capacity: int | None,
    max_objects: int | None,
    file_nbytes: Callable[[int, int], int],
) -> tuple[int, int]:
    """Capacity and max_objects of a new store in `folder`: what was asked for, or what fits.

    `file_nbytes` says how large the file of a store with these two is. A process that may not have
    as much address space as that takes twice gets a smaller store, of which it can have two. Beside
    a capacity that was asked for, the tables leave half of the rest.
    """
    if capacity is not None and max_objects is not None:
        return capacity, max_objects
    nbytes = default_capacity(folder) if capacity is None else capacity
    objects = default_max_objects(nbytes) if max_objects is None else max_objects
    space = free_address_space()
    if space is None:
        return nbytes, objects
    bearable = space // MAPPINGS
    while file_nbytes(nbytes, objects) > (
        bearable // (1 + (nbytes > MIN_DEFAULT_CAPACITY))
        if capacity is None
        else (bearable + capacity) // 2
    ):
        smaller = (
            max(nbytes // 2 // PAGE * PAGE, PAGE) if capacity is None else nbytes,
            max(objects // 2, FEWEST_DEFAULT_OBJECTS) if max_objects is None else objects,
        )
        if smaller == (nbytes, objects):
            break  # the mapping fails, and says why
        nbytes, objects = smaller
    return nbytes, objects


def default_capacity(folder: str) -> int:
    """Half of the memory that a store in `folder` could take, in whole pages.

    A store takes memory only as it is used, so this much costs nothing.
    """
    limits = [*memory_limits(), *_file_system_size(folder)]
    half = min(limits, default=2 * MIN_DEFAULT_CAPACITY) // 2
    half = min(max(half, MIN_DEFAULT_CAPACITY), MAX_CAPACITY)
    return half // PAGE * PAGE


def default_max_objects(capacity: int) -> int:
    """One object for each KiB, within reason."""
    return min(max(capacity // 1024, FEWEST_DEFAULT_OBJECTS), 1 << 20)


def _file_system_size(folder: str) -> Iterator[int]:
    with contextlib.suppress(OSError):
        total = shutil.disk_usage(folder).total
        if total:  # a tmpfs without a limit says 0
            yield total


def memory_limits() -> Iterator[int]:
    """Bytes of RAM, and of each control group that this process is in."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no sysconf, or not these
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError), open(_OWN_GROUPS, encoding="utf-8") as lines:
        for line in lines:
            _, controllers, group = line.rstrip("\n").split(":", 2)
            if controllers == "":
                yield from _group_limits(_GROUPS, group, "memory.max")
            elif "memory" in controllers.split(","):
                yield from _group_limits(f"{_GROUPS}/memory", group, "memory.limit_in_bytes")


def _group_limits(root: str, group: str, file: str) -> Iterator[int]:
    """The limits of a control group and of those it lies in; each of them binds.

    Inside a container the group's own folder may not be there, while its limit is at the root.
    """
    while True:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max", that is no limit
            with open(f"{root}{group}/{file}", encoding="ascii") as text:
                limit = int(text.read())
            if limit > 0:
                yield limit
        if group in ("", "/"):
            return
        group = os.path.dirname(group)


# --- names


def check_name(name: str | os.PathLike[str]) -> str:
    """`name` as text, if it can name a store: a plain name, or a path if it has a separator."""
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(text, str):
        raise TypeError(f"a store's name is a str or a path, not {type(name).__name__}")
    if not text:
        raise ValueError("a store's name must not be empty")
    if "\0" in text:
        raise ValueError(f"a store's name must not hold a NUL: {text!r}")
    last = re.split(_SEPARATORS, text)[-1]
    if last in ("", ".", ".."):
        raise ValueError(f"{text!r} names a directory, not a store")
    if holds_control(last):
        raise ValueError(
            f"a store's name must not hold control characters, nor other ends of lines: {text!r}"
        )
    try:
        nbytes = len(os.fsencode(last))
    except UnicodeEncodeError:
        raise ValueError(
            f"a store's name must be encodable for the file system: {text!r}"
        ) from None
    if nbytes > MAX_NAME:
        raise ValueError(f"a store's name has {MAX_NAME} bytes at most; this one has {nbytes}")
    return text


_SEPARATORS = "[" + re.escape(os.sep + (os.altsep or "")) + "]"


def store_path(name: str | os.PathLike[str], *, create: bool = True) -> str:
    """The absolute path of a store's file; with `create`, the folder of plain names is there
    afterwards."""
    text = check_name(name)
    if isinstance(name, os.PathLike) or re.search(_SEPARATORS, text):
        return os.path.abspath(text)
    return os.path.join(store_folder(create), text)


def store_folder(create: bool = True) -> str:
    """The absolute path of the folder that holds this user's stores.

    With `create` it is there afterwards. PermissionError if others could put files there.
    """
    chosen = os.environ.get("REFSTORE_DIR")
    folder = os.path.abspath(chosen) if chosen else os.path.join(_shared_memory(), _own_folder())
    try:
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
        # A link in a folder where anyone may write could lead anywhere; a chosen one is trusted.
        found = os.stat(folder) if chosen else os.lstat(folder)
    except OSError as error:
        if not create and isinstance(error, FileNotFoundError):
            return folder
        raise of_chosen(folder, error) from None
    _check_folder(folder, found, chosen=bool(chosen))
    return folder


def of_chosen(folder: str, error: OSError) -> OSError:
    """The same error about a folder in which no store can be made, with what chose it."""
    chosen = os.environ.get("REFSTORE_DIR")
    if not chosen or os.path.abspath(chosen) != folder:
        return error
    why = error.strerror
    if error.errno == errno.ENOENT and not os.path.isdir(os.path.dirname(folder)):
        why = f"there is no {os.path.dirname(folder)!r} to make it in"
    elif error.errno == errno.ENOENT:
        why = f"its file system {NO_NEW_FILES}"
    elif error.errno == errno.EOPNOTSUPP:
        why = "its file system lacks what the native engine needs"
    return OSError(
        error.errno,
        f"REFSTORE_DIR is {chosen!r}, where no store can be made ({why}): set it to a directory on "
        "tmpfs or a disk in which you may make files, or leave it unset",
        folder,
    )


def open_store(path: str, access: int) -> io.FileIO:
    """A store's file, open: O_RDWR or O_RDONLY. OSError if a link or a folder is there."""
    for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # as far as there are such
        access |= getattr(os, name, 0)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return open_file(path, access)


def open_file(path: str, access: int, mode: int = 0o600) -> io.FileIO:
    """Opens like os.open(); returns an object that closes it at the latest when collected.

    A signal handler may raise between any two steps of Python code, so a plain number would be
    lost on its way to whoever closes it: this is one step.
    """
    kind = "rb+" if access & os.O_RDWR else "rb"
    return next(map(io.FileIO, map(os.open, (path,), (access,), (mode,)), (kind,)))


def temporary_name() -> str:
    return f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(8).hex()}"


def _shared_memory() -> str:
    for folder in (_SHARED_MEMORY, os.environ.get("XDG_RUNTIME_DIR")):
        if folder and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return os.path.abspath(folder)
    import tempfile  # seldom needed, and each process that starts would pay for it

    return tempfile.gettempdir()


def _own_folder() -> str:
    uid = _uid()
    return f"refstore-{getpass.getuser() if uid is None else uid}"


def _uid() -> int | None:
    """The effective user, whose files these are; None where there are no user numbers."""
    geteuid = getattr(os, "geteuid", None)
    return None if geteuid is None else geteuid()


def _check_folder(folder: str, found: os.stat_result, *, chosen: bool) -> None:
    where = f"REFSTORE_DIR is {os.environ['REFSTORE_DIR']!r}, which" if chosen else folder
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(
            f"{where} is not a directory, so stores cannot be kept there;"
            " set REFSTORE_DIR to another directory, or remove what is there"
        )
    uid = _uid()
    if uid is None:  # Windows: the temporary folder is the user's own
        return
    mode = stat.S_IMODE(found.st_mode)
    if chosen:
        # As for /tmp: others may write there only if they cannot take away what is not theirs.
        owned = found.st_uid in (uid, 0)
        closed = not mode & 0o022 or bool(mode & stat.S_ISVTX)
    else:
        owned = found.st_uid == uid
        closed = not mode & 0o077
    if not owned:
        raise PermissionError(
            f"{where} belongs to user {found.st_uid}, not to you ({uid}), who could replace the"
            " stores in it; set REFSTORE_DIR to a directory of your own"
        )
    if not closed:
        raise PermissionError(
            f"{where} is open to other users (mode {mode:o}); run: chmod 700 {shlex.quote(folder)}"
        )
