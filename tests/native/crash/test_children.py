"""A process is killed in a change, and a child of it that has no place in the store lives on."""

from __future__ import annotations

import os
import resource
import signal
import warnings
from multiprocessing.connection import wait

import helpers
import pytest

import refstore
from refstore import _core
from tests.native.crash.stopping import LOCKED, NAME_LOCKED, Site, arm

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")


def fork_without_a_place(end: int) -> int:
    """The pid of a child that reads until the other end is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", refstore.RefstoreWarning)
        pid = os.fork()
    if pid == 0:
        os.read(end, 1)
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return pid


@pytest.mark.parametrize("site", [LOCKED, NAME_LOCKED], ids=["space", "name"])
def test_what_it_had_locked_waits_for_the_child_and_errors_say_so(
    store: refstore.Store, site: Site, short_busy_timeout: None
) -> None:
    store["n"] = b"old"
    (end, other_end), (told, tell) = os.pipe(), os.pipe()

    def die_amid_a_put() -> None:
        os.close(other_end)
        held = store.get("n")
        os.write(tell, b"%d" % fork_without_a_place(end))
        arm(site, signal.SIGKILL)
        store.put(bytes(100_000), name="n", replace=True)
        held.release()

    assert helpers.forked(die_amid_a_put) == -signal.SIGKILL
    child = os.pidfd_open(int(os.read(told, 20)))
    with pytest.raises(refstore.StoreBusyError) as error:
        store.put(bytes(100_000), name="n", replace=True)
    assert "it has ended" in str(error.value)
    assert "a child of it that has no place in the store keeps" in str(error.value)
    said = "(has ended; kept for children)"
    holders = {(one.pid, one.command.endswith(said)) for one in store.holders()}
    assert holders == {(error.value.pid, True)}
    assert bytes(store["n"]) == b"old"
    os.close(other_end)
    assert wait([child], helpers.BUSY_TIMEOUT)
    for one in (child, end, told, tell):
        os.close(one)
    store.put(bytes(100_000), name="n", replace=True)
    assert store.holders() == []
