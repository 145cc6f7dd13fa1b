"""Views of one piece of memory, packed so that they still share it.

Views that overlap or touch are stored as one stretch, as it lies there. If more than half of that
stretch is shown by none of them, its gaps are left out: the shown units of memory are moved
together in the order in which they lie. A view whose elements do not lie at even steps after that,
such as a row that crosses a column, keeps the gaps of what it shares elements with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from refstore.payload.frames import FOR_ELEMENTS, aligned

__all__ = ["Place", "View", "pack"]

Octets = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]
Place = tuple[int, tuple[int, ...]]  # where a view's first element is, and its strides; bytes

SPARSE = 2  # a stretch so many times what it shows is packed
SLACK = 4096  # bytes that it may have beyond that
UNSIGNED = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}


class View(NamedTuple):
    """Elements of memory, in bytes; strides are not negative."""

    start: int
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def stop(self) -> int:
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        return self.start + last + self.itemsize

    @property
    def most(self) -> int:
        """Upper bound of the bytes that it shows; axes of stride 0 show nothing more."""
        return math.prod(n for n, step in zip(self.shape, self.strides, strict=True) if step) * (
            self.itemsize
        )

    def is_nested(self) -> bool:
        """Whether no two elements overlap since each axis steps over all of the lesser ones."""
        reach = self.itemsize
        axes = zip(self.strides, self.shape, strict=True)
        for step, n in sorted((step, n) for step, n in axes if step and n > 1):
            if step < reach:
                return False
            reach = step * (n - 1) + reach
        return True


class _Stretch(NamedTuple):
    """Bytes to be stored in one piece, and where the views lie in them."""

    octets: Octets
    first: int  # what its address in memory is by, from an element's alignment
    places: dict[View, Place]


def pack(
    octets: Octets, views: Sequence[View]
) -> tuple[list[tuple[int, memoryview]], int, list[Place]]:
    """Packs the parts of `octets` that `views` show.

    Returns pieces with their offsets, the number of their bytes, and the place of each view.
    """
    places: dict[View, Place] = {}
    pieces = []
    end = 0
    shown = sorted({view for view in views if 0 not in view.shape})
    for together in _touching(shown):
        for stretch in _stretches(octets, together):
            at = aligned(end) + stretch.first
            pieces.append((at, stretch.octets.data))
            end = at + stretch.octets.nbytes
            for view, (start, strides) in stretch.places.items():
                places[view] = (at + start, strides)
    return pieces, end, [places.get(view, (0, view.strides)) for view in views]


def _touching(views: Sequence[View]) -> Iterator[list[View]]:
    """The views, which rise, in groups between which there are gaps."""
    group: list[View] = []
    stop = -1
    for view in views:
        if group and view.start > stop:
            yield group
            group = []
        group.append(view)
        stop = max(stop, view.stop)
    if group:
        yield group


def _stretches(octets: Octets, views: list[View]) -> Iterator[_Stretch]:
    span = max(view.stop for view in views) - views[0].start
    if not _is_sparse(span, max(view.most for view in views)):
        yield _as_it_lies(octets, views)
    elif len(views) == 1 and views[0].is_nested():
        yield _without_gaps(octets, views[0])
    else:
        yield from _by_units(octets, views)


def _is_sparse(span: int, shown: int) -> bool:
    return span > SPARSE * shown + SLACK


def _as_it_lies(octets: Octets, views: list[View]) -> _Stretch:
    low, stop = views[0].start, max(view.stop for view in views)
    first = low % FOR_ELEMENTS if len(views) > 1 else 0
    places = {view: (view.start - low, view.strides) for view in views}
    return _Stretch(octets[low:stop], first, places)


def _without_gaps(octets: Octets, view: View) -> _Stretch:
    """One view, its axes in the order in which they lie."""
    axes = [axis for axis, step in enumerate(view.strides) if step and view.shape[axis] > 1]
    axes.sort(key=lambda axis: -view.strides[axis])
    elements = np.ndarray(
        tuple(view.shape[axis] for axis in axes),
        UNSIGNED.get(view.itemsize, f"V{view.itemsize}"),
        octets.data,
        view.start,
        tuple(view.strides[axis] for axis in axes),
    )
    dense = np.ascontiguousarray(elements)
    strides = [view.itemsize if step else 0 for step in view.strides]
    for axis, step in zip(axes, dense.strides, strict=False):  # ascontiguousarray knows no 0-d
        strides[axis] = step
    return _Stretch(dense.reshape(-1).view(np.uint8), 0, {view: (0, tuple(strides))})


def _by_units(octets: Octets, views: list[View]) -> Iterator[_Stretch]:
    """Several views with gaps between their elements, packed together if they share some."""
    low, stop = views[0].start, max(view.stop for view in views)
    unit = math.gcd(*(n for v in views for n in (v.start - low, v.itemsize, *v.strides)))
    is_shown = np.zeros((stop - low) // unit, np.bool_)
    for view in views:
        is_shown[_units(view, low, unit)] = True
    if not _is_sparse(stop - low, int(np.count_nonzero(is_shown)) * unit):
        yield _as_it_lies(octets, views)
        return
    shown = np.flatnonzero(is_shown)
    del is_shown
    for group, mine in _sharing(views, shown, low, unit):
        bottom, top = group[0].start, max(view.stop for view in group)
        packed = None
        if _is_sparse(top - bottom, len(mine) * unit):
            packed = _packed(octets[low:stop], group, mine, low, unit)
        yield packed or _as_it_lies(octets, group)


def _units(view: View, low: int, unit: int) -> Numbers:
    """The units from `low` on that each element is made of, the last axis counting those of one."""
    units = np.array((view.start - low) // unit, np.int64)
    for n, step in zip(view.shape, view.strides, strict=True):
        units = np.add.outer(units, np.arange(n if step else 1) * (step // unit))
    result: Numbers = np.add.outer(units, np.arange(view.itemsize // unit))
    return result


def _sharing(
    views: list[View], shown: Numbers, low: int, unit: int
) -> Iterator[tuple[list[View], Numbers]]:
    """The views in groups, none of which shares a unit with another; with each the units of it."""
    group_of = list(range(len(views)))  # its own number, or an earlier one's of its group

    def leader(i: int) -> int:
        while group_of[i] != i:
            i = group_of[i]
        return i

    last = np.full(len(shown), -1, np.int32)  # which view showed the unit last
    for i, view in enumerate(views):
        at = np.searchsorted(shown, _units(view, low, unit).reshape(-1))
        for other in np.unique(last[at]).tolist():
            if other >= 0:
                one, two = sorted((leader(other), leader(i)))
                group_of[two] = one
        last[at] = i
    leaders = np.array([leader(i) for i in range(len(views))])
    of_unit = leaders[last]
    for one in np.unique(leaders).tolist():
        group = [view for i, view in enumerate(views) if leaders[i] == one]
        yield group, shown[of_unit == one]


def _packed(
    octets: Octets, views: list[View], shown: Numbers, low: int, unit: int
) -> _Stretch | None:
    """The units that are shown, moved together; None if a view does not lie evenly in them."""
    places: dict[View, Place] = {}
    for view in views:
        ranks = np.searchsorted(shown, _units(view, low, unit))[..., 0]
        start = int(ranks.flat[0])
        steps = [
            int(np.take(ranks, 1, axis).flat[0]) - start if n > 1 else 0
            for axis, n in enumerate(ranks.shape)
        ]
        even = np.array(start)
        for n, step in zip(ranks.shape, steps, strict=True):
            even = np.add.outer(even, np.arange(n) * step)
        place = (start * unit, tuple(step * unit for step in steps))
        if not np.array_equal(ranks, even) or any(n % view.itemsize for n in (place[0], *place[1])):
            return None
        places[view] = place
    units = octets.reshape(-1, unit)
    return _Stretch(np.ascontiguousarray(units[shown]).reshape(-1), 0, places)
