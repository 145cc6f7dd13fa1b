"""The layout of frames: what they hold once, and how damaged ones are refused."""

from __future__ import annotations

import gc
import pickle
from typing import Any

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refstore import payload
from refstore._errors import RefstoreError, StoreCorruptedError
from refstore.payload import frames


def written(obj: object) -> bytearray:
    frame = payload.encode(obj)
    memory = bytearray(frame.nbytes)
    helpers.fill(memoryview(memory), frame)
    return memory


def read(memory: bytes | bytearray) -> Any:
    view = memoryview(memory)
    return payload.decode(view.toreadonly(), lambda: memoryview(bytearray(memory)))


def plain(obj: Any) -> Any:
    """What can be compared."""
    return [one.tolist() for one in obj]


OBJECTS: dict[str, Any] = {
    "nothing": [],
    "arrays": [np.arange(1000.0), np.zeros((20, 30), "i4", order="F"), np.arange(5)],
    "shared": [*(lambda a: (a, a[500:], a[::-1]))(np.arange(1000))],
}


def tensors() -> list[Any]:
    torch = pytest.importorskip("torch")
    base = torch.arange(3000)
    return [base[2000:2500], base[100:300], torch.ones(3), torch.tensor(1.5)]


def frame_of(kind: str) -> tuple[bytearray, Any]:
    obj = tensors() if kind == "tensors" else OBJECTS[kind]
    return written(obj), plain(obj)


KINDS = [*OBJECTS, "tensors"]


def test_pieces_rise_and_do_not_overlap() -> None:
    for kind in KINDS:
        obj = tensors() if kind == "tensors" else OBJECTS[kind]
        frame = payload.encode(obj)
        end = 0
        for offset, piece in frame.pieces:
            assert end <= offset
            end = offset + piece.nbytes
        assert end == frame.nbytes


def test_a_frame_in_a_cycle_can_be_collected() -> None:
    frame = payload.encode([np.arange(1000.0), np.arange(3000)[::3]])
    loop: list[Any] = [*frame.pieces, frame.pieces]
    loop.append(loop)
    del frame, loop
    gc.collect()


def test_what_several_arrays_show_is_stored_once_and_shared_again() -> None:
    base = np.arange(100_000).reshape(100, 1000)
    views = [base[10:60], base, base.T, base[50:], base[::-1], base.reshape(-1)[3:9999]]
    memory = written(views)
    assert len(memory) < base.nbytes + 1000
    back = read(memory)
    for got, put in zip(back, views, strict=True):
        assert np.array_equal(got, put)
        assert np.shares_memory(got, back[1])
    assert written([views[0], views[3]]) != written([views[3], views[0]])


@pytest.mark.parametrize("odd", [1, 3, 4, 8, 12])
def test_elements_that_share_memory_stay_aligned(odd: int) -> None:
    octets = np.zeros(8192 + 64, np.uint8)
    octets = octets[-octets.ctypes.data % 64 :]
    few, many = octets[odd : odd + 4000], octets[8 : 8 + 4096].view(np.float64)
    _, got = read(written([few, many]))
    assert got.flags.aligned


def test_arrays_side_by_side_share_nothing() -> None:
    base = np.arange(4000.0)
    left, right = read(written([base[:2000], base[2000:]]))
    assert left.ctypes.data % 64 == right.ctypes.data % 64
    assert not np.shares_memory(left, right)


# --- damage


