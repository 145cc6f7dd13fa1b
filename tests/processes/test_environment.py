"""A hostile machine: no room on the file system, limits reached, files of other users."""

from __future__ import annotations

import os
from pathlib import Path

import helpers
import looks
import other_locks
import pytest
from small_disk import needs_mount, run_on_small_disk

import refstore

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")


@needs_mount
def test_a_put_on_a_full_disk_is_refused_and_leaves_nothing(folder: Path) -> None:
    run_on_small_disk(
        """
store = refstore.Store(disk + "/s", capacity="64MiB", max_objects=64)
data = helpers.pattern(1, 500_000)
store.put(data, name="kept")
empty = helpers.usage(store)
refs = []
try:
    while True:
        refs.append(store.put(helpers.pattern(len(refs), 500_000), name=f"n{len(refs)}"))
except refstore.StoreFullError as error:
    full = error
assert 2 <= len(refs) <= 16, len(refs)
assert full.needed >= 500_000
before = helpers.usage(store)
for obj in (bytes(5_000_000), {"a": __import__("numpy").zeros(600_000)}, bytes(60_000_000)):
    try:
        store.put(obj, name="never")
    except refstore.StoreFullError:
        pass
    else:
        raise AssertionError("there was no room")
    assert helpers.usage(store) == before
    assert "never" not in store
try:
    store.create(5_000_000)
except refstore.StoreFullError:
    pass
else:
    raise AssertionError("there was no room")
assert store.check() == []
assert bytes(store["kept"]) == data
for i, ref in enumerate(refs):
    assert bytes(store.get(ref)) == helpers.pattern(i, 500_000)
    store.delete(ref)
assert helpers.usage(store) == empty
for round_ in range(3):
    refs = [store.put(bytes(500_000)) for _ in refs]
    for ref in refs:
        store.delete(ref)
assert store.check() == []
""",
        "8m",
        folder,
    )


@needs_mount
def test_small_objects_on_a_full_disk_are_refused_and_leave_nothing(folder: Path) -> None:
    run_on_small_disk(
        """
store = refstore.Store(disk + "/s", capacity="64MiB", max_objects=4096)
refs = []
try:
    while True:
        refs.append(store.put(helpers.pattern(len(refs), 3000)))
except refstore.StoreFullError:
    pass
assert 100 < len(refs) < 4096, len(refs)
assert store.check() == []
for i, ref in enumerate(refs):
    assert bytes(store.get(ref)) == helpers.pattern(i, 3000)
for ref in refs:
    store.delete(ref)
assert store.stats().used == 0
refs = [store.put(bytes(3000)) for _ in refs]
""",
        "6m",
        folder,
    )


@needs_mount
def test_a_disk_filled_by_others_is_no_crash(folder: Path) -> None:
    run_on_small_disk(
        """
store = refstore.Store(disk + "/s", capacity="4MiB", max_objects=64)
store.put(bytes(100_000), name="kept")
fill_up()
try:
    store.put(bytes(2_000_000))
except refstore.StoreFullError:
    pass
else:
    raise AssertionError("there was no room")
assert bytes(store["kept"]) == bytes(100_000)
assert store.check() == []
os.unlink(disk + "/filler")
helpers.fill_with_junk(store)
del store["kept"]
helpers.assert_full_capacity_fits(store)
""",
        "8m",
        folder,
    )


@needs_mount
@pytest.mark.parametrize("create", [True, None])
def test_tables_that_do_not_fit_are_an_error_and_leave_nothing(
    folder: Path, create: bool | None
) -> None:
    run_on_small_disk(
        f"""
before = used()
for max_objects in (2**28, 2**24, 10_000_000):
    try:
        refstore.Store(disk + "/s", capacity="1GiB", max_objects=max_objects, create={create})
    except OSError as error:
        assert error.errno, error
    else:
        raise AssertionError("there was no room for the tables")
    assert os.listdir(disk) == []
    assert used() == before, "the half-made file is still somewhere"
store = refstore.Store(disk + "/s", capacity="64KiB", max_objects=16)
store.put(b"x")
""",
        "1m",
        folder,
    )


@needs_mount
def test_a_disk_with_no_room_at_all(folder: Path) -> None:
    run_on_small_disk(
        """
fill_up()
try:
    refstore.Store(disk + "/s", capacity="1MiB")
except OSError as error:
    assert error.errno, error
else:
    raise AssertionError("there was no room")
assert os.listdir(disk) == ["filler"]
""",
        "1m",
        folder,
    )


