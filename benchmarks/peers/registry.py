"""The peers there are, the interpreter that each needs, and those that can run here."""

import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Peer
from stress import ROOT

_PEERS = ROOT / "build" / "peers-venv" / "bin" / "python"
_PLASMA = ROOT / "build" / "plasma-venv" / "bin" / "python"
_TIMEOUT = 120.0


@dataclass(frozen=True)
class Entry:
    """The place of an adapter, and the interpreter that runs it."""

    module: str
    needs: str = ""  # a Python package, if it is not the standard library
    python: Path = Path(sys.executable)


# The order is that of the tables. `refstore` comes first: the ratios are to it.
PEERS: dict[str, Entry] = {
    "refstore": Entry("with_refstore", "refstore"),
    "shared_memory": Entry("with_shared_memory"),
    "LMDB": Entry("with_lmdb", "lmdb"),
    "iceoryx2": Entry("with_iceoryx2", "iceoryx2"),
    "torch": Entry("with_torch", "torch"),
    "Plasma": Entry("with_plasma", "pyarrow.plasma", _PLASMA),
    "vineyard": Entry("with_vineyard", "vineyard", _PEERS),
    "Ray": Entry("with_ray", "ray", _PEERS),
    "Redis": Entry("with_redis", "redis"),
    "Manager": Entry("with_manager"),
}

# Seconds to start each process of these: a quick look leaves them out.
SLOW = ("torch", "vineyard", "Ray")

# Adapters that are no stores, measured by the same loops.
FLOORS: dict[str, Entry] = {
    "dict": Entry("floors:Dict"),
    "copy, warm": Entry("floors:WarmCopy"),
    "copy, cold": Entry("floors:ColdCopy"),
    "refstore, cold": Entry("with_refstore:Cold", "refstore"),
    "empty adapter": Entry("floors:Empty"),
    "nothing": Entry("floors:Nothing"),
}


def entry(name: str) -> Entry:
    return {**PEERS, **FLOORS}[name]


def adapter(name: str) -> type[Peer]:
    """The adapter's class, in the process that is to run it."""
    module, _, kind = entry(name).module.partition(":")
    imported = importlib.import_module(f"benchmarks.peers.{module}")
    found: type[Peer] = getattr(imported, kind or "Store")
    return found


def about(kind: type[Peer]) -> dict[str, Any]:
    """A peer's description for the tables, and the works that it cannot do."""
    return {
        "version": kind.version(),
        "python": platform.python_version(),
        "copies": kind.copies,
        "settings": kind.settings,
        "limits": kind.limits,
        "bounded": kind.bounded,
        "cannot": kind.cannot,
    }


def ask(name: str) -> dict[str, Any] | str:
    """The description of that peer by its own interpreter, or a reason why it cannot run here."""
    wanted = entry(name)
    if not wanted.python.exists():
        return f"{wanted.python.relative_to(ROOT)} is not there: make bench-peers"
    program = (
        "import json; from benchmarks.peers.registry import about, adapter; "
        f"print(json.dumps(about(adapter({name!r}))))"
    )
    tried = subprocess.run(
        [str(wanted.python), "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    if tried.returncode == 0:
        found: dict[str, Any] = json.loads(tried.stdout.splitlines()[-1])
        return found
    return (tried.stderr.strip().splitlines() or ["it ended without a word"])[-1]


def present(names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Descriptions of those that can run here, and reasons why the others cannot."""
    with ThreadPoolExecutor() as pool:
        found = dict(zip(names, pool.map(ask, names), strict=True))
    here = {name: said for name, said in found.items() if not isinstance(said, str)}
    return here, {name: said for name, said in found.items() if isinstance(said, str)}
