"""Sizes, ages and numbers as text for people."""

from __future__ import annotations

import time
from collections.abc import Sequence

__all__ = [
    "age_text",
    "count_text",
    "percent_text",
    "pids_text",
    "plural",
    "rate_text",
    "size_text",
    "time_text",
]

PIDS_TOLD = 10
AGES = (("d", 86400), ("h", 3600), ("min", 60))


def size_text(nbytes: object) -> str:
    size = float(str(nbytes))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def age_text(seconds: float) -> str:
    """Whole days, hours, minutes or seconds; clocks that were set back count as now."""
    for unit, length in AGES:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def time_text(seconds: float | None) -> str:
    """A time since the epoch as a local date, and how long ago that was.

    It comes from a file, and may be none that a calendar has.
    """
    try:
        day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""
    except (OverflowError, ValueError, OSError):
        day = ""
    return f"{day} ({age_text(time.time() - (seconds or 0))} ago)" if day else "not known"


def percent_text(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def count_text(number: int) -> str:
    return f"{number:,}"


def rate_text(per_second: float) -> str:
    if per_second >= 1e6:
        return f"{per_second / 1e6:.1f} M/s"
    if per_second >= 1e4:
        return f"{per_second / 1e3:.0f} k/s"
    return f"{per_second:.0f} /s"


def pids_text(pids: Sequence[int]) -> str:
    """Text as in "pid 12" and "pids 12, 34"; of very many, some."""
    told = ", ".join(map(str, pids[:PIDS_TOLD]))
    more = f" and {len(pids) - PIDS_TOLD} more" if len(pids) > PIDS_TOLD else ""
    return f"pid {told}" if len(pids) == 1 else f"pids {told}{more}"


def plural(number: int, noun: str) -> str:
    if number == 1:
        return f"{number} {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