FIELDS = {"magic": 0, "count": 4, "length": 8, "checksum": 16, "checksum ": 20}
OF_ENTRY = {"offset": 0, "nbytes": 8, "words": 16, "kind": 20}
EXTREMES = [0, 1, 2, 63, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def put_number(memory: bytearray, at: int, number: int, width: int) -> None:
    memory[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")


def right_checksum(memory: bytearray) -> None:
    """As somebody would write who knows the layout."""
    count = int.from_bytes(memory[4:8], "little")
    length = int.from_bytes(memory[8:16], "little")
    table = bytes(memory[24 : 24 + 24 * count])
    put_number(memory, 16, frames.checksum_of(count, length, table), 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", FIELDS)
def test_a_wrong_number_in_a_header_is_named(kind: str, field: str) -> None:
    sound, _ = frame_of(kind)
    width = 8 if field == "length" else 4
    at = FIELDS[field]
    for number in EXTREMES:
        memory = bytearray(sound)
        put_number(memory, at, number, width)
        if memory != sound:
            with pytest.raises(StoreCorruptedError, match=rf"its (checksum|{field.strip()}) is"):
                read(memory)


@pytest.mark.parametrize("kind", ["arrays", "shared", "tensors"])
@pytest.mark.parametrize("field", OF_ENTRY)
@pytest.mark.parametrize("forged", [False, True])
def test_a_wrong_number_in_a_table_is_reported(kind: str, field: str, forged: bool) -> None:
    sound, expected = frame_of(kind)
    width = 8 if field in ("offset", "nbytes") else 4
    for number in EXTREMES:
        memory = bytearray(sound)
        put_number(memory, frames.HEADER.size + OF_ENTRY[field], number, width)
        if memory == sound:
            continue
        if forged:
            right_checksum(memory)
            harmless(memory, expected)
        else:
            with pytest.raises(StoreCorruptedError, match="its checksum is"):
                read(memory)


def harmless(memory: bytearray, expected: Any) -> None:
    """What is read is of the same shape, or the error is one that a reader can expect."""
    try:
        got = plain(read(memory))
    except (RefstoreError, ValueError, TypeError, KeyError, MemoryError, pickle.PickleError):
        return
    assert len(got) == len(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_cut_anywhere_is_reported(kind: str) -> None:
    sound, _ = frame_of(kind)
    for length in (*range(min(200, len(sound))), len(sound) - 1):
        with pytest.raises(StoreCorruptedError):
            read(sound[:length])
    with pytest.raises(StoreCorruptedError, match="its nbytes is"):
        read(sound + b"\0")


class EndsEarly:
    def __reduce__(self) -> Any:
        return _raise_eof, ()


def _raise_eof() -> None:
    raise EOFError("of its own")


def test_a_pickle_that_ends_too_early_is_pickles_own_error() -> None:
    for stream in (b"", b"\x80\x05"):
        with pytest.raises(pickle.UnpicklingError):
            payload.unpickle(memoryview(stream))
    with pytest.raises(EOFError, match="of its own"):
        payload.unpickle(memoryview(pickle.dumps(EndsEarly())))


@settings(deadline=None, max_examples=300)
@given(data=st.data(), kind=st.sampled_from(KINDS), forged=st.booleans())
def test_damage_around_the_pickle_is_reported_or_harmless(
    data: st.DataObject, kind: str, forged: bool
) -> None:
    memory, expected = frame_of(kind)
    stream, entries = frames.take_apart(memoryview(memory))
    around = frames.HEADER.size + len(entries) * frames.ENTRY.size
    words = [(one.offset - 8 * one.words, one.offset) for one in entries if one.words]
    del stream
    for _ in range(data.draw(st.integers(1, 4))):
        low, high = data.draw(st.sampled_from([(0, around), *words]))
        width = data.draw(st.sampled_from([1, 4, 8]))
        at = data.draw(st.integers(low, high - width)) // width * width
        old = int.from_bytes(memory[at : at + width], "little")
        flipped = [old ^ 1 << bit for bit in range(8 * width)]
        near = [old + step for step in (-64, -8, -1, 1, 8, 64)]
        number = data.draw(st.sampled_from([*EXTREMES, *flipped, *near]))
        put_number(memory, at, number, width)
    if forged and int.from_bytes(memory[4:8], "little") * 24 + 24 < len(memory):
        right_checksum(memory)
    harmless(memory, expected)


def test_a_storage_where_torch_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = written(tensors())
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(RefstoreError, match="torch cannot be imported"):
        read(memory)


@pytest.mark.parametrize(("word", "number"), [(0, -8), (0, 4), (0, 10**9), (1, -8), (1, 2**62)])
def test_a_tensor_led_out_of_its_storage_is_reported(word: int, number: int) -> None:
    memory = written(tensors())
    _, (entry, *_) = frames.take_apart(memoryview(memory))
    put_number(memory, entry.offset - 8 * entry.words + 8 * word, number, 8)
    with pytest.raises(StoreCorruptedError, match="its layout is"):
        read(memory)
