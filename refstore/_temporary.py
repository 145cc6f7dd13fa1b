"""Temporary stores: gone when their creator closes them, exits, or is found dead.

The creator holds a lock that shows that it is alive; each engine has its own.
"""

from __future__ import annotations

import contextlib
import os
import weakref

from refstore import _header, _paths
from refstore._errors import RefstoreError
from refstore.engines import choice, interface

__all__ = ["collect_temporary", "give_up", "is_abandoned", "own"]

_removals: weakref.WeakKeyDictionary[object, weakref.finalize[..., object]] = (
    weakref.WeakKeyDictionary()
)


def own(store: object, path: str, mine: interface.CreatorLock | None, creator: int) -> None:
    """The file goes with `store`, or with `give_up(store)`, in the process with the pid `creator`.

    `mine`: what make_file() returned.
    """
    arguments = (path, os.stat(path).st_ino, mine, creator)
    _removals[store] = weakref.finalize(store, _remove, *arguments)


def give_up(store: object) -> None:
    """Removes the file of a temporary store that this process created; does nothing for others."""
    removal = _removals.pop(store, None)
    if removal is not None:
        removal()


def _remove(path: str, inode: int, mine: interface.CreatorLock | None, creator: int) -> None:
    if os.getpid() != creator:
        return  # a forked child is not the creator
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    if mine is not None:
        mine.give_back()


def collect_temporary(folder: str) -> list[str]:
    """Removes the temporary stores in `folder` whose creators are dead; returns their paths."""
    removed: list[str] = []
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return removed  # whoever opens or makes the store says so
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.is_file(follow_symlinks=False) and is_abandoned(entry.path):
                os.unlink(entry.path)
                removed.append(entry.path)
    if any(entry.name.endswith(".locks") for entry in entries):
        choice.load("filelock").remove_orphans(folder)
    return removed


def is_abandoned(path: str) -> bool:
    """Whether it is a temporary store whose creator is dead, which the next opener removes."""
    if not os.path.basename(path).startswith(_paths.TEMPORARY_PREFIX):
        return False
    owner = _header.owner_of(path)
    if owner is None:
        return False
    with (
        _paths.open_store(path, os.O_RDWR) as file,
        contextlib.suppress(RefstoreError),  # that engine is not there
    ):
        return choice.load(owner).is_creator_alive(file.fileno(), path) is False
    return False
