"""`joblib.Parallel` by way of a store: large arguments are put once, and results come back there.

    refstore.joblib.install()
    Parallel(n_jobs=4)(delayed(fit)(table, depth) for depth in range(8))    # as ever

It takes the place of joblib's memory-mapped files, for its back ends "loky" and "multiprocessing".

    memory = joblib.Memory("results", backend="refstore")    # once this module is imported

keeps the results of functions in a store, which all processes of the machine share.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import datetime
import functools
import hashlib
import json
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from refstore._errors import ObjectNotFoundError, StoreFullError
from refstore._extras import missing_extra
from refstore._lending import Arrived, Call, Lender, Together
from refstore._parcels import Packing, Parcel, Result, take
from refstore._signals import is_from_handler
from refstore._store import Store

try:
    from joblib import parallel, register_parallel_backend, register_store_backend
    from joblib._memmapping_reducer import has_shareable_memory, reduce_array_memmap_backward
    from joblib._parallel_backends import LokyBackend, MultiprocessingBackend
    from joblib._store_backends import (
        CacheItemInfo,
        CacheWarning,
        StoreBackendBase,
        StoreBackendMixin,
    )
    from joblib.externals.loky.backend import reduction
except ImportError as error:
    raise missing_extra("refstore.joblib", "joblib", error) from error

__all__ = ["install", "installed", "uninstall"]

_lock = threading.Lock()
_lender: Lender | None = None
_before: dict[str, Any] = {}  # joblib's own back ends, while others have their names


def install(store: Store | None = None) -> None:
    """Lets what `joblib.Parallel` sends to processes and gets from them go through a store.

    It registers back ends by the names "loky", which is joblib's default, and "multiprocessing".
    `max_nbytes` of Parallel is the size from which on it holds, 1 MB by default, and `mmap_mode`
    says what tasks get: "r" read-only arrays over shared memory, "c" such as they may write to,
    each for itself. With `max_nbytes=None` or another mode all is as without it, and so it is for
    arrays that are memory-mapped files already.

    Within one call of Parallel the same memory is put once, as long as a task that has it is under
    way. Objects go when the tasks that use them are done or have failed. Results may be written;
    those of more than 16 MiB a buffer stay in the store until they are collected. If the store is
    full, joblib's pipes carry the rest.

    Parameters:
        store: where to; a temporary one by default, which goes with `uninstall()` or the process.

    Errors:
        RuntimeError: it is installed already.
        OSError: there is no space for a temporary store.

    Example:
        >>> import refstore.joblib
        >>> refstore.joblib.install(store)
        >>> refstore.joblib.uninstall()
    """
    global _lender
    with _lock:
        if _lender is not None:
            raise RuntimeError("refstore.joblib is installed already: uninstall() it first")
        _lender = Lender(store)
        for name, kind in (("loky", _Loky), ("multiprocessing", _Multiprocessing)):
            if name in parallel.BACKENDS:  # joblib has none where semaphores are missing
                _before[name] = parallel.BACKENDS[name]
                register_parallel_backend(name, kind)


def uninstall() -> None:
    """Gives joblib its own back ends back; calls that are under way go on as they began.

    A store that was given stays open; a temporary one is removed when the last task is done. Does
    nothing if nothing is installed.

    Example:
        >>> import refstore.joblib
        >>> refstore.joblib.uninstall()
    """
    global _lender
    with _lock:
        lender, _lender = _lender, None
        while _before:
            register_parallel_backend(*_before.popitem())
    if lender is not None:
        lender.store.trim()  # idle workers of loky keep the file mapped for minutes
        lender.close()


@contextlib.contextmanager
def installed(store: Store | None = None) -> Iterator[None]:
    """Installs it for the time of a `with`.

    Parameters:
        store: as of `install()`.

    Returns:
        A context manager.

    Errors:
        RuntimeError, OSError: as of `install()`.

    Example:
        >>> from joblib import Parallel, delayed
        >>> import refstore.joblib
        >>> with refstore.joblib.installed(store):
        ...     Parallel(n_jobs=2)(delayed(len)(np.ones(n)) for n in (1, 1_000_000))
        [1, 1000000]
    """
    install(store)
    try:
        yield
    finally:
        uninstall()


class _ByStore:
    """A back end that sends calls of a Lender; all else is joblib's own.

    joblib calls `submit`, before its version 1.5 `apply_async`.
    """

    _max_nbytes: int | None = None
    _mode: str | None = None
    _together: Together | None = None
    _calls: set[Call]
    _pickler: Callable[[Packing], Any]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lender = _lender
        self._calls = set()

    def configure(self, *arguments: Any, **options: Any) -> int:
        # joblib leaves these out when it starts again after an error
        self._max_nbytes = options.get("max_nbytes", self._max_nbytes)
        self._mode = options.get("mmap_mode", self._mode)
        jobs: int = super().configure(*arguments, **options)  # type: ignore[misc]
        return jobs

    def start_call(self) -> None:
        self._together = Together()
        if self._lender is not None:  # there may be moments in which no batch is under way
            self._calls.add(self._call(None))
        super().start_call()  # type: ignore[misc]

    def stop_call(self) -> None:
        super().stop_call()  # type: ignore[misc]
        self._end_calls()

    def submit(self, func: Callable[[], Any], callback: Callable[..., Any] | None = None) -> Any:
        return super().submit(*self._sent(func, callback))  # type: ignore[misc]

    def apply_async(self, func: Callable[[], Any], callback: Any = None) -> Any:
        return super().apply_async(*self._sent(func, callback))  # type: ignore[misc]

    def retrieve_result_callback(self, out: Any) -> Any:
        result = super().retrieve_result_callback(out)  # type: ignore[misc]
        if isinstance(result, _Lost):
            raise result.error
        return result

    def terminate(self) -> None:
        super().terminate()  # type: ignore[misc]
        self._end_calls()

    def _end_calls(self) -> None:
        """Nobody waits for answers any more."""
        while self._calls:
            self._calls.pop().end()

    def _call(self, value: Any) -> Any:
        assert self._lender is not None
        return Call(
            self._lender,
            value,
            pickler=self._pickler,
            threshold=int(self._max_nbytes or 1),
            writable=self._mode == "c",
            together=self._together,
        )

    def _sent(
        self, func: Callable[[], Any], callback: Callable[..., Any] | None
    ) -> tuple[Callable[[], Any], Callable[..., Any] | None]:
        """Stand-ins for a function and for its callback."""
        is_open = self._lender is not None and not self._lender.store.closed
        if not is_open or not self._max_nbytes or self._mode not in ("r", "c"):
            return func, callback
        call = self._call(func)
        self._calls.add(call)

        def done(*out: Any) -> None:
            call.end()
            self._calls.discard(call)
            if callback is not None:
                callback(*out)

        return functools.partial(_run, type(self), call), done


class _Loky(_ByStore, LokyBackend):  # type: ignore[misc]
    @staticmethod
    def _pickler(packing: Packing) -> Any:
        base = reduction.get_loky_pickler()._loky_pickler_cls  # cloudpickle's, by default
        known = getattr(base, "dispatch_table", copyreg.dispatch_table)
        return _over(base)(packing, collections.ChainMap(reduction._dispatch_table, known))


class _Multiprocessing(_ByStore, MultiprocessingBackend):  # type: ignore[misc]
    @staticmethod
    def _pickler(packing: Packing) -> Any:
        return _over(pickle.Pickler)(packing, copyreg.dispatch_table)


@functools.cache
def _over(base: Any) -> Any:
    """A class of picklers for a packing, over that which joblib has."""

    class Pickler(base):  # type: ignore[misc]
        def __init__(self, packing: Packing, known: Mapping[type, Any]) -> None:
            types = packing.types(known)
            for kind in (np.ndarray, np.memmap):
                types[kind] = functools.partial(_reduced, types[kind])
            self.dispatch_table = types  # before the base looks for it
            super().__init__(packing, 5, buffer_callback=packing.keep_in_band)

    return Pickler


def _reduced(reduce: Callable[[Any], Any], array: Any) -> Any:
    """An array as joblib reduces it if it is of a file: a mapping of that, and not its bytes."""
    return reduce_array_memmap_backward(array) if has_shareable_memory(array) else reduce(array)


# --- in the workers, and the way back


class _Answer(Result):
    """A result whose loss is an error of its task alone."""

    by: type[_ByStore]

    def __reduce__(self) -> tuple[Any, ...]:
        return _taken, (self.send(self.by._pickler),)


class _Lost:
    def __init__(self, error: Exception) -> None:
        self.error = error


def _taken(parcel: Parcel) -> Any:
    # An exception would end the thread that receives results, and all would wait for ever.
    try:
        return take(parcel)
    except Exception as error:
        return _Lost(error)


def _run(by: type[_ByStore], call: Arrived) -> Result:
    answer = call.result(call.open()(), _Answer)
    answer.by = by
    return answer


# --- joblib.Memory


class _Results(StoreBackendBase, StoreBackendMixin):  # type: ignore[misc]
    """The results of functions, each an object by itself, beside the code that made them."""

    def configure(
        self, location: str, verbose: int = 1, backend_options: Mapping[str, Any] | None = None
    ) -> None:
        options = dict(backend_options or {})
        mode = options.pop("mmap_mode", None)
        if mode not in (None, "r", "c"):
            raise ValueError(f"mmap_mode is {mode!r}: what others see too cannot be written")
        if options.pop("compress", False):
            raise ValueError("compress: a store shows objects as they lie, and compresses none")
        self._is_writable = mode != "r"
        self.verbose = verbose
        self._store = Store(os.path.dirname(location), **options)  # joblib adds a folder of its own
        self.location = _ROOT

    def load_item(self, call_id: Sequence[str], *_: Any, **__: Any) -> Any:
        (item,) = self._store.get(_name(*call_id, _RESULT), writable=self._is_writable).value
        return item

    def dump_item(self, call_id: Sequence[str], item: Any, *_: Any, **__: Any) -> None:
        try:
            # in a tuple: bytes by themselves would come back as a memoryview
            self._put((item,), *call_id, _RESULT)
        except Exception as error:
            if is_from_handler(error):
                raise
            warnings.warn(f"this result is not cached: {error}", CacheWarning, stacklevel=2)

    def contains_item(self, call_id: Sequence[str]) -> bool:
        return _name(*call_id, _RESULT) in self._store

    def get_metadata(self, call_id: Sequence[str]) -> Any:
        try:
            with self._store.get(_name(*call_id, "metadata")) as buf:
                return json.loads(bytes(buf))
        except ObjectNotFoundError:
            return {}

    def store_metadata(self, call_id: Sequence[str], metadata: Any) -> None:
        with contextlib.suppress(StoreFullError):
            self._put(json.dumps(metadata).encode(), *call_id, "metadata")

    def get_cached_func_code(self, call_id: Sequence[str]) -> str:
        try:
            with self._store.get(_name(*call_id, "code")) as buf:
                return bytes(buf).decode()
        except ObjectNotFoundError as error:
            raise FileNotFoundError(str(error)) from None

    def store_cached_func_code(self, call_id: Sequence[str], func_code: str | None = None) -> None:
        if func_code is not None:
            self._put(func_code.encode(), *call_id, "code", evictable=False)

    def clear_item(self, call_id: Sequence[str]) -> None:
        self.clear_location(_name(*call_id))

    clear_path = clear_item

    def clear_location(self, location: str) -> None:
        self._store.clear(f"{location}/")

    def get_items(self) -> list[Any]:
        """Results that reduce_size() may delete, with when they were made."""
        return [
            CacheItemInfo(
                info.name.removesuffix(f"/{_RESULT}"),
                info.block_nbytes,
                datetime.datetime.fromtimestamp(info.created),
            )
            for info in self._store.objects(f"{_ROOT}/")
            if info.state == "live" and info.name is not None and info.name.endswith(f"/{_RESULT}")
        ]

    def _put(self, obj: object, *path: str, evictable: bool = True) -> None:
        self._store.put(obj, name=_name(*path), replace=True, evictable=evictable)

    def _of_files(self, *_: Any) -> None:
        """Does nothing: only what is overridden above would call it."""

    create_location = _item_exists = _move_item = _open_item = _of_files


_ROOT, _RESULT = "joblib", "result"
_LONG = 120  # bytes of a function's path that a name has room for, beside the arguments' hash


def _name(function: str, *rest: str) -> str:
    if len(function.encode()) > _LONG:
        digest = hashlib.blake2b(function.encode(), digest_size=16).hexdigest()
        function = f"{digest}/{os.path.basename(function)[: _LONG // 4]}"
    return "/".join((_ROOT, function, *rest))


register_store_backend("refstore", _Results)