@needs_mount
def test_trim_makes_room_for_others(folder: Path) -> None:
    run_on_small_disk(
        """
store = refstore.Store(disk + "/s", capacity="64MiB", max_objects=64)
for _ in range(2):
    store.delete(store.put(bytes(4_000_000)))
before = used()
assert store.trim() >= 3_500_000
assert used() <= before - 3_500_000
with open(disk + "/other", "wb") as other:
    other.write(bytes(3_500_000))
os.unlink(disk + "/other")
store.delete(store.put(bytes(4_000_000)))
""",
        "8m",
        folder,
    )


@needs_mount
def test_a_fork_without_memory_for_the_childs_pins(folder: Path) -> None:
    run_on_small_disk(
        """
import warnings
warnings.simplefilter("ignore", refstore.RefstoreWarning)       # of a child without a place
store = refstore.Store(disk + "/s", capacity="1MiB", max_objects=3000)
ref = store.put(bytes(100_000))
held = [store.get(ref)]
fill_up()
pid = os.fork()
if pid == 0:
    try:
        assert bytes(held[0]) == bytes(100_000)
        held.clear()
        store.get(ref)
    except refstore.RefstoreError as error:
        os._exit("open the store anew" not in str(error))
    os._exit(2)
assert os.waitpid(pid, 0)[1] == 0
assert (store.refcount(ref), store.stats().processes) == (2, 1)
store.delete(ref)
held.clear()
assert store.stats().condemned == 1     # kept for the child: nobody can tell that it has ended
os.unlink(disk + "/filler")
store.close()
store = refstore.Store(disk + "/s", create=False)
helpers.assert_full_capacity_fits(store)
assert store.check() == []
""",
        "2m",
        folder,
    )


# -- limits -----------------------------------------------------------------------------------


def test_no_descriptor_left_is_an_error_and_leaves_nothing(folder: Path, path: str) -> None:
    helpers.run_clean(
        """
        import os, resource, sys, refstore
        path = sys.argv[1]
        with refstore.Store(path + "-warm", capacity="1MiB") as store:  # all modules are loaded
            store["n"] = {"a": 1}
            store.unlink()
        top = len(os.listdir("/proc/self/fd"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for spare in range(0, 6):
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + spare - 1, hard))
            try:
                store = refstore.Store(path, capacity="1MiB", create=True)
            except OSError as error:
                assert error.errno, error
            else:
                store["n"] = b"x"
                store.unlink()
                store.close()
            assert not os.path.exists(path)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with refstore.Store(path, capacity="1MiB", create=True) as store:
            store.unlink()  # clears away what could not even be looked for
        assert len(os.listdir("/proc/self/fd")) == top
        """,
        path,
    )


def test_closed_descriptors_do_no_harm(store: refstore.Store, path: str) -> None:
    """What a program that makes itself a daemon does to every descriptor it finds."""
    looker = "import sys, refstore; print(refstore.Store(sys.argv[1]).recover().processes)"
    said = helpers.run_clean(
        """
        import os, subprocess, sys, refstore
        store = refstore.Store(sys.argv[1], create=False)
        ref = store.put(b"x" * 1000)
        buf = store.get(ref)
        os.closerange(3, 4096)
        for number in list(map(int, os.listdir("/proc/self/fd"))):
            if number > 2:
                try:
                    os.close(number)
                except OSError:
                    pass
        other = open(os.devnull)
        assert bytes(buf) == b"x" * 1000
        store["n"] = bytes(1_000_000)
        assert bytes(store["n"]) == bytes(1_000_000)
        pid = os.fork()
        if pid == 0:
            assert bytes(buf) == b"x" * 1000
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        # whoever looks must still see that this process lives, by the lock that its mapping keeps
        subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)
        print(store.refcount(ref), store.stats().processes)
        buf.release()
        """,
        path,
        looker,
    )
    # the forked child, which ended without a word, and nobody else
    assert said.split() == ["1", "2", "2"]
    assert store.check() == []
    assert "n" in store


@pytest.mark.native("takes away a kind of lock that it alone uses")
@pytest.mark.parametrize("locks", ["hidden", "unknown"])
def test_a_file_system_without_lasting_locks_is_refused(
    folder: Path, path: str, tmp_path: Path, locks: str
) -> None:
    result = helpers.run_script(
        """
        import errno, os, sys, refstore
        try:
            refstore.Store(sys.argv[1], capacity="1MiB", create=True, backend="native")
        except OSError as error:
            print(error.errno == errno.EOPNOTSUPP, "locks do not hold" in str(error))
        """,
        path,
        env=other_locks.environment(tmp_path, locks),
    )
    assert (result.stdout.split(), result.stderr) == (["True"] * 2, "")
    assert list(folder.iterdir()) == []


