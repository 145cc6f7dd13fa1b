"""The commands: each takes the parsed options and returns the exit status."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterator

from refstore import _messages
from refstore._errors import RefstoreError, StoreCorruptedError
from refstore._header import holds_store, is_store
from refstore._paths import open_store, store_folder, store_path
from refstore._reports import Recovery
from refstore._store import Store, attached
from refstore._temporary import collect_temporary, is_abandoned
from refstore.cli.output import (
    complain,
    note,
    one_line,
    plural,
    show,
    show_json,
    show_table,
    size_text,
)

__all__ = ["check", "gc", "holders", "ls", "recover", "rm", "stat"]

SIZES = ("capacity", "used", "free", "largest_free")  # fields of StoreStats that count bytes
ABANDONED = "temporary, and its creator is dead: `{command} gc` removes it"
COLUMNS = (  # of `ls`
    *("capacity", "used", "largest_free", "objects", "pinned", "condemned", "processes"),
    "backend",
)


# --- usage


# --- commands


def ls(options: argparse.Namespace) -> int:
    folder = store_folder(create=False)
    rows = list(_stores(folder, options.foreign))
    if options.json:
        show_json(rows)
    elif not rows:
        note(f"no stores in {folder}")
    else:
        table = [["NAME", *(column.upper().replace("_", " ") for column in COLUMNS)]]
        for row in rows:
            cells = [str(row["error"])] if "error" in row else _cells(row)
            table.append([str(row["name"]), *cells])
        show_table(table)
    return 0


def stat(options: argparse.Namespace) -> int:
    path = store_path(options.name)
    with _attach(path, options.foreign) as store:
        limit = {"max_objects": store.max_objects}
        row = {"name": options.name, "path": path, **limit, **_stats(store)}
    if options.json:
        show_json(row)
    else:
        for field, value in row.items():
            shown = f"{size_text(value)} ({value} bytes)" if field in SIZES else str(value)
            show(f"{field.replace('_', ' '):13} {shown}")
    return 0


def holders(options: argparse.Namespace) -> int:
    with _attach(store_path(options.name), options.foreign) as store:
        found = store.holders()
    if options.json:
        rows = [
            holder._asdict() | {"ref": None if holder.ref is None else holder.ref.hex()}
            for holder in found
        ]
        show_json(rows)
    elif not found:
        note(f"{options.name}: no process pins an object or is writing one")
    else:
        table = [["PID", "COMMAND", "ALIVE", "PINS", "BYTES", "NAME OR REF"]]
        for pid, command, ref, name, pins, nbytes, alive in found:
            what = "(being written)" if ref is None else ref.hex() if name is None else name
            table.append(
                [str(pid), command, "yes" if alive else "no", str(pins), str(nbytes), what]
            )
        show_table(table)
    return 0


def recover(options: argparse.Namespace) -> int:
    path = store_path(options.name)
    with _attach(path, options.foreign) as store:
        recovery = store.recover()
    if options.json:
        row = {"name": options.name, "path": path, **dataclasses.asdict(recovery)}
        show_json(row)
    else:
        show(f"{options.name}: {_what_came_back(recovery)}")
    return 0


def _what_came_back(recovery: Recovery) -> str:
    if not recovery:
        return "no dead process"
    dead = f"{recovery.processes} dead process{'' if recovery.processes == 1 else 'es'}"
    if recovery.pids:
        pids = ", ".join(map(str, recovery.pids))
        dead += f" (pid {pids})" if len(recovery.pids) == 1 else f" (pids {pids})"
    held = [
        plural(number, noun)
        for number, noun in (
            (recovery.pins, "pin"),
            (recovery.unfinished, "unfinished object"),
            (recovery.locks, "lock"),
        )
        if number
    ]
    held.append(plural(recovery.nbytes, "byte"))
    if recovery.published:
        dead += f", {plural(recovery.published, 'publication')} completed"
    return f"{dead}: {', '.join(held)} came back"


def check(options: argparse.Namespace) -> int:
    path = store_path(options.name)
    try:
        with _attach(path, options.foreign) as store:
            problems = [str(problem) for problem in store.check()]
    except StoreCorruptedError as error:  # so broken that it cannot even be attached to
        if not is_store(path):
            raise
        problems = [one_line(error)]
    if options.json:
        show_json({"name": options.name, "path": path, "problems": problems})
    else:
        for problem in problems:
            show(problem)
        show(f"{options.name}: {_count(problems)}")
    return 1 if problems else 0


def rm(options: argparse.Namespace) -> int:
    return max(_remove_or_say_why(name) for name in options.names)


def _remove_or_say_why(name: str) -> int:
    try:
        _remove(store_path(name))
    except (RefstoreError, OSError, ValueError) as error:
        complain(error)
        return 2
    return 0


def _remove(path: str) -> None:
    # Without attaching: it may be broken, another user's, or of an engine that is not there.
    try:
        _require_store(path)
        os.unlink(path)
    except FileNotFoundError as error:
        raise _messages.gone(path, error) from None
    except OSError as error:
        raise _messages.of_path(path, error) from None
    collect_temporary(os.path.dirname(path))  # what the filelock engine keeps beside its stores


def gc(options: argparse.Namespace) -> int:
    folder = store_folder(create=False)
    removed = sorted(collect_temporary(folder)) if os.path.isdir(folder) else []
    if options.json:
        show_json(removed)
    else:
        for path in removed:
            show(path)
        if removed:
            note(f"{plural(len(removed), 'temporary store')} removed")
    return 0


# --- what they share


def _attach(path: str, foreign: bool) -> Store:
    """The store that is there, whichever engine programs are told to use."""
    with contextlib.suppress(OSError):  # first of all: who owns what is no store does not matter
        _require_store(path)
    return attached(Store, path, foreign=foreign)


def _require_store(path: str) -> None:
    with open_store(path, os.O_RDONLY) as file:
        if not holds_store(file.fileno()):
            raise _messages.no_store(path, _messages.NOT_A_STORE)


def _stores(folder: str, foreign: bool) -> Iterator[dict[str, object]]:
    """A row for each store in the folder, in order of name."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:  # no store was ever made
        return
    for name in names:
        path = os.path.join(folder, name)
        if not is_store(path):
            continue
        row: dict[str, object] = {"name": name, "path": path}
        try:
            if is_abandoned(path):
                yield row | {
                    "abandoned": True,
                    "error": ABANDONED.format(command=_messages.command()),
                }
                continue
            with _attach(path, foreign) as store:
                yield row | _stats(store)
        except FileNotFoundError:  # removed since
            continue
        except (RefstoreError, OSError) as error:
            yield row | {"error": one_line(error)}


def _stats(store: Store) -> dict[str, object]:
    """The engine and the StoreStats, without this command among the processes."""
    stats = dataclasses.asdict(store.stats())
    stats["processes"] -= 1
    return {"backend": store.backend, **stats}


def _cells(row: dict[str, object]) -> list[str]:
    return [size_text(row[name]) if name in SIZES else str(row[name]) for name in COLUMNS]


def _count(problems: list[str]) -> str:
    return plural(len(problems), "problem") if problems else "sound"
