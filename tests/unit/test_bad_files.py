"""Files that are no store, or no longer: each gets its error, and stays as it was."""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path

import helpers
import numpy as np
import pytest

import refstore

CORE = Path(__file__).resolve().parents[2] / "refstore"


@pytest.fixture
def image(folder: Path) -> bytes:
    """The bytes of a sound store that holds a few objects."""
    path = folder / "original"
    with refstore.Store(str(path), capacity=300_000, max_objects=64) as store:
        store["small"] = helpers.pattern(1, 100)
        store["large"] = helpers.pattern(2, 100_000)
        store.put({"a": [1, 2, 3]})
    data = path.read_bytes()
    path.unlink()
    return data


def refused(path: Path, error: type[BaseException]) -> str:
    """Opening must fail, however it is asked for, and change nothing; what it said."""
    before = path.read_bytes()
    for create in (None, False):
        with pytest.raises(error) as caught:
            refstore.Store(str(path), create=create)
    with pytest.raises(FileExistsError):
        refstore.Store(str(path), create=True, capacity="1MiB")
    assert path.read_bytes() == before
    path.unlink()
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"hello world\n" * 10_000, bytes(1_000_000), b"\xff" * 1_000_000, os.urandom(9999)],
    ids=["empty", "a byte", "text", "zeros", "ones", "noise"],
)
def test_a_file_that_is_no_store_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "file"
    path.write_bytes(content)
    assert str(path) in refused(path, refstore.StoreCorruptedError)


def test_a_whole_copy_of_a_store_opens(folder: Path, image: bytes) -> None:
    path = folder / "copy"
    path.write_bytes(image)
    with refstore.Store(str(path), create=False) as store:
        assert store.check() == []
        assert bytes(store["small"]) == helpers.pattern(1, 100)
        assert bytes(store["large"]) == helpers.pattern(2, 100_000)
        store.unlink()


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_store_is_refused(folder: Path, image: bytes, part: float) -> None:
    path = folder / "truncated"
    path.write_bytes(image[: int(len(image) * part)])
    refused(path, refstore.StoreCorruptedError)


@pytest.mark.parametrize("missing", [1, 64, 4096])
def test_a_store_without_its_last_bytes_is_refused(
    folder: Path, image: bytes, missing: int
) -> None:
    path = folder / "truncated"
    path.write_bytes(image[:-missing])
    refused(path, refstore.StoreCorruptedError)


def version_field() -> tuple[int, int]:
    """Offset and value of the format version, from the one place that says them."""
    text = (CORE / "_layout.pxd").read_text()
    value = re.search(r"FORMAT_VERSION\b\D*?(\d+)", text)
    offset = re.search(r"\.version\s*==\s*(\d+)|header\.(?:format_)?version\)?\s*==\s*(\d+)", text)
    assert value, "no FORMAT_VERSION in _layout.pxd"
    assert offset, "no asserted offset of the version in _layout.pxd"
    return int(next(filter(None, offset.groups()))), int(value.group(1))


def test_another_version_is_refused(folder: Path, image: bytes) -> None:
    offset, value = version_field()
    assert struct.unpack_from("=I", image, offset)[0] == value
    path = folder / "other"
    for other in (value + 1, value - 1, 2**31):
        patched = bytearray(image)
        struct.pack_into("=I", patched, offset, other)
        path.write_bytes(patched)
        text = refused(path, refstore.StoreVersionError)
        assert str(other) in text


def test_a_folder_is_refused(folder: Path) -> None:
    (folder / "inner").mkdir()
    for create in (None, False, True):
        with pytest.raises((OSError, refstore.StoreCorruptedError)):
            refstore.Store(str(folder / "inner"), capacity="1MiB", create=create)
    assert list((folder / "inner").iterdir()) == []
    (folder / "inner").rmdir()


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for create in (None, False, True):
        with pytest.raises((OSError, refstore.StoreCorruptedError)):
            refstore.Store(str(folder / "pipe"), capacity="1MiB", create=create)
    assert stat.S_ISFIFO(os.stat(folder / "pipe").st_mode)
    (folder / "pipe").unlink()


def test_a_device_is_refused() -> None:
    for name in ("/dev/null", "/dev/zero"):
        with pytest.raises((OSError, refstore.StoreCorruptedError)):
            refstore.Store(name, create=False)


