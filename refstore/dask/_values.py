"""Values of tasks, taken to pieces so that these can lie in a store, and put together over it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import dask.config
from dask.utils import parse_bytes

import refstore
from refstore._byte_objects import octets_of
from refstore.dask import _families
from refstore.dask._frames import (
    as_bytes,
    has_tensors,
    is_made_of_buffers,
    is_table,
    with_writeable,
)
from refstore.dask._keeper import Keeper, Placed

__all__ = ["is_writable", "large_frames", "load", "look_at", "pack", "place", "threshold"]

SMALL = 1024  # bytes of a frame that goes with its message: it is not worth a pin
MEMBERS = 100  # of a list or dict that is looked into
logger = logging.getLogger("refstore.dask")


def threshold(given: int | str | None = None) -> int:
    """Bytes from which on a value goes into the store."""
    if given is None:
        given = dask.config.get("refstore.threshold", "64 KiB")
    return int(parse_bytes(given))


def pack(
    family: str, value: Any, context: dict[str, Any] | None
) -> tuple[str, dict[str, Any], list[Any]]:
    """A value as a family, a header and frames: the one that was asked for, or for a table pickle.

    distributed makes a stream of an Arrow table, which is a copy. A pickle has its buffers as they
    are, but of a slice the whole of them.

    Errors: NotImplementedError, if the family does not know the type.
    """
    if family == "dask" and is_table(value):
        header, frames = _families.original("pickle").dumps(value, None)
        if sum(memoryview(frame).nbytes for frame in frames) <= 1.25 * value.nbytes + 4096:
            return "pickle", header, list(frames)
    header, frames = _families.original(family).dumps(value, context)
    return family, header, list(frames)


def large_frames(frames: Sequence[Any], least: int) -> dict[int, memoryview]:
    """The frames that go into the store, by their place among all; none if they are small."""
    views = {k: as_bytes(frame) for k, frame in enumerate(frames)}
    large = {k: view for k, view in views.items() if view is not None and view.nbytes >= SMALL}
    return large if sum(view.nbytes for view in large.values()) >= least else {}


def is_writable(header: Any) -> bool:
    """Whether a value is to have memory that can be written, and is its process's own then."""
    return bool(dask.config.get("refstore.writable", False)) or has_tensors(header)


def look_at(keeper: Keeper, placed: Placed, nbytes: int, writable: bool) -> memoryview:
    """A frame where it lies. What is written into it stays in this process."""
    part = slice(placed.offset, placed.offset + nbytes)
    if not writable:
        return octets_of(placed.buf)[part]
    with keeper.store.get(placed.buf.ref, writable=True) as buf:
        view = octets_of(buf)[part]
    keeper.note_copy(view, placed)
    return view


def load(family: str, header: dict[str, Any], frames: Sequence[Any], writable: bool) -> Any:
    """A value over frames that lie in a store."""
    return _families.original(family).loads(with_writeable(header, writable), frames)


def place(keeper: Keeper, value: Any, least: int) -> Any:
    """A value whose buffers lie in the store, if it is made of such and there is space for it."""
    kind = type(value)
    if kind in (list, tuple, dict) and len(value) <= MEMBERS:
        members = value.values() if kind is dict else value
        moved = [place(keeper, each, least) for each in members]
        if all(one is other for one, other in zip(moved, members, strict=True)):
            return value
        return dict(zip(value, moved, strict=True)) if kind is dict else kind(moved)
    if not is_made_of_buffers(value):
        return value
    try:
        return _placed(keeper, value, least)
    except refstore.RefstoreError as error:
        logger.info("a value stays in its process: %s", error)
        return value


def _placed(keeper: Keeper, value: Any, least: int) -> Any:
    try:
        family, header, frames = pack("dask", value, None)
    except NotImplementedError:
        family, header, frames = pack("pickle", value, None)
    large = large_frames(frames, least)
    if not large:
        return value
    with contextlib.ExitStack() as stack:
        placed, new = keeper.place(list(large.values()))
        for each in placed:
            stack.enter_context(each.buf)
        if new is None:
            return value
        writable = is_writable(header)
        for (k, view), each in zip(large.items(), placed, strict=True):
            frames[k] = look_at(keeper, each, view.nbytes, writable)
    return load(family, header, frames, writable)
