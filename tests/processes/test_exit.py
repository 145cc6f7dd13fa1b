"""The interpreter's end with views alive: exit code 0, nothing on stderr, nothing left pinned."""

from __future__ import annotations

import helpers
import pytest
from children import child_process

import refstore

PRELUDE = """
import atexit, os, sys, threading, weakref
import numpy as np
import refstore
store = refstore.Store(sys.argv[1], create=False)
ref = store.put(np.arange(100_000), name="n")
"""

ENDINGS = {
    "a store left open": "",
    "a buffer": "buf = store.get(ref)",
    "a view": "view = store.get(ref).array",
    "a memoryview": "view = memoryview(store.get(ref))",
    "views of many objects": """
views = [memoryview(store.get(store.put({"a": np.ones(1000)}))) for _ in range(100)]
views += [store.get(store.put({"a": np.ones(1000)})).value for _ in range(100)]
""",
    "a view of a closed store": "view = store.get(ref).array; store.close()",
    "a view of an unlinked store": "view = store.get(ref).array; store.unlink(); store.close()",
    "a view in a cycle": "loop = [store.get(ref).array]; loop.append(loop); del loop",
    "a view in a module": "sys.view = store.get(ref).array; sys.buf = store.get(ref)",
    "a view in a class": "Holder = type('Holder', (), {'view': store.get(ref).array})",
    "a writer": "writer = store.create(1_000_000, name='never'); array = writer.array",
    "a writer sealed with a view": """
writer = store.create(shape=(1000,), dtype="f8", name="sealed")
array = writer.array
writer.seal()
""",
    "a private view": "view = store.get(ref, writable=True).array; view[:] = 1",
    "a dlpack capsule": "capsule = store.get(ref).__dlpack__(max_version=(1, 0))",
    "a view used at exit": """
view = store.get(ref).array
atexit.register(lambda: print(int(view[-1])))
""",
    "a store used at exit": """
atexit.register(lambda: print(int(store.get(ref).array[-1])))
""",
    "a view used by a finalizer": """
class Last:
    def __init__(self):
        self.view = store.get(ref).array
    def __del__(self):
        assert self.view[-1] == 99_999
last = Last()
last.itself = last
""",
    "a daemon thread amid gets": """
ready = threading.Event()
def work():
    while True:
        with store.get(ref) as buf:
            buf.array[0]
        ready.set()
threading.Thread(target=work, daemon=True).start()
ready.wait()
""",
    "an exit from a thread": """
view = store.get(ref).array
thread = threading.Thread(target=lambda: setattr(threading, "kept", store.get(ref).array))
thread.start()
""",
    "a system exit": "view = store.get(ref).array; sys.exit(0)",
    "no cleanup at all": "view = store.get(ref).array; os._exit(0)",
    "an inherited view": """
buf = store.get(ref)
view = buf.array
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
""",
    "a module torn down early": "view = store.get(ref).array; del refstore; sys.modules.clear()",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_the_interpreter_ends_quietly(store: refstore.Store, path: str, ending: str) -> None:
    printed = helpers.run_clean(PRELUDE + ending, path)
    assert printed == ("99999" if "print" in ending else "")
    if "unlink" in ending:
        return
    with child_process(path):  # whose coming clears up after those that did not leave in order
        assert store.stats().processes == 2
        for ref in list(store):
            assert store.refcount(ref) == 1
        assert store.stats().pinned == 0
        assert "never" not in store
        assert store.check() == []
        for ref in list(store):
            store.delete(ref)
        assert store.stats().used == 0


@pytest.mark.parametrize("ending", ["a view", "a writer", "a view in a cycle", "a private view"])
def test_the_interpreter_ends_quietly_under_debug_allocators(
    store: refstore.Store, path: str, ending: str
) -> None:
    result = helpers.run_script(
        PRELUDE + ENDINGS[ending], path, env={"PYTHONMALLOC": "debug", "PYTHONFAULTHANDLER": "1"}
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_an_uncaught_error_is_all_that_is_said(store: refstore.Store, path: str) -> None:
    result = helpers.run_script(PRELUDE + "view = store.get(ref).array; 1 / 0", path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "refstore" not in result.stderr


def test_importing_does_nothing_to_be_seen(path: str) -> None:
    listed = helpers.run_clean("import refstore, os; print(len(os.listdir('/proc/self/fd')))")
    bare = helpers.run_clean("import numpy, os; print(len(os.listdir('/proc/self/fd')))")
    assert listed == bare
