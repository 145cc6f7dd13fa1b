"""A fork for which the store has no place: what the child inherited is kept for it.

It is kept in its parent's row, which is there until parent and child are both gone, however each
of them ends and whoever ends first. The test is the third process, which would use the blocks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import all_rows
import helpers
import programs
import pytest

import refstore

SIZES = (100, 100_000)

PROGRAM = all_rows.ROWS + textwrap.dedent("""
    import os, resource, signal, sys, warnings, refstore

    path, engine, way, end, size = sys.argv[1:5] + [int(sys.argv[5])]
    warnings.simplefilter("ignore", refstore.RefstoreWarning)
    lives, life = os.pipe()  # the other end is the parent's alone

    def say(*words):
        print(*words, flush=True)

    def wait():
        assert os.read(0, 1) == b"x"

    rows = Rows(path, engine)

    def fail_to_fork():
        # which root may as often as it likes
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
        uid = os.getuid()
        if uid == 0:
            os.setresuid(65534, 65534, 0)
        try:
            assert os.fork() >= 0  # a child ends by the next line
            raise AssertionError("the fork did not fail")
        except OSError:
            pass  # EAGAIN, or what a hook failed with since: this user may not open the locks
        finally:
            os.setresuid(uid, uid, uid)
            resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))

    def fork():
        if way == "no row":
            rows.lock(True)
            pid = os.fork()
            rows.lock(False)
        elif way == "no descriptor":
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            pid = os.fork()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        elif way == "full disk":
            filler = os.open(os.path.dirname(path) + "/filler", os.O_WRONLY | os.O_CREAT)
            try:
                while True:
                    os.write(filler, bytes(4096))
            except OSError:
                pid = os.fork()
                os.ftruncate(filler, 0)
        else:
            rows.lock(True)
            fail_to_fork()
            rows.lock(False)
            return -1
        return pid

    store = refstore.Store(path, create=False)
    data = bytes(range(100)) * (size // 100)
    ref = store.put(data)
    held = [memoryview(store.get(ref))]
    writer = store.create(size)
    scratch = memoryview(writer)
    pid = fork()
    if pid == 0:
        os.close(life)
        if end == "grandchild" and os.fork():
            os._exit(0)
        say(os.getpid())
        os.read(lives, 1)  # until the parent is gone
        wait()
        right = held[0] == data
        scratch[:] = b"c" * size
        say(right)
        wait()
        os._exit(0)

    if pid < 0:
        say(0)
    wait()
    held.clear()
    scratch.release()
    store.delete(ref)
    writer.abort()
    later = [store.get(store.put(data, name="later"))]
    half_made = store.create(size)
    say("let go")
    wait()
    if end == "close":
        del writer, scratch, half_made
        later.clear()
        store.close()
        del store
        os.close(life)
        say("closed")
        assert os.waitpid(pid, 0)[1] == 0
""")


@contextlib.contextmanager
def program_with_child(
    path: str, way: str, end: str, size: int
) -> Iterator[tuple[programs.Talking, int]]:
    """The program after its fork, and a descriptor of its child's end (or -1)."""
    engine = os.environ["REFSTORE_BACKEND"]
    with helpers.script(PROGRAM, path, engine, way, end, size) as program:
        pid = int(helpers.line(program))
        ends = os.pidfd_open(pid) if pid else -1  # that of the grandchild, if there is one
        try:
            yield program, ends
        finally:
            program.kill()
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
                os.close(ends)


def use_all_room(store: refstore.Store) -> None:
    helpers.fill_with_junk(store)
    assert store.check() == []


def assert_kept(store: refstore.Store, pid: int, text: str) -> None:
    kept = [one for one in store.holders() if text in one.command]
    assert {one.pid for one in kept} == {pid}
    assert all(one.alive for one in kept)
    stats = store.stats()
    assert stats.condemned == 2, "the object, and the Writer's block"
    with pytest.raises(refstore.StoreFullError) as error:
        store.put(bytes(store.capacity))
    nbytes = sum(one.bytes for one in kept if one.ref is not None and one.name is None)
    assert f" {nbytes} bytes are kept for children of process {pid}, until it" in str(error.value)
    said = "has ended, and a child of it that has no place in the store keeps"
    assert (said in str(error.value)) == ("ended" in text)


def end_parent(program: programs.Talking, store: refstore.Store, end: str) -> None:
    if end in ("kill", "grandchild"):
        program.kill()
    else:
        helpers.go_on(program)
    if end == "close":
        assert helpers.line(program) == "closed"
    else:
        program.wait()


def play(store: refstore.Store, path: str, way: str, end: str, size: int) -> None:
    with program_with_child(path, way, end, size) as (program, child):
        helpers.go_on(program)
        assert helpers.line(program) == "let go"
        store.recover()  # a row for which there was no more memory is a dead one's
        use_all_room(store)
        assert_kept(store, program.pid, "kept for children")
        end_parent(program, store, end)
        is_killed = end in ("kill", "grandchild")
        assert not store.recover()
        assert store.refcount("later") == (2 if is_killed else 1)
        writing = [one for one in store.holders() if one.ref is None]
        assert len(writing) == is_killed, "half made"
        assert_kept(store, program.pid, "(has ended; kept for children)")
        use_all_room(store)
        helpers.go_on(program)
        assert helpers.line(program) == "True"
        use_all_room(store)
        helpers.go_on(program)
        assert wait([child], helpers.BUSY_TIMEOUT)
        program.wait()
    assert_all_back(store)


def assert_all_back(store: refstore.Store) -> None:
    recovery = store.recover()
    assert recovery.processes <= 1
    store.delete("later")
    stats = store.stats()
    assert (stats.used, stats.condemned, stats.processes) == (0, 0, 1), stats
    helpers.assert_full_capacity_fits(store)


@pytest.mark.parametrize("end", ["exit", "kill", "close", "grandchild"])
@pytest.mark.parametrize("way", ["no row", "no descriptor"])
def test_a_child_without_a_place_keeps_what_it_inherited(
    store: refstore.Store, path: str, way: str, end: str
) -> None:
    play(store, path, way, end, SIZES[end == "kill"])


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_what_is_kept_for_an_ended_child_goes_with_its_parent(
    store: refstore.Store, path: str, end: str
) -> None:
    with program_with_child(path, "no descriptor", end, SIZES[1]) as (program, child):
        helpers.go_on(program)
        assert helpers.line(program) == "let go"
        signal.pidfd_send_signal(child, signal.SIGKILL)
        program_ends_last(program, store, end)
    assert_all_back(store)


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_fork_that_fails_keeps_as_well(store: refstore.Store, path: str, end: str) -> None:
    with program_with_child(path, "failed", end, SIZES[1]) as (program, _):
        helpers.go_on(program)
        assert helpers.line(program) == "let go"
        program_ends_last(program, store, end)
    assert_all_back(store)


def program_ends_last(program: programs.Talking, store: refstore.Store, end: str) -> None:
    use_all_room(store)
    assert_kept(store, program.pid, "kept for children")
    end_parent(program, store, end)
    assert store.recover().pids == (program.pid,)
    assert store.stats().condemned == 0


def may_mount() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


ON_A_SMALL_DISK = """
    import sys
    sys.path[:0] = sys.argv[3:]
    import refstore, test_fork_kept

    path, end = sys.argv[1:3]
    store = refstore.Store(path, capacity="2MiB", max_objects=1024, create=True)
    test_fork_kept.play(store, path, "full disk", end, 100)
"""


@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace of its own")
@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_child_for_whose_pins_there_is_no_memory(folder: Path, end: str) -> None:
    disk = folder / "disk"
    disk.mkdir()
    here, support = Path(__file__).parent, Path(helpers.__file__).parent
    mount = 'mount -t tmpfs -o size=16m tmpfs "$0" && exec "$@"'
    script = [sys.executable, "-c", textwrap.dedent(ON_A_SMALL_DISK), str(disk / "s"), end]
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, str(disk), *script, str(here), str(support)],
        capture_output=True,
        text=True,
        timeout=helpers.BUSY_TIMEOUT,
        check=False,
    )
    disk.rmdir()
    assert (result.stderr, result.returncode) == ("", 0), result.stderr


