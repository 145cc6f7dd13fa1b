"""Arrow arrays, and tables of polars, inside objects: only what a slice shows is stored.

pyarrow pickles a slice as all the buffers of what it was cut from, and two numbers. Here each array
is cut down to what it shows first, in every buffer and every child. That copies next to nothing:
buffers are cut where they lie. Rebuilt are bitmaps that do not begin with a byte, and offsets
that do not begin with 0. A buffer that several arrays of one object share is cut once.

    fixed width     the elements
    strings, lists  the offsets, counted from the first; of the text or the child what they enclose
    views           the views; of each data buffer what lies between the first byte shown and the
                    last, or the shown bytes alone if most of that is not shown; all of them if
                    nearly all is
    structs         each child, cut alike
    unions          likewise if sparse; if dense, of each child what lies between the first element
                    shown and the last
    run-end encoded the runs that are shown
    dictionaries    the indices; the dictionary is the array's own and stays whole

A polars frame or series becomes an Arrow table over its memory, if polars makes the same schema of
that again.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from refstore._pickled import as_usual, named_in_pickles
from refstore._signals import is_from_handler
from refstore.payload.ndarrays import IN_STREAM

__all__ = ["Tables", "rebuild_polars", "taken_apart"]

Numbers = np.ndarray[Any, Any]
Buffers = list[Any]

SPARSE = 2  # a data buffer of which so many times what is shown lies between first and last
ENOUGH = 0.9  # of the data buffers: where views show as much of them, they stay as they are
INLINE = 12  # bytes of a string that its view holds itself
NULL, EXTENSION = 0, 31  # numbers of types in Arrow


class _Data(NamedTuple):
    """An array as pyarrow pickles it."""

    type: Any
    length: int
    nulls: int  # -1: unknown
    offset: int
    buffers: Buffers
    children: list[Any]
    dictionary: Any


def _known_data(array: Any) -> tuple[Any, Any]:
    """A function and the `_Data` it makes the array of; None if this pyarrow does otherwise."""
    function, args = array.__reduce__()[:2]
    is_known = len(args) == 1 and type(args[0]) is tuple and len(args[0]) == len(_Data._fields)
    return function, args[0] if is_known else None


class _InStream:
    """A buffer whose bytes go into the stream."""

    __slots__ = ("_buffer",)

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def reduced(self) -> Any:
        arrow: Any = sys.modules["pyarrow"]  # for each of many: import_module() takes long
        return arrow.py_buffer, (self._buffer.to_pybytes(),)


def _in_stream(data: tuple[Any, ...]) -> tuple[Any, ...]:
    *rest, buffers, children, dictionary = data
    return (
        *rest,
        [None if one is None else _InStream(one) for one in buffers],
        [_in_stream(one) for one in children],
        None if dictionary is None else _in_stream(dictionary),
    )


class Tables:
    """The Arrow arrays that are met in one object."""

    def __init__(self) -> None:
        # What was made of a part of a buffer, and the buffer, by what it is and where it lies.
        self._made: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def reducer(self, cls: type) -> Callable[[Any], Any] | None:
        """The reducer for a class of pyarrow or polars; None for other classes."""
        arrow: Any = sys.modules.get("pyarrow")
        if hasattr(arrow, "Array") and issubclass(cls, arrow.Array):
            return self._reduce_array
        if cls is _InStream:
            return _InStream.reduced
        polars: Any = sys.modules.get("polars")
        if hasattr(polars, "DataFrame") and cls in (polars.DataFrame, polars.Series):
            return _reduce_polars
        return None

    def shown(self, array: Any) -> Any:
        """The array over nothing but what it shows; what is kept of its buffers is not copied."""
        function, data = _known_data(array)
        return array if data is None else function(self._cut(data, 0, len(array)))

    def _reduce_array(self, array: Any) -> Any:
        function, data = _known_data(array)
        if data is None:
            return array.__reduce__()
        cut = self._cut(data, 0, len(array))
        # As with ndarrays, nobody gains from so few bytes not being copied.
        is_small = array.get_total_buffer_size() <= IN_STREAM
        return function, (_in_stream(cut) if is_small else cut,)

    def _cut(self, data: tuple[Any, ...], start: int, length: int) -> tuple[Any, ...]:
        """The `length` elements from `start` on and nothing else."""
        whole = _Data(*data)
        first = whole.offset + start
        layout = whole.type
        while layout.id == EXTENSION:
            layout = layout.storage_type
        nulls = whole.nulls if length == whole.length or whole.nulls == 0 else -1
        if layout.id == NULL:
            nulls = length
        cut = _cuts().get(layout.id)
        if cut is None:
            return tuple(whole._replace(offset=first, length=length, nulls=nulls))
        validity = whole.buffers[0] if nulls else None
        if validity is not None:
            validity = self._bits(validity, first, length)
        buffers, children = cut(self, whole, layout, first, length)
        dictionary = whole.dictionary
        if dictionary is not None:
            dictionary = self._cut(dictionary, 0, _Data(*dictionary).length)
        return (whole.type, length, nulls, 0, [validity, *buffers], children, dictionary)

    def _once(self, what: str, buffer: Any, *part: int, make: Callable[[], Numbers]) -> Any:
        """The buffer of what `make` returns for this part of a buffer, made when first asked."""
        key = (what, buffer.address, *part)
        if key not in self._made:
            made = importlib.import_module("pyarrow").py_buffer(np.ascontiguousarray(make()))
            self._made[key] = (made, buffer)
        return self._made[key][0]

    def _bits(self, buffer: Any, first: int, length: int) -> Any:
        low, shift, high = first // 8, first % 8, -(-(first + length) // 8)
        part = buffer.slice(low, high - low)
        if not shift:
            return part

        def shifted() -> Numbers:
            bits = np.unpackbits(np.frombuffer(part, np.uint8), bitorder="little")
            return np.packbits(bits[shift : shift + length], bitorder="little")

        return self._once("bits", buffer, first, length, make=shifted)

    def _offsets(self, buffer: Any, dtype: str, first: int, length: int) -> tuple[Any, int, int]:
        """Offsets counted from the first, that offset, and how much lies up to the last."""
        width = np.dtype(dtype).itemsize
        if buffer is None or buffer.size < (first + length + 1) * width:  # of nothing
            return importlib.import_module("pyarrow").py_buffer(bytes(width)), 0, 0
        part = buffer.slice(first * width, (length + 1) * width)
        offsets = np.frombuffer(part, dtype)
        low, high = int(offsets[0]), int(offsets[-1])
        if low:
            part = self._once(dtype, buffer, first, length, make=lambda: offsets - offsets[0])
        return part, low, high - low

    # Each of these returns the buffers behind the validity, and the children.

    def _cut_fixed(self, data: _Data, layout: Any, first: int, length: int) -> Any:
        if layout.bit_width == 1:
            return [self._bits(data.buffers[1], first, length)], []
        return [_elements(data.buffers[1], layout.bit_width // 8, first, length)], []

    def _cut_null(self, data: _Data, layout: Any, first: int, length: int) -> Any:
        return [], []

    def _cut_text(self, data: _Data, layout: Any, first: int, length: int, dtype: str) -> Any:
        offsets, low, nbytes = self._offsets(data.buffers[1], dtype, first, length)
        return [offsets, _elements(data.buffers[2], 1, low, nbytes)], []

    def _cut_list(self, data: _Data, layout: Any, first: int, length: int, dtype: str) -> Any:
        offsets, low, count = self._offsets(data.buffers[1], dtype, first, length)
        return [offsets], [self._cut(data.children[0], low, count)]

    def _cut_list_view(self, data: _Data, layout: Any, first: int, length: int, dtype: str) -> Any:
        width = np.dtype(dtype).itemsize
        parts = [_elements(buffer, width, first, length) for buffer in data.buffers[1:]]
        offsets, sizes = (np.frombuffer(part, dtype) for part in parts)
        used = sizes > 0
        low = int(offsets[used].min(initial=np.iinfo(dtype).max)) if used.any() else 0
        high = int((offsets + sizes)[used].max(initial=low))
        if low or (offsets > high).any():  # those of empty lists may be any
            moved: Numbers = np.where(used, offsets - low, 0)
            key = (first, length, data.buffers[2].address)
            parts[0] = self._once(
                "list views", data.buffers[1], *key, make=lambda: moved.astype(dtype)
            )
        return parts, [self._cut(data.children[0], low, high - low)]

    def _cut_fixed_list(self, data: _Data, layout: Any, first: int, length: int) -> Any:
        size = layout.list_size
        return [], [self._cut(data.children[0], first * size, length * size)]

    def _cut_struct(self, data: _Data, layout: Any, first: int, length: int) -> Any:
        return [], [self._cut(child, first, length) for child in data.children]

    def _cut_sparse_union(self, data: _Data, layout: Any, first: int, length: int) -> Any:
        _, children = self._cut_struct(data, layout, first, length)
        return [_elements(data.buffers[1], 1, first, length)], children

    def _cut_dense_union(self, data: _Data, layout: Any, first: int, length: int) -> Any:
        codes = _elements(data.buffers[1], 1, first, length)
        part = _elements(data.buffers[2], 4, first, length)
        of, offsets = np.frombuffer(codes, np.int8), np.frombuffer(part, np.int32).copy()
        children = []
        for code, child in zip(layout.type_codes, data.children, strict=True):
            mine = of == code
            low = int(offsets[mine].min()) if mine.any() else 0
            count = int(offsets[mine].max()) + 1 - low if mine.any() else 0
            offsets[mine] -= low
            children.append(self._cut(child, low, count))
        if not np.array_equal(offsets, np.frombuffer(part, np.int32)):
            part = self._once("union", data.buffers[2], first, length, make=lambda: offsets)
        return [codes, part], children

    def _cut_runs(self, data: _Data, layout: Any, first: int, length: int) -> Any:
        stops, values = _Data(*data.children[0]), data.children[1]
        width = stops.type.bit_width // 8
        part = _elements(stops.buffers[1], width, stops.offset, stops.length)
        ends = np.frombuffer(part, f"i{width}")
        low = int(np.searchsorted(ends, first, "right"))
        high = int(np.searchsorted(ends, first + length, "left")) + 1 if length else low
        part = part.slice(low * width, (high - low) * width)
        if first or (length and ends[high - 1] != length):
            key = (first, length)
            made = np.minimum(ends[low:high] - first, length).astype(ends.dtype)
            part = self._once("runs", stops.buffers[1], *key, make=lambda: made)
        runs: tuple[Any, ...] = (stops.type, high - low, 0, 0, [None, part], [], None)
        return [], [runs, self._cut(values, low, high - low)]

    def _cut_views(self, data: _Data, layout: Any, first: int, length: int) -> Any:
        views = _elements(data.buffers[1], 16, first, length)
        fields = np.frombuffer(views, _VIEW)
        is_long = fields["size"] > INLINE
        if data.buffers[0] is not None:  # the view of a null may be anything
            bits = np.frombuffer(self._bits(data.buffers[0], first, length), np.uint8)
            is_long &= np.unpackbits(bits, count=length, bitorder="little").astype(bool)
        buffers, moved = _pruned(fields, is_long, data.buffers[2:])
        if moved is not None:
            views = importlib.import_module("pyarrow").py_buffer(moved)
        return [views, *buffers], []


def _elements(buffer: Any, width: int, first: int, length: int) -> Any:
    if buffer is None:
        return None
    return buffer.slice(min(first * width, buffer.size), length * width)


@functools.lru_cache(maxsize=1)
def _cuts() -> dict[int, Callable[..., Any]]:
    """Functions that cut an array, by the number of its type."""
    numbers = vars(importlib.import_module("pyarrow.lib"))
    cuts: dict[str, Callable[..., Any]] = {
        "NA": Tables._cut_null,
        "STRUCT": Tables._cut_struct,
        "FIXED_SIZE_LIST": Tables._cut_fixed_list,
        "SPARSE_UNION": Tables._cut_sparse_union,
        "DENSE_UNION": Tables._cut_dense_union,
        "RUN_END_ENCODED": Tables._cut_runs,
    }
    for name in ("STRING", "BINARY"):
        cuts[name] = _with_offsets(Tables._cut_text, "i4")
        cuts[f"LARGE_{name}"] = _with_offsets(Tables._cut_text, "i8")
        cuts[f"{name}_VIEW"] = Tables._cut_views
    cuts["LIST"] = cuts["MAP"] = _with_offsets(Tables._cut_list, "i4")
    cuts["LARGE_LIST"] = _with_offsets(Tables._cut_list, "i8")
    cuts["LIST_VIEW"] = _with_offsets(Tables._cut_list_view, "i4")
    cuts["LARGE_LIST_VIEW"] = _with_offsets(Tables._cut_list_view, "i8")
    for name in _FIXED:
        cuts[name] = Tables._cut_fixed
    return {numbers[f"Type_{name}"]: cut for name, cut in cuts.items() if f"Type_{name}" in numbers}


def _with_offsets(cut: Callable[..., Any], dtype: str) -> Callable[..., Any]:
    return functools.partial(cut, dtype=dtype)


_FIXED = (
    *("BOOL", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64"),
    *("HALF_FLOAT", "FLOAT", "DOUBLE", "FIXED_SIZE_BINARY", "DICTIONARY"),
    *("DATE32", "DATE64", "TIMESTAMP", "TIME32", "TIME64", "DURATION"),
    *("INTERVAL_MONTHS", "INTERVAL_DAY_TIME", "INTERVAL_MONTH_DAY_NANO"),
    *("DECIMAL32", "DECIMAL64", "DECIMAL128", "DECIMAL256"),
)
_VIEW = np.dtype([("size", "i4"), ("prefix", "i4"), ("buffer", "i4"), ("offset", "i4")])


def _pruned(fields: Numbers, is_long: Numbers, buffers: Buffers) -> tuple[Buffers, Numbers | None]:
    """The data buffers without what no view shows; the views, if they had to change."""
    shown = fields["size"].sum(where=is_long, dtype=np.int64)
    if shown >= ENOUGH * sum(buffer.size for buffer in buffers):
        return buffers, None
    count = len(buffers)
    of, offsets, sizes = (fields[name][is_long] for name in ("buffer", "offset", "size"))
    offsets, sizes = offsets.astype(np.int64), sizes.astype(np.int64)
    low, high = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.minimum.at(low, of, offsets)
    np.maximum.at(high, of, offsets + sizes)
    is_kept = high > 0
    low[~is_kept] = 0
    is_sparse = high - low > SPARSE * np.bincount(of, sizes, count)
    moved, renamed = offsets - low[of], (np.cumsum(is_kept) - 1)[of]
    gathered = dict(_by_buffer(of, is_sparse))
    kept: Buffers = []
    for i in np.flatnonzero(is_kept).tolist():
        if i in gathered:
            mine = gathered[i]
            starts = np.cumsum(sizes[mine]) - sizes[mine]
            at = np.repeat(offsets[mine] - starts, sizes[mine])
            at += np.arange(len(at))
            octets = np.frombuffer(buffers[i], np.uint8)
            kept.append(importlib.import_module("pyarrow").py_buffer(octets[at]))
            moved[mine] = starts
        else:
            kept.append(buffers[i].slice(int(low[i]), int(high[i] - low[i])))
    if np.array_equal(moved, offsets) and np.array_equal(renamed, of):
        return kept, None
    changed = np.where(is_long | (fields["size"] <= INLINE), fields, np.zeros((), _VIEW))
    changed["offset"][is_long], changed["buffer"][is_long] = moved, renamed
    return kept, changed


def _by_buffer(of: Numbers, is_meant: Numbers) -> Iterator[tuple[int, Numbers]]:
    """The indices of the views of each buffer that is meant."""
    meant = np.flatnonzero(is_meant[of])
    meant = meant[np.argsort(of[meant], kind="stable")]
    of_each = np.unique(of[meant], return_index=True, return_counts=True)
    for i, first, count in zip(*(part.tolist() for part in of_each), strict=True):
        yield i, meant[first : first + count]


# --- polars


def _reduce_polars(obj: Any) -> Any:
    args = taken_apart(obj)
    return as_usual(obj) if args is None else (rebuild_polars, args)


def taken_apart(obj: Any) -> tuple[Any, ...] | None:
    """Arguments of `rebuild_polars`, first a table over the same memory; None if there is none."""
    polars = importlib.import_module("polars")
    is_series = isinstance(obj, polars.Series)
    frame = obj.to_frame() if is_series else obj
    try:
        table = frame.to_arrow(compat_level=polars.CompatLevel.newest())
        if "" in frame.columns:  # to which polars gives another name
            table = table.rename_columns(list(map(str, range(frame.width))))
        made = polars.from_arrow(table.slice(0, 0))
        same = made.dtypes == frame.dtypes and (frame.width or not frame.height)
    except Exception as error:  # no pyarrow, or no such type in it: polars has ways of its own
        if is_from_handler(error):
            raise
        same = False
    if not same:
        return None
    flags = [(column.flags["SORTED_ASC"], column.flags["SORTED_DESC"]) for column in frame]
    args = (table, is_series, flags)
    return args if made.columns == frame.columns else (*args, frame.columns)


# The function below is named in pickle streams, so a store may outlive a change of its name.


@named_in_pickles
def rebuild_polars(
    table: Any, is_series: bool, flags: list[tuple[bool, bool]], names: list[str] | None = None
) -> Any:
    polars = importlib.import_module("polars")
    frame = polars.from_arrow(table, rechunk=False)
    if names is not None:
        frame.columns = names
    for i, (rises, falls) in enumerate(flags):
        if rises or falls:
            frame.replace_column(i, frame.to_series(i).set_sorted(descending=falls))
    return frame.to_series(0) if is_series else frame
