"""The pytest fixture `refstore_store`: a store of the test's own, which fails the test if it leaks.

def test_a_loader_lets_go(refstore_store):
    Loader(refstore_store).run()     # fails if a buffer or a Writer of it is left

pytest finds it wherever refstore is installed.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator

from refstore._extras import how_to_install
from refstore._reports import Holder
from refstore._store import Store
from refstore._units import plural, size_text

try:
    import pytest
except ImportError as error:
    raise ImportError(f"{__name__} needs more packages: {how_to_install('test')}") from error

__all__ = ["refstore_store"]

NAMED = 8  # that a message lists
_HAS_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("refstore_capacity", "bytes of each store of refstore_store", default="64MiB")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes for the fixture that a test has failed."""
    report = yield
    if report.failed:
        item.stash[_HAS_FAILED] = True
    return report


@pytest.fixture
def refstore_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A temporary store, empty at first, and checked at the end of the test.

    It fails the test if a process, this one or another, still pins an object then or has a Writer
    open, and says who and at which line; or if `check()` finds a problem. After a test that has
    failed, only the latter: its traceback keeps what the test had. A test may close the store,
    and then nothing is checked.

    The capacity is that of the option `refstore_capacity` in pytest's configuration, "64MiB" if it
    says nothing.
    """
    capacity: str = request.config.getini("refstore_capacity")
    with Store.temporary(capacity, track=True) as store:
        yield store
        if store.closed:
            return
        if problems := store.check():
            pytest.fail("refstore_store is damaged: " + "; ".join(problems), pytrace=False)
        if not request.node.stash.get(_HAS_FAILED, False) and (left := _left_behind(store)):
            pytest.fail(_message(left), pytrace=False)


def _left_behind(store: Store) -> list[Holder]:
    """Look who holds what, once garbage that holds something is collected."""
    if store.holders():
        gc.collect()
    return store.holders()


def _message(left: list[Holder]) -> str:
    from refstore.cli.holders import Held, sites_of  # which a test that does not leak never needs
    from refstore.cli.objects import title

    lines = [f"refstore_store: {plural(len(left), 'object')} still held at the end of the test"]
    for one in left[:NAMED]:
        what = "a Writer that is open" if one.ref is None else plural(one.pins, "pin")
        name = title(one.name, one.ref)
        lines.append(f"  {name}, {size_text(one.bytes)}: {what}, process {one.pid} ({one.command})")
        lines += [f"    {site}" for site in sites_of([Held(one, "", None)])]
    if len(left) > NAMED:
        lines.append(f"  and {len(left) - NAMED} more")
    return "\n".join([*lines, "release buffers, drop views of them, seal or abort Writers"])
