"""The filelock engine where much is missing: no compiled core, nothing that only POSIX has.

The stand-in for Windows is a child Python from which all that Windows lacks has been taken away,
but for the file locks: `filelock` was imported before.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import engines
import helpers
import libraries
import pytest

import refstore

# What Windows' Python has not. The library filelock was there before and keeps what it needs.
WITHOUT_POSIX = """
import multiprocessing.popen_spawn_posix, multiprocessing.resource_tracker  # these need it all
import filelock, mmap, numpy, numpy.ma, os, pickle, signal, sys, tempfile, types, warnings

GONE = {
    os: '''fork forkpty register_at_fork posix_fallocate posix_fadvise getuid geteuid getgid
        setuid fchmod fchown chown lchown pread pwrite preadv pwritev statvfs fstatvfs sysconf
        O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_DIRECTORY O_SYNC fdatasync memfd_create mkfifo
        sched_getaffinity sched_yield uname pidfd_open getpgid wait waitid killpg
        copy_file_range sendfile openpty''',
    mmap: "MAP_SHARED MAP_PRIVATE PROT_READ PROT_WRITE MADV_REMOVE MADV_DONTNEED MADV_WILLNEED",
    signal: "SIGKILL SIGSTOP SIGCONT SIGHUP pthread_sigmask pause",
}
def without(module, names=""):
    "A module of the same name that lacks those; who has imported the real one keeps it."
    left = types.ModuleType(module.__name__)
    left.__dict__.update({k: v for k, v in vars(module).items() if k not in names.split()})
    sys.modules[module.__name__] = left
    return left

class Map(mmap.mmap):
    "The arguments that it has on Windows; and there is no madvise."
    def __new__(cls, fileno, length, tagname=None, access=mmap.ACCESS_DEFAULT, offset=0):
        assert tagname is None
        assert access in (mmap.ACCESS_READ, mmap.ACCESS_WRITE, mmap.ACCESS_COPY), "say which"
        assert offset % 65536 == 0
        return super().__new__(cls, fileno, length, access=access, offset=offset)
    madvise = property()

path = without(os.path)
for test in ("isdir", "exists"):
    setattr(path, test, lambda name, real=getattr(path, test): name != "/dev/shm" and real(name))
os, mmap, signal = (without(module, names) for module, names in GONE.items())
os.path = path
mmap.mmap, mmap.ALLOCATIONGRANULARITY = Map, 65536
for name in ("fcntl", "resource", "pwd", "grp", "termios", "posix"):
    sys.modules.pop(name, None)
"""

WITHOUT = """
class Missing:
    "Nothing of these can be imported."
    def find_spec(self, name, path=None, target=None):
        if name in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import refstore
"""

USE = """
import pickle, gc
import numpy as np

engine_of = lambda store: open(store.path, "rb").read(16)[12]

