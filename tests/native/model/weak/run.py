"""Runs the weak-memory programs: as shipped they must hold, with any weaker order they must not.

    run.py                  all, with each checker that there is
    run.py --quick          those of a second or less
    run.py -k eviction      those whose name has this in it

Checkers: GenMC (0.9 or later, `genmc` on the path or $GENMC; RC11 and IMM), and relacy (Debian: apt
install relacy-dev), which needs g++ and knows C++11's model, without fences; of a word's values it
shows a load the last two. Exit status: 0 all as expected, 1 not so, 2 without either.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SECONDS = 300  # a run
RELACY = Path("/usr/include/relacy/relacy.hpp")


class Case(NamedTuple):
    program: str
    defines: str
    holds: bool
    quick: bool = True

    @property
    def name(self) -> str:
        return f"{self.program} {self.defines}".strip()


def weaker(program: str, defines: str, changes: str) -> list[Case]:
    """One case for each change; all of them are to be refuted."""
    return [Case(program, f"{defines} {change}".strip(), holds=False) for change in changes.split()]


CASES = [
    Case("waiting", "", holds=True),
    Case("waiting", "ONE INDEX=seq_cst LOOK=seq_cst", holds=True),
    *weaker(
        "waiting",
        "",
        "CHANGE=acq_rel UNTIL_LOAD=acquire REGISTER=acq_rel SEEN=acquire READ_LATE ANNOUNCE_FIRST",
    ),
    *weaker("waiting", "ONE", "INDEX=acq_rel INDEX=seq_cst LOOK=seq_cst"),
    Case("eviction", "", holds=True),
    Case("eviction", "PINS=2", holds=True),
    Case("eviction", "ROUNDS=2", holds=True, quick=False),
    Case("eviction", "DELETER", holds=True, quick=False),
    *weaker(
        "eviction",
        "",
        "PIN_LOAD=acquire MARK=acq_rel SCAN=acquire OFFER_LATE EVICT_STORE NO_RESCUE",
    ),
    *weaker("eviction", "PINS=2", "PIN=acq_rel"),
    *weaker("eviction", "ROUNDS=2", "RESCUE_UNMARKED"),
]


def outcome_by_relacy(case: Case, folder: str) -> str:
    defines = [f"-D{define}" for define in case.defines.split()]
    command = ["g++", "-x", "c++", "-std=c++11", "-O1", "-w", "-DRELACY", *defines]
    source = str(HERE / f"{case.program}.c")
    subprocess.run([*command, "-o", f"{folder}/program", source], check=True, timeout=SECONDS)
    done = subprocess.run(
        [f"{folder}/program"], stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=False
    )
    return "holds" if "\nholds: " in "\n" + done.stdout else "refuted"


def outcome_by_genmc(case: Case, model: str) -> str:
    defines = [f"-D{define}" for define in case.defines.split()]
    command = [os.environ.get("GENMC", "genmc"), f"--{model}", "--", *defines]
    done = subprocess.run(
        [*command, str(HERE / f"{case.program}.c")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return "holds" if "No errors" in done.stdout else "refuted"


def outcome(case: Case, checker: str) -> str:
    try:
        if checker == "relacy":
            with tempfile.TemporaryDirectory(prefix="weak-") as folder:
                return outcome_by_relacy(case, folder)
        return outcome_by_genmc(case, checker)
    except subprocess.TimeoutExpired:
        return "did not complete"


def checkers() -> list[str]:
    found = []
    if RELACY.exists() and shutil.which("g++"):
        found.append("relacy")
    if shutil.which(os.environ.get("GENMC", "genmc")):
        found += ["rc11", "imm"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Weak memory: see the programs in this folder.")
    parser.add_argument("--quick", action="store_true", help="those of a second or less")
    parser.add_argument("-k", dest="part", default="", help="only those with this in their name")
    options = parser.parse_args()
    found = checkers()
    if not found:
        print("run.py: neither relacy (Debian: apt install relacy-dev) nor genmc", file=sys.stderr)
        return 2
    chosen = [c for c in CASES if options.part in c.name and (c.quick or not options.quick)]
    bad = 0
    print(f"{'program':9} {'configuration':36} {'checker':8} {'seconds':>8}  result")
    for case in chosen:
        for checker in found:
            began = time.monotonic()
            result = outcome(case, checker)
            good = result == ("holds" if case.holds else "refuted")
            bad += not good
            print(
                f"{case.program:9} {case.defines:36} {checker:8} {time.monotonic() - began:8.1f}"
                f"  {result}{'' if good else '  <-- NOT AS EXPECTED'}",
                flush=True,
            )
    print(f"{len(chosen) * len(found)} run, {bad} not as expected")
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
