"""Runs the models: every right one must hold, every wrong one (a mutation) must be caught.

    run.py              all, a quarter of an hour on two idle cores
    run.py --quick      the small right ones and a few mutations; what is as it was when it last
                        ran is not run again
    run.py -k publish   those whose name has this in it

Needs SPIN (Debian: apt install spin) and gcc. Exit status: 0 all as expected, 1 not so, 2 without
those tools.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
# executables, by what they are made from, and what they printed
BUILT = HERE.parents[2] / "build" / "models"
MEGABYTES = 4500  # a job; with two of them, less than 10 GB
INCOMPLETE = "did not complete"
SECONDS = 900  # a job; the largest takes 300 to 530
GCC = ["-w", "-DSAFETY", f"-DMEMLIM={MEGABYTES}"]


class Job(NamedTuple):
    model: str
    defines: str
    mutation: str = ""  # what is broken; "" in a right model, which must hold
    quick: bool = False

    @property
    def name(self) -> str:
        return " ".join(filter(None, [self.model, self.defines, self.mutation]))


class Result(NamedTuple):
    job: Job
    states: float
    seconds: float
    outcome: str

    @property
    def as_expected(self) -> bool:
        return self.outcome == ("caught" if self.job.mutation else "holds")


def right(model: str, defines: str, quick: bool = False) -> Job:
    return Job(model, defines, quick=quick)


def wrong(model: str, defines: str, mutations: str) -> Iterator[Job]:
    """One job for each; a `*` marks those that are quick."""
    for name in mutations.split():
        yield Job(model, defines, "M_" + name.rstrip("*"), name.endswith("*"))


FORK = "N=3 FORK"
JOBS = [
    right("pin_reap", "N=2 K=1 CR=1", quick=True),
    right("pin_reap", "N=2 K=2 CR=1", quick=True),
    right("pin_reap", "N=2 K=2 CR=2"),
    right("pin_reap", "N=2 K=3 CR=1"),
    right("pin_reap", "N=2 K=2 CR=1 ONE_BIT"),
    right("pin_reap", "N=2 K=2 CR=1 HOLD"),
    right("pin_reap", f"{FORK} K=1 CR=0"),
    right("pin_reap", f"{FORK} K=2 CR=0"),
    right("pin_reap", f"{FORK} WRITER K=1 CR=0"),
    right("pin_reap", f"{FORK} K=0 CR=1"),
    right("pin_reap", f"{FORK} WRITER K=0 CR=1"),
    right("pin_reap", "N=2 K=1 CR=1 EVICT", quick=True),
    right("pin_reap", "N=2 K=2 CR=1 EVICT"),
    right("pin_reap", "N=3 THREADS EVICT K=2 CR=0"),
    right("pin_reap", f"{FORK} EVICT K=1 CR=0"),
    right("publish", "K=2 CR=1", quick=True),
    right("publish", "K=2 CR=1 NO_REMOVE", quick=True),
    right("publish", "K=2 CR=2"),
    right("publish", "K=2 CR=2 NO_REMOVE"),
    right("wait", "PUBS=2", quick=True),
    right("wait", "PUBS=2 T=3"),
    right("wait", "PUBS=2 ONE T=3"),
    right("wait", "PUBS=2 CR=1 PASSER", quick=True),
    right("wait", "PUBS=2 CR=2 PASSER"),
    right("wait", "PUBS=1 CR=2 T=2"),
    right("claims", "CR=0", quick=True),
    right("claims", "CR=1 NAP", quick=True),
    right("claims", "CR=2 NAP"),
    right("claims", "CR=2 PASSER"),
    right("claims", "CR=1 NAP K=2"),
    right("claims", "CR=1 NAP W0=MAKE W1=PUT+REMOVE+MAKE K=2"),
    right("claims", "CR=1 NAP W0=HARD W1=REPLACE+REMOVE+MAKE K=2"),
    right("claims", "CR=1 NAP W0=RENEW W1=PUT+MAKE K=2"),
    right("claims", "CR=1 NAP W0=MAKE W1=HARD+OTHER K=2"),
    right("claims", "CR=0 N=3 S=2 LAST=2 ALIKE"),
    right("claims", "CR=0 N=3 W1=PUT W2=HARD"),
    right("claims", "CR=2 N=3 W1=RECOVER PASSER GONE"),
    right("claims", f"{FORK} CR=0"),
    right("claims", f"{FORK} CR=1 PASSER IDLE"),
    right("owners", "N=2 K=1 CR=1", quick=True),
    right("owners", "N=2 K=2 CR=1"),
    right("owners", "N=2 K=2 CR=2"),
    right("owners", "N=3 K=1 CR=1"),
    right("owners", f"{FORK} K=1 CR=1"),
    right("turns", "N=2 K=2 CR=1 PASSER", quick=True),
    right("turns", "CR=0"),
    right("turns", "CR=1 PASSER"),
    right("turns", "N=2 K=2 CR=2 PASSER"),
    right("turns", "N=2 K=2 CR=1 PASSER BATCH", quick=True),
    right("turns", "CR=1 PASSER BATCH"),
    right("turns", "CR=0 BATCH NEVER"),
    right("lock", "N=2 K=2 CR=2", quick=True),
    right("lock", "N=3 K=1 CR=1"),
    *wrong(
        "pin_reap",
        "N=2 K=3 CR=1",
        "CHECK_FIRST* TSO UNDO_NO_REAP UNPIN_NO_REAP UNPIN_LOADS_FIRST SCAN_FIRST NO_CLAIM"
        " STATE_CAS NO_RECLAIMING NO_RESTORE* HINT_FIRST SWEEP_PINNED SWEEP_BEFORE_PINS"
        " RECOVER_UNLOCKED ENTER_NO_RECOVERY LIVE_LATE NO_SECOND_LOAD*"
        " MASK_EMPTIED_LATE",
    ),
    *wrong("pin_reap", "N=2 K=2 CR=2", "FREE_ROW_EARLY ENTER_UNMARKED"),
    *wrong(
        "pin_reap",
        f"{FORK} K=2 CR=0",
        "IGNORE_MOVES MOVES_FIRST FORK_NO_MARK FORK_NOT_LIVE NO_COPY*",
    ),
    *wrong("pin_reap", f"{FORK} WRITER K=0 CR=1", "FREE_WRITING"),
    *wrong(
        "pin_reap",
        "N=2 K=3 CR=0 EVICT",
        "NO_RESCUE* OFFER_LATE EVICT_STORE* RESCUE_UNMARKED DELETE_BLIND",
    ),
    *wrong("pin_reap", "N=2 K=2 CR=1 EVICT", "LEAVE_OFFERED"),
    *wrong("pin_reap", "N=3 THREADS EVICT K=1 CR=0", "GIL_LET_GO"),
    *wrong("pin_reap", f"{FORK} EVICT K=2 CR=0", "IGNORE_MOVES"),
    *wrong(
        "publish",
        "K=2 CR=1",
        "NO_RECORD* RECORD_LATE INDEX_LAST SEAL_FIRST NO_LOCK* SEAL_DEAD KEEP_REPLACED"
        " RELEASE_FIRST UNINDEX_FIRST CONDEMN_PUBLISHING",
    ),
    *wrong("publish", "K=2 CR=1 NO_REMOVE", "SEAL_GAP* CONDEMN_FIRST CONDEMN_DEAD"),
    *wrong("wait", "PUBS=2", "ANNOUNCE_FIRST READ_LATE* WAKE_ONE WRAP*"),
    *wrong("wait", "PUBS=2 T=3", "DEADLINE_STORE RELATIVE CLEAR_BLIND"),
    *wrong("wait", "PUBS=2 ONE", "LOOK_FIRST* REGISTER_LATE"),
    *wrong("wait", "PUBS=2 CR=1 PASSER", "RECOVER_SILENT"),
    *wrong("wait", "PUBS=1 CR=1 T=2", "NO_NAP"),
    *wrong(
        "claims",
        "CR=0",
        "NO_SECOND_LOOK* CLAIM_UNLOCKED CLAIM_FIRST* RAISE_SILENT* READ_LATE",
    ),
    *wrong("claims", "CR=1 NAP", "LOOKS_AT_NAME_ONLY LOOKS_AT_DEAD_ONLY* KEEP_CLAIM"),
    *wrong("claims", "CR=1 PASSER", "RECOVER_SILENT"),
    *wrong("claims", "CR=2 N=3 W1=RECOVER PASSER GONE", "ANNOUNCE_OWN"),
    *wrong("claims", "CR=0 W0=HARD W1=PUT", "OVER_HARD*"),
    *wrong("claims", "CR=0 W0=RENEW W1=PUT+MAKE K=2", "CLAIM_BEFORE_OBJECT"),
    *wrong("claims", "CR=0 W0=RENEW W1=PUT+MAKE K=3", "CELL_STAYS NO_THIRD_LOOK"),
    *wrong("claims", "CR=0 W0=MAKE W1=PUT+REMOVE+MAKE K=3", "OVER_TAKES_CELL"),
    *wrong("claims", "CR=0 W0=MAKE W1=MAKE+OTHER K=2", "CLAIM_NOT_LIVE"),
    *wrong("claims", f"{FORK} CR=0", "CHILD_LETS_GO CHILD_PUBLISHES*"),
    *wrong(
        "owners",
        "N=2 K=2 CR=1",
        "NO_TAKE* NO_GENERATION* NOTE_LATE OWNER_KEPT GOING_IGNORED ADOPT_STORE* RECOVER_UNLOCKED",
    ),
    *wrong("owners", "N=2 K=2 CR=2", "ROW_FIRST GOING_FORGOTTEN"),
    *wrong("owners", f"{FORK} K=1 CR=0", "CHILD_IS_PARENT"),
    *wrong("turns", "CR=0", "TURN_IGNORED* END_SILENT"),
    *wrong("turns", "CR=1 PASSER", "TURN_KEPT RECOVER_SILENT"),
    *wrong("turns", "CR=0 BATCH NEVER", "BACK_SILENT*"),
    *wrong(
        "lock",
        "N=3 K=1 CR=2",
        "STEAL* FORGET_LOCK NO_REPAIR* UNLOCK_FIRST FREE_ROW_FIRST RECOVER_UNLOCKED"
        " ENTER_NO_RECOVERY",
    ),
]


def outcome_of(output: str) -> str:
    """What pan says: `holds` only if it has seen every state."""
    errors = re.search(r"errors: (\d+)", output)
    if errors and int(errors[1]):
        return "caught"
    if not errors or "not completed" in output or "max search depth too small" in output:
        return INCOMPLETE
    return "holds"


class FailedError(Exception):
    """A step towards a job's verdict did not come to its end."""