def fails(error, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except error as caught:
        return caught
    raise AssertionError(f"{call} should fail with {error}")

path = sys.argv[1]
with refstore.Store(path, capacity="8MiB", max_objects=100) as store:
    assert engine_of(store) == 2
    # objects of each kind
    array = np.arange(1000.0).reshape(20, 50)
    ref = store.put(array)
    with store.get(ref) as buf:
        assert np.array_equal(buf.array, array) and not buf.array.flags.writeable
        assert memoryview(buf).shape == (20, 50)
        assert store.refcount(ref) == 2
        assert [row.pid for row in store.holders()] == [os.getpid()]
    with store.get(store.put({"a": [array], "b": b"x"})) as buf:
        assert np.array_equal(buf.value["a"][0], array)
    assert bytes(store.get(store.put(b"bytes"))) == b"bytes"
    assert refstore.ObjectRef.from_hex(ref.hex()) == ref == pickle.loads(pickle.dumps(ref))
    # names
    store["model"] = b"one"
    fails(refstore.ObjectExistsError, store.put, b"two", name="model")
    store["model"] = b"two"
    assert bytes(store["model"]) == b"two" and store.names() == ["model"]
    del store["model"]
    fails(refstore.ObjectNotFoundError, store.get, "model")
    # writers
    with store.create(shape=(100,), dtype="i4", name="written") as writer:
        writer.array[:] = 7
    assert (store["written"].array == 7).all()
    del writer  # without the core, before 3.12, it pins as long as it is there
    store.create(1000).abort()
    # views, pins and private writes
    view = store.get(ref).array
    with store.get(ref, writable=True) as mine:
        mine.array[:] = -1
        assert (mine.array == -1).all()
    store.delete(ref)
    assert np.array_equal(view, array) and store.stats().condemned == 1
    del view
    gc.collect()
    assert store.stats().condemned == 0
    # room
    for one in list(store):
        store.delete(one)
    error = fails(refstore.StoreFullError, store.put, bytes(store.capacity + 1))
    assert error.free == error.largest_free == store.capacity
    store.delete(store.put(bytes(store.capacity)))
    assert store.stats().used == 0 and store.trim() >= 0
    assert store.check() == [] and not store.recover()
    with pickle.loads(pickle.dumps(store)) as other:
        other["n"] = b"x"
    assert bytes(store["n"]) == b"x"
with refstore.Store(path, create=False) as store:
    assert bytes(store["n"]) == b"x" and len(store) == 1
    store.unlink()
with refstore.Store.temporary("1MiB") as store:
    store["n"] = b"x"
    temporary = store.path
assert not os.path.exists(temporary)
with refstore.Store("plain", capacity="1MiB", create=True) as store:
    print(os.path.dirname(store.path))
    store.unlink()
from refstore.cli import main
assert main(["ls"]) == 0
"""

NATIVE = {"refstore._core"}
POSIX = {"fcntl", "resource", "pwd", "grp", "termios"}


def run_without(
    missing: set[str], folder: Path, prelude: str = "import os, sys", env: str = "filelock"
) -> str:
    """The main calls in a Python that lacks those modules; what it printed."""
    program = f"{prelude}\nMISSING = {missing!r}\n{WITHOUT}{USE}"
    home = folder / "home"
    home.mkdir()
    settings = {engines.VARIABLE: env, "REFSTORE_DIR": "", "TMPDIR": str(home)}
    settings |= {"XDG_RUNTIME_DIR": "", "USERNAME": "tester"}
    try:
        result = helpers.run_script(program, folder / "store", env=settings)
        left = [entry.name for entry in folder.rglob("*") if entry.is_file()]
    finally:
        shutil.rmtree(home)
    assert result.returncode == 0, result.stderr
    assert left == []
    warned = [line for line in result.stderr.splitlines() if "Warning" in line]
    assert len(warned) == (env == "auto"), result.stderr
    assert env != "auto" or "RefstoreWarning" in warned[0]
    return result.stdout.strip()


def test_the_engine_works_where_posix_is_missing(folder: Path) -> None:
    where = run_without(POSIX, folder, WITHOUT_POSIX)
    assert Path(where).parent == folder / "home", "there is no shared memory: a temporary folder"


def test_the_engine_works_where_posix_and_the_core_are_missing(folder: Path) -> None:
    run_without(POSIX | NATIVE, folder, WITHOUT_POSIX, env="auto")


@pytest.mark.parametrize("env", ["auto", "filelock"])
def test_the_engine_works_where_the_core_is_missing(folder: Path, env: str) -> None:
    run_without(NATIVE, folder, env=env)


WITHOUT_CORE = """
import sys
MISSING = {"refstore._core"}
"""


def test_without_the_core_the_warning_says_so_once(folder: Path) -> None:
    result = helpers.run_script(
        WITHOUT_CORE
        + WITHOUT
        + """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for number in range(3):
        with refstore.Store(f"{sys.argv[1]}/{number}", capacity="1MiB") as store:
            store.unlink()
(warning,) = caught
assert warning.category is refstore.RefstoreWarning
print(warning.message)
""",
        folder,
        env={engines.VARIABLE: ""},
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "refstore._core" in result.stdout


@libraries.needed("refstore._core")
@pytest.mark.parametrize("backend", ["native", "auto"])
def test_a_native_store_without_the_core_is_an_error(folder: Path, path: str, backend: str) -> None:
    with refstore.Store(path, capacity="1MiB", backend="native") as store:
        store["n"] = b"kept"
        result = helpers.run_script(
            WITHOUT_CORE
            + WITHOUT
            + """
try:
    refstore.Store(sys.argv[1], create=False, backend=sys.argv[2])
except refstore.RefstoreError as error:
    print(error)
""",
            path,
            backend,
            env={engines.VARIABLE: ""},
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert "native" in result.stdout
        assert bytes(store["n"]) == b"kept"
        store.unlink()


def test_processes_with_and_without_the_core_share_a_store(
    store: refstore.Store, path: str
) -> None:
    """What one writes the other reads: refs, arrays, pickles and pins."""
    import numpy as np

    ref = store.put(np.arange(1000))
    program = """
import numpy as np
with refstore.Store(sys.argv[1], create=False) as store:
    ref = refstore.ObjectRef.from_hex(sys.argv[2])
    with store.get(ref) as buf:
        assert np.array_equal(buf.array, np.arange(1000))
        assert store.refcount(ref) == 2 and store.stats().processes == 2
    store["back"] = {"a": np.arange(50)}
    print(store.ref("back").hex())
    held = store.get(ref)
    os._exit(0)
"""
    source = f"import os\n{WITHOUT_CORE}{WITHOUT}{program}"
    back = refstore.ObjectRef.from_hex(helpers.run_clean(source, path, ref.hex()))
    assert store.ref("back") == back
    assert np.array_equal(store["back"].value["a"], np.arange(50))
    assert store.recover().pins == 1
    assert store.refcount(ref) == 1
    assert os.environ[engines.VARIABLE] == "filelock"
