"""Draws docs/img from the file of a run: `python -m benchmarks.comparison.pictures FILE FOLDER`.

On white, as the page that shows them may be dark: each picture brings its own ground.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot looks for a screen

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.comparison.results import Report, in_order
from benchmarks.comparison.rounds import US
from stress.support import MIB, duration, rate, size

_MIB_ROW = 64  # rows in the map of the arena
# Told apart by those who see few colours too; refstore stands out by its width as well.
_COLOURS = {
    "refstore": "#d62728",
    "shared_memory": "#7f7f7f",
    "LMDB": "#1f77b4",
    "iceoryx2": "#2ca02c",
    "torch": "#ff7f0e",
    "Plasma": "#9467bd",
    "vineyard": "#8c564b",
    "Ray": "#e377c2",
    "Redis": "#bcbd22",
    "Manager": "#17becf",
}
_MARKERS = dict(zip(_COLOURS, "osD^vP*Xhp", strict=True))
_FLOORS = {"copy, warm": "--", "copy, cold": ":", "dict": "-."}
_NAMES = {
    "copy, warm": "limit: copy into warm shared memory",
    "copy, cold": "limit: copy into fresh pages",
    "dict": "floor: a dict in one process",
}


def latency(report: Report) -> Figure:
    """Put, get, and the first get in another process, against the size."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 6), sharey=True, layout="constrained")
    titles = {
        "put": "put",
        "get": "get in the same process (no byte read)",
        "first get": "first get in another process, one byte read",
    }
    for axis, (work, title) in zip(axes, titles.items(), strict=True):
        cells = [cell for cell in report.of(work) if cell.value]
        for peer in in_order(cell.peer for cell in cells):
            points = sorted((c.size, c.value.median) for c in cells if c.peer == peer and c.value)
            if peer in _COLOURS or peer in _FLOORS:
                axis.loglog(*zip(*points, strict=True), **_style(peer))
        axis.set_title(title)
        axis.set_xlabel("size of an object")
        sizes = sorted({cell.size for cell in cells})
        axis.set_xticks(sizes, [size(nbytes) for nbytes in sizes], rotation=45)
        axis.minorticks_off()
        _tidy(axis)
    axes[0].set_ylabel("time of one operation")
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    _legend(figure, axes)
    figure.suptitle("Latency by size: lower is better, both scales logarithmic", weight="bold")
    return figure


def scaling(report: Report) -> Figure:
    """Throughput against the number of processes."""
    works = in_order(cell.work for cell in report.cells if cell.procs)
    figure, axes = plt.subplots(1, len(works), figsize=(4 * len(works), 5.5), layout="constrained")
    for axis, work in zip(axes, works, strict=True):
        cells = [cell for cell in report.of(work) if cell.value]
        for peer in in_order(cell.peer for cell in cells):
            points = sorted((c.procs, c.value.median) for c in cells if c.peer == peer and c.value)
            axis.loglog(*zip(*points, strict=True), **_style(peer))
        axis.set_title(work)
        axis.set_xlabel("processes")
        procs = sorted({cell.procs for cell in cells})
        axis.set_xticks(procs, [str(count) for count in procs])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))
        axis.axvspan(report.machine["cores"], procs[-1] * 1.1, color="0.93", zorder=0)
        axis.set_xlim(procs[0] / 1.1, procs[-1] * 1.1)
        _tidy(axis)
    axes[0].set_ylabel("operations a second, all processes together")
    _legend(figure, axes)
    figure.suptitle(
        "Throughput with several processes: higher is better"
        f" (grey: more processes than the {report.machine['cores']} cores)",
        weight="bold",
    )
    return figure


