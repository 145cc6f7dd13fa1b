"""The command on a terminal of its own, and what that shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator

import programs
import pyte
from helpers import BUSY_TIMEOUT

SIZES = [(80, 24), (200, 50)]
# Of the keyboard's protocols, which pyte would print.
UNKNOWN = re.compile(rb"\x1b\[[<>=][0-9;]*u")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """The `refstore` command on a terminal of so many columns and rows."""

    def __init__(self, columns: int, rows: int, *arguments: str, **environment: str) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = os.openpty()
        self._resize(columns, rows)
        known = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
        inherited = {
            k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")
        }
        self._program = programs.start(
            programs.command,
            arguments,
            (theirs,) * 3,
            inherited | known | environment,
            has_terminal=True,
        )
        os.close(theirs)
        self.raw = b""

    @property
    def lines(self) -> list[str]:
        """The rows that are shown, without what is blank at their ends."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def colours(self) -> set[str]:
        """Those of the letters that are shown."""
        return {cell.fg for row in self._screen.buffer.values() for cell in row.values()}

    def wait_for(self, is_shown: Callable[[str], object]) -> None:
        """Wait until the text that is shown is as it should be."""
        end = time.monotonic() + BUSY_TIMEOUT
        while not is_shown(self.text):
            assert time.monotonic() < end, self.text
            assert self._read(end - time.monotonic()), f"it has ended: {self.text}"

    def press(self, *keys: str) -> None:
        os.write(self._ours, "".join(keys).encode())

    def resize(self, columns: int, rows: int) -> None:
        """As a window is resized."""
        self._screen.resize(rows, columns)
        self._resize(columns, rows)
        os.kill(self._program.pid, signal.SIGWINCH)

    def interrupt(self) -> None:
        os.kill(self._program.pid, signal.SIGINT)

    def terminate(self) -> None:
        os.kill(self._program.pid, signal.SIGTERM)

    def status(self) -> int:
        """Wait until it has ended; its exit status."""
        end = time.monotonic() + BUSY_TIMEOUT
        while self._read(end - time.monotonic()):
            assert time.monotonic() < end, self.text
        self._program.join(BUSY_TIMEOUT)
        assert self._program.exitcode is not None, self.text
        return int(self._program.exitcode)

    def close(self) -> None:
        programs.end(self._program)
        os.close(self._ours)

    def _resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self, seconds: float) -> bool:
        """Take what the program says, for at most so long; False if it has ended."""
        if not select.select([self._ours], [], [], max(seconds, 0))[0]:
            return True
        try:
            said = os.read(self._ours, 1 << 16)
        except OSError:  # the program was the last to have the other end
            return False
        self.raw += said
        self._stream.feed(UNKNOWN.sub(b"", said))
        return bool(said)


@contextlib.contextmanager
def on_terminal(columns: int, rows: int, *arguments: str, **environment: str) -> Iterator[Terminal]:
    """The `refstore` command on a terminal."""
    terminal = Terminal(columns, rows, *arguments, **environment)
    try:
        yield terminal
    finally:
        terminal.close()


def shown_on_terminal(
    columns: int, *arguments: str, **environment: str
) -> tuple[int, list[str], bool]:
    """The exit status of a command, the lines that it wrote, and whether some were coloured."""
    with on_terminal(columns, 500, *arguments, **environment) as terminal:
        status = terminal.status()
        said = terminal.raw.decode()
    lines = COLOUR.sub("", said).replace("\r\n", "\n").rstrip("\n").split("\n")
    return status, lines, COLOUR.search(said) is not None