# -- other users ------------------------------------------------------------------------------

NOBODY = 65534


@needs_root
def test_a_file_of_another_user_is_refused_unless_asked_for(
    store: refstore.Store, path: str
) -> None:
    store["n"] = b"x"
    store.close()
    os.chown(path, NOBODY, -1)
    for create in (None, False):
        with pytest.raises(PermissionError, match="foreign"):
            refstore.Store(path, create=create)
    with refstore.Store(path, create=False, foreign=True) as foreign:
        assert bytes(foreign["n"]) == b"x"
    os.chown(path, 0, -1)


AS_NOBODY = """
    import os, sys, numpy, refstore
    refstore.Store.temporary("1MiB").close()  # all is loaded that may not be read later on
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    path, foreign = sys.argv[1], sys.argv[2] == "foreign"
    try:
        with refstore.Store(path, create=False, foreign=foreign) as store:
            with store["n"] as buf:
                print(bytes(buf).decode())
            store["from nobody"] = b"y" * 100_000
    except PermissionError:
        print("PermissionError")
"""


@needs_root
@pytest.mark.parametrize(
    ("mode", "foreign", "printed"),
    [
        (0o600, "own", "PermissionError"),
        (0o600, "foreign", "PermissionError"),
        (0o666, "own", "PermissionError"),
        (0o666, "foreign", "kept"),
    ],
)
def test_another_user_opens_only_what_is_meant_for_it(
    folder: Path, mode: int, foreign: str, printed: str
) -> None:
    os.chmod(folder, 0o755)
    path = str(folder / "s")
    with refstore.Store(path, capacity="4MiB", mode=mode) as store:
        store["n"] = b"kept"
        result = helpers.run_script(AS_NOBODY, path, foreign)
        assert (result.stdout.strip(), result.returncode) == (printed, 0), result
        assert bytes(store["n"]) == b"kept"
        if printed == "kept":
            assert bytes(store["from nobody"]) == b"y" * 100_000
        assert store.check() == []
        store.unlink()


LOOK_AS_NOBODY = """
    import os, sys, numpy, refstore, looks
    refstore.Store.temporary("1MiB").close()
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    looks.look_at_everything(None, sys.argv[1], foreign=True)
    try:
        refstore.Store(sys.argv[1], create=False, foreign=True)
    except PermissionError:
        print("only looked")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_may_only_read_a_store_can_look_at_it(folder: Path) -> None:
    os.chmod(folder, 0o755)
    path = str(folder / "s")
    with refstore.Store(path, capacity="4MiB", mode=0o644) as store, store.create(100):
        store["n"] = b"kept"
        with store.get("n"):
            support = str(Path(looks.__file__).parent)
            paths = os.pathsep.join([support, os.environ.get("PYTHONPATH", "")])
            result = helpers.run_script(LOOK_AS_NOBODY, path, env={"PYTHONPATH": paths})
            assert (result.stdout.strip(), result.returncode) == ("only looked", 0), result
        store.unlink()


@pytest.mark.native("the other one commits what it touches")
@needs_mount
def test_memory_that_a_file_only_claims_is_missed_at_opening(folder: Path) -> None:
    """Else the first to touch it dies of SIGBUS."""
    run_on_small_disk(
        """
from refstore._looking import Look
from tests.fuzz import layout
def is_missed(opens, name):
    try:
        opens()
    except refstore.StoreCorruptedError as error:
        assert name in str(error), error
        return True
    return False
with refstore.Store(disk + "/s", capacity="4MiB", max_objects=5000) as store:
    kept = store.put(helpers.pattern(1, 5000), name="kept")
right = open(disk + "/s", "rb").read(4 << 20)
fill_up()
tables = {table.name: table for table in layout.native(4 << 20, 5000).tables}
for name in ("pins_ready", "labels_ready", "index_ready", "data_ready"):
    at = tables[name].at
    with open(disk + "/s", "r+b", buffering=0) as file:
        file.seek(at)
        file.write(bytes([right[at] | 0x1e]))
        assert is_missed(lambda: refstore.Store(disk + "/s", create=False), name), name
        # a look maps no data
        assert is_missed(lambda: Look(disk + "/s"), name) == (name != "data_ready"), name
        file.seek(at)
        file.write(right[at : at + 1])
with refstore.Store(disk + "/s", create=False) as store:
    assert bytes(store["kept"]) == helpers.pattern(1, 5000)
    assert store.check() == []
""",
        "8m",
        folder,
    )
