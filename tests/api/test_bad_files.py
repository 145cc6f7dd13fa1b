"""Files that are no store, or no longer: each gets its error, and stays as it was."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
from pathlib import Path

import engines
import helpers
import numpy as np
import pytest

import refstore
from refstore.payload import arrays
from tests.native import rows

CORE = Path(__file__).resolve().parents[2] / "refstore" / "engines" / "native"
VERSION_AT = 8  # in the file of either engine


@pytest.fixture
def image(folder: Path) -> bytes:
    """The bytes of a sound store that holds a few objects."""
    path = folder / "original"
    with refstore.Store(str(path), capacity=300_000, max_objects=64) as store:
        store["small"] = helpers.pattern(1, 100)
        store["large"] = helpers.pattern(2, 100_000)
        store.put({"a": [1, 2, 3]})
    data = path.read_bytes()
    helpers.remove(path)
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


@pytest.mark.native("reads the core's source")
def test_the_version_stands_where_the_core_says(image: bytes) -> None:
    text = (CORE / "layout.pxd").read_text()
    value = re.search(r"FORMAT_VERSION\b\D*?(\d+)", text)
    offset = re.search(r"\.version\s*==\s*(\d+)|header\.(?:format_)?version\)?\s*==\s*(\d+)", text)
    assert value, "no FORMAT_VERSION in layout.pxd"
    assert offset, "no asserted offset of the version in layout.pxd"
    assert int(next(filter(None, offset.groups()))) == VERSION_AT
    assert struct.unpack_from("=I", image, VERSION_AT)[0] == int(value.group(1))


def test_another_version_is_refused(folder: Path, image: bytes) -> None:
    (value,) = struct.unpack_from("=I", image, VERSION_AT)
    path = folder / "other"
    for other in (value + 1, value - 1, 2**31):
        patched = bytearray(image)
        struct.pack_into("=I", patched, VERSION_AT, other)
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
    import os, random, sys, refstore
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
    rounds = engines.rounds(rounds, 3)
    result = helpers.run_warm(DAMAGE, path, seed, start, stop, rounds)
    for left in helpers.stores(folder):
        (folder / left).unlink()
    for locks in folder.iterdir():
        shutil.rmtree(locks)  # the locks of stores that were removed behind their backs
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split()[0] == str(rounds)


LOCK_THAT_CANNOT_BE = f"""{rows.SOURCE}
    import signal, struct, sys, refstore
    path, where, whose = sys.argv[1:]
    store = refstore.Store(path, create=False)
    store["n"] = b"x" * 1000
    with open(path, "rb") as file:
        file.seek(ROWS_AT)  # the first word of each is 1 while it is taken
        rows = file.read(ROWS * ROW_NBYTES)
    taken = [row for row in range(ROWS) if struct.unpack_from("=Q", rows, row * ROW_NBYTES)[0]]
    assert len(taken) == 2 and 700 not in taken, taken  # the test's, and ours after it
    row = 700 if whose == "nobody" else taken[-1]

    def damage(value):
        with open(path, "r+b") as file:
            for at in [4096] if where == "space" else range(LOCKS_AT, LOCKS_END, LOCK_NBYTES):
                file.seek(at)
                file.write(struct.pack("=Q", value))

    def put():
        if where == "space":
            return store.put(b"y" * 200_000)
        return store.put(b"y" * 200_000, name="n", replace=True)

    damage(row + 1)
    signal.alarm(30)  # what waits in the core listens to nothing else
    try:
        ref = put()
    except refstore.StoreCorruptedError as error:
        assert path in str(error)
        print("refused")
    else:
        assert bytes(store.get(ref)) == b"y" * 200_000
        print("went on")
    if whose == "ours":
        damage(0)
    ref = put()  # a second one, with the lock as it is now
    assert bytes(store.get(ref)) == b"y" * 200_000
    for key in list(store):
        store.delete(key)
    assert store.check() == [], store.check()
    stats = store.stats()
    assert (stats.used, stats.processes) == (0, 2), stats
