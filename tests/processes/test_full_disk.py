"""On a file system without a free page, whoever comes sees all that is there and can delete it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_disk import needs_mount, run_on_small_disk

COMING = """
import subprocess

def comes(source, *arguments):
    prelude = "import os, sys; sys.path.append(sys.argv[2]); import tests, refstore\\n"
    prelude += "store = refstore.Store(sys.argv[1], create=False)\\n"
    program = [sys.executable, "-c", prelude + source, path, sys.argv[2], *map(str, arguments)]
    result = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout.split()

path = disk + "/s"
"""

POPULATED = """
store = refstore.Store(path, capacity="4MiB", max_objects={objects})
names = ["a", "b", "\\u00fc" * 100, "large"]
for name in names[:3]:
    store[name] = helpers.pattern(1, 500)
store["large"] = helpers.pattern(2, 300_000)
unnamed = store.put(b"unnamed")
for i in range({objects} - 5):
    store.put(b"", name=f"n{{i}}")
pinned = store.get("b")
fill_up()
"""

RETRIES = """
names = set(sys.argv[3:7])
assert {name for name in store.names() if not name.startswith("n")} == names
assert len(store.names()) == len(store) - 1
refs = {name: store.ref(name) for name in names}
assert set(refs.values()) < set(store)
unnamed = refstore.ObjectRef.from_hex(sys.argv[7])
assert unnamed in store and "a" in store and refs["a"] in store and "c" not in store
assert store.refcount("b") == 2 and store.refcount(refs["a"]) == 1
assert store.stats().objects == len(store)
assert {holder.name for holder in store.holders() if holder.ref is not None} == {"b"}
assert store.check() == []
"""

DELETES = """
count = len(store)
for key in ("a", "large", refs["b"], unnamed):
    store.delete(key)
    assert key not in store
assert len(store) == count - 4
try:
    store.delete("a")
except refstore.ObjectNotFoundError:
    pass
else:
    raise AssertionError("it was deleted already")
assert store.stats().condemned == 1, "what another process pins"
assert store.check() == []
"""


@needs_mount
@pytest.mark.parametrize("objects", [64, 3000])
def test_who_comes_to_a_full_disk_sees_all_and_deletes(folder: Path, objects: int) -> None:
    run_on_small_disk(
        COMING
        + POPULATED.format(objects=objects)
        + f"comes({RETRIES + DELETES!r}, *names, unnamed.hex())\n"
        + """
assert bytes(pinned) == helpers.pattern(1, 500)
pinned.release()
assert store.stats().condemned == 0
assert store.check() == []
""",
        "16m",
        folder,
    )


GETS = """
try:
    assert bytes(store["large"])[:3] == helpers.pattern(2, 300_000)[:3]
except refstore.StoreFullError as error:
    assert error.needed == 4096
    print(error)
"""


@needs_mount
def test_a_get_on_a_full_disk_works_or_says_what_is_missing(folder: Path) -> None:
    run_on_small_disk(
        COMING
        + POPULATED.format(objects=64)
        + f"said = comes('import helpers\\n' + {GETS!r})\n"
        + """
assert not said or "memory" in said, said
pinned.release()
os.unlink(disk + "/filler")
"""
        + f"assert comes('import helpers\\n' + {GETS!r}) == []\n",
        "16m",
        folder,
    )


@needs_mount
def test_room_that_was_used_before_is_put_to_use_on_a_full_disk(folder: Path) -> None:
    run_on_small_disk(
        COMING
        + POPULATED.format(objects=64)
        + """
count = len(store)
comes("for name in ('a', 'large'): store.delete(name); store.put(bytes(400), name=name)")
assert len(store) == count
assert bytes(store["a"]) == bytes(store["large"]) == bytes(400)
assert store.check() == []
pinned.release()
""",
        "16m",
        folder,
    )


LOOKS = """
import looks
before = used()
looks.look_at_everything(None, path)
assert used() == before
assert free_on_disk() == 0
"""


@needs_mount
@pytest.mark.parametrize("objects", [64, 3000])
def test_a_look_at_a_store_on_a_full_disk_takes_no_page(folder: Path, objects: int) -> None:
    run_on_small_disk(
        COMING + POPULATED.format(objects=objects) + LOOKS + "pinned.release()\n", "16m", folder
    )


LARGER_THAN_THE_DISK = """
SIZES = (64, 1000, 3000, 8000, 100_000, 1 << 20)

