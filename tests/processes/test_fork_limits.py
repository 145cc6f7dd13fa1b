"""fork where the child cannot have a row of its own, or behind Python's back.

A child without a row can read the views that it inherited, which are kept for it in its parent's
row (see test_fork_kept.py); everything else is refused, and nothing that it does counts for its
parent. Of a child of a raw system call nobody knows: its parent keeps nothing for it.
"""

from __future__ import annotations

import platform
import textwrap

import all_rows
import helpers
import pytest

import refstore

CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())

LOST_CHILD = all_rows.ROWS + textwrap.dedent("""
    import ctypes, os, pickle, resource, signal, sys, traceback, warnings
    import refstore

    path, engine, way, clone = sys.argv[1:]
    said = []
    warnings.showwarning = lambda message, category, *_: said.append((category, str(message)))
    libc = ctypes.CDLL(None, use_errno=True)
    store = refstore.Store(path, create=False)
    data = os.urandom(1000)
    ref = store.put(data, name="n")
    held = [store.get(ref), memoryview(store.get(ref)), store.get(ref, writable=True)]
    private = memoryview(held[2])
    store.delete(store.put(b"", name="written"))  # so that the name's table is there for good
    writer = store.create(100, name="written")
    memoryview(writer)[:] = b"w" * 100
    rows = Rows(path, engine) if way == "no row" else None

    def limit(descriptors):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors or hard, hard))

    def fork():
        if way == "raw":
            return libc.syscall(int(clone), signal.SIGCHLD, 0, 0, 0, 0)
        if way == "no row":
            rows.lock(True)
            return os.fork()
        if way == "no descriptor":
            limit(3)
            pid = os.fork()
            limit(None)
            return pid
        os.unlink(path)  # and the descriptor gone: no way to open the file once more
        os.closerange(3, 4096)
        return os.fork()

    CALLS = [
        lambda: store.put(b"x"), lambda: store.create(10), lambda: store.get(ref),
        lambda: store.get("n"), lambda: store.delete(ref), lambda: store.delete("n"),
        lambda: store.refcount(ref), lambda: store.ref("n"), lambda: ref in store,
        lambda: "n" in store, lambda: len(store), lambda: list(store), lambda: store.names(),
        lambda: store["n"], lambda: store.__setitem__("n", b"x"), lambda: store.stats(),
        lambda: store.check(), lambda: store.trim(), lambda: store.unlink(), lambda: store.path,
        lambda: store.capacity, lambda: pickle.dumps(store), lambda: store.__enter__(),
        lambda: bytes(held[0]), lambda: len(held[0]), lambda: held[0].array,
        lambda: held[0].value, lambda: held[0].kind, lambda: held[2].array,
        lambda: held[0].__enter__(), lambda: held[0].__array__(), lambda: held[0].__dlpack__(),
        lambda: writer.array, lambda: len(writer),
    ]
    CALLS += [lambda: memoryview(held[0]), lambda: memoryview(writer)]

    def in_the_child():
        for call in CALLS:
            try:
                call()
            except refstore.RefstoreError as error:
                assert type(error) is refstore.RefstoreError, error
                assert path in str(error) and "open the store anew" in str(error), error
            else:
                raise AssertionError("a child without a row did something")
        assert bytes(held[1]) == bytes(private) == data
        private[:] = bytes(1000)  # as ever
        assert (held[0].nbytes, held[0].closed, held[0].ref) == (1000, False, ref)
        assert "1000 bytes" in repr(held[0])
        held[0].release()
        held.clear()
        try:
            writer.seal()
        except ValueError as error:
            assert "parent" in str(error), error
        else:
            raise AssertionError("the parent's writer was sealed")
        writer.abort()
        store.close()
        if way == "no row":
            try:
                refstore.Store(path, create=False)
            except refstore.RefstoreError as error:
                assert "process table" in str(error), error
            rows.lock(False)
        if os.path.exists(path):
            with refstore.Store(path, create=False) as again:
                assert bytes(again.get(ref)) == data
                assert again.refcount(ref) == 4, "the parent's pins and the store's"

    before = store.stats()
    pid = fork()
    if pid == 0:
        try:
            in_the_child()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    after = store.stats()
    kept = 0 if way == "raw" else 1
    assert (after.used, after.objects, after.pinned, after.processes) == (
        before.used, before.objects, before.pinned + kept, before.processes), (before, after)
    assert store.refcount(ref) == 4
    assert [bytes(one) == data for one in held] == [True] * 3
    assert bytes(store.get(writer.seal())) == b"w" * 100
    store.delete("written")
    assert store.stats().condemned == kept
    store.delete(ref)
    private.release()
    assert store.stats().condemned == kept + 1
    held.clear()
    assert store.stats().condemned == 2 * kept
    assert store.check() == []
    assert (store.stats().used == 0) == (kept == 0)
    store.put(b"p")
    assert len(said) == kept
    for warning in said:
        assert warning[0] is refstore.RefstoreWarning
        assert path in warning[1] and "no place" in warning[1], warning
""")


