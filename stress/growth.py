"""Memory that a process takes for itself while it uses objects of a store."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from refstore import Store

_STATUS = Path("/proc/self/status")
_PAGE = 4096


class Growth:
    """The most that a block of code took, in bytes; -1 before it is left."""

    nbytes = -1


@contextmanager
def memory_growth(store: Store) -> Iterator[Growth]:
    """Measures it. The store's pages are touched before, so that all that come are private ones."""
    for ref in store:
        with store.get(ref) as buf, memoryview(buf) as view:
            np.frombuffer(view, np.uint8)[::_PAGE].sum()
    growth = Growth()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is now
    yield growth
    growth.nbytes = _resident("VmHWM") - before


def _resident(which: str) -> int:
    found = re.search(rf"^{which}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