def test_a_symbolic_link_to_a_store_is_refused(store: refstore.Store, folder: Path) -> None:
    store["n"] = b"x"
    os.symlink(folder / "store", folder / "link")
    try:
        for create in (None, False, True):
            with pytest.raises((OSError, refstore.StoreCorruptedError)):
                refstore.Store(str(folder / "link"), create=create)
    finally:
        (folder / "link").unlink()
    assert bytes(store["n"]) == b"x"


def test_a_dangling_symbolic_link_is_refused(folder: Path) -> None:
    os.symlink(folder / "nowhere", folder / "link")
    for create in (None, False, True):
        with pytest.raises((OSError, refstore.StoreCorruptedError)):
            refstore.Store(str(folder / "link"), capacity="1MiB", create=create)
    (folder / "link").unlink()
    assert not (folder / "nowhere").exists()


# -- damage -----------------------------------------------------------------------------------


@pytest.fixture
def busy_image(folder: Path) -> bytes:
    """The bytes of a store whose only process died with a deleted object pinned."""
    path = folder / "original"
    with refstore.Store(str(path), capacity=300_000, max_objects=64) as store:
        store["small"] = helpers.pattern(1, 100)
        store["large"] = helpers.pattern(2, 100_000)
        store["described"] = np.zeros(3, [("n" * 300, "i4")])
        store.put({"a": [1, 2, 3]})
        store.delete(store.put(bytes(50_000)))
        with store["large"]:
            del store["large"]
            data = path.read_bytes()
        store.unlink()
    return data


DAMAGE = """
    import random, sys, refstore
    path, seed, start, stop, rounds = sys.argv[1], *map(int, sys.argv[2:])
    image = open(path, "rb").read()
    rng = random.Random(seed)
    stop = min(stop, len(image))
    outcomes = {}
    for turn in range(rounds):
        damaged = bytearray(image)
        for _ in range(rng.choice([1, 1, 2, 8])):
            offset = rng.randrange(start, stop)
            damaged[offset] = rng.choice([0, 255, damaged[offset] ^ 1 << rng.randrange(8)])
        copy = f"{path}-{turn}"
        with open(copy, "wb") as file:
            file.write(damaged)
        outcome = "opened"
        try:
            with refstore.Store(copy, create=False) as store:
                problems = store.check()
                for key in [*store.names(), *store]:
                    with store.get(key) as buf:
                        bytes(buf)
                store.put(b"x" * 1000)
                store["new"] = b"y" * 40_000
                for ref in list(store):
                    store.delete(ref)
                store.check()
        except (refstore.RefstoreError, OSError, ValueError) as error:
            outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        import os
        os.unlink(copy)
    print(sum(outcomes.values()), outcomes)
"""


@pytest.mark.parametrize(
    ("seed", "start", "stop", "rounds"),
    [(11, 0, 128, 120), (11, 0, 4096, 120), (104, 4096, 300_000, 300), (11, 0, 2**40, 120)],
    ids=["the header's start", "the first page", "the tables", "anywhere"],
)
def test_damage_is_an_error_at_worst_and_never_a_crash(
    folder: Path, busy_image: bytes, seed: int, start: int, stop: int, rounds: int
) -> None:
    path = folder / "image"
    path.write_bytes(busy_image)
    result = helpers.run_script(DAMAGE, path, seed, start, stop, rounds)
    for left in folder.iterdir():
        left.unlink()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split()[0] == str(rounds)


def test_check_finds_damage_of_the_slots(folder: Path, image: bytes) -> None:
    """Zeroing each table page in turn is noticed at opening, by `check`, or by a lost object."""
    path = folder / "image"
    noticed = 0
    pages = [o for o in range(0, len(image) - 4096, 4096) if any(image[o : o + 4096])]
    for offset in pages:
        damaged = bytearray(image)
        damaged[offset : offset + 4096] = bytes(4096)
        path.write_bytes(damaged)
        try:
            with refstore.Store(str(path), create=False) as store:
                noticed += bool(store.check()) or len(store) != 3
        except refstore.RefstoreError:
            noticed += 1
        path.unlink()
    assert noticed >= 2, "neither the header nor the slots are looked at"
