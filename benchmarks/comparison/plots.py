"""The data of the pictures alone: occupancy over the epochs, and the arena after much churn."""

import argparse
import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.churn import Churn, log_uniform
from benchmarks.comparison.rounds import Comparison, progress
from refstore import Store, StoreFullError
from stress import epochs
from stress.support import MIB

_EPOCHS = 200
_CAPACITY = 64 * MIB
_LIVE = 0.65
_CHURN = 200_000


def run(comparison: Comparison) -> None:
    with progress("plots", 3) as bar:
        occupancy = {}
        for name, kind in (("refstore", epochs.Refstore), ("the store before it", epochs.Baseline)):
            occupancy[name] = _occupancy(kind(_CAPACITY))
            bar.update()
        comparison.report.plots["occupancy"] = {
            "capacity": _CAPACITY,
            "epochs": _EPOCHS,
            "sync every": _options().sync_every,
            "used": occupancy,
        }
        comparison.report.plots["arena"] = _arena()
        bar.update()


def _options() -> argparse.Namespace:
    return argparse.Namespace(epochs=_EPOCHS, workers=4, sync_every=5)


def _occupancy(exchange: epochs.Exchange) -> list[int]:
    """Bytes used after each sync, as far as it came."""
    used: list[int] = []
    with contextlib.suppress(epochs.Full), contextlib.redirect_stdout(io.StringIO()):
        epochs.run(exchange, _options(), used)
    exchange.finish()
    return used


def _arena() -> dict[str, Any]:
    """The places of the live objects after mixed sizes have come and gone."""
    with Store.temporary(_CAPACITY) as store:
        churn = Churn(store, log_uniform(64, MIB, seed=1), seed=1)
        full = False
        try:
            churn.run(int(_CAPACITY * _LIVE), _CHURN)
        except StoreFullError:
            full = True
        stats = store.stats()
        found = {
            "capacity": _CAPACITY,
            "live": _LIVE,
            "operations": churn.operations,
            "full": full,
            "largest free": stats.largest_free,
            "free": stats.free,
            "spans": _spans(store),
        }
        churn.clear()
        return found


def _spans(store: Store) -> Sequence[tuple[int, int]]:
    """Offset and length of each object; the payloads are the last part of the file."""
    found = []
    base = _mapped(store)
    for ref in store:
        with store.get(ref) as buffer:
            data = np.frombuffer(memoryview(buffer), np.uint8)
            found.append((data.ctypes.data - base, len(data)))
            del data
    return sorted(found)


def _mapped(store: Store) -> int:
    """The address at which the payloads of that store begin in this process."""
    inode = os.stat(store.path).st_ino
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        if int(fields[4]) == inode:
            start, _, _end = fields[0].partition("-")
            payloads = os.stat(store.path).st_size - _CAPACITY
            return int(start, 16) - int(fields[2], 16) + payloads
    raise AssertionError("the store is not mapped")
