"""What scenarios put into their stores, and operations do something with."""

from __future__ import annotations

CAPACITY = 1 << 20
SMALL, LARGE = bytes(range(100)), bytes(range(256)) * 400
OLD, NEW = b"old" * 50, b"new" * 50
OWNED = b"owned" * 30
PASSING = tuple(bytes([k]) * (64, 3000, 50_000, 300_000)[k % 4] for k in range(24))
CACHED = tuple(f"cached {k}" for k in (10, 20, 30, 40, 100))  # some of what may go in a cache
NAMED = {"small": SMALL, "large": LARGE, "old": OLD}  # in every scenario but the empty one

CACHED_3 = bytes([3]) * 60_000  # what goes first in a cache

SCENARIO: dict[bytes, bytes] = {}  # some objects of the scenario that is played, by ref
