"""The errors that both engines raise, as sentences: what was asked, what is wrong, what to do.

Each function makes an exception and leaves it to its caller to raise it.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from refstore import _limits
from refstore._errors import (
    UNWRITTEN,
    ObjectExistsError,
    ObjectNotFoundError,
    RefstoreError,
    StoreBusyError,
    StoreCorruptedError,
    StoreVersionError,
)
from refstore._header import is_store
from refstore._paths import NO_NEW_FILES, of_chosen, store_folder

if TYPE_CHECKING:
    from refstore._refs import ObjectRef


def command() -> str:
    """The command-line program, as it can be typed here."""
    script, found = sys.argv[0], shutil.which("refstore")
    if os.path.basename(script) == "refstore" and os.path.isfile(script):
        is_found = found is not None and os.path.samefile(found, script)
        return "refstore" if is_found else shlex.quote(script)
    is_module = os.path.abspath(script) == os.path.join(os.path.dirname(__file__), "__main__.py")
    return "python -m refstore" if is_module or found is None else "refstore"


# --- of operations


def a_put(nbytes: int) -> str:
    """Names an operation that waits, or for which there is no room."""
    return f"a put of {nbytes} bytes"


def busy(path: str, pid: int, what: str) -> StoreBusyError:
    """`what` waits, as in "a put of 5 bytes"."""
    return StoreBusyError(
        f"{what} waits for process {pid}, which is stopped in the middle of a change to store "
        f"{path!r}: resume it (kill -CONT {pid}) or kill it",
        pid=pid,
    )


def busy_for_children(path: str, pid: int, what: str) -> StoreBusyError:
    """The same when that process is gone, and children that have no place in the store keep its
    locks."""
    return StoreBusyError(
        f"{what} waits for process {pid}: it has ended in the middle of a change to store "
        f"{path!r}, and a child of it that has no place in the store keeps its locks: let "
        f"that child end (`fuser {shlex.quote(path)}` lists the processes that have the file open)",
        pid=pid,
    )


def exists(path: str, name: str) -> ObjectExistsError:
    return ObjectExistsError(
        f"store {path!r} has an object named {name!r}: delete it, or give replace=True or another "
        "name",
        key=name,
    )


def taken_meanwhile(path: str, name: str) -> ObjectExistsError:
    """The same at the seal of a Writer."""
    return ObjectExistsError(
        f"store {path!r} now has an object named {name!r}, so the written data are discarded: "
        "write them again with create(replace=True), or under another name",
        key=name,
    )


def not_found(path: str, key: ObjectRef | str, *, of_other_store: bool) -> ObjectNotFoundError:
    """`key`: the ref or name that was asked for."""
    write = other_store if of_other_store else no_such_object
    return ObjectNotFoundError.__new__(ObjectNotFoundError, UNWRITTEN, write, path, key)


def other_store(path: str, key: ObjectRef | str) -> str:
    return f"{key!r} is a ref of another store, not of {path!r}"


def no_such_object(path: str, key: ObjectRef | str) -> str:
    what = "object named" if isinstance(key, str) else "object"
    return (
        f"there is no {what} {key!r} in store {path!r}: it was never put here, or it "
        "was deleted or evicted, or was deleted with the process that owned it"
    )


def blank_ref() -> ValueError:
    """Somebody called `__new__` alone."""
    return ValueError("this ObjectRef was never given its 16 bytes")


def closed() -> ValueError:
    return ValueError("this store is closed: make another Store to go on")


CLOSED_BUFFER = "<PinnedBuffer, closed: get() the object again to use it>"


def closed_buffer(noun: str) -> ValueError:
    """`noun`: "PinnedBuffer" or "Writer"."""
    mend = "create() another" if noun == "Writer" else "get() its object again"
    return ValueError(f"this {noun} is closed: {mend}")


def no_constructor(noun: str) -> TypeError:
    """Somebody called the class itself."""
    maker = "create" if noun == "Writer" else "get"
    return TypeError(f"Store.{maker}() makes {noun}s")


def not_sealed() -> ValueError:
    return ValueError("not sealed: there is no ref yet")


def no_place_to_write(offset: int, nbytes: int, size: int) -> ValueError:
    mend = "offsets begin at 0" if offset < 0 else "create it larger"
    return ValueError(
        f"{nbytes} bytes do not fit at offset {offset} of an object of {size} bytes: {mend}"
    )


def not_contiguous() -> BufferError:
    return BufferError("write_at() takes contiguous bytes: copy them first")


def no_truncation() -> TypeError:
    return TypeError(
        "truncate() is for objects of bytes: the size of this one is set by its shape, or by its "
        "header"
    )


def not_shorter(size: int, has: int) -> ValueError:
    return ValueError(
        f"truncate() can only shorten: the object has {has} bytes, {size} was asked for"
    )


def parents_writer() -> ValueError:
    return ValueError(
        "this Writer belongs to the parent process: only the process that made it can write by it, "
        "truncate or seal it"
    )


def forked(path: str) -> str:
    """Why a child cannot use the store that it inherited."""
    return (
        f"this process was forked without a place in the process table of store {path!r} (by a raw "
        "system call, or when no place, descriptor or memory was left for it): views that it "
        "inherited stay valid; for all else, open the store anew"
    )


def forked_amid(path: str) -> str:
    """Why a child cannot go on with a call of its parent's."""
    return (
        f"this process was forked in the middle of its parent's call on store {path!r}, which only "
        "the parent completes: nothing was done here"
    )


