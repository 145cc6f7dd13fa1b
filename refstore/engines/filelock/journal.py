"""A redo journal: several words of the file change together or not at all.

A `Change` gathers new values of words, and reads through them. Its `commit` writes all pairs
(index, value) into the journal, then their count, then each value to its place, then 0 as the
count. Until the count is written nothing has happened, from there on everything has: whoever has
the lock next and finds a count writes the values again, which does no harm where it was done
before. So a death anywhere is before the change or after it; so is a KeyboardInterrupt.

    died while the pairs are written        the count is 0: as if it had never begun
    after the count                         the next one applies all pairs
    between two of the values               the same; pairs hold values and no differences
    during that again                       the same, once more
    after the last value                    the same, to no effect
    after the count is 0                    it is done

Who looks without the lock reads `WRITES` before and after: what it saw is of one moment if that is
the same and even, or if it is the same and who writes the change stands still.
"""

from __future__ import annotations

import errno
from array import array
from itertools import chain
from typing import Final

from refstore.engines.filelock.layout import COUNT, JOURNAL, LOCK_COUNT, PAIRS, PAST, WRITES
from refstore.engines.filelock.life import here
from refstore.engines.filelock.mapping import Glance, Mapping

ROOM: Final = 64  # words


class Change:
    """Words that are yet to be written. One at a time, under the change lock."""

    __slots__ = ("_due", "_life", "commits", "file", "new", "words")

    def __init__(self, file: Mapping) -> None:
        self.file = file
        self.words = file.words
        self.new: dict[int, int] = {}
        self.commits = 0  # that have passed their point of no return; see `finish`
        self._due = 0  # what that is once the one that is begun has
        self._life = here()

    def __getitem__(self, i: int) -> int:
        value = self.new.get(i)
        return self.words[i] if value is None else value

    def __setitem__(self, i: int, value: int) -> None:
        self.new[i] = value

    def is_full(self) -> bool:
        """Whether it should be committed before more is gathered; no step takes more than ROOM."""
        return len(self.new) > PAIRS - ROOM

    def commit(self) -> None:
        new, words = self.new, self.words
        if not new:
            return
        n = len(new)
        if n > PAIRS:
            raise self.file.damaged(f"one change takes {n} words")
        self._life.require_ours(self.file.path)  # else a C library forked: the lock is its parent's
        self._due = self.commits + 1
        pairs = array("Q", chain.from_iterable(new.items()))
        words[JOURNAL : JOURNAL + 2 * n] = pairs
        words[WRITES] |= 1
        words[COUNT] = n
        self.commits = self._due
        for i, value in new.items():
            words[i] = value
        words[COUNT] = 0
        words[WRITES] = words[WRITES] + 1 & 0xFFFFFFFF
        new.clear()

    def finish(self) -> None:
        """Finishes an interrupted commit, after an exception and still under the lock. From here
        on `commits` is exact."""
        if self._due > self.commits and self.words[COUNT]:
            self.commits = self._due
        replay(self.file)

    def next(self) -> Moment:
        """The moment at which the commit in preparation takes effect."""
        return Moment(self, self.commits + 1)


class Moment:
    """One commit. What was prepared for it counts once it has come."""

    __slots__ = ("_change", "_commits")

    def __init__(self, change: Change, commits: int) -> None:
        self._change = change
        self._commits = commits

    def has_come(self) -> bool:
        return self._change.commits >= self._commits


def replay(file: Mapping | Glance) -> None:
    """Ends the change that somebody began, if there is one."""
    words = file.words
    n = words[COUNT]
    if not n:
        return
    if n > PAIRS:
        raise file.damaged(f"the journal's count is {n}")
    end = file.g.data // 8
    for at in range(JOURNAL, JOURNAL + 2 * n, 2):
        i = words[at]
        if not LOCK_COUNT < i < end or JOURNAL <= i < PAST:
            raise file.damaged(f"a pair of the journal leads to word {i}")
        if i * 8 >= file.g.committed and not file.commit_word(i):
            raise OSError(errno.ENOSPC, "no memory for a change that was begun", file.path)
        words[i] = words[at + 1]
    words[COUNT] = 0
    words[WRITES] = (words[WRITES] | 1) + 1 & 0xFFFFFFFF
