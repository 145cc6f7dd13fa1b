"""What the processes of `stress/crash.py` know of each other, outside the store.

A process writes here before it acts. So its successor, and the audit at a quiet moment, can tell an
object that was lost from one that was being made or deleted when its owner died.
"""

import multiprocessing
import sys

import refstore

OWN, LENT = 16, 8  # names of each process, objects that each lends by ref
ABSENT = 0
_FORK = multiprocessing.get_context("fork")
_WORD = (1 << 64) - 1


class Ledger:
    """Memory that the processes share outside the store. Each writes only what is its own."""

    def __init__(self, procs: int) -> None:
        self.procs = procs
        self.current = _FORK.RawArray("Q", procs * OWN)  # id under each own name, or ABSENT
        self.intended = _FORK.RawArray("Q", procs * OWN)  # what is to be there after the operation
        self.lent = _FORK.RawArray("Q", procs * LENT * 4)
        self.in_transit = _FORK.RawArray("Q", procs)  # id of an object without a name or an owner
        self.next_id = _FORK.RawArray("Q", procs * 2)  # those of a process's children by themselves
        self.began = _FORK.RawArray("d", procs)  # when the operation under way began, or 0
        self.operations = _FORK.RawArray("Q", procs)
        self.forks = _FORK.RawArray("Q", procs)
        self.rejoined = _FORK.RawArray("Q", procs)
        self.busy = _FORK.RawArray("Q", procs)  # operations that a stopped process kept from ending
        self.paused = _FORK.RawArray("b", procs)
        self.leave = _FORK.RawArray("b", procs)
        self.pause = _FORK.RawValue("b", 0)
        self.calm_since = _FORK.RawValue("d", 1.0)  # 0 while a process is stopped

    def lend(self, at: int, ref: refstore.ObjectRef, ident: int) -> None:
        """Tells others of an object. A word over the other three shows a half-written entry."""
        raw = bytes(ref)
        low, high = (int.from_bytes(part, sys.byteorder) for part in (raw[:8], raw[8:]))
        self.lent[at * 4 : at * 4 + 4] = [low, high, ident, low ^ high ^ ident ^ _WORD]

    def borrow(self, at: int) -> tuple[refstore.ObjectRef, int] | None:
        """A ref and its object's id; None if nothing is lent here, or only half."""
        low, high, ident, over = self.lent[at * 4 : at * 4 + 4]
        if low ^ high ^ ident ^ _WORD != over:
            return None
        raw = low.to_bytes(8, sys.byteorder) + high.to_bytes(8, sys.byteorder)
        return refstore.ObjectRef(raw), ident

    def take_back(self, at: int) -> None:
        self.lent[at * 4 : at * 4 + 4] = [0] * 4

    def forget(self, number: int) -> None:
        """Notes that a process is gone, and in the middle of nothing."""
        self.began[number] = 0.0
        self.paused[number] = self.leave[number] = 0
        self.in_transit[number] = ABSENT
