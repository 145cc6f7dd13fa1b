"""Dask: arrays and tables go by ref between the workers of a host, and are there once.

    refstore.dask.install()                  # in the client, before the cluster
    cluster = LocalCluster(n_workers=8, data=refstore.dask.Data)
    client = Client(cluster, direct_to_workers=True)
    weights = client.scatter(np.ones(100_000_000, "u1"), broadcast=True)    # once in memory, not 8

Elsewhere `dask worker --preload refstore.dask`, or `distributed.worker.preload: [refstore.dask]` in
the configuration, which has besides, all of them optional:

    refstore.store      name of the store; by default one for each scheduler
    refstore.capacity   of the store, in bytes or as "8GiB"
    refstore.threshold  bytes from which on a value goes by ref: "64 KiB"
    refstore.writable   whether arrays that arrive can be written, each process for itself: False
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Hashable, Iterator, MutableMapping, Sequence
from typing import Any

from refstore._extras import missing_extra

try:
    import dask.config
    import distributed
    from distributed.comm import CommClosedError
except ImportError as error:
    raise missing_extra(__name__, "dask", error) from None

import refstore
from refstore.dask import _families, _values
from refstore.dask._keeper import Keeper
from refstore.dask._session import KEY, Session, store_name

__all__ = ["Data", "dask_setup", "dask_teardown", "install", "uninstall"]

_PRELOADS = ("distributed.client.preload", "distributed.worker.preload")
_current: Session | None = None
_left: list[Session] = []
_users: set[int] = set()  # the workers, clients and nannies of this process, by id
_lock = threading.RLock()


class _Hooks:
    """The hooks of whatever session there is."""

    def dumps(self, family: str, value: Any, context: dict[str, Any]) -> _families.Frames:
        if _current is None:
            return _families.original(family).dumps(value, context)
        return _current.dumps(family, value, context)

    def loads(self, family: str, header: dict[str, Any], frames: Sequence[Any]) -> Any:
        if _current is not None:
            return _current.loads(family, header, frames)
        if header.get(KEY):
            raise CommClosedError("the message is about objects of a store that was left")
        return _families.original(family).loads(header, frames)

    def introduce(self, comm: Any) -> dict[str, Any]:
        # What does not deserialize hands messages on, to hosts that have not that store.
        return {KEY: _current.introduce(comm)} if _current is not None and comm.deserialize else {}


def install(client: Any = None) -> None:
    """Lets this process send by ref, and the workers and clients that are made in it from now on.

    It is for the program that has the client. Workers that others start have the preload
    `refstore.dask`. A process takes part from the moment when its worker or client starts, and
    leaves when the last of them closes. Connections that are open before that stay as they are.

    Parameters:
        client: a client that is there already, to take part at once.

    Errors:
        RuntimeError: this version of distributed lacks what is replaced.
        ValueError, OSError: the store of a given client cannot be opened; what Store() raises.

    Example:
        >>> import refstore.dask
        >>> refstore.dask.install()
        >>> dask.config.get("distributed.worker.preload")
        ['refstore.dask']
        >>> refstore.dask.uninstall()
    """
    with _lock:
        _families.install(_Hooks())
        for key in _PRELOADS:
            _set_preload(key, wanted=True)
        if client is not None:
            dask_setup(client)


def uninstall() -> None:
    """Leaves the store, and gives distributed its own functions and configuration back.

    Arrays that were received stay valid. What this process put is gone for others, unless they have
    it already.

    Example:
        >>> import refstore.dask
        >>> refstore.dask.uninstall()
    """
    with _lock:
        _users.clear()
        _clear_away()
        for key in _PRELOADS:
            _set_preload(key, wanted=False)
        _families.uninstall()


def _set_preload(key: str, *, wanted: bool) -> None:
    present = dask.config.get(key, [])
    others = [present] if isinstance(present, str) else list(present)
    others = [each for each in others if each != __name__]
    dask.config.set({key: [*others, __name__] if wanted else others})


def dask_setup(server: Any) -> None:
    """Takes part in the store of a worker's, client's or nanny's cluster; preloads call it.

    Parameters:
        server: the worker, client or nanny. A scheduler has no part: it hands messages on.

    Errors:
        RuntimeError: this version of distributed lacks what is replaced.
        ValueError, OSError: the store cannot be opened; what Store() raises.

    Example:
        >>> import refstore.dask
        >>> refstore.dask.dask_setup(worker)  # doctest: +SKIP
    """
    if isinstance(server, distributed.Scheduler):
        return
    with _lock:
        _families.install(_Hooks())
        session = _join(dask.config.get("refstore.store", None), server.scheduler.address)
        _users.add(id(server))
        session.places_arrivals |= isinstance(server, distributed.Worker)


def dask_teardown(server: Any) -> None:
    """Ends a worker's, client's or nanny's part; preloads call it.

    Parameters:
        server: the worker, client or nanny.

    Example:
        >>> import refstore.dask
        >>> refstore.dask.dask_teardown(worker)  # doctest: +SKIP
    """
    with _lock:
        _users.discard(id(server))
        if not _users:
            _leave()


def _join(name: str | None, scheduler: str) -> Session:
    """The session there is, or one in the store of that name, or of the scheduler."""
    global _current
    if _current is None:
        _current = Session(name or store_name(scheduler), is_ours=name is None)
    return _current


def _leave() -> None:
    global _current
    with _lock:
        if _current is not None:
            session, _current = _current, None
            session.close()
            _left.append(session)


@atexit.register
def _clear_away() -> None:
    _leave()
    while _left:
        _left.pop().clear_away()


class Data(MutableMapping[Hashable, Any]):
    """Results of a worker and what it has received, with arrays and tables in the store at once.

    It is for `Worker(data=)`, `Nanny(data=)` and `LocalCluster(data=)`: `data=refstore.dask.Data`,
    or with arguments `data=(refstore.dask.Data, {"threshold": "1 MiB"})`. When another worker of
    the host asks for such a value, nothing is copied, and the worker has no private copy either. It
    is a mapping like any other besides, such as the slow half of a `zict.Buffer`.

    numpy arrays and pandas and Arrow tables without Python objects are put, and come back as they
    were, but read-only; so are those in a list, tuple or dict. All else, what is small, and what
    the store has no space for stays as it is. An object is owned by this process, and goes when
    nobody looks at it any more.

    Parameters:
        store: where to put; by default the store of the worker's cluster, by the preload.
        inner: the mapping that has the values, a dict by default. With distributed's SpillBuffer
            they go to disk when there are too many.
        threshold: bytes from which on a value is put, as an int or a text; by default the
            configuration's `refstore.threshold`.

    Errors:
        RuntimeError: there is no `store`, and the process has no worker with the preload.
        KeyError: a key is not there.

    Example:
        >>> from refstore.dask import Data
        >>> data = Data(store)
        >>> data["x"] = np.arange(100_000)
        >>> store.ref_of(data["x"]) in store
        True
        >>> data["x"].flags.writeable
        False
        >>> data.close()
    """

    def __init__(
        self,
        store: refstore.Store | None = None,
        *,
        inner: MutableMapping[Hashable, Any] | None = None,
        threshold: int | str | None = None,
    ) -> None:
        self._inner = {} if inner is None else inner
        self._keeper = None if store is None else Keeper(store)
        self._threshold = _values.threshold(threshold)

    def __getitem__(self, key: Hashable) -> Any:
        return self._inner[key]

    def __setitem__(self, key: Hashable, value: Any) -> None:
        keeper = self._keeper or self._shared()
        self._inner[key] = _values.place(keeper, value, self._threshold)

    def __delitem__(self, key: Hashable) -> None:
        del self._inner[key]

    def __contains__(self, key: object) -> bool:
        return key in self._inner

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._inner)

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        # distributed spills by these, if a worker's data has them.
        if name in ("fast", "evict", "memory", "disk", "spilled_total") and "_inner" in vars(self):
            return getattr(self._inner, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _shared(self) -> Keeper:
        session = _current
        if session is None:
            raise RuntimeError(
                "Data() has no store: start the worker with --preload refstore.dask, put "
                "refstore.dask into distributed.worker.preload, or give a store"
            )
        return session.keeper

    def close(self) -> None:
        """Stops looking for what nobody needs any more, if a store was given.

        What was put goes with this process's last `Store` object of that store.

        Example:
            >>> from refstore.dask import Data
            >>> Data(store).close()
        """
        if self._keeper is not None:
            self._keeper.close()
