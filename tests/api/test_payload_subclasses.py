"""Subclasses of ndarray: elements over the store's memory, class and state as they were."""

from __future__ import annotations

import pickle
import types
from typing import Any

import helpers
import numpy as np
import pytest
from helpers import Array

import refstore

SIZE = 5000


class Plain(np.ndarray[Any, Any]):
    """Adds methods only."""


class Finalized(np.ndarray[Any, Any]):
    """Takes an attribute from what it is made of, which pickle does not keep."""

    unit: Any

    def __array_finalize__(self, obj: Any) -> None:
        self.unit = getattr(obj, "unit", "none")


class Recipe(Finalized):
    """State of its own, in the way that numpy's documentation has it."""

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        function, args, state = reduced
        return function, args, (*state, self.unit)

    def __setstate__(self, state: Any, /) -> None:
        self.unit = state[-1]
        super().__setstate__(state[:-1])


class Nested(Finalized):
    """State beside numpy's, as units packages have it, and asked for in another order."""

    def __reduce__(self) -> Any:
        reduced = list(super().__reduce__())
        reduced[2] = {"of numpy": [reduced[2]], "own": vars(self)}
        return tuple(reduced)

    def __setstate__(self, state: Any, /) -> None:
        super().__setstate__(state["of numpy"][0])
        vars(self).update(state["own"])
        assert len(self) == SIZE


class ByName(Recipe):
    """Sets its state by ndarray's own method, past whatever stands between."""

    def __setstate__(self, state: Any, /) -> None:
        self.unit = state[-1]
        np.ndarray.__setstate__(self, state[:-1])


class WhollyByName(ByName):
    def __reduce__(self) -> Any:
        reduced: Any = np.ndarray.__reduce__(self)
        function, args, state = reduced
        return function, args, (*state, self.unit)


class Registered(Recipe):
    """Wants to know of its subclasses."""

    known: list[type] = []  # noqa: RUF012

    def __init_subclass__(cls) -> None:
        cls.known.append(cls)


class Finalizing(Recipe):
    """Frees something when it goes."""

    closed = 0

    def __del__(self) -> None:
        Finalizing.closed += 1


class Slotted(np.ndarray[Any, Any]):
    __slots__ = ("unit",)

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        function, args, state = reduced
        return function, args, (*state, self.unit)

    def __setstate__(self, state: Any, /) -> None:
        self.unit = state[-1]
        super().__setstate__(state[:-1])


class SlottedByDefault(Slotted):
    """Its state can be asked of a copy that has none."""

    def __array_finalize__(self, other: Any) -> None:
        self.unit = None


class Strict(Recipe):
    """Will be of no other class."""

    def __array_finalize__(self, other: Any) -> None:
        super().__array_finalize__(other)
        assert type(self) is Strict


class Knowing(Finalized):
    """Its state tells its class."""

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        function, args, state = reduced
        deep = types.SimpleNamespace(cls=type(self))
        return function, args, (*state, self.unit, type(self), deep, type(self).__module__)

    def __setstate__(self, state: Any, /) -> None:
        *state, self.unit, cls, deep, module = state
        assert (cls, deep.cls, module) == (Knowing, Knowing, __name__)
        super().__setstate__(tuple(state))


class OfItsOwn(np.ndarray[Any, Any]):
    """Pickled without ndarray's help."""

    def __reduce__(self) -> Any:
        return of_its_own, (np.asarray(self),)


def of_its_own(array: Array) -> Any:
    return array.view(OfItsOwn)


IN_PLACE = [Plain, Finalized, Recipe, Nested, OfItsOwn, Knowing]
COPIED = [ByName, WhollyByName, Registered, Slotted, SlottedByDefault, Strict]


def a(cls: Any, layout: str) -> Any:
    array: Any = np.arange(float(SIZE * 4)).reshape(SIZE, 4)
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "gaps":
        array = np.arange(float(SIZE * 8)).reshape(SIZE, 8)[:, ::2]
    array = array.view(cls)
    if cls not in (Plain, OfItsOwn):
        array.unit = {"metres": [1, 2]}
    return array


@pytest.mark.parametrize("layout", ["C", "F", "gaps"])
@pytest.mark.parametrize("cls", [*IN_PLACE, *COPIED])
def test_class_state_and_elements_come_back(
    store: refstore.Store, path: str, cls: Any, layout: str
) -> None:
    array = a(cls, layout)
    for obj in (array, {"deep": [array, array]}):
        with store.get(store.put(obj)) as buf:
            value = buf.value
            if isinstance(value, dict):
                assert value["deep"][0] is value["deep"][1]
                value = value["deep"][0]
            assert type(value) is cls
            assert np.array_equal(value.view(np.ndarray), array.view(np.ndarray))
            kept = pickle.loads(pickle.dumps(array))
            assert getattr(value, "unit", None) == getattr(kept, "unit", None)
            assert type(value[1:3] + 1) is cls
            if cls in IN_PLACE:
                assert helpers.lies_in(path, helpers.address(value))
            del value


