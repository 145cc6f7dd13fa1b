"""A fork for which the store has no place: what the child inherited is kept for it.

It is kept in its parent's row, which is there until parent and child are both gone, however each
of them ends and whoever ends first. The test is the third process, which would use the blocks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import helpers
import pytest

import refstore

SIZES = (100, 100_000)

PROGRAM = """
    import ctypes, errno, fcntl, glob, os, resource, signal, struct, sys, warnings, refstore

    path, engine, way, end, size = sys.argv[1:5] + [int(sys.argv[5])]
    warnings.simplefilter("ignore", refstore.RefstoreWarning)
    lives, life = os.pipe()  # the other end is the parent's alone

    def say(*words):
        print(*words, flush=True)

    def wait():
        assert os.read(0, 1) == b"x"

    if engine == "native":
        locks = open(path, "r+b")
    else:
        (folder,) = glob.glob(path + ".*.locks")
        locks = [open(f"{folder}/{row}.lock", "a+b") for row in range(256)]

    def lock_rows(wanted):
        for row in range(1024 if engine == "native" else 256):
            try:
                if engine == "native":
                    kind = fcntl.F_WRLCK if wanted else fcntl.F_UNLCK
                    fcntl.fcntl(locks, 37, struct.pack("hhqqi4x", kind, os.SEEK_SET, row, 1, 0))
                else:
                    kind = fcntl.LOCK_EX | fcntl.LOCK_NB if wanted else fcntl.LOCK_UN
                    fcntl.flock(locks[row], kind)
            except BlockingIOError:
                pass  # somebody's own

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
        except BlockingIOError as error:
            assert error.errno == errno.EAGAIN
        finally:
            os.setresuid(uid, uid, uid)
            resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))

    def fork_from_c():
        # with the GIL, as the one that waits for the thread has it, too
        go = ctypes.PyDLL(None)
        thread = ctypes.c_ulong()
        assert go.pthread_create(ctypes.byref(thread), None, go.fork, None) == 0
        assert go.pthread_join(thread, None) == 0

    def fork():
        if way == "no row":
            lock_rows(True)
            pid = os.fork()
            lock_rows(False)
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
            lock_rows(True)
            fail_to_fork()
            lock_rows(False)
            return -1
        return pid

    store = refstore.Store(path, create=False)
    data = bytes(range(100)) * (size // 100)
    ref = store.put(data)
    if engine == "native" and way == "full disk":
        for other in [store.put(b"") for _ in range(2048)]:  # on pages of pins of their own
            with store.get(other):
                pass
        store.delete(ref)
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
        wait()
"""


@contextlib.contextmanager
def program_with_child(
    path: str, way: str, end: str, size: int, *before: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The program after its fork, and a descriptor of its child's end (or -1)."""
    engine = os.environ["REFSTORE_BACKEND"]
    with helpers.script(PROGRAM, path, engine, way, end, size) as program:
        pid = int(helpers.line(program))
        ends = os.pidfd_open(pid) if pid else -1
        try:
            yield program, ends
        finally:
            program.kill()
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
                os.close(ends)


def go_on(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    program.stdin.write("x")
    program.stdin.flush()


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
    said = "has ended, and a child of it that has no place in the store keeps"
    assert (said in str(error.value)) == ("ended" in text)


def end_parent(program: subprocess.Popen[str], store: refstore.Store, end: str) -> None:
    if end in ("kill", "grandchild"):
        program.kill()
    else:
        go_on(program)
    if end != "close":
        program.wait()
    else:
        helpers.until(lambda: store.refcount("later") == 1)


def play(store: refstore.Store, path: str, way: str, end: str, size: int) -> None:
    with program_with_child(path, way, end, size) as (program, child):
        go_on(program)
        assert helpers.line(program) == "let go"
        use_all_room(store)
        assert_kept(store, program.pid, "kept for children")
        end_parent(program, store, end)
        is_killed = end in ("kill", "grandchild")
        assert not store.recover()
        assert store.refcount("later") == (2 if is_killed else 1)
        writing = [one for one in store.holders() if one.ref is None]
        assert len(writing) == is_killed, "half made"
        if end == "close":
            assert_kept(store, program.pid, "(has ended; kept for children)")
        use_all_room(store)
        go_on(program)
        assert helpers.line(program) == "True"
        use_all_room(store)
        if end == "close":
            go_on(program)  # whoever of the two gets it
        go_on(program)
        assert wait([child], helpers.PATIENCE)
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
