"""The public Store class: opening, reports and closing. Engines handle the objects."""

from __future__ import annotations

import contextlib
import operator
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeVar, cast

from refstore import _header, _messages, _paths
from refstore._errors import RefstoreError, StoreVersionError
from refstore._names import require_text
from refstore._pickled import named_in_pickles
from refstore._refs import ObjectRef
from refstore._reports import Holder, Recovery, StoreStats
from refstore._temporary import collect_temporary, give_up, own
from refstore.engines import choice, interface
from refstore.engines.binding import bound

if TYPE_CHECKING:
    import inspect

    import numpy.typing as npt
    from typing_extensions import Self

    from refstore._buffers import PinnedBuffer, Writer

__all__ = ["Store"]

OWNERS = 0o600  # permissions that a store's owner must have
RETRIES = 5  # more that check() takes before it reports
RETRY_DELAY = 0.02  # seconds


class _InitSignature:
    """Makes inspect.signature(Store) show __init__."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        import inspect  # takes longer to import than the rest of this package

        of_init = inspect.signature(owner.__init__)  # type: ignore[misc]  # whoever's it is
        _, *parameters = of_init.parameters.values()
        return of_init.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


class Store:
    """A store on this machine, shared by every process that opens the same name.

    `name` is a plain name, for a file in this user's folder in shared memory, or a path if it
    holds a separator. `create`: None attaches, or creates if it is not there; True must create;
    False must attach. `capacity` is bytes of payload, as a number or "64MiB"; `max_objects` how
    many objects fit. `backend`: "native", "filelock", or "auto" for the better one that can be
    there, which REFSTORE_BACKEND overrides. An attached store takes all of these from its file,
    and a different value given is an error.

    Errors: FileExistsError, FileNotFoundError, ValueError, StoreCorruptedError, StoreVersionError,
    PermissionError (another user's file, without `foreign=True`), OSError.
    """

    __slots__ = ()
    __signature__ = _InitSignature()

    if TYPE_CHECKING:  # what `binding` and the engine add
        _module: interface.Module
        _face: type[Store]
        _attachment: interface.Attachment

    def __new__(
        cls,
        name: str | os.PathLike[str] = "default",
        *arguments: object,
        backend: str = "auto",
        **options: object,
    ) -> Self:
        if cls.__init__ is Store.__init__:
            return _blank(cls, choice.choose(backend, _paths.store_path(name)))
        return _blank(cls, choice.default())  # its __init__ may give the arguments another meaning

    def __init__(
        self,
        name: str | os.PathLike[str] = "default",
        *,
        capacity: SupportsIndex | str | None = None,
        max_objects: SupportsIndex | None = None,
        create: bool | None = None,
        backend: Literal["auto", "native", "filelock"] = "auto",
        evict: str | None = None,
        mode: SupportsIndex = 0o600,
        foreign: bool = False,
    ) -> None:
        wanted, max_objects, mode = _checked(capacity, max_objects, evict, mode)
        path = _paths.store_path(name)
        self._require_engine(backend, path)
        collect_temporary(os.path.dirname(path))
        while True:
            if create is not True:
                try:
                    self._attach(path, foreign, wanted, max_objects)
                except FileNotFoundError:
                    if create is False:
                        raise
                else:
                    return
            try:
                _make(self._module, path, wanted, max_objects, mode, temporary=False)
            except FileExistsError:
                if create:
                    raise
                continue  # another process was first: attach to its store
            try:
                self._attach(path, foreign, None, None)
            except BaseException:
                _remove_unused(self._module, path)
                raise
            return

    @classmethod
    def temporary(
        cls,
        capacity: SupportsIndex | str | None = None,
        *,
        max_objects: SupportsIndex | None = None,
        backend: Literal["auto", "native", "filelock"] = "auto",
        evict: str | None = None,
        mode: SupportsIndex = 0o600,
    ) -> Self:
        """A store with a fresh name, removed when this process closes it, exits or dies."""
        wanted, max_objects, mode = _checked(capacity, max_objects, evict, mode)
        creator = os.getpid()  # a signal handler may fork on the way
        path = _paths.store_path(_paths.temporary_name())
        collect_temporary(os.path.dirname(path))
        module = choice.choose(backend, path)
        store = _blank(cls, module)
        mine = _make(module, path, wanted, max_objects, mode, temporary=True)
        own(store, path, mine, creator)
        try:
            store._attach(path, False, None, None)
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

    def _attach(
        self, path: str, foreign: bool, capacity: int | None, max_objects: int | None
    ) -> None:
        try:
            attachment = self._module.attach(path, foreign)
        except OSError as error:
            raise _messages.of_path(path, error) from None
        for what, asked, has in (
            ("capacity", capacity, attachment.capacity),
            ("max_objects", max_objects, attachment.max_objects),
        ):
            if asked is not None and asked != has:
                raise ValueError(
                    f"store {path!r} has {what} {has}, and {asked} was asked for: "
                    "leave it out to attach, or remove the store to make it anew"
                )
        self._base()._open(attachment)

    def _base(self) -> interface.Engine:
        return cast(interface.Engine, super())

    # --- objects: the engine's own methods stand in their place, see `binding`

    def put(
        self,
        obj: object,
        *,
        name: str | None = None,
        replace: bool = False,
        timeout: float | None = 0,
    ) -> ObjectRef:
        """Stores a copy of `obj`; returns its ref.

        bytes, bytearray and memoryview are kept as bytes, exactly ndarray as an array, anything
        else is pickled with its buffers out of band. `name` publishes it; `replace` swaps the name
        over from an earlier object, which is deleted. Errors: StoreFullError, ObjectExistsError,
        TypeError and pickle.PicklingError; nothing is left behind then.
        """
        return self._base().put(obj, name=name, replace=replace, timeout=timeout)

    def create(
        self,
        nbytes: SupportsIndex | None = None,
        *,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | None = None,
        dtype: npt.DTypeLike | None = None,
        name: str | None = None,
        replace: bool = False,
        timeout: float | None = 0,
    ) -> Writer:
        """Room to write straight into: `nbytes` bytes, or an array (float64 without `dtype`)."""
        return self._base().create(
            nbytes, shape=shape, dtype=dtype, name=name, replace=replace, timeout=timeout
        )

    def get(
        self, key: ObjectRef | str, *, timeout: float | None = 0, writable: bool = False
    ) -> PinnedBuffer:
        """The object with this ref or name, pinned where it lies; nothing is copied.

        `writable`: a copy-on-write view of this process's own. Errors: ObjectNotFoundError.
        """
        return self._base().get(key, timeout=timeout, writable=writable)

    def delete(self, key: ObjectRef | str) -> None:
        """No get finds the object from now on; its room comes back with the last pin.

        Errors: ObjectNotFoundError.
        """
        self._base().delete(key)

    def refcount(self, key: ObjectRef | str) -> int:
        """1 for the store's own reference, plus all pins in all processes."""
        return self._base().refcount(key)

    def ref(self, name: str) -> ObjectRef:
        """The ref of the object published under `name`. Errors: ObjectNotFoundError."""
        return self._base().ref(name)

    def __contains__(self, key: ObjectRef | str, /) -> bool:
        return self._base().__contains__(key)

    def __len__(self) -> int:
        return self._base().__len__()

    def __bool__(self) -> bool:
        """True, however empty it is: `store or Store(...)` makes no other."""
        return True

    def __iter__(self) -> Iterator[ObjectRef]:
        return self._base().__iter__()

    def names(self) -> list[str]:
        """The names of all objects that have one."""
        return self._base().names()

    def trim(self) -> int:
        """Returns free memory to the operating system; returns how many bytes."""
        return self._base().trim()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._base().closed

    # --- the store as a whole

    @property
    def path(self) -> str:
        """The store's file, an absolute path."""
        return self._attachment.path

    @property
    def capacity(self) -> int:
        """Bytes of payload that fit."""
        return self._attachment.capacity

    @property
    def max_objects(self) -> int:
        """Objects that fit."""
        return self._attachment.max_objects

    @property
    def backend(self) -> Literal["native", "filelock"]:
        """The engine that the store belongs to: "native" or "filelock"."""
        return self._module.BACKEND

    @property
    def evict(self) -> None:
        """The eviction policy: None, objects live until they are deleted."""
        self._attachment  # noqa: B018  a closed store raises
        return None

    def stats(self) -> StoreStats:
        """Counts of what the store holds and has done."""
        return StoreStats(*self._base()._census())

    def holders(self, ref_or_name: ObjectRef | str | None = None) -> list[Holder]:
        """Who keeps what in memory, largest first: of the whole store, or of one object.

        A ref finds its object even when that is deleted, as long as it is pinned; a live object
        that nobody pins has no holders. Errors: ObjectNotFoundError.
        """
        found = [Holder(*row) for row in self._base()._holders(ref_or_name)]
        return sorted(found, key=lambda holder: (-holder.bytes, holder.pid))

    def recover(self) -> Recovery:
        """Gives back what dead processes held; it also happens by itself, when it is needed.

        The result is what this process gave back since its last recover(), by this call or by
        itself. Errors: OSError if there is no file descriptor left to do it with; what was given
        back till then is in the next result.
        """
        return Recovery(*self._base()._recover_all())

    def check(self) -> list[str]:
        """Every invariant of the store, looked at and not touched: a sentence for each that fails.

        What a dead process still holds is no problem. What changes while it looks may seem one, so
        it looks again, and reports only what stays.
        """
        look = self._base()._problems
        problems = look()
        for _ in range(RETRIES):
            if not problems:
                break
            time.sleep(RETRY_DELAY)
            problems &= look()
        return sorted(problems)

    def unlink(self) -> None:
        """Removes the store's file, if it is still this store's. Who is attached goes on.

        Errors: FileNotFoundError if it is gone, StoreVersionError if another store is there now.
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
        """Detaches. Live buffers stay valid and pinned; the last one unmaps. Twice is once."""
        try:
            give_up(self)
        finally:
            self._base().close()

    def __enter__(self) -> Self:
        self._attachment  # noqa: B018  a closed store raises
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> PinnedBuffer:
        return self.get(_require_item_name(name))

    def __setitem__(self, name: str, obj: object) -> None:
        self.put(obj, name=_require_item_name(name), replace=True)

    def __delitem__(self, name: str) -> None:
        self.delete(_require_item_name(name))

    def __reduce__(self) -> tuple[object, ...]:
        attachment = self._attachment
        return reattach, (
            None if self._face is Store else self._face,
            attachment.path,
            attachment.uuid,
        )

    def __repr__(self) -> str:
        if self.closed:
            return "<Store, closed>"
        return f"<Store {self.path!r}, capacity {self.capacity}>"


# --- how a store comes by its engine
S = TypeVar("S", bound=Store)


def _blank(face: type[S], module: interface.Module) -> S:
    made = bound(getattr(face, "_face", face), Store, module)
    return cast(S, cast(Any, module.Engine).__new__(made))


def attached(face: type[S], path: str, *, foreign: bool) -> S:
    """The store that is at `path`, whichever engine the environment prefers for new ones.

    Nothing else in its folder is looked at or removed.
    """
    store = _blank(face, choice.choose(_header.owner_of(path) or "auto", path))
    store._attach(path, foreign, None, None)
    return store


@named_in_pickles
def reattach(face: type[Store] | None, path: str, uuid: bytes) -> Store:
    # whoever could unpickle this trusts its sender, hence the file that the sender trusts
    store = attached(face or Store, path, foreign=True)
    if store._attachment.uuid != uuid:
        store.close()
        raise StoreVersionError(f"{path!r} is another store than the one that was pickled")
    return store


def _require_item_name(name: object) -> str:
    """`name`, if it can stand in `store[name]`; TypeError otherwise."""
    if isinstance(name, ObjectRef):
        raise TypeError("store[...] takes a name: for a ref, use get(ref) and delete(ref)")
    return require_text(name)


def _remove_unused(module: interface.Module, path: str) -> None:
    # Of a store that we made and could not use. Others may have put something into it by now.
    with contextlib.suppress(OSError, RefstoreError), _paths.open_store(path, os.O_RDWR) as file:
        if module.is_unused(file.fileno(), path):
            os.unlink(path)


def _checked(
    capacity: SupportsIndex | str | None,
    max_objects: SupportsIndex | None,
    evict: str | None,
    mode: SupportsIndex,
) -> tuple[int | None, int | None, int]:
    """Capacity, max_objects and mode as plain numbers; TypeError or ValueError."""
    if evict not in (None, "lru"):
        raise ValueError(f"evict is {evict!r}: it is None or 'lru'")
    if evict is not None:
        raise ValueError(f"evict is {evict!r}: this version does not evict yet, leave it out")
    nbytes = None if capacity is None else _paths.parse_capacity(capacity)
    objects = None if max_objects is None else _number("max_objects", max_objects, "such as 5000")
    if objects is not None and objects <= 0:
        raise ValueError(f"max_objects is {objects}: a store needs at least one")
    bits = _number("mode", mode, "such as 0o600")
    if bits & ~0o777 or bits & OWNERS != OWNERS:
        raise ValueError(
            f"mode is {_octal(bits)}: it is 0o777 at most, and the owner must be able to read and "
            "write, as with 0o600 or 0o660"
        )
    return nbytes, objects, bits


def _number(what: str, value: object, example: str) -> int:
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            return operator.index(cast(SupportsIndex, value))
    raise TypeError(f"{what} is {value!r}: give an int {example}, not {type(value).__name__}")


def _octal(bits: int) -> str:
    return f"{bits}" if bits < 0 else f"0o{bits:o}"


def _make(
    module: interface.Module,
    path: str,
    capacity: int | None,
    max_objects: int | None,
    mode: int,
    *,
    temporary: bool,
) -> interface.CreatorLock | None:
    if max_objects is not None and max_objects > module.OBJECTS_LIMIT:
        raise ValueError(
            f"max_objects is {max_objects}: it must be between 1 and {module.OBJECTS_LIMIT}"
        )
    capacity, max_objects = _paths.default_size(
        os.path.dirname(path), capacity, max_objects, module.file_nbytes
    )
    try:
        return module.make_file(path, capacity, max_objects, mode, temporary)
    except OSError as error:
        raise _messages.of_making(path, error) from None