def fill(store, nbytes):
    try:
        while True:
            store.put(bytes(nbytes))
    except refstore.StoreFullError as error:
        return error

def each_size_fits(store):
    for nbytes in SIZES:
        store.put(bytes(nbytes), evictable=False)

store = refstore.Store(disk + "/s", capacity="64MiB", max_objects=20_000, evict={evict!r})
"""


@needs_mount
@pytest.mark.parametrize("nbytes", [200, 3000, 100_000, 2_000_000])
def test_what_lies_free_in_the_file_is_had_again_for_any_size(folder: Path, nbytes: int) -> None:
    run_on_small_disk(
        LARGER_THAN_THE_DISK.format(evict=None)
        + f"""
fill(store, {nbytes})
store.clear()
each_size_fits(store)
store.clear()
store.put_many([bytes(nbytes) for nbytes in SIZES])
assert store.check() == []
""",
        "16m",
        folder,
    )


@needs_mount
@pytest.mark.parametrize("evict", ["lru", "s3fifo"])
def test_a_cache_larger_than_its_disk_evicts_for_any_size(folder: Path, evict: str) -> None:
    run_on_small_disk(
        LARGER_THAN_THE_DISK.format(evict=evict)
        + """
for k in range(6000):
    store.put(bytes(3000), name=f"n{k}")
before = store.stats()
assert before.evictions > 0 and before.objects > 1000, before
each_size_fits(store)
try:
    store.put(bytes(40 << 20))
    raise AssertionError("it cannot fit")
except refstore.StoreFullError:
    assert store.stats().objects > 1000, "nothing goes for what cannot fit"
assert store.check() == []
""",
        "16m",
        folder,
    )


@needs_mount
def test_a_put_that_fails_keeps_no_memory_and_says_what_there_is(folder: Path) -> None:
    run_on_small_disk(
        LARGER_THAN_THE_DISK.format(evict=None)
        + """
store.put(b"x")
before = free_on_disk()
try:
    store.put(bytes(60 << 20))
    raise AssertionError("it cannot fit")
except refstore.StoreFullError as error:
    assert "has too little memory left for it" in str(error), error
assert free_on_disk() >= before - (1 << 20)
store.put(bytes(5 << 20))
""",
        "16m",
        folder,
    )


NEED_A_LABEL = """
import threading
import time

store = refstore.Store(path, capacity="64MiB", max_objects=4096, create=True)
store.put(b"")  # slots have memory, and labels none
fill_up()

WAYS = {
    "put": lambda timeout: store.put(b"", name="put", timeout=timeout),
    "meta": lambda timeout: store.put(b"", meta=b"m", timeout=timeout),
    "batch": lambda timeout: store.put_many([b""], names=["batch"], timeout=timeout),
    "writer": lambda timeout: store.create(0, name="writer", timeout=timeout).seal(),
    "claim": lambda timeout: store.create(0, name="claim", claim=True, timeout=timeout).seal(),
    "get_or_put": lambda timeout: store.get_or_put("made", lambda: b"", timeout=timeout),
}
way = WAYS[sys.argv[3]]
for timeout in ((0, 0.3) if sys.argv[3] != "get_or_put" else (0.3,)):
    began = time.monotonic()
    try:
        way(timeout)
        raise AssertionError("there is no memory for its label")
    except refstore.StoreFullError:
        assert time.monotonic() - began >= timeout
assert store.check() == []

def free() -> None:
    while store.stats().waiting == 0:
        pass
    os.unlink(disk + "/filler")

freeing = threading.Thread(target=free)
freeing.start()
way(30)
freeing.join()
assert store.check() == []
"""


@needs_mount
@pytest.mark.native("labels have memory of their own, which comes as they are used")
@pytest.mark.parametrize("way", ["put", "meta", "batch", "writer", "claim", "get_or_put"])
def test_who_waits_for_room_waits_for_memory_of_a_label_too(folder: Path, way: str) -> None:
    run_on_small_disk(COMING + NEED_A_LABEL, "4m", folder, way)
