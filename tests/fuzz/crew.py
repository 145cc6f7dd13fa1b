"""Warm processes that fork players, watch over them, and gather what they find.

A worker is a process in which all is imported and every sound file is in memory. A player is its
child: it plays images until it dies or has played its share, and the next one goes on.
"""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import gc
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import helpers

from tests.fuzz import calls, files, stage
from tests.fuzz.notes import Clock, Finding, Notes
from tests.fuzz.stage import Image

SHARE = 300  # images that a player plays, at most
HANG = 10.0  # seconds of one call
OF_IMAGE = 3  # times that, for a whole image: calls may wait for each other's locks
ADDRESS_SPACE = 3 << 30  # bytes more than a player has at first
MUTATED = 0.4  # of all images, once there are some that made something new happen
CORPUS = 3000
CHAIN = 8  # seeds of an image, at most


class Options(NamedTuple):
    """What to do."""

    engine: str
    seed: int
    seconds: float
    images: int  # 0: as many as there is time for
    hang: float
    share: int = SHARE
    is_told: bool = False  # what is done to each image
    by_gdb: bool = False  # says where a player dies


class Worker:
    """One of them."""

    def __init__(self, options: Options, number: int, workers: int, folder: str) -> None:
        self.options = options
        self.chance = random.Random(options.seed * 1000 + number)
        self.folder = os.path.join(folder, f"worker-{number}")
        os.mkdir(self.folder, 0o700)
        os.environ["REFSTORE_DIR"] = self.folder
        self.log = os.path.join(folder, f"log-{number}")
        self.files = files.make_all(options.engine, self.folder)
        self.clock = Clock()
        self.workers = workers
        self.left = 0
        self.until = time.monotonic() + options.seconds
        self.played = 0
        self.features: set[str] = set()
        self.passed: set[tuple[int, int]] = set()  # failpoints, and how often in one image
        self.corpus: list[Image] = []
        self.findings: list[Finding] = []
        self.told: collections.Counter[tuple[str, str]] = collections.Counter()
        calls.leave_streams_whole(files.streams(self.files))
        self.passes = _passes()
        stage.settle(0)
        gc.collect()
        gc.freeze()

    def work(self) -> None:
        """Until the time is over or all images are played; at first each file as it is."""
        whole = [number for number, file in enumerate(self.files) if not file.is_temporary]
        self.share([Image((-number - 1,)) for number in whole])
        self.played, self.left = 0, -(-self.options.images // self.workers)
        while (not self.options.images or self.left > 0) and time.monotonic() < self.until:
            images = [self.next() for _ in range(self.options.share)]
            if self.options.images:
                images = images[: self.left]
            self.share(images)

    def next(self) -> Image:
        seed = self.chance.getrandbits(48)
        if self.corpus and self.chance.random() < MUTATED:
            parent = self.chance.choice(self.corpus)
            return Image((*parent.seeds[: CHAIN - 1], seed))
        return Image((seed,))

    def share(self, images: list[Image]) -> int:
        """Played by one child; how many it came to."""
        player = Watched(self, images)
        done = player.watch()
        self.played += done
        self.left -= done
        return done

    def receive(self, line: bytes) -> None:
        """What a player noted."""
        note: dict[str, Any] = json.loads(line)
        if note["kind"] == "finding":
            finding = Finding(*note["finding"])
            self.findings.append(finding)
            self.told[finding.kind, finding.where] += 1
        elif note["kind"] == "feature":
            self.features.add(note["feature"])
        elif note["kind"] == "new" and len(self.corpus) < CORPUS:
            self.corpus.append(Image.parse(note["image"]))

    # --- in the child

    def be_player(self, images: list[Image], fd: int) -> None:
        """Never returns."""
        os.setpgid(0, 0)
        log = os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.dup2(log, 2)
        if not stage.IS_SANITIZED:
            faulthandler.enable(2)
            _limit_memory()
        os.setpriority(os.PRIO_PROCESS, 0, min(os.getpriority(os.PRIO_PROCESS, 0) + 1, 19))
        notes = Notes(fd, self.clock, self.features, self.told)
        notes.watch_finalizers()
        where = stage.Stage(self.files, self.folder, notes, is_told=self.options.is_told)
        where.clear()  # of one who died
        if self.options.by_gdb:
            _ask_gdb()
        gc.disable()
        for number, image in enumerate(images):
            self.passes.clear()
            gc.freeze()  # a full collection is of what this image has made, and of nothing before
            where.play(image)
            for passed in self.passes.passed():
                if passed not in self.passed:
                    self.passed.add(passed)
                    notes.feature(f"{passed[0]} {min(passed[1], 33).bit_length()}")
            if notes.is_new and not image.is_sound():
                notes.tell("new", image=str(image))
            notes.tell("played", number=number)
        os._exit(0)


class _Passes:
    """How often each failpoint was passed; of a build without them, nothing."""

    def clear(self) -> None:
        pass

    def passed(self) -> Iterator[tuple[int, int]]:
        return iter(())


def _passes() -> Any:
    with contextlib.suppress(ImportError):
        from refstore import _core

        if _core.DEBUG:
            from tests.native.crash.failpoints import Passes

            passes = Passes()
            passes.count()
            return passes
    return _Passes()


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Watched:
    """A player, as its worker sees it."""

    def __init__(self, worker: Worker, images: list[Image]) -> None:
        self.worker = worker
        self.images = images
        self.done = 0
        self.rest = b""
        worker.clock.begin("-")
        self.pipe, end = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.pipe)
                worker.be_player(images, end)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(99)
        os.close(end)

    def watch(self) -> int:
        """Until it is gone; how many images it played."""
        status = None
        while status is None:
            readable, _, _ = select.select([self.pipe], [], [], 0.5)
            if readable and not self.read():
                status = os.waitpid(self.pid, 0)[1]
            elif self.hangs():
                status = self.kill()
        with contextlib.suppress(ProcessLookupError):  # what it forked
            os.killpg(self.pid, signal.SIGKILL)
        os.set_blocking(self.pipe, False)
        while self.read():
            pass
        os.close(self.pipe)
        if status:
            self.ended(status)
        return self.done

    def read(self) -> bool:
        """Whether there was something."""
        try:
            data = os.read(self.pipe, 1 << 16)
        except BlockingIOError:
            return False
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b'{"kind": "played"'):
                self.done += 1
            else:
                self.worker.receive(line)
        return bool(data)

    def hangs(self) -> bool:
        call, image = self.worker.clock.seconds()
        return call > self.worker.options.hang or image > OF_IMAGE * self.worker.options.hang

    def kill(self) -> int:
        """It is asked where it is, and goes."""
        where = native_stack(self.pid)
        os.kill(self.pid, signal.SIGABRT)  # by which faulthandler says where it is in Python
        time.sleep(0.3)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        image = self.worker.clock.image()
        text = self.text()
        place = _place(text.rpartition("Fatal Python error")[2])
        self.worker.findings.append(Finding("hang", place, image, f"{where}\n{text}"))
        self.done += 1
        return 0

    def ended(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        text, image = self.text(), self.worker.clock.image()
        if code == 99:
            raise RuntimeError(f"the fuzzer itself failed at image {image}:\n{text}")
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self.worker.findings.append(Finding("signal", f"{name} {_place(text)}", image, text))
        self.done += 1

    def text(self) -> str:
        with open(self.worker.log, errors="replace") as file:
            return file.read()


def _place(text: str) -> str:
    """Of what went to stderr: a sanitizer's words, or where Python was."""
    stack = []
    for line in text.splitlines():
        if "refstore: " in line or "runtime error: " in line:
            return line[:160]
        if frame := re.match(r"    #[0-3] 0x\w+ in (\S+) (.*)", line):
            stack.append(f"{frame[1].removeprefix('__pyx_f_8refstore_')} {frame[2]}")
        elif line.startswith("  File "):
            file, _, rest = line[8:].partition('"')
            stack.append(os.path.basename(file) + rest.replace(", line ", ":", 1))
    kind = re.search(r"ERROR: (AddressSanitizer: \S+)", text)
    return " < ".join([*(kind.groups() if kind else ()), *stack[:3]]) or "nobody says where"


def native_stack(pid: int) -> str:
    """By gdb, if there is one: the innermost functions of a process."""
    gdb = shutil.which("gdb")
    if gdb is None:
        return ""
    command = [gdb, "-p", str(pid), "-batch", "-nx", "-ex", "bt 12"]
    with contextlib.suppress(subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return "\n".join(line for line in done.stdout.splitlines() if line.startswith("#"))
    return ""


def _ask_gdb() -> None:
    """It watches this process, and says where that dies."""
    pid = str(os.getpid())
    quiet = ["-ex", "set confirm off", "-ex", "continue", "-ex", "bt 16"]
    subprocess.Popen(["gdb", "-p", pid, "-batch", "-nx", *quiet], stderr=subprocess.DEVNULL)
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
        time.sleep(0.01)


# --- all of them


class Total(NamedTuple):
    """What all workers played and found."""

    played: int
    features: int
    corpus: int
    seconds: float
    processor_seconds: float
    findings: list[Finding]


def run(options: Options, workers: int) -> Total:
    """All images, shared out."""
    began = time.monotonic()
    with helpers.folder_in_memory("refstore-fuzz-") as folder:
        paths = [os.path.join(folder, f"report-{number}") for number in range(workers)]
        sys.stdout.flush()
        children = []
        for number, path in enumerate(paths):
            child = os.fork()
            if child == 0:
                _be_worker(options, number, workers, folder, path)
            children.append(child)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        if any(statuses):
            raise RuntimeError(f"workers of the fuzzer itself failed: {statuses}")
        reports = []
        for path in paths:
            with open(path) as file:
                reports.append(json.load(file))
    found = [Finding(*one) for report in reports for one in report["findings"]]
    played, features, corpus = (
        sum(report[key] for report in reports) for key in ("played", "features", "corpus")
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.monotonic() - began
    return Total(played, features, corpus, seconds, used.ru_utime + used.ru_stime, found)


def _be_worker(options: Options, number: int, workers: int, folder: str, path: str) -> None:
    status = 1
    try:
        worker = Worker(options, number, workers, folder)
        worker.work()
        report = {
            "played": worker.played,
            "features": len(worker.features),
            "corpus": len(worker.corpus),
            "findings": worker.findings,
        }
        with open(path, "w") as file:
            json.dump(report, file)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def groups(findings: list[Finding]) -> list[tuple[Finding, list[str]]]:
    """One of each kind and place, and the images of all: the most frequent first."""
    images: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    first: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = finding.kind, finding.where
        first.setdefault(key, finding)
        images[key].append(finding.image)
    return sorted(((first[key], found) for key, found in images.items()), key=lambda g: -len(g[1]))