def occupancy(report: Report) -> Figure:
    """Bytes used after each sync of 200 epochs."""
    found = report.plots["occupancy"]
    figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    every = found["sync every"]
    for (name, used), colour in zip(found["used"].items(), ("#d62728", "#1f77b4"), strict=True):
        epochs = [every * i for i in range(len(used) + 1)]
        heights = [0.0, *(nbytes / MIB for nbytes in used)]
        axis.plot(epochs, heights, color=colour, label=name, marker="o", markersize=4)
        if epochs[-1] < found["epochs"]:
            axis.annotate(
                f"full at epoch {epochs[-1] + every}",
                (epochs[-1], heights[-1]),
                xytext=(10, 0),
                textcoords="offset points",
                color=colour,
                va="center",
            )
    capacity = found["capacity"] / MIB
    axis.axhline(capacity, color="0.3", linestyle="--", label=f"capacity, {capacity:.0f} MiB")
    axis.set(xlim=(-3, found["epochs"] + 5), ylim=(0, capacity * 1.12))
    axis.set(xlabel="epoch", ylabel="MiB used after the sync")
    axis.set_title("A parameter server's store: 4 workers, 2 models of 5 MB, a sync every 5 epochs")
    axis.legend(loc="center right")
    _tidy(axis)
    return figure


def arena(report: Report) -> Figure:
    """A map of the bytes in use after mixed sizes have come and gone."""
    found = report.plots["arena"]
    capacity = found["capacity"]
    width = capacity // _MIB_ROW
    figure, axis = plt.subplots(figsize=(11, 7), layout="constrained")
    for spans, colour, label in _by_size(found["spans"]):
        boxes: dict[int, list[tuple[float, float]]] = {}
        for start, length in spans:
            for row, left, part in _rows(start, length, width):
                boxes.setdefault(row, []).append((left / 1024, part / 1024))
        for row, ranges in boxes.items():
            axis.broken_barh(ranges, (row, 0.86), facecolor=colour, label=label)
            label = ""
    axis.set(xlim=(0, width / 1024), ylim=(_MIB_ROW, 0))
    axis.set(xlabel="KiB within the row", ylabel="MiB from the start of the store")
    axis.set_title(
        f"The arena after {found['operations']:,} puts and deletes of 64 B to 1 MiB: "
        f"{found['live']:.0%} of {size(capacity)} live,\n"
        f"{size(found['free'])} free (white), {size(found['largest free'])} of it in one piece"
    )
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _by_size(spans: Iterable[tuple[int, int]]) -> list[tuple[list[tuple[int, int]], str, str]]:
    kinds: list[tuple[int, int, str, str]] = [
        (0, 4096, "#d62728", "objects up to 4 KiB"),
        (4096, 65536, "#ff9f40", "up to 64 KiB"),
        (65536, 1 << 62, "#1f77b4", "larger"),
    ]
    spans = list(spans)
    return [
        ([s for s in spans if low < s[1] <= high], colour, label)
        for low, high, colour, label in kinds
    ]


def _rows(start: int, length: int, width: int) -> Iterable[tuple[int, int, int]]:
    """A span, cut at the ends of the picture's rows: row, left edge, length."""
    while length > 0:
        row, left = divmod(start, width)
        part = min(length, width - left)
        yield row, left, part
        start, length = start + part, length - part


def _style(peer: str) -> dict[str, Any]:
    if peer in _FLOORS:
        return {"color": "black", "linestyle": _FLOORS[peer], "label": _NAMES[peer]}
    bold = {"linewidth": 3, "markersize": 8, "zorder": 5} if peer == US else {"linewidth": 1.3}
    return {"color": _COLOURS[peer], "marker": _MARKERS[peer], "label": peer, **bold}


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Draws one legend for all axes, as not every peer is in each of them."""
    lines: dict[str, Any] = {}
    for axis in axes:
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True):
            lines.setdefault(label, line)
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=7)


def _tidy(axis: Axes) -> None:
    axis.grid(True, which="major", color="0.88", zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


PICTURES: dict[str, Callable[[Report], Figure]] = {
    "latency": latency,
    "scaling": scaling,
    "occupancy": occupancy,
    "arena": arena,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("found", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    report = Report.load(options.found)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        path = options.folder / f"{name}.png"
        draw(report).savefig(path, dpi=110, facecolor="white")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
