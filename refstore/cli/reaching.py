"""Ways to reach a store: most commands look at it, some attach as any process does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from refstore import _messages
from refstore._header import holds_store, is_store
from refstore._looking import Look
from refstore._paths import open_store, store_path
from refstore._refs import ObjectRef
from refstore._store import Store, attached

__all__ = ["attach", "key_of", "look", "path_of", "require_store", "store_names"]

HEX_DIGITS = 32  # of a ref


def path_of(name: str) -> str:
    """The path of a store that should be there."""
    return store_path(name, create=False)


def look(name: str, foreign: bool) -> Look:
    """A look at the store, which takes no part in it and changes nothing."""
    path = path_of(name)
    require_store(path)
    return Look(path, foreign=foreign)


def attach(name: str, foreign: bool) -> Store:
    """The store that is there, whichever engine programs are told to use."""
    path = path_of(name)
    require_store(path)
    return attached(Store, path, foreign=foreign)


def require_store(path: str) -> None:
    """An error if there is none at the path, whoever owns what is there."""
    try:
        with open_store(path, os.O_RDONLY) as file:
            if not holds_store(file.fileno()):
                raise _messages.no_store(path, _messages.NOT_A_STORE)
    except FileNotFoundError as error:
        raise _messages.gone(path, error) from None
    except OSError as error:
        raise _messages.of_path(path, error) from None


def store_names(folder: str) -> Iterator[str]:
    """The names of the stores in a folder, in order."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:  # no store was ever made
        return
    for name in names:
        if is_store(os.path.join(folder, name)):
            yield name


def key_of(store: Store, text: str) -> ObjectRef | str:
    """The name or the ref that a KEY means; a name goes first."""
    if len(text) == HEX_DIGITS and text not in store:
        with contextlib.suppress(ValueError):
            return ObjectRef.from_hex(text)
    return text