# -- by a thread of C code --------------------------------------------------------------------


THREAD = """
#include <pthread.h>
#include <string.h>
#include <unistd.h>
struct job { const char *view, *data; size_t nbytes; int go, there, pid; };
static void *run(void *arg) {
    struct job *job = arg;
    char c;
    job->pid = fork();
    if (job->pid == 0 && close(job->there) == 0)
        _exit(read(job->go, &c, 1) != 1 || memcmp(job->view, job->data, job->nbytes) != 0);
    return 0;
}
int fork_in_thread(struct job *job) {
    pthread_t thread;
    return pthread_create(&thread, 0, run, job) || pthread_join(thread, 0);
}
"""

FORKED_BY_C = """
    import ctypes, os, sys, threading, warnings, numpy, refstore

    path, library, way = sys.argv[1:]
    said = []
    warnings.showwarning = lambda message, category, *_: said.append((category, str(message)))

    class Job(ctypes.Structure):
        _fields_ = [("view", ctypes.c_void_p), ("data", ctypes.c_char_p),
                    ("nbytes", ctypes.c_size_t), ("go", ctypes.c_int),
                    ("there", ctypes.c_int), ("pid", ctypes.c_int)]

    # PyDLL keeps the GIL around a call, CDLL lets go of it
    forks = (ctypes.PyDLL if way == "with the GIL" else ctypes.CDLL)(library)
    store = refstore.Store(path, create=False)
    data = os.urandom(100_000)
    ref = store.put(data)
    held = [numpy.frombuffer(store.get(ref), "u1")]
    writer = store.create(100_000)
    aborted = numpy.frombuffer(writer, "u1")
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            other = store.put(data)
            with store.get(other) as buf:
                assert bytes(buf) == data
            store.delete(other)

    threads = [threading.Thread(target=churn) for _ in range(2)] if way == "busy" else []
    for thread in threads:
        thread.start()
    here, there = os.pipe()
    jobs = [Job(held[0].ctypes.data, data, len(data), here, there) for _ in range(5)]
    for job in jobs:
        assert forks.fork_in_thread(ctypes.byref(job)) == 0
        assert job.pid > 0
    stop.set()
    for thread in threads:
        thread.join()
    held.clear()
    store.delete(ref)
    del aborted
    writer.abort()
    for _ in range(20):
        for junk in [store.put(b"j" * 100_000) for _ in range(100)]:
            store.delete(junk)
    assert store.stats().condemned >= 2
    if way != "busy":  # else what another thread read at the fork is kept, too
        assert store.stats().condemned == 2
    os.write(there, b"x" * 5)
    for job in jobs:
        assert os.waitpid(job.pid, 0)[1] == 0
    assert store.stats().condemned >= 2, "nobody can tell that the children are gone"
    assert store.check() == []
    (warning,) = said
    assert warning[0] is refstore.RefstoreWarning and "thread state" in warning[1], warning
"""


@pytest.fixture(scope="module")
def library() -> Iterator[str]:
    """Of C code whose threads fork."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    with tempfile.TemporaryDirectory() as folder:
        source, built = f"{folder}/forks.c", f"{folder}/forks.so"
        Path(source).write_text(THREAD)
        command = ["cc", "-shared", "-fPIC", "-pthread", source, "-o", built]
        subprocess.run(command, check=True, timeout=helpers.BUSY_TIMEOUT)
        yield built


@pytest.mark.native("a fork behind Python's back runs no hook of Python's")
@pytest.mark.parametrize("way", ["with the GIL", "alone", "busy"])
def test_a_thread_of_c_code_forks_while_who_has_the_gil_waits_for_it(
    store: refstore.Store, path: str, library: str, way: str
) -> None:
    helpers.run_clean(FORKED_BY_C, path, library, way)
    assert store.recover().processes == 1
    assert store.stats().used == 0
    assert store.check() == []
