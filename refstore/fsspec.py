"""`RefstoreFileSystem`: stores as an fsspec file system, of the protocol `refstore://STORE/NAME`.

    pandas.read_parquet("refstore://data/2024/table.parquet")

fsspec finds it by the entry point of this package; nobody needs to import this module.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from refstore import ObjectInfo, ObjectNotFoundError, PinnedBuffer, Store, _byte_objects
from refstore._extras import missing_extra

try:
    from fsspec import AbstractFileSystem
    from fsspec.callbacks import DEFAULT_CALLBACK
    from fsspec.compression import compr
    from fsspec.core import get_compression

    from refstore._spooled_files import CompressedFile, PinnedFile, SpooledFile, TextFile
except ImportError as error:
    raise missing_extra(__name__, "fsspec", error) from error

__all__ = ["RefstoreFileSystem"]

Info = dict[str, Any]
FORM = "refstore://STORE/NAME"


class RefstoreFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The named "bytes" objects of the stores of this machine, as files.

    A path is STORE/NAME: the name of a store, which must be there, and that of an object, which may
    have slashes. Folders are what names have before a slash: one is there as long as a file is
    below it, and need not be made. Objects of other kinds, or whose names end with a slash, are
    no files.

    A file that is opened to be read is the pinned object: it stays what it is when another process
    replaces or deletes it. A file that is written is published when it is closed, in one step, and
    takes the place of what has its name; an exception that leaves its `with` block discards it.

    Stores are attached to at their first use, and stay so until `invalidate_cache()`, or until this
    is collected.

    Parameters:
        directory: where the stores' files are; by default where `refstore.Store(name)` has them.
        foreign: whether to attach to another user's store, as of `refstore.Store`.
        storage_options: those of all file systems, such as `skip_instance_cache`.

    Errors:
        FileNotFoundError: there is no such store or file.
        FileExistsError: a file that is to be made, and not replaced, is there.
        IsADirectoryError: a path that is to be a file names a store.
        StoreFullError: there is no space for a file that is published.
        ValueError: a name has more than 255 bytes of UTF-8.

    Example:
        >>> import fsspec
        >>> folder, name = os.path.split(store.path)
        >>> with fsspec.open(f"refstore://{name}/a/b.txt", "w", directory=folder) as file:
        ...     _ = file.write("text")
        >>> fs = fsspec.filesystem("refstore", directory=folder)
        >>> fs.cat(f"{name}/a/b.txt"), store.names()
        (b'text', ['a/b.txt'])
        >>> fs.invalidate_cache()
    """

    protocol = "refstore"
    root_marker = ""

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        foreign: bool = False,
        **storage_options: Any,
    ) -> None:
        super().__init__(**storage_options)
        self._directory = None if directory is None else os.path.abspath(directory)
        self._foreign = foreign
        self._attached: dict[str, tuple[Store, tuple[int, int]]] = {}

    def invalidate_cache(self, path: str | None = None) -> None:
        """Lets go of the stores, which the next use attaches to again."""
        super().invalidate_cache(path)
        if path is None:
            self._attached.clear()

    # --- stores

    def _place(self, path: str) -> tuple[Store, str]:
        """The store and the object's name of a path; "" of that of a store."""
        store, _, name = path.partition("/")
        if not store:
            raise FileNotFoundError(
                errno.ENOENT, f"a file is {FORM}, and this names no store", path
            )
        return self._store(store), name

    def _place_of_file(self, path: str) -> tuple[Store, str]:
        store, name = self._place(path)
        if not name:
            raise IsADirectoryError(errno.EISDIR, f"this is a store, and a file is {FORM}", path)
        return store, name

    def _pinned(self, path: str) -> PinnedBuffer:
        store, name = self._place(path)
        buf = _byte_objects.pin(store, name)
        if buf is None:
            raise _missing(path)
        return buf

    def _store(self, name: str) -> Store:
        """The store of that name, as it is now: it may be another one than it was."""
        store, file = self._attached.get(name, (None, None))
        if store is not None:
            with contextlib.suppress(FileNotFoundError):
                if _identity(store.path) == file:
                    return store
            self._attached.pop(name, None)
        where = name if self._directory is None else os.path.join(self._directory, name)
        path = self._attach(where).path
        file = _identity(path)  # first: if it is an earlier store's, the next use attaches again
        store = self._attach(path)
        self._attached[name] = store, file
        return store

    def _attach(self, where: str) -> Store:
        try:
            return Store(where, create=False, foreign=self._foreign)
        except ValueError as error:
            raise FileNotFoundError(errno.ENOENT, f"no store can be there: {error}") from None

    # --- one file

    def info(self, path: str, **kwargs: Any) -> Info:
        """Describes a file or folder.

        Of a file, `created` and `mtime` are seconds since the epoch, and `ref` is the text of the
        object's ref: another one whenever the file has been written.
        """
        path = self._strip_protocol(path)
        if not path:
            return _folder(path)
        store, name = self._place(path)
        found = _byte_objects.find(store, name)
        if found is not None:
            return _file(path, found)
        if not name or _byte_objects.any_below(store, f"{name}/"):
            return _folder(path)
        raise _missing(path)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether there is a file or folder."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def created(self, path: str) -> datetime:
        """The time at which a file was published."""
        return datetime.fromtimestamp(self._info_of_file(path)["created"], timezone.utc)

    def modified(self, path: str) -> datetime:
        """The same: what is published does not change."""
        return self.created(path)

    def ukey(self, path: str) -> str:
        """The text of the ref of a file's object."""
        return str(self._info_of_file(path)["ref"])

    def _info_of_file(self, path: str) -> Info:
        info = self.info(path)
        if info["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, "this is no file, but a folder", path)
        return info

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """A copy of the bytes of a file, or of a range of them, as of a slice."""
        with self._pinned(self._strip_protocol(path)) as buf, memoryview(buf) as view:
            return bytes(view[start:end])

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Publishes bytes as a file, which must not be there if the mode is "create"."""
        if self._intrans:
            with self.open(path, "xb" if mode == "create" else "wb") as file:
                file.write(value)
            return
        store, name = self._place_of_file(self._strip_protocol(path))
        store.put(memoryview(value), name=name, replace=mode != "create")

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copies a file, in shared memory; of a folder there is nothing to copy."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        try:
            buf = self._pinned(path1)
        except FileNotFoundError:
            if self.isdir(path1):
                return
            raise
        with buf, memoryview(buf) as view:
            store, name = self._place_of_file(path2)
            store.put(view, name=name, replace=True)

    def mv(self, path1: Any, path2: Any, **kwargs: Any) -> None:
        """Copies files or folders and deletes them where they were."""
        if self._strip_protocol(path1) != self._strip_protocol(path2):
            super().mv(path1, path2, **kwargs)

    def put_file(
        self,
        lpath: str | os.PathLike[str],
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """Reads a local file into shared memory, and publishes it."""
        if self._intrans or os.path.isdir(lpath):
            super().put_file(lpath, rpath, callback, mode, **kwargs)
            return
        store, name = self._place_of_file(self._strip_protocol(rpath))
        with open(lpath, "rb", buffering=0) as source:
            nbytes, done = os.fstat(source.fileno()).st_size, 0
            callback.set_size(nbytes)
            with store.create(nbytes, name=name, replace=mode != "create") as writer:
                with memoryview(writer) as room:
                    while count := source.readinto(room[done : done + self.blocksize]):
                        callback.relative_update(count)
                        done += count
                if done < nbytes:  # it has become shorter meanwhile
                    writer.truncate(done)

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Makes a file empty; without `truncate` one that is there is published anew."""
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")
        else:
            self.cp_file(path, path)

    def _rm(self, path: str) -> None:
        path = self._strip_protocol(path)
        if not _byte_objects.delete(*self._place(path)):
            raise _missing(path)

    # --- folders

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """The files and folders in a folder, or a file itself."""
        path = self._strip_protocol(path)
        info = self.info(path)
        is_file = info["type"] == "file"
        found = {path: info} if is_file else self._found(path, 1, withdirs=True)
        return list(found.values()) if detail else list(found)

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The files below a folder, by one look at the store; a file itself."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        path = self._strip_protocol(path)
        found: dict[str, Info] = {}
        with contextlib.suppress(FileNotFoundError):
            info = self.info(path)
            if info["type"] == "file":
                found[path] = info
            else:
                found = self._found(path, maxdepth, withdirs)
                if withdirs and path:
                    found = {path: info, **found}
        return found if detail else list(found)

    def _found(self, path: str, maxdepth: int | None, withdirs: bool) -> dict[str, Info]:
        """Files, and folders if asked for, so deep below a folder, in the order of their paths."""
        store, name = self._place(path)
        prefix = f"{name}/" if name else ""
        found = {}
        for key, info in _byte_objects.below(store, prefix):
            whole = f"{path}/{key[len(prefix) :]}"
            folders = [*_parents(whole, len(path))]
            for depth, folder in enumerate(folders, 1):
                if withdirs and (maxdepth is None or depth <= maxdepth):
                    found[folder] = _folder(folder)
            if not whole.endswith("/") and (maxdepth is None or len(folders) < maxdepth):
                found[whole] = _file(whole, info)
        return dict(sorted(found.items()))

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Looks that a folder can be, which is all: it is there as soon as a file is below it."""
        path = self._strip_protocol(path)
        self._place(path)
        if self.exists(path):
            raise FileExistsError(errno.EEXIST, "there is a file or folder of this path", path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """The same of a folder that may be there."""
        try:
            self.mkdir(path)
        except FileExistsError:
            if not exist_ok or self.isfile(path):
                raise

    def rmdir(self, path: str) -> None:
        """Looks that a folder is empty."""
        path = self._strip_protocol(path)
        if self._found(path, 1, withdirs=True):
            raise OSError(errno.ENOTEMPTY, "there are files below this folder", path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Deletes files, and with `recursive` folders with all that is below them."""
        found = {one: self.info(one) for one in self.expand_path(path)}
        for one, info in found.items():
            is_folder = info["type"] == "directory"
            if is_folder and not recursive:
                raise IsADirectoryError(
                    errno.EISDIR, "this is a folder: give recursive=True to delete it", one
                )
            store, name = self._place(one)
            if is_folder and maxdepth is None:
                store.delete_many(_byte_objects.refs_below(store, f"{name}/" if name else ""))
            else:
                for file in self.find(one, maxdepth):
                    with contextlib.suppress(FileNotFoundError):  # it was there
                        self._rm(file)

    # --- file objects

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: Info | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Opens a file, by the mode "r", "w", "x" or "a", with "b" for bytes.

        Of a file opened by "rb", `getbuffer()` is all of it without a copy.
        """
        if "r" in mode or ("b" in mode and compression is None):
            return super().open(path, mode, block_size, cache_options, compression, **kwargs)
        of_text = ("encoding", "errors", "newline")
        options = {key: kwargs.pop(key) for key in of_text if key in kwargs}
        kind = mode.strip("bt")
        spooled = super().open(path, f"{kind}b", block_size, cache_options, **kwargs)
        file: Any = spooled
        if compression is not None:
            compress = compr[get_compression(path, compression)]
            file = CompressedFile(compress(spooled, mode=kind))
            file.spooled = spooled
        if "b" not in mode:
            file = TextFile(file, **options)
            file.spooled = spooled
        return file

    def _open(
        self, path: str, mode: str = "rb", *arguments: Any, autocommit: bool = True, **kwargs: Any
    ) -> PinnedFile | SpooledFile:
        if mode == "rb":
            return PinnedFile(self, path, self._pinned(path))
        if mode not in ("wb", "xb", "ab"):
            raise ValueError(
                f"a file of a refstore is opened by the mode r, w, x or a, and not by {mode!r}"
            )
        store, name = self._place_of_file(path)
        with contextlib.suppress(ObjectNotFoundError):
            store.info(name)  # raises if it can be no name, before anything is written
            if mode == "xb":
                raise FileExistsError(errno.EEXIST, "this file is there already", path)
        before = _byte_objects.pin(store, name) if mode == "ab" else None
        return SpooledFile(self, path, mode, autocommit, before)


def _identity(path: str) -> tuple[int, int]:
    """The file of a path, which is no other one's as long as it is mapped."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "no object of kind 'bytes' has the name", path)


def _folder(path: str) -> Info:
    return {"name": path, "size": 0, "type": "directory"}


def _file(path: str, info: ObjectInfo) -> Info:
    return {
        "name": path,
        "size": info.nbytes,
        "type": "file",
        "created": info.created,
        "mtime": info.created,
        "ref": info.ref.hex() if info.ref else None,
    }


def _parents(path: str, start: int) -> Iterator[str]:
    """The folders between the one whose path has so many characters and a file."""
    end = path.find("/", start + 1)
    while end >= 0:
        if path[end - 1] != "/":
            yield path[:end]
        end = path.find("/", end + 1)
