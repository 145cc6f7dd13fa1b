"""The public Store class: opening and closing. Engines handle the objects."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal, SupportsIndex, TypeVar, cast

from refstore import _header, _html, _logging, _messages, _paths
from refstore._arguments import (
    OWNERS,
    checked_options,
    require_create,
    require_max_objects,
)
from refstore._calls import Calls
from refstore._errors import RefstoreError, StoreVersionError
from refstore._pickled import named_in_pickles
from refstore._sites import tracks_by_environment
from refstore._temporary import collect_temporary, give_up, own
from refstore.engines import choice, interface
from refstore.engines.binding import bound
from refstore.payload.rules import FREE, Rules, rules_for

if TYPE_CHECKING:
    import inspect
    import pickle

    from typing_extensions import Self


__all__ = ["Store"]


class _InitSignature:
    """Makes inspect.signature(Store) show __init__."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        import inspect  # takes longer to import than the rest of this package

        of_init = inspect.signature(owner.__init__)  # type: ignore[misc]  # whoever's it is
        _, *parameters = of_init.parameters.values()
        return of_init.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


class Store(Calls):
    """A store on this machine, shared by every process that opens the same name.

    A store is a file; it lasts until unlink(), whoever is attached. `key in store`, `len(store)`
    and iteration (over refs) see live objects; `store[name]`, `store[name] = obj` and
    `del store[name]` are get(name), put(obj, name=name, replace=True) and delete(name). A Store is
    a context manager that closes it, and pickles as "attach to the same file".

    Parameters:
        name: a plain name, for a file in this user's directory in shared memory, or a path if it
            holds a separator.
        capacity: bytes of payload, as an int or a text such as "64MiB" or "1GB"; a part of the
            machine's memory by default, which costs nothing until it is used.
        max_objects: how many objects fit; follows from the capacity by default.
        create: None attaches, or creates the store if it is not there; True must create it; False
            must attach.
        backend: "native", "filelock", or "auto" for the better one that can be there, which the
            variable REFSTORE_BACKEND overrides.
        evict: which objects may be deleted when others need their space: None, those that were put
            with `evictable=True`; "lru" and "s3fifo", all that were not put with `evictable=False`,
            those first that were not used for long ("lru"), or not often ("s3fifo").
        mode: permissions of a new store's file.
        foreign: whether to attach to another user's store. Its objects are unpickled, which can
            run that user's code.
        track: whether holders() tells which lines of this process's program put objects and pin
            them; REFSTORE_TRACK=1 in the environment does that for all stores of all processes.
        pickler: what pickles objects here in place of pickle's own: a module that has a Pickler,
            such as cloudpickle, or a subclass of pickle.Pickler. Whoever reads needs none.
        allow_pickle: False refuses objects: to put them, which takes pickling, and to unpickle
            them, which can run code of whoever put them. Bytes and arrays go by themselves.

    An attached store takes capacity, max_objects and evict from its file.

    Errors:
        FileExistsError: create=True, and the store is there.
        FileNotFoundError: create=False, and it is not, or the path has no directory.
        TypeError: an argument is of another type.
        ValueError: a bad argument, or one that differs from the attached file's.
        StoreCorruptedError: the file is not a store, or is damaged.
        StoreVersionError: the file is of another version, build or engine.
        PermissionError: the file is another user's, and foreign is False.
        OSError: there is no space for the store's tables, or the file system cannot hold it.

    Example:
        >>> with refstore.Store.temporary("1MiB") as store:
        ...     ref = store.put(np.arange(4), name="numbers")
        ...     with store.get("numbers") as buf:
        ...         print(buf.array)
        [0 1 2 3]
    """

    __slots__ = ()
    __signature__ = _InitSignature()
    _bound: ClassVar[dict[tuple[type, str, bool, Rules], type]] = {}  # with each engine's methods

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        cls._bound = {}

    if TYPE_CHECKING:  # what `binding` and the engine add
        _module: interface.Module
        _face: type[Store]
        _rules: Rules
        _attachment: interface.Attachment

    def __new__(
        cls,
        name: str | os.PathLike[str] = "default",
        *arguments: object,
        backend: str = "auto",
        track: bool = False,
        pickler: Any = None,
        allow_pickle: bool = True,
        **options: object,
    ) -> Self:
        if cls.__init__ is Store.__init__:
            rules = rules_for(pickler, allow_pickle)
            return _blank(cls, choice.choose(backend, _paths.store_path(name)), track, rules)
        return _blank(cls, choice.default())  # its __init__ may give the arguments another meaning

    def __init__(
        self,
        name: str | os.PathLike[str] = "default",
        *,
        capacity: SupportsIndex | str | None = None,
        max_objects: SupportsIndex | None = None,
        create: bool | None = None,
        backend: Literal["auto", "native", "filelock"] = "auto",
        evict: Literal["lru", "s3fifo"] | None = None,
        mode: SupportsIndex = OWNERS,
        foreign: bool = False,
        track: bool = False,
        pickler: Any = None,
        allow_pickle: bool = True,
    ) -> None:
        require_create(create)
        wanted, max_objects, mode = checked_options(capacity, max_objects, evict, mode)
        path = _paths.store_path(name)
        self._require_engine(backend, path)
        self._require_tracking(track)
        self._require_rules(rules_for(pickler, allow_pickle))
        collect_temporary(os.path.dirname(path))
        while True:
            if create is not True:
                try:
                    self._attach(path, foreign, wanted, max_objects, evict)
                    return
                except FileNotFoundError:
                    if create is False:
                        raise
            try:
                _make(self._module, path, wanted, max_objects, mode, evict, temporary=False)
            except FileExistsError:
                if create:
                    raise
                continue  # another process was first: attach to its store
            try:
                self._attach(path, foreign)
                return
            except BaseException as error:
                if not isinstance(error, FileNotFoundError):  # else somebody has removed it
                    _remove_unused(self._module, path)
                    raise

    @classmethod
    def temporary(
        cls,
        capacity: SupportsIndex | str | None = None,
        *,
        max_objects: SupportsIndex | None = None,
        backend: Literal["auto", "native", "filelock"] = "auto",
        evict: Literal["lru", "s3fifo"] | None = None,
        mode: SupportsIndex = OWNERS,
        track: bool = False,
        pickler: Any = None,
        allow_pickle: bool = True,
    ) -> Self:
        """Creates a store with a fresh name, removed when this process closes it, exits or dies.

        Parameters:
            capacity: bytes of payload, as an int or a text such as "64MiB".
            max_objects: how many objects fit; follows from the capacity by default.
            backend: "native", "filelock" or "auto", as of Store().
            evict: which objects may be deleted when others need their space, as of Store().
            mode: permissions of the file.
            track: as of Store().
            pickler: as of Store().
            allow_pickle: as of Store().

        Returns:
            The store. After a crash of this process, the next one that opens a store in that
            directory removes the file.

        Errors:
            ValueError, TypeError: a bad argument.
            OSError: there is no space for the store's tables.

        Example:
            >>> with refstore.Store.temporary("1MiB") as scratch:
            ...     scratch.capacity
            1048576
        """
        wanted, max_objects, mode = checked_options(capacity, max_objects, evict, mode)
        creator = os.getpid()  # a signal handler may fork on the way
        path = _paths.store_path(_paths.temporary_name())
        collect_temporary(os.path.dirname(path))
        module = choice.choose(backend, path)
        store = _blank(cls, module, track, rules_for(pickler, allow_pickle))
        mine = _make(module, path, wanted, max_objects, mode, evict, temporary=True)
        own(store, path, mine, creator)
        try:
            store._attach(path, False)
        except BaseException:
            give_up(store)
            raise
        return store

    def _require_engine(self, backend: str, path: str) -> None:
        # of a subclass with an __init__ of its own; else it was chosen for this very path
        if type(self).__init__ is not Store.__init__:
            module = choice.choose(backend, path)
            if module is not self._module:
                raise RefstoreError(
                    f"store {path!r} needs another engine than a subclass of Store with an "
                    "__init__ of its own has: set REFSTORE_BACKEND for the whole program"
                )

    def _require_tracking(self, track: bool) -> None:
        # as before
        if track and not self._tracks:
            raise RefstoreError(
                "a subclass of Store with an __init__ of its own tracks by REFSTORE_TRACK=1, which "
                "is for the whole program"
            )

    def _require_rules(self, rules: Rules) -> None:
        # as before
        if rules != self._rules:
            raise RefstoreError(
                "a subclass of Store with an __init__ of its own takes no pickler= or allow_pickle="
            )

    def _attach(
        self,
        path: str,
        foreign: bool,
        capacity: int | None = None,
        max_objects: int | None = None,
        evict: str | None = None,
    ) -> None:
        try:
            attachment = self._module.attach(path, foreign)
        except OSError as error:
            raise _messages.of_path(path, error) from None
        for what, asked, has in (
            ("capacity", capacity, attachment.capacity),
            ("max_objects", max_objects, attachment.max_objects),
            ("evict", evict, attachment.evict),
        ):
            if asked is not None and asked != has:
                raise ValueError(
                    f"store {path!r} has {what} {has!r}, and {asked!r} was asked for: "
                    "leave it out to attach, or remove the store to make it anew"
                )
        self._base()._open(attachment)
        _logging.info("attached to store %r, of the %s engine", path, self.backend)

    # --- the store as a whole

    @property
    def path(self) -> str:
        """The store's file, an absolute path.

        Errors:
            ValueError: the store is closed.

        Example:
            >>> os.path.isfile(store.path)
            True
        """
        return self._attachment.path

    @property
    def name(self) -> str:
        """The name of the store's file, without the folder.

        Errors:
            ValueError: the store is closed.

        Example:
            >>> store.name == os.path.basename(store.path)
            True
        """
        return os.path.basename(self._attachment.path)

    @property
    def uuid(self) -> bytes:
        """Tells the store from a later one of its name: 16 bytes.

        Errors:
            ValueError: the store is closed.

        Example:
            >>> store.uuid == refstore.Store(store.path).uuid
            True
        """
        return self._attachment.uuid

    @property
    def capacity(self) -> int:
        """Bytes of payload that fit. Tables and names lie outside of it.

        Errors:
            ValueError: the store is closed.

        Example:
            >>> store.capacity
            16777216
        """
        return self._attachment.capacity

    @property
    def max_objects(self) -> int:
        """Number of objects that fit.

        Errors:
            ValueError: the store is closed.

        Example:
            >>> store.max_objects > 0
            True
        """
        return self._attachment.max_objects

    @property
    def backend(self) -> Literal["native", "filelock"]:
        """The engine that the store belongs to: "native" or "filelock".

        Example:
            >>> store.backend in ("native", "filelock")
            True
        """
        return self._module.BACKEND

    @property
    def evict(self) -> Literal["lru", "s3fifo"] | None:
        """The eviction policy that the store was made with.

        Errors:
            ValueError: the store is closed.

        Example:
            >>> store.evict is None
            True
        """
        return self._attachment.evict

    def unlink(self) -> None:
        """Removes the store's file, if it is still this store's. Attached processes go on.

        Errors:
            FileNotFoundError: the file is gone already.
            StoreVersionError: another store has its path by now, and is left alone.
            ValueError: the store is closed.

        Example:
            >>> path = store.path
            >>> store.unlink()
            >>> os.path.exists(path)
            False
        """
        attachment = self._attachment
        path = attachment.path
        try:
            with _paths.open_store(path, os.O_RDWR) as file:
                if not attachment.is_of(file.fileno()):
                    raise StoreVersionError(f"{path!r} is another store by now, and is left alone")
                os.unlink(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(error.errno, "the store's file is gone already", path) from None
        except OSError as error:
            raise _messages.of_path(path, error) from None

    def close(self) -> None:
        """Detaches this Store from its file; a second call does nothing.

        Live buffers stay valid and pinned; the last one unmaps the file. From here on
        `closed`, `backend`, bool(), repr() and close() work, and all else raises ValueError.
        Removes the file of a temporary store that this process created.

        Errors:
            OSError: the file of a temporary store cannot be removed.

        Example:
            >>> store.close()
            >>> store.closed
            True
        """
        try:
            give_up(self)
        finally:
            self._base().close()

    def __enter__(self) -> Self:
        self._attachment  # noqa: B018  a closed store raises
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        attachment = self._attachment
        return reattach, (
            None if self._face is Store else self._face,
            attachment.path,
            attachment.uuid,
            *(() if self._rules == FREE else self._rules),
        )

    def __repr__(self) -> str:
        if self.closed:
            return "<Store, closed: open it anew to use it>"
        return f"<Store {self.path!r}, capacity {self.capacity}>"

    def _repr_html_(self) -> str:
        return _html.of_store(self)


# --- how a store comes by its engine
S = TypeVar("S", bound=Store)


def _blank(face: type[S], module: interface.Module, track: bool = False, rules: Rules = FREE) -> S:
    tracks = bool(track) or tracks_by_environment()
    made = bound(getattr(face, "_face", face), module, tracks, rules)
    return cast(S, cast(Any, module.Engine).__new__(made))


def attached(face: type[S], path: str, *, foreign: bool, rules: Rules = FREE) -> S:
    """The store that is at `path`, whichever engine the environment prefers for new ones.

    Nothing else in its directory is looked at or removed.
    """
    store = _blank(face, choice.choose(_header.owner_of(path) or "auto", path), rules=rules)
    try:
        store._attach(path, foreign)
    except FileNotFoundError as error:
        raise _messages.gone(path, error) from None
    return store


@named_in_pickles
def reattach(
    face: type[Store] | None,
    path: str,
    uuid: bytes,
    pickler: type[pickle.Pickler] | None = None,
    allows: bool = True,
) -> Store:
    # whoever could unpickle this trusts its sender, hence the file that the sender trusts
    store = attached(face or Store, path, foreign=True, rules=Rules(pickler, allows))
    if store._attachment.uuid != uuid:
        store.close()
        raise StoreVersionError(f"{path!r} is another store than the one that was pickled")
    return store


def _remove_unused(module: interface.Module, path: str) -> None:
    # Of a store that we made and could not use. Others may have put something into it by now.
    with contextlib.suppress(OSError, RefstoreError), _paths.open_store(path, os.O_RDWR) as file:
        if module.is_unused(file.fileno(), path):
            os.unlink(path)


def _make(
    module: interface.Module,
    path: str,
    capacity: int | None,
    max_objects: int | None,
    mode: int,
    evict: Literal["lru", "s3fifo"] | None,
    *,
    temporary: bool,
) -> interface.CreatorLock | None:
    if max_objects is not None:
        require_max_objects(max_objects, module.OBJECTS_LIMIT)
    capacity, max_objects = _paths.default_size(
        os.path.dirname(path), capacity, max_objects, module.file_nbytes
    )
    try:
        mine = module.make_file(path, capacity, max_objects, mode, temporary, evict)
    except OSError as error:
        raise _messages.of_making(path, error) from None
    _logging.info("made store %r, capacity %d, max_objects %d", path, capacity, max_objects)
    return mine