def play(folder: str, *command: str) -> str:
    """What a command says; pan's exit status is no matter."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            timeout=SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FailedError(INCOMPLETE) from None
    if done.returncode and command[0] in ("spin", "gcc"):
        raise FailedError(f"{command[0]}: {done.stdout.strip()}")
    return done.stdout


@functools.cache
def compiler() -> str:
    return play(tempfile.gettempdir(), "gcc", "--version")


def arguments(job: Job) -> list[str]:
    """Of its executable."""
    # clearing a hash table of SPIN's own 2^24 slots takes longer than most small models do
    return ["-m200000", *(["-w20"] if job.quick else [])]


def keep(made: Path, kept: Path) -> None:
    """Copy a file, so that nobody else sees half of it; where nothing can be kept, do nothing."""
    with contextlib.suppress(OSError):
        BUILT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILT) as aside:
            os.replace(shutil.copy2(made, aside), kept)


def built(job: Job, folder: str) -> Path:
    """The executable of a job: compiling takes longer than most small models do."""
    defines = [f"-D{define}" for define in f"{job.defines} {job.mutation}".split()]
    play(folder, "spin", "-a", *defines, str(HERE / f"{job.model}.pml"))
    packed = [] if job.quick else ["-DCOLLAPSE"]  # takes less memory, and more time
    level = "-O0" if job.quick or job.mutation else "-O1"  # what is short is not worth more
    command = ["gcc", level, *packed, *GCC, "-o", "pan", "pan.c"]
    made_from = hashlib.sha256(repr((command, arguments(job), compiler())).encode())
    for part in sorted(Path(folder).iterdir()):
        made_from.update(part.read_bytes())
    label = re.sub(r"\W+", "-", job.name)
    kept = BUILT / f"{label}.{made_from.hexdigest()[:16]}"
    if kept.exists():
        return kept
    play(folder, *command)
    made = Path(folder) / "pan"
    keep(made, kept)
    return kept if kept.exists() else made


def output_of(job: Job, folder: str, keeps: bool) -> str:
    """What a job prints. `keeps`: what the same executable has printed before will do."""
    executable = built(job, folder)
    kept = BUILT / f"{executable.name}.out"
    is_kept = keeps and executable.parent == BUILT
    if is_kept and kept.exists():
        return kept.read_text()
    output = play(folder, str(executable), *arguments(job))
    if is_kept and outcome_of(output) != INCOMPLETE:
        made = Path(folder) / "out"
        made.write_text(output)
        keep(made, kept)
    return output


def run(job: Job, keeps: bool) -> Result:
    began = time.monotonic()
    output = ""
    try:
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            output = output_of(job, folder, keeps)
            outcome = outcome_of(output)
    except FailedError as error:
        outcome = str(error)
    states = re.search(r"([0-9.e+]+) states, stored", output)
    return Result(job, float(states[1]) if states else 0, time.monotonic() - began, outcome)


def chosen(quick: bool, part: str) -> list[Job]:
    return [job for job in JOBS if part in job.name and (job.quick or not quick)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Model checking: see the models in this folder.")
    parser.add_argument("--quick", action="store_true", help="the small ones, half a minute")
    parser.add_argument("--jobs", type=int, default=2, help="at a time (2), of up to 4.5 GB each")
    parser.add_argument("-k", dest="part", default="", help="only those with this in their name")
    options = parser.parse_args()
    for tool, package in (("spin", "spin"), ("gcc", "gcc")):
        if shutil.which(tool) is None:
            print(f"run.py: {tool} is missing (Debian: apt install {package})", file=sys.stderr)
            return 2
    jobs = chosen(options.quick, options.part)
    bad = 0
    print(f"{'model':9} {'configuration':46} {'broken':20} {'states':>11} {'seconds':>8}  result")
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(functools.partial(run, keeps=options.quick), jobs):
            job = result.job
            bad += not result.as_expected
            print(
                f"{job.model:9} {job.defines:46} {job.mutation:20} {result.states:11,.0f}"
                f" {result.seconds:8.1f}  {result.outcome}"
                + ("" if result.as_expected else "  <-- NOT AS EXPECTED"),
                flush=True,
            )
    wrong_ones = sum(bool(job.mutation) for job in jobs)
    print(f"{len(jobs) - wrong_ones} right, {wrong_ones} wrong; {bad} not as expected")
    return 1 if bad or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
