"""Deaths while a large block gets its memory, and a kernel that has no huge pages for it.

The scenarios that all other deaths are tried in are smaller than a huge page.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

import helpers
import pytest
import refusing_kernel

import refstore
from refstore import _core
from tests.native.crash.failpoints import Passes, failpoint
from tests.native.crash.stopping import killed_at

pytestmark = pytest.mark.skipif(not _core.DEBUG, reason="failpoints are in debug builds")

MakeStore = Callable[..., refstore.Store]
MIB = 1 << 20
MADE_HUGE = ("make_huge", "failpoint")
SITES = (MADE_HUGE, ("commit_chunks", "failpoint"), ("set_ready", "fetch_or"))


@pytest.mark.parametrize("site", SITES, ids=lambda site: site[0])
def test_a_death_while_memory_is_committed_loses_none(
    make_store: MakeStore, site: tuple[str, str]
) -> None:
    store = make_store("16MiB", max_objects=64)
    store["kept"] = helpers.pattern(1, 3 * MIB)
    killed_at(site, lambda: store.put(bytes(9 * MIB)))
    assert store.recover().unfinished == 1
    assert store.check() == []
    assert bytes(store["kept"]) == helpers.pattern(1, 3 * MIB)
    del store["kept"]
    helpers.assert_full_capacity_fits(store)


@pytest.mark.skipif(not refusing_kernel.can_refuse(), reason="needs filters of system calls")
def test_a_kernel_that_always_refuses_is_hardly_asked(make_store: MakeStore) -> None:
    store = make_store("16MiB", max_objects=64)
    passes = Passes()

    def put_often() -> None:
        refusing_kernel.refuse_huge_pages(errno.EINVAL)
        passes.count()
        for _ in range(100):
            store.create(8 * MIB).abort()
            store.trim()

    assert helpers.forked(put_often) == 0
    asked = dict(passes.passed())[failpoint(*MADE_HUGE).number]
    assert 1 <= asked <= 7


@pytest.mark.skipif(not refusing_kernel.can_refuse(), reason="needs filters of system calls")
def test_a_death_amid_a_refusal_loses_nothing(make_store: MakeStore) -> None:
    store = make_store("16MiB", max_objects=64)

    def put() -> None:
        refusing_kernel.refuse_huge_pages(errno.ENOMEM)
        store.put(bytes(9 * MIB))

    killed_at(MADE_HUGE, partial(put))
    store.recover()
    assert store.check() == []
    helpers.assert_full_capacity_fits(store)
