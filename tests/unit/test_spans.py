"""What views show of one memory, packed: every view reads the same, and shares what it shared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from refstore.payload import spans
from refstore.payload.spans import View

SIZE = 1 << 15


def addresses(view: View, place: spans.Place) -> Any:
    """The offset of each byte of each element."""
    at = np.array(place[0])
    for n, step in zip(view.shape, place[1], strict=True):
        at = np.add.outer(at, np.arange(n) * step)
    return np.add.outer(at, np.arange(view.itemsize))


@st.composite
def views(draw: st.DrawFn) -> View:
    itemsize = draw(st.sampled_from([1, 2, 4, 8]))
    shape = tuple(draw(st.lists(st.integers(0, 12), max_size=3)))
    steps = st.sampled_from([0, 1, 2, 3, 10, 100, 1000])
    strides = tuple(draw(steps) * itemsize for _ in shape)
    span = sum((n - 1) * step for n, step in zip(shape, strides, strict=True) if n)
    room = max(SIZE - itemsize - max(span, 0), 0)
    start = draw(st.integers(0, room // itemsize)) * itemsize
    return View(start if span <= room + start else 0, itemsize, shape, strides)


def check(shown: list[View]) -> int:
    """Returns how many bytes were packed."""
    octets = np.frombuffer(np.random.default_rng(1).bytes(SIZE), np.uint8)
    pieces, nbytes, places = spans.pack(octets, shown)
    packed, end = np.zeros(nbytes, np.uint8), 0
    for offset, piece in pieces:
        assert offset >= end
        end = offset + piece.nbytes
        packed[offset:end] = np.frombuffer(piece, np.uint8)
    assert end == nbytes
    new_home: dict[int, int] = {}
    for view, place in zip(shown, places, strict=True):
        if 0 in view.shape:
            continue
        assert all(number % view.itemsize == 0 for number in (place[0], *place[1]))
        old, new = addresses(view, (view.start, view.strides)), addresses(view, place)
        assert np.array_equal(octets[old], packed[new])
        for here, there in zip(old.flat, new.flat, strict=True):
            assert new_home.setdefault(int(here), int(there)) == there
    assert len(set(new_home.values())) == len(new_home)
    return nbytes


@settings(deadline=None, max_examples=300)
@given(st.lists(views().filter(lambda view: view.stop <= SIZE), max_size=5))
def test_each_byte_has_one_new_home(shown: list[View]) -> None:
    check(shown)


@settings(deadline=None, max_examples=100)
@given(views().filter(lambda view: view.stop <= SIZE and view.is_nested()))
def test_one_view_takes_its_room(view: View) -> None:
    axes = zip(view.shape, view.strides, strict=True)
    elements = math.prod(n if step or not n else 1 for n, step in axes)
    assert check([view]) <= 2 * elements * view.itemsize + spans.SLACK


def test_a_view_met_often_is_stored_once() -> None:
    view = View(64, 4, (10, 4), (3000, 4))
    assert check([view] * 100) <= 160 + 64
    assert check([view, *(View(64 + i * 3000, 4, (4,), (4,)) for i in range(10))]) <= 160 + 64
