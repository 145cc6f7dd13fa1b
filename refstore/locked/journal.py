"""A redo journal: several words of the file change together or not at all.

A `Change` gathers new values of words, and reads through them. Its `commit` writes all pairs
(index, value) into the journal, then their count, then each value to its place, then 0 as the
count. Until the count is written nothing has happened, from there on everything has: whoever has
the lock next and finds a count writes the values again, which does no harm where it was done
before. So a death anywhere is before the change or after it; so is a KeyboardInterrupt.

    died while the pairs are written        the count is 0: as if it had never begun
    after the count                         the next one applies all pairs
    amid the values                         the same; pairs hold values and no differences
    in the midst of that again              the same, once more
    after the last value                    the same, to no effect
    after the count is 0                    it is done
"""

from __future__ import annotations

from array import array
from itertools import chain

from refstore.locked.layout import COUNT, FIXED_WORDS, JOURNAL, PAIRS
from refstore.locked.mapping import Mapping


class Change:
    """Words that are yet to be written. One at a time, under the change lock."""

    __slots__ = ("begun", "committed", "file", "new", "words")

    def __init__(self, file: Mapping) -> None:
        self.file = file
        self.words = file.words
        self.new: dict[int, int] = {}
        self.begun = False  # whether any commit may have passed its point of no return
        self.committed = False  # whether the last one surely did

    def __getitem__(self, i: int) -> int:
        value = self.new.get(i)
        return self.words[i] if value is None else value

    def __setitem__(self, i: int, value: int) -> None:
        self.new[i] = value

    def commit(self) -> None:
        new, words = self.new, self.words
        if not new:
            return
        n = len(new)
        if n > PAIRS:
            raise self.file.damaged()
        self.committed = False
        pairs = array("Q", chain.from_iterable(new.items()))
        words[JOURNAL : JOURNAL + 2 * n] = pairs
        self.begun = True
        words[COUNT] = n
        self.committed = True
        for i, value in new.items():
            words[i] = value
        words[COUNT] = 0
        new.clear()

    def forget(self) -> None:
        """What was gathered and not committed."""
        self.new.clear()


def replay(file: Mapping) -> None:
    """Ends the change that somebody began, if there is one."""
    words = file.words
    n = words[COUNT]
    if not n:
        return
    if n > PAIRS:
        raise file.damaged()
    end = file.g.data // 8
    for at in range(JOURNAL, JOURNAL + 2 * n, 2):
        i = words[at]
        if not FIXED_WORDS <= i < end or JOURNAL <= i < file.g.bins:
            raise file.damaged()
        words[i] = words[at + 1]
    words[COUNT] = 0
