"""What the system limits: a call that meets a limit says which one, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import helpers
import pytest
from small_disk import needs_mount, run_on_small_disk

import refstore

# -- address space ----------------------------------------------------------------------------

no_address_space = pytest.mark.skipif(
    any(tool in os.environ.get("LD_PRELOAD", "") for tool in ("asan", "tsan")),
    reason="the sanitizer reserves terabytes",
)


@no_address_space
@pytest.mark.parametrize("given", ["", "capacity='256MiB'", "max_objects=50_000"])
@pytest.mark.parametrize("gigabytes", [1, 4])
def test_a_limit_on_address_space_makes_the_default_smaller(
    folder: Path, path: str, given: str, gigabytes: int
) -> None:
    said = helpers.run_warm_clean(
        f"""
        import resource, sys, refstore
        resource.setrlimit(resource.RLIMIT_AS, ({gigabytes} << 30, {gigabytes} << 30))
        with refstore.Store(sys.argv[1], {given}) as store:
            ref = store.put(bytes(1_000_000), name="n")
            assert bytes(store.get(ref)) == bytes(1_000_000)
            with refstore.Store.temporary("1MiB") as second:  # there is some left
                second.put(b"x")
            print(store.capacity, store.max_objects)
            store.unlink()
        """,
        path,
    )
    capacity, max_objects = map(int, said.split())
    assert capacity >= 16 << 20
    assert max_objects >= 4096
    assert "capacity" not in given or capacity == 256 << 20
    assert "max_objects" not in given or max_objects == 50_000


@no_address_space
@pytest.mark.parametrize("nbytes", [1 << 16, 20 << 20])
def test_a_private_view_that_cannot_be_mapped_names_the_limit(
    store: refstore.Store, path: str, nbytes: int
) -> None:
    helpers.run_warm_clean(
        """
        import resource, sys, refstore
        path, nbytes = sys.argv[1], int(sys.argv[2])
        with refstore.Store(path + "2", capacity="64MiB", create=True) as store:
            ref = store.put(bytes(nbytes))
            with store.get(ref, writable=True) as buf:
                assert memoryview(buf)[0] == 0
            with open("/proc/self/statm") as text:
                has = int(text.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (has, resource.RLIM_INFINITY))
            views = []
            try:
                for _ in range(1000):  # the allocator may have some left
                    views.append(store.get(ref, writable=True))
            except MemoryError as error:
                said = str(error)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            assert str(has) in said and "ulimit -v" in said and "copy-on-write" in said, said
            assert store.refcount(ref) == 1 + len(views)
            views.clear()
            store.unlink()
        """,
        path,
        nbytes,
    )


@no_address_space
def test_what_cannot_be_mapped_names_the_limit(folder: Path, path: str) -> None:
    helpers.run_warm_clean(
        """
        import errno, os, resource, sys, refstore
        path = sys.argv[1]
        with refstore.Store(path, capacity="3GiB", max_objects=64) as large:
            large["n"] = b"x"
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
        for create, ask in ((False, {}), (True, {"capacity": "64GiB", "max_objects": 64})):
            try:
                refstore.Store(path + "2" * create, create=create, **ask)
            except OSError as error:
                assert error.errno == errno.ENOMEM, error
                for words in ("cannot map", "ulimit -v", "4294967296", "smaller"):
                    assert words in str(error), error
            else:
                raise AssertionError("it cannot be mapped")
        """,
        path,
    )
    with refstore.Store(path, create=False) as store:
        store.unlink()
    assert helpers.stores(folder) == []


# -- size of files ----------------------------------------------------------------------------


def test_a_limit_on_the_size_of_files_is_named(folder: Path, path: str) -> None:
    helpers.run_warm_clean(
        """
        import errno, resource, sys, refstore
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for _ in range(2):
            try:
                refstore.Store(sys.argv[1], capacity="64MiB", create=True)
            except OSError as error:
                assert error.errno == errno.EFBIG, error
                assert "100000 bytes (ulimit -f" in str(error), error
            else:
                raise AssertionError("the file may not be that large")
        """,
        path,
    )
    assert list(folder.iterdir()) == []


def test_a_process_with_that_limit_uses_a_store_of_others(store: refstore.Store, path: str) -> None:
    helpers.run_warm_clean(
        """
        import resource, sys, refstore
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with refstore.Store(sys.argv[1], create=False) as store:
            store["n"] = bytes(1_000_000)
            store["a"] = {"a": 1}
            store.delete("a")
        """,
        path,
    )
    assert bytes(store["n"]) == bytes(1_000_000)
    assert store.check() == []


# -- descriptors ------------------------------------------------------------------------------

NONE_LEFT = """
    import os, resource, sys, refstore
    path, folder = sys.argv[1], os.path.dirname(sys.argv[1])
    store = refstore.Store(path, create=False)
    ref = store.put(bytes(1 << 20))
    buf = store.get(ref)
    top = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, top + 1))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for call in (
        lambda: refstore.Store(folder + "/other", capacity="1MiB"),
        lambda: refstore.Store(folder + "/other", create=False),
        lambda: refstore.Store.temporary("1MiB"),
        lambda: store.get(ref, writable=True),
        lambda: store.put(bytes(2 << 20)),
        lambda: store.create(2 << 20).abort(),
        lambda: store.names(),
        lambda: store.stats(),
        lambda: store.recover(),
        lambda: store.unlink(),
        lambda: store.delete(ref),
    ):
        try:
            call()
        except FileNotFoundError:
            raise
        except OSError as error:
            for words in (str(top + 1), "file descriptors", "ulimit -n"):
                assert words in str(error), error
            print("refused")
        else:
            print("done")
    assert bytes(buf) == bytes(1 << 20)
    for fd in held:
        os.close(fd)
