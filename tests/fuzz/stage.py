"""One image: a sound file is laid out, changed, and played, alone or beside others."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import os
import random
import resource
import signal
import struct
from collections.abc import Iterator
from typing import NamedTuple

import refstore
from refstore.engines.filelock import layout as locked
from tests.fuzz import changes
from tests.fuzz.calls import Player
from tests.fuzz.files import File
from tests.fuzz.layout import constants
from tests.fuzz.notes import Notes

AMID = 0.15  # of all images are changed while they are played, too
SLACK = 64 << 20  # bytes of memory beside twice the file's size
MASK = (1 << 64) - 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
IS_SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")

# When the file is changed, and who is there by then.
BEFORE, ALIVE, OURS, ANOTHER = range(4)
MODES = ("before anybody comes", "others are alive", "amid our work", "another process is at work")


class Image(NamedTuple):
    """What is played: a sound file, and the seeds of its changes.

    The image "-3" is the third file as it is.
    """

    seeds: tuple[int, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.seeds))

    def is_sound(self) -> bool:
        return self.seeds[0] < 0

    @classmethod
    def parse(cls, text: str) -> Image:
        return cls(tuple(map(int, text.split("+"))))


class Stage:
    """Plays images in one process, in one folder of its own."""

    def __init__(
        self, files: list[File], folder: str, notes: Notes, *, is_told: bool = False
    ) -> None:
        self.files = files
        self.folder = folder
        self.notes = notes
        self.say = print if is_told else _say_nothing  # what is done
        self.descriptors = 0
        self.memory = _peak()

    def play(self, image: Image) -> None:
        """All of it; what is found is noted."""
        self.notes.begin(str(image))
        chance = random.Random(image.seeds[0])
        file = self.files[int(len(self.files) * chance.random())]
        mode = self._mode(chance, file)
        self.notes.is_sound = image.is_sound()
        if image.is_sound():
            file, mode = self.files[-image.seeds[0] - 1], BEFORE
        path = os.path.join(self.folder, file.file_name)
        self.say(f"{file.engine}, {file.name}, {MODES[mode]}")
        self.descriptors = self.descriptors or _descriptors()
        try:
            self._play(image, chance, file, mode, path)
        finally:
            self.clear()
        self._look_at_resources(file)

    def _mode(self, chance: random.Random, file: File) -> int:
        draw = chance.random()
        if draw < (0.02 if file.engine == "native" else 0.05):
            return ANOTHER
        if draw < 0.35:
            return OURS
        return ALIVE if file.alive and draw < 0.7 else BEFORE

    def _play(self, image: Image, chance: random.Random, file: File, mode: int, path: str) -> None:
        fd = self._lay_out(file, path)
        player = Player(self.notes, random.Random(image.seeds[-1] ^ 1), file, path)
        is_creator_alive = chance.random() < 0.8 or image.is_sound()
        if file.is_temporary and file.engine == "native" and is_creator_alive:
            _lock(fd, (constants()["LOCK_CREATOR"],))  # else whoever comes removes it
        try:
            with contextlib.ExitStack() as stack:
                if mode == ALIVE:
                    _lock(fd, file.alive)
                elif mode == OURS and player.open():
                    player.hold()
                elif mode == ANOTHER:
                    stack.enter_context(self._another(image, file, path))
                if not image.is_sound():
                    self._damage(image, chance, player, fd, mode)
                if player.store is not None or player.open():
                    player.play()
                else:
                    player.command()
                player.end()
        finally:
            os.close(fd)

    def _lay_out(self, file: File, path: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, file.layout.file_size)
        for at, data in file.pieces:
            os.pwrite(fd, data, at)
        if file.engine == "filelock":  # it is at home here, and no copy
            home = locked.home_of(path)
            os.pwrite(fd, struct.pack("=QQ", home, os.fstat(fd).st_ino & MASK), 8 * locked.HOME)
        return fd

    def _damage(
        self, image: Image, chance: random.Random, player: Player, fd: int, mode: int
    ) -> None:
        file, path = player.file, player.path
        for number, seed in enumerate(image.seeds):
            own = chance if number == 0 else random.Random(seed)
            hand = changes.Hand(fd, file, own, self.say)
            hand.change(may_cut=mode in (BEFORE, ALIVE))
        if chance.random() < 0.01:
            self.say(changes.put_another_kind(path, chance))
        if chance.random() < AMID:
            player.meddle = lambda: hand.one(False)

    # --- another process

    @contextlib.contextmanager
    def _another(self, image: Image, file: File, path: str) -> Iterator[None]:
        """It is attached while the file is changed, works on, and is killed."""
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go[1])
            self._be_another(image, file, path, ready[1], go[0])
        for fd in (ready[1], go[0]):
            os.close(fd)
        os.read(ready[0], 1)
        try:
            yield
        finally:
            for fd in (ready[0], go[1]):
                os.close(fd)
            self._reap(child)

    def _be_another(self, image: Image, file: File, path: str, ready: int, go: int) -> None:
        player = Player(self.notes, random.Random(image.seeds[-1] ^ 2), file, path)
        if player.open():
            player.hold()
        os.write(ready, b"r")
        os.close(ready)
        if player.store is not None:
            player.read(player.store)
            player.put(player.store)
        os.read(go, 1)  # until the other one is done with it
        os.kill(os.getpid(), signal.SIGKILL)

    def _reap(self, child: int) -> None:
        status = os.waitpid(child, 0)[1]
        ended = os.waitstatus_to_exitcode(status)
        if ended != -signal.SIGKILL:
            self.notes.find("signal", f"another process ended with {ended}")

    # --- afterwards

    def clear(self) -> None:
        """Nothing is left in the folder, whoever left it."""
        with os.scandir(self.folder) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
                    for name in os.listdir(entry.path):
                        os.unlink(os.path.join(entry.path, name))
                    os.rmdir(entry.path)
                else:
                    os.unlink(entry.path)

    def _look_at_resources(self, file: File) -> None:
        more = _peak() - self.memory
        if more > 2 * file.layout.file_size + SLACK and not IS_SANITIZED:
            self.notes.find("memory", f"{file.engine}: more than there may be", f"{more} bytes")
        if more > SLACK // 4:
            self.memory = _forget_peak()
        there = _descriptors()
        if there > self.descriptors:
            # what could not be done on a damaged file waits in a circle with its attachment
            gc.collect()
            there = _descriptors()
        if there > self.descriptors:
            self.notes.find("descriptors", f"{file.engine}: left open", _open_files())
            self.descriptors = there


def _say_nothing(what: str) -> None:
    pass


def _peak() -> int:
    """Bytes of memory that this process took at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _forget_peak() -> int:
    """From here on the peak is a new one; what it begins with."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _peak()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _open_files() -> str:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return " ".join(found)


def _lock(fd: int, rows: tuple[int, ...]) -> None:
    """As if processes with these rows lived, till the descriptor is closed."""
    for row in rows:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, row, 1, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)


def settle(busy_timeout_ms: int) -> None:
    """This process is to play: no torch, no warnings, and no waiting but where it must be."""
    import argparse
    import ctypes
    import sys
    import warnings

    from refstore import _report_calls, _sites
    from refstore.cli import parsing

    sys.modules["torch"] = None  # type: ignore[assignment]
    warnings.simplefilter("ignore", refstore.RefstoreWarning)
    _report_calls.RETRIES = (
        0  # that check() takes more: what is wrong stays wrong, and it would sleep
    )
    argparse._ = str  # type: ignore[attr-defined]  # a command looks for translations at length
    parsing._made = functools.cache(parsing._made)  # its parser costs more than what it does
    _sites.sites_of = lambda pid, uuid: []  # nobody tracks, and to see that costs most of info()
    with contextlib.suppress(AttributeError):  # glibc's: a page that is given back is faulted again
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 64 << 20)
        mallopt(M_MMAP_THRESHOLD, 4 << 20)
    with contextlib.suppress(ImportError):
        from refstore import _core

        if _core.DEBUG:
            _core._set_busy_timeout(busy_timeout_ms)
