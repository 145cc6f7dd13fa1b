"""Train a GAN on handwritten digits, by several processes or by one.

    python -m examples.gan.train --mode distributed --workers 4 --epochs 200
    python -m examples.gan.train --mode cluster --workers 4 --epochs 200
    python -m examples.gan.train --mode single

Distributed: this process is the parameter server, and starts the workers. Every --sync-every
epochs each worker puts its weights in the store; the server averages them there and publishes the
averages by name. Cluster: the workers are on the nodes of a Ray cluster. Single: this process
trains alone, and uses no store.

The two do the same arithmetic in an epoch, one pass over all digits; `single.py` says what they
do not have in common.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from examples.gan.endings import RunFailed, exit_code
from examples.gan.settings import Settings

if TYPE_CHECKING:
    from examples.gan.result import Result

OUT = Path(__file__).resolve().parent / "out"
MOST_WORKERS = 64  # a shard is then 28 digits, less than a batch


def main() -> int:
    mode, settings, out, address = parse(sys.argv[1:])
    return exit_code(partial(run, mode, settings, out, address))


def run(mode: str, settings: Settings, out: Path, address: str | None) -> int:
    # PyTorch takes seconds to import. Here, a Ctrl-C meanwhile ends the run as one later does,
    # and `--help` need not wait.
    from examples.gan import distributed, pictures, single
    from examples.gan.result import summary

    out.mkdir(parents=True, exist_ok=True)  # before the work that would else be lost
    if mode == "single":
        result = single.train(settings.epochs, settings.seed)
    elif mode == "cluster":
        result = _on_cluster(settings, address)
    else:
        result = distributed.train(settings)
    print(f"{mode} training is done")
    print(summary(result))
    for path in pictures.draw(result, out):
        print(f"  picture: {path}")
    return 0 if result.store is None or result.store.clean else 1


def _on_cluster(settings: Settings, address: str | None) -> "Result":
    try:
        from examples.gan import cluster
    except ImportError as error:
        raise RunFailed(f"mode cluster: {error}: pip install '.[ray]'") from None
    return cluster.train(settings, address)


def parse(arguments: list[str]) -> tuple[str, Settings, Path, str | None]:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m examples.gan.train",
        description="Train a GAN on handwritten digits; all weights go through refstore.",
    )
    parser.add_argument(
        "--mode", choices=("distributed", "cluster", "single"), default="distributed"
    )
    parser.add_argument("--epochs", type=count, default=default.epochs)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the pictures")
    several = parser.add_argument_group("modes distributed and cluster only")
    several.add_argument("--workers", type=workers, help=f"default {default.workers}")
    several.add_argument("--sync-every", type=count, help=f"epochs, default {default.sync_every}")
    several.add_argument("--store-capacity", help=f"default {default.capacity}")
    parser.add_argument(
        "--address", help="mode cluster: of a Ray cluster; by default, two nodes are made here"
    )
    given = parser.parse_args(arguments)
    alone = (given.workers, given.sync_every, given.store_capacity) == (None, None, None)
    if given.mode == "single" and not alone:
        parser.error("one process has no workers, no syncs and no store")
    if given.address is not None and given.mode != "cluster":
        parser.error("--address is of mode cluster")
    settings = Settings(
        epochs=given.epochs,
        workers=given.workers or default.workers,
        sync_every=given.sync_every or default.sync_every,
        capacity=given.store_capacity or default.capacity,
        seed=given.seed,
    )
    return given.mode, settings, given.out, given.address


def count(text: str) -> int:
    """An argparse type: a whole number of at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def workers(text: str) -> int:
    """An argparse type: a number of workers that the digits are enough for."""
    number = count(text)
    if number > MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"the digits are enough for {MOST_WORKERS} workers")
    return number


if __name__ == "__main__":
    sys.exit(main())