def changed_tensor() -> RefstoreError:
    return RefstoreError(
        "this tensor's memory, dtype or shape changed during the put: nothing was stored; keep "
        "other threads and signal handlers from changing it"
    )


# --- of buffers


def no_pickle(noun: str) -> TypeError:
    """`noun`: the type that was to be pickled, by put() among others."""
    what = (
        "put(buf.value), or put(buf.array) of an array or of bytes, stores a copy of its contents"
    )
    if noun == "Writer":
        return TypeError(
            "a Writer cannot be pickled: seal it and send its ref; put(w.array) stores a copy"
        )
    return TypeError(f"a {noun} cannot be pickled: send its ref; {what}")


def no_array() -> TypeError:
    return TypeError("this is a pickled object, not an array: use its `value`")


def no_format(dtype: object) -> BufferError:
    return BufferError(f"dtype {dtype} has no format in PEP 3118: use buf.array")


def no_such_view(why: ValueError) -> BufferError:
    """`why`: what numpy says."""
    return BufferError(f"the view that was asked for is not possible: {why}; use buf.array")


def no_dlpack(why: BufferError) -> BufferError:
    """Refuses DLPack of a read-only array; `why`: what numpy says."""
    text = str(why).rstrip(".")
    if "readonly" not in text:
        return BufferError(f"{text}: use buf.array")
    return BufferError(
        f"{text}. Arrays from get() are read-only, which DLPack can express from version 1.0 on, "
        "and the consumer is older, or takes no read-only arrays (JAX before 0.12): convert "
        "buf.array, as by jax.numpy.asarray(buf.array), or use get(..., writable=True), a private "
        "view"
    )


# --- of arguments


def wrong_ref_type(raw: object) -> TypeError:
    return TypeError(f"an ObjectRef is made of bytes, not {type(raw).__name__}")


def wrong_hex_type(text: object) -> TypeError:
    return TypeError(f"hex digits are a str, not {type(text).__name__}")


def wrong_ref_size(nbytes: int) -> ValueError:
    return ValueError(f"an ObjectRef has 16 bytes, not {nbytes}")


def negative_size(size: int) -> ValueError:
    return ValueError(f"a size cannot be negative, and {size} is")


def no_header(why: str) -> ValueError:
    """`why`: a sentence about the header."""
    return ValueError(
        f"not a valid object header: {why}; give the `buf.header` of an object, and its nbytes"
    )


# --- of pickles


def not_pickled(what: str) -> ValueError:
    return ValueError(
        f"{what} would be pickled, and this store has allow_pickle=False: put "
        "bytes or an array, or open the store without it"
    )


def not_unpickled(what: str, instead: str = "") -> ValueError:
    """`what`: a sentence that names the pickle; `instead`: the alternative."""
    return ValueError(
        f"{what}, which can run code chosen by the process that put it, and this store has "
        f"allow_pickle=False: {instead}open the store without it if you trust every process that "
        "writes to it"
    )


def no_serializer(module: str, name: str, cause: Exception | None) -> RefstoreError:
    """`cause`: why its module cannot be imported."""
    why = "" if cause is None else f" ({module} cannot be imported: {cause})"
    return RefstoreError(
        f"this object holds a {module}.{name}, put by a process that had called "
        f"register_serializer() for it, and this process has not{why}: call it here, too, before "
        "reading the object"
    )


# --- of files

KIND_OF_OBJECT = "the kind of the object"


def damaged_file(
    path: str, what: str = "its allocation or lock records are inconsistent"
) -> StoreCorruptedError:
    """An attached store contradicts itself. `what`: a sentence that names the contradiction."""
    return StoreCorruptedError(
        f"store {path!r} is damaged: {what}; something else wrote to the file. Remove it, or see "
        "what check() reports"
    )


def damaged_object(path: str, what: str, slot: int) -> StoreCorruptedError:
    """`what`: an invalid field, as in "the shape of the array"."""
    return StoreCorruptedError(
        f"store {path!r} is damaged: slot {slot} has an invalid value for {what}; something else "
        "wrote to the file. Delete that object, or see what check() reports"
    )


NOT_A_STORE = "is not a store"
DAMAGED_HEADER = "has a damaged header"


def no_store(path: str, why: str) -> StoreCorruptedError:
    """`why`, as in "is truncated"."""
    if why == NOT_A_STORE:  # never advise removing a file that is not a store
        return StoreCorruptedError(f"{path!r} {why} of refstore: give another name")
    return StoreCorruptedError(
        f"{path!r} {why}: something else wrote to it; give another name, or remove it "
        f"(`{command()} rm {shlex.quote(path)}`) if nobody needs its contents"
    )