@pytest.mark.parametrize("way", ["no row", "no descriptor", "raw"])
def test_a_child_without_a_row_is_refused_everything(
    store: refstore.Store, path: str, way: str, engine: str
) -> None:
    if way == "raw" and CLONE is None:
        pytest.skip("the number of clone() is not known here")
    helpers.run_clean(LOST_CHILD, path, engine, way, CLONE)


WARNED_PARENT = all_rows.ROWS + textwrap.dedent("""
    import logging, multiprocessing, os, sys, warnings, refstore

    path, engine, way = sys.argv[1:]
    said = []
    warnings.showwarning = lambda *warning: said.append(warning)
    os.register_at_fork(after_in_parent=logging.getLogger)  # Python code before the fork returns
    store = refstore.Store(path, create=False)
    store.put(b"x")
    rows = Rows(path, engine)
    rows.lock(True)
    line = sys._getframe().f_lineno + 2
    if way == "os":
        pid = os.fork()
    else:
        line += 4
        process = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
        process.start()
    if way == "os":
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    else:
        process.join()
    rows.lock(False)
    (warning,) = said
    assert "or has closed the store" in str(warning[0])
    assert warning[1:4] == (refstore.RefstoreWarning, "<string>", line), warning
""")


@pytest.mark.parametrize("way", ["os", "multiprocessing"])
def test_the_warning_points_at_the_line_that_forked(
    store: refstore.Store, path: str, way: str, engine: str
) -> None:
    helpers.run_clean(WARNED_PARENT, path, engine, way)


@pytest.mark.native("opens its file once more for a child; the other's child has its lock by then")
def test_a_child_that_cannot_open_the_file_is_refused_everything(
    store: refstore.Store, path: str
) -> None:
    helpers.run_clean(LOST_CHILD, path, "native", "no file", CLONE)


FOREIGN_FORK = """
    import ctypes, os, sys, traceback, refstore

    path, library = sys.argv[1:]
    libc = getattr(ctypes, library)(None)  # CDLL lets go of the GIL around a call, PyDLL does not
    store = refstore.Store(path, create=False)
    data = os.urandom(100_000)
    ref = store.put(data)
    held = [store.get(ref)]
    alone = store.stats().processes
    here, there = os.pipe()
    pid = libc.fork()
    if pid == 0:
        try:
            os.read(here, 1)
            assert bytes(held[0]) == data
            assert store.stats().processes == alone + 1
            store.put(b"from the child", name="n")
            held.clear()
            store.close()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    held.clear()
    store.delete(ref)
    for _ in range(10):
        for junk in [store.put(b"j" * 100_000) for _ in range(100)]:
            store.delete(junk)
    assert store.stats().condemned == 1
    os.write(there, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    assert store.stats().condemned == 0
    assert bytes(store["n"]) == b"from the child"
    assert store.check() == []
"""


@pytest.mark.parametrize("library", ["CDLL", "PyDLL"])
def test_a_fork_by_a_c_library_is_a_fork(store: refstore.Store, path: str, library: str) -> None:
    helpers.run_clean(FOREIGN_FORK, path, library)
