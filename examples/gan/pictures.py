"""What a run looked like: the digits it draws, its losses, and how full the store was."""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from examples.gan import data
from examples.gan.result import MIB, Result, StoreUse

ROWS = 10  # digits of each class
GAP = 1  # pixels between digits
BLUE, ORANGE, GREY = "#1f6fb4", "#d9700a", "#8a8a8a"


def draw(result: Result, folder: Path) -> list[Path]:
    """Write the pictures that this run gives into the folder; return their paths."""
    with mpl.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "font.size": 11,
            "legend.frameon": False,
            "savefig.dpi": 150,
        }
    ):
        figures = {"digits": _digits(result), "losses": _losses(result)}
        if result.store is not None:
            figures["occupancy"] = _occupancy(result.store)
        paths = []
        for name, figure in figures.items():
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1])
    return paths


def _digits(result: Result) -> Figure:
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    asked = torch.arange(data.CLASSES).repeat(ROWS)
    _grid(left, result.generator.draw(asked))
    left.set_title(f"Generated, after {result.epochs} epochs")
    left.set_xlabel("digit asked for")
    _grid(right, _real_digits())
    right.set_title("Real, from scikit-learn's digits")
    right.set_xlabel("label")
    return figure


def _real_digits() -> Tensor:
    """The first ROWS digits of each class, laid out as the generated ones are."""
    images, labels = data.load()
    columns = [images[labels == digit][:ROWS] for digit in range(data.CLASSES)]
    return torch.stack(columns, dim=1).flatten(end_dim=1)


def _grid(axes: Axes, images: Tensor) -> None:
    """Show ROWS rows of one image of each class, with paper between them."""
    cell = data.SIDE + GAP
    sheet = np.full((ROWS * cell, data.CLASSES * cell), -1.0)
    for place, image in enumerate(images.numpy()):
        row, column = divmod(place, data.CLASSES)
        top, left = row * cell, column * cell
        sheet[top : top + data.SIDE, left : left + data.SIDE] = image.reshape(data.SIDE, data.SIDE)
    axes.imshow(sheet, cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    middles = [column * cell + (data.SIDE - 1) / 2 for column in range(data.CLASSES)]
    axes.set_xticks(middles, [str(digit) for digit in range(data.CLASSES)])
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _losses(result: Result) -> Figure:
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    epochs = np.arange(1, result.epochs + 1)
    ways = (("generator", BLUE, math.log(2)), ("discriminator", ORANGE, 2 * math.log(2)))
    for column, (name, colour, undecided) in enumerate(ways):
        losses = result.losses[:, :, column]
        axes.fill_between(epochs, losses.min(0), losses.max(0), color=colour, alpha=0.25, lw=0)
        axes.plot(epochs, losses.mean(0), color=colour, label=name)
        axes.axhline(undecided, color=colour, ls=":", lw=1)
    axes.plot([], [], color=GREY, ls=":", label="where a discriminator only guesses")
    workers = len(result.losses)
    over = f": mean and range over {workers} workers" if workers > 1 else ""
    axes.set_title(f"Losses{over}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("binary cross-entropy")
    axes.set_xlim(0, result.epochs)
    axes.set_ylim(bottom=0)
    axes.legend(ncols=3)
    return figure


def _occupancy(use: StoreUse) -> Figure:
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    seconds, used, written = np.array(use.samples).T
    capacity = use.capacity / MIB
    axes.fill_between(seconds, used / MIB, step="post", color=BLUE, alpha=0.25, lw=0)
    peak = f"used, {use.peak / MIB:.1f} MiB at most"
    axes.step(seconds, used / MIB, where="post", color=BLUE, lw=1, label=peak)
    axes.axhline(capacity, color=ORANGE, label=f"capacity, {capacity:.0f} MiB")
    fits = int(np.searchsorted(written, use.capacity, side="right"))
    total = np.minimum(written[: fits + 1], use.capacity) / MIB
    never = "had nothing been reused"
    axes.step(seconds[: fits + 1], total, where="post", color=GREY, ls="--", label=never)
    axes.set_title(f"The store over {use.syncs} syncs")
    axes.set_xlabel("seconds")
    axes.set_ylabel("MiB")
    axes.set_xlim(0, seconds[-1])
    axes.set_ylim(0, capacity * 1.25)
    axes.legend(ncols=3, loc="upper right")
    return figure
