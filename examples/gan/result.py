"""What a run leaves behind: losses, networks, and how it used the store."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from examples.gan.models import Generator
from examples.gan.quality import share_read_as_asked

MIB = 1 << 20


class Sample(NamedTuple):
    """The store at one moment."""

    seconds: float
    used: int  # bytes taken up in the store
    written: int  # bytes of all objects put so far, deleted ones too


@dataclass
class StoreUse:
    capacity: int
    syncs: int = 0
    written: int = 0  # bytes put, by workers and server
    read: int = 0  # bytes got, by workers and server
    samples: list[Sample] = field(default_factory=list)
    objects_left: int = 0
    problems: list[str] = field(default_factory=list)  # what the store's own check found

    @property
    def peak(self) -> int:
        return max(sample.used for sample in self.samples)

    @property
    def final(self) -> int:
        return self.samples[-1].used

    @property
    def clean(self) -> bool:
        return self.final == self.objects_left == 0 and not self.problems


@dataclass
class Result:
    startup: float  # seconds until all processes had PyTorch loaded and weights to begin with
    seconds: float  # of training, syncs included
    losses: npt.NDArray[np.float64]  # [worker, epoch, generator or discriminator]
    generator: Generator
    store: StoreUse | None  # None: one process alone has nobody to exchange weights with

    @property
    def epochs(self) -> int:
        return int(self.losses.shape[1])


def summary(result: Result) -> str:
    rows = list(_training(result))
    if result.store is not None:
        rows += _store(result.store)
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"  {label:<{width}}  {text}" for label, text in rows)


def _training(result: Result) -> Iterator[tuple[str, str]]:
    generator, discriminator = result.losses[:, -1].mean(axis=0)
    share = share_read_as_asked(result.generator)
    yield "epochs", str(result.epochs)
    yield "seconds", f"{result.seconds:.1f} (and {result.startup:.1f} to start)"
    yield "last losses", f"generator {generator:.2f}, discriminator {discriminator:.2f}"
    yield "digits read as asked", f"{share:.1%} (nearest real digit, 1000 generated)"


def _store(use: StoreUse) -> Iterator[tuple[str, str]]:
    yield "syncs", str(use.syncs)
    yield "bytes through the store", f"{use.written:,} written, {use.read:,} read"
    yield (
        "peak occupancy",
        f"{mib(use.peak)} of {mib(use.capacity)} ({use.peak / use.capacity:.0%})",
    )
    yield "final occupancy", mib(use.final)
    yield "objects left", str(use.objects_left or "none")
    yield "store check", "; ".join(use.problems) or "no problems"


def mib(count: int) -> str:
    return f"{count / MIB:.1f} MiB"
