"""Builds the core with each known mistake in it, and shows which of the tests catches it.

    python tests/native/mutants/run.py                    all: 45 minutes on two cores
    python tests/native/mutants/run.py --only hint        those whose names have that in them

Each mutant is a copy of the sources in build/mutants, built with failpoints and run through the
crash tests until one fails or does not end: first the part that was written with it in mind, then
samples, the cheap ones first. Exit status 1 if more than one
in twenty survives, or if one does not build.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.native.mutants.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[3]
SOURCES = ("refstore", "tests", "stress", "setup.py", "pyproject.toml", "README.md")
LEAST_CAUGHT = 0.95
TIME_LIMIT = 400.0  # seconds for one test; what takes longer hangs
CORE = "refstore/engines/native"
NAMES = {  # what mistakes may use, by where it is
    "atomics": "cas_acq_rel fetch_sub_seq_cst_u32 load_acquire store_release store_seq_cst",
    "debug": "failpoint",
    "layout": "FREE HELD RETIRED SEALED WRITING",
    "slots": "is_readable make_word seal word_generation",
    "system": "close O_RDWR reopen",
}
PASSED, FAILED, HUNG = "passed", "failed", "hung"
PYTEST = ("-m", "pytest", "-q", "-x", "-c", "pyproject.toml", "-p", "no:cacheprovider")
PROCESSES = "tests/processes/test_"
MATRIX, INTERLEAVE = "tests.native.crash.matrix", "tests.native.crash.interleave"
TESTS = (
    ("one death", ("-m", MATRIX, "--depth=1", "--every=0.1", "--jobs=1")),
    ("interleaved", ("-m", INTERLEAVE, "--to-the-end", "--every=0.25", "--jobs=1")),
    (
        "killed, forked",
        (
            *PYTEST,
            *(f"{PROCESSES}{name}.py" for name in ("kill", "dead_pinners", "fork", "fork_kept")),
        ),
    ),
    ("two deaths", ("-m", MATRIX, "--depth=2", "--every=0.005", "--jobs=1")),
    ("environment", (*PYTEST, f"{PROCESSES}environment.py", f"{PROCESSES}creation.py")),
    ("interleaved, all", ("-m", INTERLEAVE, "--to-the-end", "--jobs=1")),
    ("soak", ("-m", "stress.crash", "--seconds=30", "--procs=8")),
)


class Verdict(NamedTuple):
    """What became of one mutant."""

    mutation: Mutation
    caught_by: str  # "" if it survived
    seconds: float


def make(mutation: Mutation, folder: Path) -> None:
    """The sources with the mistake in them, built in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__")
            )
        else:
            shutil.copy(source, target)
    file = folder / CORE / mutation.file
    text = file.read_text()
    if text.count(mutation.old) != 1:
        raise LookupError(
            f"{mutation.name}: its text is {text.count(mutation.old)} times in {mutation.file}"
        )
    file.write_text(_with_names(text, mutation))
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, "REFSTORE_BUILD": "debug"},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise RuntimeError(
            f"{mutation.name} does not build:\n{built.stdout[-2000:]}{built.stderr[-2000:]}"
        )


def _with_names(text: str, mutation: Mutation) -> str:
    """With what the mistake uses and the file does not import."""
    code = re.sub("#.*", "", text)
    named = {
        name: module
        for module, names in NAMES.items()
        for name in names.split()
        if re.search(rf"\b{name}\b", mutation.new) and not re.search(rf"\b{name}\b", code)
    }
    imports = [f"from refstore.engines.native.{named[name]} cimport {name}\n" for name in named]
    text = text.replace(mutation.old, mutation.new)
    return text.replace("\ncdef ", f"\n{''.join(imports)}\ncdef ", 1)


def try_out(mutation: Mutation, folder: Path, seed: int) -> Verdict:
    """The tests, one after the other, until one fails."""
    began = time.monotonic()
    make(mutation, folder)
    caught_by = ""
    own = (("its own part", _part(mutation.shown_by)),) if mutation.shown_by else ()
    for name, arguments in (*own, *TESTS):
        seeded = () if "pytest" in arguments else (f"--seed={seed}",)
        result = _result([sys.executable, *arguments, *seeded], folder)
        if result != PASSED:
            caught_by = name if result == FAILED else f"{name}: no end"
            break
    shutil.rmtree(folder)
    return Verdict(mutation, caught_by, time.monotonic() - began)


def _part(shown_by: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments for Python: of tests for pytest, or of a program."""
    if shown_by[0].startswith("tests/"):
        return (*PYTEST, *shown_by)
    return ("-m", *shown_by, "--jobs=1")


def _result(command: Sequence[str], folder: Path) -> str:
    """How it ended; if it hangs, its children go with it."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return FAILED if process.wait(TIME_LIMIT) else PASSED
        except subprocess.TimeoutExpired:
            return HUNG
        finally:
            _kill_session(process.pid)


def _kill_session(leader: int) -> None:
    """Kill all of a session: the processes that are killed in tests have groups of their own."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(folder.name)) == leader:
                os.kill(int(folder.name), signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a part of the names to try")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.only in mutation.name]
    caught = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = [
            pool.submit(try_out, mutation, ROOT / "build" / "mutants" / mutation.name, options.seed)
            for mutation in chosen
        ]
        for run in concurrent.futures.as_completed(runs):
            try:
                mutation, caught_by, seconds = run.result()
            except (LookupError, RuntimeError) as error:
                print(f"NOT TRIED: {error}", flush=True)
                continue
            caught += bool(caught_by)
            verdict = f"caught: {caught_by}" if caught_by else "SURVIVED"
            print(f"{mutation.name:26} {verdict:24} {seconds:4.0f} s  {mutation.hole}", flush=True)
    print(f"{caught} of {len(chosen)} caught, seed {options.seed}")
    return 0 if chosen and caught >= LEAST_CAUGHT * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
