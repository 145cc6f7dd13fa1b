"""A fuzzer over store files: sound ones are damaged, and every call and command is played on them.

    python -m tests.fuzz --engine native --seconds 600      as many images as there is time for
    python -m tests.fuzz --engine filelock --images 100000  so many
    python -m tests.fuzz --engine native --replay 123+456   one again, with all that is known of it

An image is named by the seeds of its changes. Exit status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence

import helpers

from tests.fuzz import crew, stage
from tests.fuzz.crew import Options, Total, Watched, Worker
from tests.fuzz.notes import Finding
from tests.fuzz.stage import Image

EXPLAINED = 12  # places of signals, at most
LINES = 14  # of what is known of a finding


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _parse(arguments)
    if options.replay:
        return _replay(options)
    chosen = Options(
        options.engine, options.seed, options.seconds, options.images, options.hang, options.share
    )
    print(f"{options.engine} engine, seed {options.seed}, {options.jobs} processes", flush=True)
    total = crew.run(chosen, options.jobs)
    return _report(total, options.engine, notes=options.notes)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=("native", "filelock"), default="native")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    parser.add_argument("--seconds", type=float, default=600.0, help="at most")
    parser.add_argument("--images", type=int, default=0, help="as many as there is time for if 0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--hang", type=float, default=crew.HANG, help="seconds of one call")
    parser.add_argument("--share", type=int, default=crew.SHARE, help="images of one process")
    parser.add_argument("--notes", action="store_true", help="odd errors that are allowed, too")
    parser.add_argument("--replay", metavar="IMAGE", help="as a finding names it")
    parser.add_argument("--gdb", action="store_true", help="a replay ends with gdb's words")
    return parser.parse_args(arguments)


def _report(total: Total, engine: str, *, notes: bool) -> int:
    found = [finding for finding in total.findings if finding.kind != "note"]
    odd = [finding for finding in total.findings if finding.kind == "note"]
    for number, (finding, images) in enumerate(crew.groups(found)):
        _tell("FOUND", finding, images)
        if finding.kind == "signal" and number < EXPLAINED:
            _explain(engine, images[0])
    for finding, images in crew.groups(odd) if notes else ():
        _tell("note", finding, images)
    print(
        f"{total.played:,} images in {total.seconds:.0f} s, "
        f"{total.played / max(total.processor_seconds, 1e-9):.0f} a second of a core, "
        f"{total.features:,} features, {total.corpus:,} images kept: "
        f"{len(found)} findings in {len(crew.groups(found))} places, {len(odd)} notes"
    )
    return 1 if found else 0


def _tell(word: str, finding: Finding, images: list[str]) -> None:
    shortest = sorted(set(images), key=len)[:4]
    print(f"{word} {len(images)} x {finding.kind}: {finding.where}")
    print(f"    images {' '.join(shortest)}")
    lines = finding.detail.strip().splitlines()
    for line in lines[:LINES] if finding.kind in ("hang", "signal") else lines[-LINES:]:
        print(f"    | {line}")


def _explain(engine: str, image: str) -> None:
    """Where in the core a player died, by gdb."""
    if shutil.which("gdb") is None or stage.IS_SANITIZED:
        return
    command = [sys.executable, "-m", "tests.fuzz", "--engine", engine, "--replay", image, "--gdb"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if match := re.match(r"#\d+ .*?(?:in )?(__pyx\w+).*? at (\S+)$", line):
            print(f"    gdb {match[1].removeprefix('__pyx_f_8refstore_')} at {match[2]}")


def _replay(options: argparse.Namespace) -> int:
    chosen = Options(options.engine, options.seed, 1e9, 1, options.hang, 1, True, options.gdb)
    with helpers.folder_in_memory("refstore-fuzz-") as folder:
        worker = Worker(chosen, 0, 1, folder)
        Watched(worker, [Image.parse(options.replay)]).watch()
    found = [finding for finding in worker.findings if finding.kind != "note"]
    for finding in worker.findings:
        _tell("FOUND" if finding.kind != "note" else "note", finding, [finding.image])
    print("nothing found" if not found else f"{len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
