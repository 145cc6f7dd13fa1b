"""The errors of calls that wait for others, and of their arguments, for both engines.

As in _messages.py, the caller raises what a function returns.
"""

from __future__ import annotations

from collections.abc import Sequence

from refstore._errors import GetTimeoutError, ObjectExistsError, RefstoreError


def claimed(path: str, name: str, pid: int) -> ObjectExistsError:
    return ObjectExistsError(
        f"the name {name!r} in store {path!r} is claimed by process {pid}, which is writing an "
        "object for it: wait for that with get(timeout=) or wait(), or give another name",
        key=name,
        pid=pid,
    )


def not_published(
    path: str, name: str, seconds: float, maker: int | None = None
) -> GetTimeoutError:
    """Nothing has the name after a wait. `maker`: pid of its claimant, if that is known."""
    what = "see whether its publisher runs, or give a longer timeout"
    if maker is not None:
        what = f"process {maker} has claimed it; see what it does, or give a longer timeout"
    return GetTimeoutError(
        f"nothing was published as {name!r} in store {path!r} within {float(seconds):g} seconds: "
        f"{what}",
        pid=maker,
    )


def not_replaced(path: str, name: str, seconds: float) -> GetTimeoutError:
    """The name still has the object that the caller knows."""
    return GetTimeoutError(
        f"{name!r} in store {path!r} got no object newer than `newer_than` within "
        f"{float(seconds):g} seconds: see whether its publisher runs, or give a longer timeout"
    )


def not_enough(
    path: str, ready: Sequence[str], count: int, asked: int, seconds: float
) -> GetTimeoutError:
    """Too few of many names have objects."""
    return GetTimeoutError(
        f"{len(ready)} of {asked} names have objects in store {path!r} after {float(seconds):g} "
        f"seconds, but the wait was for {count}: `ready` lists those that do",
        ready=ready,
    )


def not_made(path: str, name: str, pid: int, seconds: float) -> GetTimeoutError:
    """Another caller's factory has not finished."""
    return GetTimeoutError(
        f"process {pid} is making {name!r} in store {path!r}, and had not finished after "
        f"{float(seconds):g} seconds: give a longer timeout, or see what it does",
        pid=pid,
    )


def own_factory(path: str, name: str) -> RefstoreError:
    """A factory asked for the object that it makes itself, or for one that waits for it."""
    return RefstoreError(
        f"get_or_put({name!r}) in store {path!r} would wait for ever: that object is being made by "
        "this very thread or task, or by a factory that waits for an object that this one makes"
    )


def own_writer(path: str, name: str) -> RefstoreError:
    """The only thread of a process waits for a name that its own Writer has claimed."""
    return RefstoreError(
        f"get_or_put({name!r}) in store {path!r} would wait for ever: a Writer of this process has "
        "claimed the name, and no other thread could seal it"
    )


def no_factory(factory: object) -> TypeError:
    return TypeError(f"factory is {factory!r}: give a function without parameters")


def no_version(newer_than: object) -> TypeError:
    return TypeError(f"newer_than is {newer_than!r}: give an ObjectRef or None")


def an_await(names: Sequence[str]) -> str:
    """Names a wait in `refstore.aio` for any of these."""
    return f"an await of {names[0]!r}" if len(names) == 1 else f"an await of {len(names)} names"


def abandoned(path: str, what: str) -> RefstoreError:
    """A wait that nobody can end. `what` waits, as in "wait('weights')"."""
    return RefstoreError(
        f"{what} would wait for ever: the file of store {path!r} was removed, and no other process "
        "is attached"
    )
