"""fork while a Writer is open, or a Store is being opened: what the child has of it harms nobody.

Whoever inherits an open Writer can write into its block for as long as it lives, whatever becomes
of the Writer where it was made. So its block is pinned for the child, and the child cannot end it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import helpers
import pytest
import workers
from children import child_process, clear_up_after_the_dead

import refstore
from tests.native import rows

MakeStore = Callable[..., refstore.Store]


def fill(store: refstore.Store, size: int) -> list[refstore.ObjectRef]:
    return helpers.put_until_full(store, itertools.repeat(b"A" * size))


def assert_intact(store: refstore.Store, refs: list[refstore.ObjectRef], size: int) -> None:
    for ref in refs:
        with store.get(ref) as buf:
            assert bytes(buf) == b"A" * size


def assert_all_comes_back(store: refstore.Store, path: str, refs: list[refstore.ObjectRef]) -> None:
    for ref in refs:
        store.delete(ref)
    clear_up_after_the_dead(path)
    stats = store.stats()
    assert (stats.used, stats.objects, stats.condemned) == (0, 0, 0)
    assert store.check() == []


ENDED_AFTER_A_FORK = """
    import os, sys, traceback, numpy, refstore

    path, way, end, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    store = refstore.Store(path, create=False)
    writer = store.create(size)
    kept = [numpy.ndarray((size,), "u1", buffer=writer)] if way == "kept" else []
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.read(0, 1)
            array = kept[0] if kept else writer.array
            array[:] = 99
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    kept.clear()
    if end == "abort":
        writer.abort()
    elif end == "seal and delete":
        store.delete(writer.seal())
    del writer
    print("ended", flush=True)
    assert os.waitpid(pid, 0)[1] == 0
    print("written", flush=True)
"""


@pytest.mark.parametrize("size", [100, 8192, 100_000])
@pytest.mark.parametrize("end", ["abort", "drop", "seal and delete"])
@pytest.mark.parametrize("way", ["no view", "kept"])
def test_a_childs_write_after_its_parents_seal_is_in_no_object(
    make_store: MakeStore, path: str, way: str, end: str, size: int
) -> None:
    # Without a view at the fork, and with one that no view of ours stands for: numpy keeps the
    # Writer itself.
    store = make_store(max(10 * size, 32 << 10))
    with helpers.script(ENDED_AFTER_A_FORK, path, way, end, size) as program:
        assert helpers.line(program) == "ended"
        refs = fill(store, size)
        helpers.go_on(program)
        assert helpers.line(program) == "written"
        assert_intact(store, refs, size)
    assert_all_comes_back(store, path, refs)


IN_THE_DEAD_MAKERS_ROW = f"""{rows.SOURCE}
    import gc, os, signal, struct, sys, traceback, refstore

    path, end, size = sys.argv[1], sys.argv[2], int(sys.argv[3])

    def rows_of(pid):
        with open(path, "rb") as file:
            file.seek(ROWS_AT)
            table = file.read(ROWS * ROW_NBYTES)
        return [at for at in range(0, len(table), ROW_NBYTES)
                if struct.unpack_from("=QI", table, at) == (1, pid)]

    def in_the_grandchild():
        global writer
        assert rows_of(os.getpid()) == makers, "it was to have the dead maker's row"
        if end == "abort":
            writer.abort()
        elif end == "seal":
            try:
                writer.seal()
            except ValueError as error:
                assert "parent" in str(error), error
            else:
                raise AssertionError("the dead maker's Writer was sealed")
        else:
            del writer
            gc.collect()

    def in_the_child():
        print("ready", flush=True)
        os.read(0, 1)
        pid = os.fork()
        if pid == 0:
            run(in_the_grandchild)
        assert os.waitpid(pid, 0)[1] == 0
        print("ended", flush=True)
        os.read(0, 1)
        writer.array[:] = 99
        print("written", flush=True)

    def run(work):
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    store = refstore.Store(path, create=False)
    makers = rows_of(os.getpid())
    assert len(makers) == 1, makers
    writer = store.create(size)
    if os.fork() == 0:
        run(in_the_child)
    signal.pause()