"""


def test_a_call_that_finds_no_descriptor_names_the_limit(
    store: refstore.Store, path: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder))
    said = helpers.run_warm_clean(NONE_LEFT, path).split()
    assert said[:3] == ["refused"] * 3
    assert store.check() == []
    store.put(b"x")


def test_a_store_that_is_unlinked_and_whose_descriptors_are_closed(folder: Path, path: str) -> None:
    helpers.run_warm_clean(
        """
        import os, sys, refstore
        store = refstore.Store(sys.argv[1], capacity="8MiB")
        ref = store.put(b"x" * (1 << 20))
        buf = store.get(ref)
        store.unlink()
        os.closerange(3, 4096)
        for call in (
            lambda: store.put(b"y" * (3 << 20)),
            lambda: store.create(3 << 20).abort(),
            lambda: store.recover(),
            lambda: bytes(store.get(ref, writable=True)),
        ):
            try:
                call()
            except (refstore.StoreFullError, OSError) as error:
                for words in ("closed the store's descriptor", "unlink the store last"):
                    assert words in str(error), error
        try:
            store.unlink()
        except FileNotFoundError as error:
            assert "is gone already" in str(error)
        try:
            store.wait("nobody can publish this")
        except refstore.RefstoreError as error:
            assert "would wait for ever" in str(error)
        assert bytes(buf) == b"x" * (1 << 20)
        assert store.check() == []
        """,
        path,
    )


# -- small file systems -----------------------------------------------------------------------


@needs_mount
def test_a_small_disk_is_named_with_its_size(folder: Path) -> None:
    run_on_small_disk(
        """
store = refstore.Store(disk + "/s", capacity="64MiB", max_objects=64)
store["n"] = b"x"
refs = []
for _ in range(200):
    try:
        refs.append(store.put(bytes(300_000)))
    except refstore.StoreFullError as error:
        full = error
        break
free = free_on_disk()
assert f"{free} of its {8 << 20} bytes are free" in str(full), full
assert full.free <= free + (1 << 20), full
assert "Free memory in" in str(full)
assert "shm-size" not in str(full), "another tmpfs"
""",
        "8m",
        folder,
    )


@needs_mount
def test_free_is_no_more_than_the_disk_has(folder: Path) -> None:
    run_on_small_disk(
        """
store = refstore.Store(disk + "/s", capacity="64MiB", max_objects=64)
store["n"] = b"x"
while True:
    stats = store.stats()
    assert stats.largest_free <= stats.free <= free_on_disk(), stats
    if stats.largest_free < 500_000:
        break
    store.delete(store.put(bytes(stats.largest_free)))  # kept its promise
    store.trim()
    store.put(bytes(500_000))
assert stats.used > 4_000_000, stats
fill_up()
assert store.stats().free < 500_000
assert store.check() == []
""",
        "16m",
        folder,
    )


@needs_mount
def test_what_was_deleted_on_a_full_disk_is_free(folder: Path) -> None:
    run_on_small_disk(
        """
store = refstore.Store(disk + "/s", capacity="64MiB", max_objects=64)
ref = store.put(bytes(4_000_000))
fill_up()
assert store.stats().free < 500_000
store.delete(ref)
stats = store.stats()
assert 3_900_000 <= stats.largest_free <= stats.free <= 4_500_000, stats
store.delete(store.put(bytes(stats.largest_free)))
""",
        "12m",
        folder,
    )


@needs_mount
def test_a_new_store_on_a_full_disk_says_so(folder: Path) -> None:
    run_on_small_disk(
        """
for fill in (lambda: None, fill_up):
    fill()
    try:
        refstore.Store(disk + "/s", capacity="1GiB", max_objects=1 << 24)
    except OSError as error:
        assert f"{1 << 20} bytes, of which {free_on_disk()} are free" in str(error), error
        assert "ask for less" in str(error)
    else:
        raise AssertionError("there was no room for the tables")
""",
        "1m",
        folder,
    )
