"""Arrow arrays of every kind, with gaps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow

ROWS = 1200
PAIRS = "refstore.tests.pairs"
RNG = np.random.default_rng(1)
GAPS = RNG.random(ROWS) < 0.2


def holed(values: Any) -> list[Any]:
    return [None if gap else value for gap, value in zip(GAPS, values, strict=True)]


TEXT = holed("é" * int(n) for n in RNG.integers(0, 40, ROWS))
LISTS = holed([*range(int(n))] for n in RNG.integers(0, 5, ROWS))
NUMBERS = pyarrow.array(holed(range(ROWS)))


class Pairs(pyarrow.ExtensionType):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(pyarrow.list_(pyarrow.int16()), PAIRS)

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Pairs:
        return cls()


@contextlib.contextmanager
def pairs_registered() -> Iterator[None]:
    """Arrow knows the type by its name meanwhile."""
    pyarrow.register_extension_type(Pairs())
    yield
    pyarrow.unregister_extension_type(PAIRS)


def dense_union() -> Any:
    types = pyarrow.array(np.arange(ROWS) % 2, pyarrow.int8())
    offsets = pyarrow.array(np.arange(ROWS) // 2, pyarrow.int32())
    return pyarrow.UnionArray.from_dense(types, offsets, [NUMBERS, pyarrow.array(TEXT)])


def sparse_union() -> Any:
    types = pyarrow.array(np.arange(ROWS) % 2, pyarrow.int8())
    return pyarrow.UnionArray.from_sparse(types, [NUMBERS, pyarrow.array(TEXT)])


def runs() -> Any:
    stops = pyarrow.array(np.arange(1, ROWS // 3 + 1) * 3, pyarrow.int32())
    return pyarrow.RunEndEncodedArray.from_arrays(stops, pyarrow.array(TEXT[: ROWS // 3]))


def many() -> dict[str, Any]:
    of, int8 = pyarrow.array, pyarrow.int8()
    return {
        "int64": NUMBERS,
        "bool": of(holed(RNG.random(ROWS) < 0.5)),
        "decimal": of(range(ROWS)).cast(pyarrow.decimal128(22, 2)),
        "timestamp": of(holed(range(ROWS)), pyarrow.timestamp("us", "UTC")),
        "fixed binary": of([b"abc"] * ROWS, pyarrow.binary(3)),
        "interval": of([pyarrow.MonthDayNano([1, 2, 3])] * ROWS),
        "null": pyarrow.nulls(ROWS),
        "string": of(TEXT),
        "large string": of(TEXT, pyarrow.large_string()),
        "string view": of(TEXT, pyarrow.string_view()),
        "binary": of(TEXT).cast(pyarrow.binary()),
        "binary view": of(TEXT).cast(pyarrow.binary()).cast(pyarrow.binary_view()),
        "list": of(LISTS, pyarrow.list_(int8)),
        "large list": of(LISTS, pyarrow.large_list(int8)),
        "list view": of(LISTS, pyarrow.list_view(int8)),
        "large list view": of(LISTS, pyarrow.large_list_view(int8)),
        "fixed list": of([[1, None, 3]] * ROWS, pyarrow.list_(int8, 3)),
        "map": of(holed([[("k", 1), ("l", None)]] * ROWS), pyarrow.map_(pyarrow.string(), int8)),
        "struct": of(holed([{"a": i, "b": "x"} for i in range(ROWS)])),
        "struct of lists": of(holed([{"a": ["x", None], "b": {"c": [i]}} for i in range(ROWS)])),
        "list of structs": of(holed([[{"a": ["x", None]}] * 2] * ROWS)),
        "dictionary": of(holed(["red", "green", "blue"] * (ROWS // 3))).dictionary_encode(),
        "dense union": dense_union(),
        "sparse union": sparse_union(),
        "runs": runs(),
        "extension": pyarrow.ExtensionArray.from_storage(
            Pairs(), of(LISTS, pyarrow.list_(pyarrow.int16()))
        ),
    }


ARRAYS = many()