"""


@pytest.mark.native("writes to the words of its locks")
@pytest.mark.parametrize(("whose", "outcome"), [("nobody", "went on"), ("ours", "refused")])
@pytest.mark.parametrize("where", ["space", "names"])
def test_a_lock_that_cannot_be_held_makes_no_put_wait_for_ever(
    store: refstore.Store, path: str, where: str, whose: str, outcome: str
) -> None:
    assert helpers.run_warm_clean(LOCK_THAT_CANNOT_BE, path, where, whose) == outcome


STOCKED_SLOT = """
    import struct, sys, refstore
    path, size, field, value = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    PLACES = {"offset": 16, "nbytes": 24, "extent": 32}  # in a slot's 128 bytes
    store = refstore.Store(path, capacity="1MiB", create=True)
    other = store.put(b"o" * (size - 1))
    ref = store.put(b"q" * size)
    with open(path, "rb") as file:
        whole = file.read()

    def slot_of(nbytes):
        return next(at for at in range(50 * 4096, len(whole), 128)
                    if struct.unpack_from("=Q", whole, at + PLACES["nbytes"])[0] == nbytes)

    def word(slot, field):
        with open(path, "rb") as file:
            file.seek(slot + PLACES[field])
            return struct.unpack("=Q", file.read(8))[0]

    def untouched():
        with open(path, "rb") as file:
            head = file.read(128)  # what never changes of the header
        return head == whole[:128] and bytes(store.get(other)) == b"o" * (size - 1)

    slot = slot_of(size)
    right = word(slot, "offset")
    store.delete(ref)
    extent = word(slot, "extent")
    damaged = {
        "far": 1 << 43,
        "the header": 64,
        "another's": word(slot_of(size - 1), "offset"),
        "far pages": (1 << 31) << 32 | extent & 0xFFFFFFFF,
        "too many pages": extent | 0xFFFFFFFF,
        "past the end": 255 << 32 | extent & 0xFFFFFFFF,
    }[value]
    with open(path, "r+b") as file:
        file.seek(slot + PLACES[field])
        file.write(struct.pack("=Q", damaged))
    outcomes = set()
    for byte in (b"r", b"s"):
        try:
            ref = store.put(byte * size)
        except refstore.StoreCorruptedError:
            outcomes.add("refused")
        else:
            outcomes.add("put")
            assert bytes(store.get(ref)) == byte * size
            if field == "offset" and byte == b"r":
                assert word(slot, "offset") == right, "it did not land in its block"
        assert untouched()
    store.check()
    store.unlink()
    print(*outcomes)
"""


def put_into_a_damaged_slot(folder: Path, size: int, field: str, value: str) -> str:
    """What became of two puts; a crash is an error here, and leaves no file."""
    try:
        return helpers.run_warm_clean(STOCKED_SLOT, folder / "store", size, field, value)
    finally:
        (folder / "store").unlink(missing_ok=True)


@pytest.mark.native("writes to its slots")
@pytest.mark.parametrize("value", ["far", "the header", "another's"])
@pytest.mark.parametrize("size", [1111, 77_777])
def test_a_free_slots_damaged_offset_leads_no_put_out_of_its_block(
    folder: Path, size: int, value: str
) -> None:
    assert put_into_a_damaged_slot(folder, size, "offset", value) == "put"


@pytest.mark.native("writes to its slots")
@pytest.mark.parametrize("value", ["far pages", "too many pages", "past the end"])
def test_a_free_slots_damaged_extent_is_an_error_or_nothing_to_a_put(
    folder: Path, value: str
) -> None:
    outcomes = put_into_a_damaged_slot(folder, 77_777, "extent", value)
    assert set(outcomes.split()) <= {"put", "refused"}


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
        helpers.remove(path)
    assert noticed >= 2, "neither the header nor the slots are looked at"


READS_A_DAMAGED_ARRAY = """
    import sys, refstore
    store = refstore.Store(sys.argv[1], create=False)
    for look in (lambda b: b.array, lambda b: b.value, memoryview, lambda b: b.__array__()):
        with store["n"] as buf:
            try:
                look(buf)
            except refstore.StoreCorruptedError:
                print("StoreCorruptedError")
"""


@pytest.mark.parametrize("ndim", [65, 100, 255])
def test_an_array_of_more_dimensions_than_there_can_be_is_damage(
    folder: Path, path: str, ndim: int
) -> None:
    """In a process of its own, since it may be a crash."""
    dtype = np.dtype(
        [(f"a field of which a long description is made {k}", "u1") for k in range(99)]
    )
    with refstore.Store(path, capacity="1MiB", max_objects=64) as store:
        store["n"] = np.zeros(10, dtype)
    description = arrays.describe(dtype, (10,), (0,))
    like_it = np.dtype([("a", "S99")])
    damaged = arrays.describe(like_it, (*[1] * (ndim - 1), 10), tuple(range(ndim)))
    image = Path(path).read_bytes()
    assert image.count(description) == 1
    with open(path, "r+b") as file:
        file.seek(image.index(description))
        file.write(damaged.ljust(len(description), b"."))  # nobody reads on after a pickle's end
    assert len(Path(path).read_bytes()) == len(image)
    said = helpers.run_warm_clean(READS_A_DAMAGED_ARRAY, path)
    assert said.split() == ["StoreCorruptedError"] * 4
    helpers.remove(path)