"""


@pytest.mark.native("reads its rows")
@pytest.mark.parametrize("size", [100, 8192, 100_000])
@pytest.mark.parametrize("end", ["abort", "seal", "collect"])
def test_a_grandchild_in_the_dead_makers_row_cannot_end_the_writer(
    make_store: MakeStore, path: str, end: str, size: int
) -> None:
    store = make_store(max(10 * size, 32 << 10))
    with helpers.script(IN_THE_DEAD_MAKERS_ROW, path, end, size) as program:
        assert helpers.line(program) == "ready"
        program.kill()  # the maker; its child lives on, and speaks through the same pipes
        program.wait()
        assert store.recover().processes == 1  # from here on its row is free
        refs = fill(store, size)
        helpers.go_on(program)
        assert helpers.line(program) == "ended"
        assert_intact(store, refs, size)
        refs += fill(store, size)
        helpers.go_on(program)
        assert helpers.line(program) == "written"
        assert_intact(store, refs, size)
    assert_all_comes_back(store, path, refs)


PINS_OF_A_GRANDCHILD = """
    import os, sys, traceback, refstore

    store = refstore.Store(sys.argv[1], create=False)
    writer = store.create(int(sys.argv[2]))
    view = memoryview(writer)
    # a byte means that all is let go; the end of `stay` means that they may go
    gone, stay = os.pipe(), os.pipe()

    def let_go():
        global writer, view
        view.release()
        writer.abort()
        del writer, view

    def fork(work):
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def in_the_grandchild():
        let_go()
        os.write(gone[1], b"x")
        os.read(stay[0], 1)

    def in_the_child():
        os.close(stay[1])  # the first one's alone
        pid = fork(in_the_grandchild)
        let_go()
        os.write(gone[1], b"x")
        assert os.waitpid(pid, 0)[1] == 0

    pid = fork(in_the_child)
    assert os.read(gone[0], 1) == b"x"
    assert os.read(gone[0], 1) == b"x"
    let_go()
    stats = store.stats()
    assert stats.processes == 4, stats  # all three and the test: nobody's end gave anything back
    assert (stats.used, stats.pinned, stats.condemned) == (0, 0, 0), stats
    assert store.holders() == [], store.holders()
    os.close(stay[1])
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("size", [100, 8192, 100_000])
def test_a_grandchild_gives_back_all_its_pins_of_an_inherited_writer(
    store: refstore.Store, path: str, size: int
) -> None:
    helpers.run_clean(PINS_OF_A_GRANDCHILD, path, size)
    assert_all_comes_back(store, path, [])


FORKED_WHILE_OPENING = """
    import multiprocessing.process, os, signal, sys, threading, refstore

    multiprocessing.process._parent_process = None  # it reads its command line like any other

    path, who, where = sys.argv[1:]
    opening = False
    children = 0
    ours, theirs = os.pipe()

    def fork():
        global children
        try:
            child = os.fork()
        except RuntimeError:  # by filelock, which allows none while it opens its file
            return
        if child == 0:
            os.write(theirs, b".")
            os.read(0, 1)  # until the test is through
            os._exit(0)
        os.read(ours, 1)  # it has what is its own, and nothing of ours any more
        children += 1

    def hook(event, args):
        # each file that is opened meanwhile is a moment when other threads may run, and fork
        global opening
        if not opening or event != "open" or where not in str(args[0]):
            return
        opening = False
        if who == "thread":
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()
        else:
            fork()
        opening = True

    sys.addaudithook(hook)
    opening = True
    store = refstore.Store(path, create=False)
    opening = False
    store.put(b"x" * 8192, name="n")
    held = store.get("n")
    print(children, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("who", ["hook", "thread"])
def test_a_fork_while_a_store_is_opened_does_not_keep_the_parents_row(
    store: refstore.Store, path: str, who: str, engine: str
) -> None:
    # A fork waits for what another thread has begun: here that waits for the fork, in vain and
    # for 10 seconds, so on this engine it is done once, when the row is taken.
    where = "cmdline" if (who, engine) == ("thread", "filelock") else ""
    with helpers.script(FORKED_WHILE_OPENING, path, who, where) as program:
        assert int(helpers.line(program)) > 0, "nothing was forked"
        program.kill()  # the parent alone: the children wait until this context ends
        program.wait()
        recovery = store.recover()
        assert (recovery.processes, recovery.pids) == (1, (program.pid,))
        assert store.holders() == []
        store.delete("n")
        stats = store.stats()
        assert (stats.used, stats.condemned) == (0, 0)
    assert_all_comes_back(store, path, [])


@pytest.mark.parametrize("size", [100, 100_000])
def test_check_finds_no_fault_in_a_writer_that_a_living_child_shares(
    store: refstore.Store, size: int
) -> None:
    with store.create(size) as writer:
        with child_process(store, "fork") as child:
            assert store.check() == []
            assert child.do(workers.problems) == []
        assert store.check() == []
        memoryview(writer)[:] = b"x" * size
    assert bytes(store.get(writer.ref)) == b"x" * size