@pytest.mark.parametrize("cls", [Recipe, Nested])
def test_the_elements_of_a_subclass_are_not_in_the_pickle(store: refstore.Store, cls: Any) -> None:
    array = a(cls, "C")
    with store.get(store.put(array)) as buf:
        assert buf.nbytes < 1.1 * array.nbytes


def test_state_that_refers_to_its_array_comes_back(store: refstore.Store) -> None:
    array = a(Recipe, "C")
    array.unit = [array]
    with store.get(store.put(array)) as buf:
        value = buf.value
        assert value.unit[0] is value
        del value.unit, value


def test_state_that_holds_itself_comes_back(store: refstore.Store) -> None:
    array = a(Recipe, "C")
    array.unit = []
    array.unit.append(array.unit)
    with store.get(store.put(array)) as buf:
        unit = buf.value.unit
        assert unit[0] is unit
        unit.clear()


def test_no_finalizer_of_a_class_runs_while_its_array_is_put(store: refstore.Store) -> None:
    array = a(Finalizing, "C")
    Finalizing.closed = 0
    ref = store.put([array])
    assert Finalizing.closed == 0
    with store.get(ref) as buf:
        assert np.array_equal(buf.value[0], array)


def test_no_subclass_is_made_of_a_class_that_would_notice(store: refstore.Store) -> None:
    before = list(Registered.known)
    with store.get(store.put(a(Registered, "C"))) as buf:
        assert type(buf.value) is Registered
    assert Registered.known == before


def test_putting_a_subclass_leaves_it_as_it_was(store: refstore.Store) -> None:
    array = a(Recipe, "F")
    before = dict(vars(array))
    store.put([array])
    assert type(array) is Recipe
    assert vars(array) == before
    assert array.flags.writeable


def test_a_subclass_outlives_its_buffer(store: refstore.Store) -> None:
    ref = store.put(a(Recipe, "C"))
    with store.get(ref) as buf:
        array = buf.value
    store.delete(ref)
    helpers.fill_with_junk(store)
    assert array.sum() == a(Plain, "C").sum()
    assert not array.flags.writeable
    del array
    assert store.stats().condemned == 0


# --- masked arrays


def masked(mask: Any = None, **options: Any) -> Any:
    return np.ma.array(np.arange(float(SIZE)), mask=np.arange(SIZE) % 3 == 0, **options)


class Grid(np.ma.MaskedArray[Any, Any]):
    """Leaves its pickling to the class of masked arrays."""


class Noted(np.ma.MaskedArray[Any, Any]):
    """And one that does not."""

    def __getstate__(self) -> Any:
        return (super().__getstate__(), "a note")

    def __setstate__(self, state: Any, /) -> None:
        super().__setstate__(state[0])
        self.note = state[1]


RECORDS: Any = np.array([(0, 1)] * SIZE, "?,?")
MASKED: dict[str, Any] = {
    "plain": masked(),
    "filled": masked(fill_value=-1.0),
    "hard": masked(hard_mask=True),
    "no mask": np.ma.array(np.arange(float(SIZE))),
    "Fortran": np.ma.array(np.ones((50, 60), order="F"), mask=np.eye(50, 60, dtype=bool)),
    "gaps": masked()[::2],
    "dates": np.ma.array(np.arange(SIZE).astype("M8[D]"), mask=np.arange(SIZE) % 2 == 0),
    "records": np.ma.array([(1, 2.5)] * SIZE, dtype="i4,f8", mask=RECORDS),
    "of a matrix": np.ma.array(np.ones((50, 60)).view(np.matrix)),
    "subclass": masked().view(Grid),
}


@pytest.mark.parametrize("array", MASKED.values(), ids=MASKED.keys())
def test_a_masked_array_lies_in_the_store(store: refstore.Store, path: str, array: Any) -> None:
    for obj in (array, [array]):
        with store.get(store.put(obj)) as buf:
            value = buf.value[0] if isinstance(obj, list) else buf.value
            assert type(value) is type(array)
            assert value.dtype == array.dtype
            assert value.tolist() == array.tolist()
            assert np.array_equal(np.ma.getmaskarray(value), np.ma.getmaskarray(array))
            assert repr(value.fill_value) == repr(array.fill_value)
            assert value.hardmask == array.hardmask
            assert value.baseclass is array.baseclass
            assert helpers.lies_in(path, helpers.address(np.ma.getdata(value)))
            if np.ma.getmask(array) is not np.ma.nomask:
                assert helpers.lies_in(path, helpers.address(np.ma.getmaskarray(value)))
            del value


def test_masked_arrays_that_pickle_themselves_come_back(store: refstore.Store) -> None:
    small = masked()[:10]
    with store.get(store.put([masked().view(Noted), np.ma.masked, small])) as buf:
        noted, constant, short = buf.value
        assert (type(noted), noted.note) == (Noted, "a note")
        assert noted.tolist() == masked().tolist()
        assert constant is np.ma.masked
        assert short.tolist() == small.tolist()
