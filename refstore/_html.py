"""Stores and buffers as notebooks show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refstore._units import percent_text, size_text

if TYPE_CHECKING:
    from refstore._buffers import PinnedBuffer
    from refstore._store import Store

__all__ = ["of_buffer", "of_store"]


def of_store(store: Store) -> str:
    """Figures of a store."""
    if store.closed:
        return f"<code>{_escaped(repr(store))}</code>"
    stats = store.stats()
    share = percent_text(stats.used, stats.capacity)
    rows = {
        "path": store.path,
        "engine": store.backend,
        "used": f"{size_text(stats.used)} of {size_text(stats.capacity)} ({share})",
        "largest free": size_text(stats.largest_free),
        "objects": f"{stats.objects}, {stats.pinned} pinned, {stats.condemned} pending delete",
        "processes": str(stats.processes),
    }
    return _table("refstore.Store", rows)


def of_buffer(buf: PinnedBuffer) -> str:
    """Figures of a buffer; of an array its beginning, too."""
    if buf.closed:
        return f"<code>{_escaped(repr(buf))}</code>"
    rows = {"kind": buf.kind, "size": size_text(buf.nbytes), "ref": buf.ref.hex()}
    if buf.kind == "array":
        array = buf.array
        rows |= {"shape": str(array.shape), "dtype": str(array.dtype), "array": _short(array)}
    return _table("refstore.PinnedBuffer", rows)


def _escaped(text: str) -> str:
    import html  # whose tables nobody needs who has no notebook

    return html.escape(text)


def _short(array: object) -> str:
    import numpy as np

    with np.printoptions(threshold=20, edgeitems=2):
        return str(array)


def _table(title: str, rows: dict[str, str]) -> str:
    cells = "".join(
        f"<tr><th style='text-align: left'>{_escaped(field)}</th>"
        f"<td style='text-align: left'><pre style='margin: 0'>{_escaped(value)}</pre></td></tr>"
        for field, value in rows.items()
    )
    return f"<table><caption>{_escaped(title)}</caption>{cells}</table>"
