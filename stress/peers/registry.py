"""Which peers there are, which interpreter each needs, and which can run here."""

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

from stress.peers.protocol import Peer

ROOT = Path(__file__).resolve().parent.parent.parent
_PEERS = ROOT / "build" / "peers-venv" / "bin" / "python"
_PLASMA = ROOT / "build" / "plasma-venv" / "bin" / "python"
_PATIENCE = 120.0


@dataclass(frozen=True)
class Entry:
    """Where an adapter is found, and what runs it."""

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

# What the machine takes, by the same loops.
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
    found: type[Peer] = getattr(importlib.import_module(f"stress.peers.{module}"), kind or "Store")
    return found


def about(kind: type[Peer]) -> dict[str, Any]:
    """What the tables say of a peer, and what it has no answer to."""
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
    """What that peer says of itself in its own interpreter, or why it cannot run here."""
    wanted = entry(name)
    if not wanted.python.exists():
        return f"{wanted.python.relative_to(ROOT)} is not there: make bench-peers"
    program = (
        "import json; from stress.peers.registry import about, adapter; "
        f"print(json.dumps(about(adapter({name!r}))))"
    )
    tried = subprocess.run(
        [str(wanted.python), "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )
    if tried.returncode == 0:
        found: dict[str, Any] = json.loads(tried.stdout.splitlines()[-1])
        return found
    return (tried.stderr.strip().splitlines() or ["it ended without a word"])[-1]


def present(names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What those say that can run here, and why the others cannot."""
    with ThreadPoolExecutor() as pool:
        found = dict(zip(names, pool.map(ask, names), strict=True))
    here = {name: said for name, said in found.items() if not isinstance(said, str)}
    return here, {name: said for name, said in found.items() if isinstance(said, str)}