def other_engine(path: str, owner: str, asked: str) -> StoreVersionError:
    """`owner`, `asked`: names of engines, as `backend=` has them."""
    return StoreVersionError(
        f"store {path!r} belongs to the {owner} engine, and this is the {asked} one: open it with "
        f"backend={owner!r}, or with REFSTORE_BACKEND={owner} if no backend is given"
    )


def other_version(path: str, has: int, writes: int) -> StoreVersionError:
    return StoreVersionError(
        f"store {path!r} has format {has}, this refstore writes {writes}: use one version in all "
        "processes, or remove the store"
    )


def other_build(path: str) -> StoreVersionError:
    return StoreVersionError(
        f"store {path!r} was made by a build of refstore with other constants: use one build in "
        "all processes, or remove the store"
    )


def other_user(path: str, uid: int) -> PermissionError:
    return PermissionError(
        errno.EACCES,
        f"the store belongs to user {uid}, and objects are unpickled: pass foreign=True, or "
        "--foreign to the command, if you trust that user",
        path,
    )


def no_rows(path: str, rows: int) -> str:
    """Why a process cannot attach."""
    return (
        f"all {rows} places in the process table of store {path!r} are taken: "
        "no more processes can attach"
    )


# --- of paths, for which the system has only two or three words


def of_path(path: str, error: OSError) -> OSError:
    """The same error about the store at `path`, in more words; one that has a sentence stays."""
    if error.errno is None or error.strerror != os.strerror(error.errno):
        return error
    say = _OF_PATHS.get(error.errno)
    return error if say is None else OSError(error.errno, say(path), path)


def of_making(path: str, error: OSError) -> OSError:
    """The same where a store was to be made: there the directory matters."""
    folder = os.path.dirname(path)
    if isinstance(error, RefstoreError) or error.errno not in _OF_FOLDERS:
        return of_path(path, error)
    told = of_chosen(folder, error)
    if told is not error or error.errno != errno.ENOENT or not os.path.isdir(folder):
        return of_path(path, told)
    return OSError(error.errno, f"the file system of {folder!r} {NO_NEW_FILES}: {_ELSEWHERE}", path)


_ELSEWHERE = "give a path on another one"
_OF_FOLDERS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP)


def _missing(path: str) -> str:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"there is no directory {folder!r} to hold a store: make it, or give another path"
    return f"{missing(path)}; Store() without create=False makes it"


def missing(path: str) -> str:
    """Says that there is no store, to callers that have no use for a new one."""
    folder, name = os.path.split(path)
    try:
        is_listed = folder == store_folder(create=False)
    except OSError:
        is_listed = False
    if not is_listed:
        return "there is no store at this path"
    return f"no store named {name!r}; `{command()} ls` lists the existing ones"


def gone(path: str, error: FileNotFoundError) -> FileNotFoundError:
    """The same as `error` about a store that nobody means to make."""
    if os.path.lexists(path):  # what is missing is something else
        return error
    return FileNotFoundError(errno.ENOENT, missing(path), path)


def _taken(path: str) -> str:
    if is_store(path):
        return (
            "there is already a store of this name: leave out create=True to attach to it, or "
            "give another name"
        )
    return "something that is not a store has this name: give another name"


def _link(path: str) -> str:
    return (
        "a symbolic link has this name, and refstore does not follow links: give the path of its "
        f"target, {os.path.realpath(path)!r}"
    )


def _forbidden(path: str) -> str:
    for what, where in (("it", path), ("its directory", os.path.dirname(path))):
        try:
            found = os.lstat(where)
        except OSError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        return (
            f"this process has no permission: {what} belongs to user {found.st_uid} and has mode "
            f"{mode:o}; give another name, or ask that user for access"
        )
    return "this process has no permission to search its directory: give another name"


_OF_PATHS: dict[int, Callable[[str], str]] = {
    errno.ENOENT: _missing,
    errno.EEXIST: _taken,
    errno.ELOOP: _link,
    errno.EACCES: _forbidden,
    errno.EPERM: _forbidden,
    errno.EISDIR: lambda path: (
        "a directory has this name: give another name, or the path of a store in that directory"
    ),
    errno.ENXIO: lambda path: "a device or a socket has this name: give another name",
    errno.ENOTDIR: lambda path: "a part of this path is not a directory: give another path",
    errno.EOPNOTSUPP: lambda path: (
        "its file system lacks what the native engine needs: give a path on tmpfs, ext4 or xfs, or "
        "use backend='filelock'"
    ),
    errno.EMFILE: lambda path: _limits.of_descriptors(errno.EMFILE),
    errno.ENFILE: lambda path: _limits.of_descriptors(errno.ENFILE),
    errno.EFBIG: lambda path: _limits.of_file_size(),
    errno.ENOSPC: _limits.of_full_disk,
    errno.EROFS: lambda path: f"its file system is read-only: {_ELSEWHERE}",
}
