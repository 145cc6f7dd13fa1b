"""`Pool`: a `ProcessPoolExecutor` whose large arguments and results go through a store.

    with Pool(4) as pool:
        means = list(pool.map(partial(mean_of, frame), frame.columns))    # the frame is put once

All else is that of `concurrent.futures`: futures, `map`, errors, start methods.
"""

from __future__ import annotations

import fcntl
import functools
import multiprocessing
import operator
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any, SupportsIndex

from refstore._lending import Arrived, Call, Lender, Together
from refstore._parcels import Result, by_multiprocessing
from refstore._store import Store

__all__ = ["Pool"]

THRESHOLD = 64 << 10  # bytes


class Pool(ProcessPoolExecutor):
    """A pool of processes whose large arguments and results go through a store, not through pipes.

    It is used like `concurrent.futures.ProcessPoolExecutor`, which it is, too. What pickles its
    memory as buffers goes into the store without a detour: arrays of numpy, frames of pandas,
    tables of Arrow and polars, wherever in the arguments they are, also in a `functools.partial`.
    Other values go there if their pickle is large.

    Arguments are put when their task is sent, as usual. Within one `map()` the same memory is put
    once as long as a task that has it is under way, whatever is written to it meanwhile; by
    several `submit()` once as long as it has the same bytes, which is looked at. Tasks get
    read-only arrays over the shared memory, or private ones with `writable=True`.

    Results are the caller's own and may be written. Those of up to 16 MiB a buffer are copied out;
    larger ones are private views, pinned until they are collected.

    Objects go as soon as the tasks that use them are done, were cancelled or have failed, and when
    a worker or this process is killed; workers whose parent was killed get a SIGTERM. If the store
    is full, values travel through the pipes.

    Parameters:
        max_workers: the number of processes; that of processors by default.
        mp_context: the context of multiprocessing: fork, spawn or forkserver.
        initializer: what each worker calls first.
        initargs: its arguments, which go through the store, too, unless they are inherited.
        max_tasks_per_child: after how many tasks a worker is replaced (from Python 3.11 on).
        store: where objects go; a temporary one by default, which goes with the pool.
        threshold: bytes of a buffer, or of a pickle, from which on it goes there.
        writable: whether tasks may write to their arguments, each for itself.

    Errors:
        ValueError, TypeError: a bad argument.
        OSError: there is no space for a temporary store.

    Example:
        >>> from refstore.pool import Pool
        >>> with Pool(2) as pool:
        ...     list(pool.map(np.sum, [np.ones(100_000), np.zeros(100_000)]))
        [np.float64(100000.0), np.float64(0.0)]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        store: Store | None = None,
        threshold: SupportsIndex = THRESHOLD,
        writable: bool = False,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._threshold = operator.index(threshold)
        if self._threshold < 1:
            raise ValueError(f"threshold is {self._threshold} bytes: it must be at least 1")
        self._writable = writable
        self._lender = Lender(store)
        self._setup = self._call((initializer, initargs), Together())
        more: dict[str, Any] = {}
        if max_tasks_per_child is not None:  # Python 3.10 does not have it
            more["max_tasks_per_child"] = max_tasks_per_child
        try:
            super().__init__(max_workers, mp_context, _start, (self._setup,), **more)
        except BaseException:
            self._close()
            raise

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedules a call, as of `concurrent.futures.Executor`.

        Returns:
            The future of its result.

        Errors:
            RuntimeError: the pool is shut down, or broken.

        Example:
            >>> from refstore.pool import Pool
            >>> with Pool(1) as pool:
            ...     pool.submit(len, np.ones(100_000)).result()
            100000
        """
        call: Any = self._call((fn, args, kwargs), _together(fn))
        try:
            future: Future[Any] = super().submit(_run, call)
        except BaseException:
            call.end()
            raise
        future.add_done_callback(call.end)
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[Any]:
        """Calls a function with each of some arguments, as of `concurrent.futures.Executor`.

        Parameters:
            fn: the function.
            timeout: seconds from this call on until the last result has to be there.
            chunksize: how many calls make one task.

        Others, such as `buffersize`, are those of this Python's own `map()`.

        Returns:
            An iterator over the results, in order.

        Errors:
            TimeoutError: from the iterator, when the time is over.

        Example:
            >>> from refstore.pool import Pool
            >>> with Pool(1) as pool:
            ...     list(pool.map(pow, [2, 3], [5, 2], chunksize=2))
            [32, 9]
        """
        of: Any = _Mapped(fn, Together())
        call = self._call(None, of.together)  # the first may be done before the next is sent
        try:
            return super().map(of, *iterables, timeout=timeout, chunksize=chunksize, **options)
        finally:
            call.end()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers when all is done, and then lets go of the store.

        Parameters:
            wait: whether to return only then.
            cancel_futures: whether calls that have not begun are cancelled.

        Example:
            >>> from refstore.pool import Pool
            >>> pool = Pool(1)
            >>> pool.shutdown()
        """
        manager = self._executor_manager_thread
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait or manager is None:
            self._close()
        else:  # workers that are about to start need the store, too
            threading.Thread(target=self._close_after, args=(manager,), daemon=True).start()

    def _close_after(self, manager: threading.Thread) -> None:
        manager.join()
        self._close()

    def _close(self) -> None:
        if getattr(self, "_broken", False) and not self._lender.store.closed:
            self._lender.store.recover()  # what killed workers had
        self._setup.end()
        self._lender.close()

    def _call(self, value: Any, together: Together | None) -> Call:
        return Call(
            self._lender,
            value,
            pickler=by_multiprocessing,
            threshold=self._threshold,
            writable=self._writable,
            together=together,
        )


class _Mapped:
    """A function of `map()` and what its tasks have in common; pickled, it is the function."""

    def __init__(self, fn: Callable[..., Any], together: Together) -> None:
        self._fn, self.together = fn, together

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._fn,)


def _itself(fn: Any) -> Any:
    return fn


def _together(fn: Any) -> Together | None:
    """Tasks that this one is submitted with: `map()` submits a partial of a function of its own."""
    first = fn.args[0] if isinstance(fn, functools.partial) and fn.args else None
    return first.together if isinstance(first, _Mapped) else None


# --- in the workers


def _start(setup: Call | Arrived) -> None:
    _end_with_parent()
    initializer, initargs = setup.open()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """Have this process sent a SIGTERM when its parent is gone, without a thread that waits."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel  # a pipe of which the parent has the other end
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGTERM)
    flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
    fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([sentinel], [], [], 0)[0]:  # it was too late for the signal
        os.kill(os.getpid(), signal.SIGTERM)


def _run(call: Arrived) -> Result:
    fn, args, kwargs = call.open()
    return call.result(fn(*args, **kwargs), Result)
