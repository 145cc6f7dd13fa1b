"""The `refstore` command: look at stores, check and clear them, remove them.

Each command attaches as any process does, so it sees what they see and is safe beside them.
Exit status: 0 if all is well, 1 if `check` finds a problem, 2 on bad usage or a missing store.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata

from refstore.engine import is_store, owner_of
from refstore.errors import RefstoreError, StoreCorruptedError, StoreVersionError
from refstore.paths import store_folder, store_path
from refstore.records import Recovery
from refstore.store import Store
from refstore.temporary import collect_temporary

__all__ = ["main"]

SIZES = ("capacity", "used", "free", "largest_free")  # fields of StoreStats that count bytes
COLUMNS = ("capacity", "used", "largest_free", "objects", "pinned", "condemned", "processes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `refstore ls | head`: the reader has seen enough
        # Python flushes stdout once more at exit, and would complain of the same.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RefstoreError, OSError, ValueError) as error:
        print(f"refstore: {_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="refstore", description="Look at refstore's stores, check and clear them, remove them."
    )
    parser.add_argument("--version", action="version", version=metadata.version("refstore"))
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    name_help = "a store's name, or the path of its file if it holds a path separator"
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")

    command = commands.add_parser("ls", parents=[as_json], help="list this user's stores")
    command.set_defaults(run=_ls)
    command = commands.add_parser("stat", parents=[as_json], help="show the state of a store")
    command.add_argument("name", metavar="NAME", help=name_help)
    command.set_defaults(run=_stat)
    command = commands.add_parser(
        "holders", parents=[as_json], help="show which processes pin objects or are writing some"
    )
    command.add_argument("name", metavar="NAME", help=name_help)
    command.set_defaults(run=_holders)
    command = commands.add_parser(
        "check", parents=[as_json], help="test every invariant of a store; changes nothing"
    )
    command.add_argument("name", metavar="NAME", help=name_help)
    command.set_defaults(run=_check)
    command = commands.add_parser(
        "recover", parents=[as_json], help="give back what dead processes held"
    )
    command.add_argument("name", metavar="NAME", help=name_help)
    command.set_defaults(run=_recover)
    command = commands.add_parser(
        "rm", help="remove stores; processes that are attached keep what they have until they go"
    )
    command.add_argument("names", metavar="NAME", nargs="+", help=name_help)
    command.set_defaults(run=_rm)
    command = commands.add_parser(
        "gc", parents=[as_json], help="remove temporary stores whose creator is dead"
    )
    command.set_defaults(run=_gc)
    return parser


# --- commands


def _ls(options: argparse.Namespace) -> int:
    rows = list(_stores(store_folder(create=False)))
    if options.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        table = [["NAME", *(column.upper().replace("_", " ") for column in COLUMNS)]]
        for row in rows:
            cells = [str(row["error"])] if "error" in row else _cells(row)
            table.append([str(row["name"]), *cells])
        _print_table(table)
    return 0


def _stat(options: argparse.Namespace) -> int:
    path = store_path(options.name)
    with _attach(path) as store:
        limit = {"max_objects": store.max_objects}
        row = {"name": options.name, "path": path, **limit, **_stats(store)}
    if options.json:
        print(json.dumps(row, indent=2))
    else:
        for field, value in row.items():
            shown = f"{_size(value)} ({value} bytes)" if field in SIZES else str(value)
            print(f"{field.replace('_', ' '):13} {shown}")
    return 0


def _holders(options: argparse.Namespace) -> int:
    with _attach(store_path(options.name)) as store:
        holders = store.holders()
    if options.json:
        rows = [
            holder._asdict() | {"ref": None if holder.ref is None else holder.ref.hex()}
            for holder in holders
        ]
        print(json.dumps(rows, indent=2))
    elif holders:
        table = [["PID", "COMMAND", "ALIVE", "PINS", "BYTES", "NAME OR REF"]]
        for pid, command, ref, name, pins, nbytes, alive in holders:
            what = "(being written)" if ref is None else ref.hex() if name is None else _shown(name)
            table.append(
                [str(pid), command, "yes" if alive else "no", str(pins), str(nbytes), what]
            )
        _print_table(table)
    return 0


def _recover(options: argparse.Namespace) -> int:
    path = store_path(options.name)
    with _attach(path) as store:
        recovery = store.recover()
    if options.json:
        row = {"name": options.name, "path": path, **dataclasses.asdict(recovery)}
        print(json.dumps(row, indent=2))
    else:
        print(f"{options.name}: {_what_came_back(recovery)}")
    return 0


def _what_came_back(recovery: Recovery) -> str:
    if not recovery:
        return "no dead process"
    dead = f"{recovery.processes} dead process{'' if recovery.processes == 1 else 'es'}"
    if recovery.pids:
        pids = ", ".join(map(str, recovery.pids))
        dead += f" (pid {pids})" if len(recovery.pids) == 1 else f" (pids {pids})"
    held = [
        _plural(number, noun)
        for number, noun in (
            (recovery.pins, "pin"),
            (recovery.unfinished, "unfinished object"),
            (recovery.locks, "lock"),
        )
        if number
    ]
    held.append(_plural(recovery.nbytes, "byte"))
    if recovery.published:
        dead += f", {_plural(recovery.published, 'publication')} completed"
    return f"{dead}: {', '.join(held)} came back"


def _check(options: argparse.Namespace) -> int:
    path = store_path(options.name)
    try:
        with _attach(path) as store:
            problems = [str(problem) for problem in store.check()]
    except StoreCorruptedError as error:  # so broken that it cannot even be attached to
        problems = [_text(error)]
    if options.json:
        print(json.dumps({"name": options.name, "path": path, "problems": problems}, indent=2))
    else:
        for problem in problems:
            print(problem)
        print(f"{options.name}: {_count(problems)}")
    return 1 if problems else 0


def _rm(options: argparse.Namespace) -> int:
    return max(_remove_or_say_why(name) for name in options.names)


def _remove_or_say_why(name: str) -> int:
    try:
        _remove(store_path(name))
    except (RefstoreError, OSError, ValueError) as error:
        print(f"refstore: {_text(error)}", file=sys.stderr)
        return 2
    return 0


def _remove(path: str) -> None:
    try:
        with _attach(path) as store:
            store.unlink()
    except (StoreCorruptedError, StoreVersionError):
        # Nobody can use it any more, which is a reason to remove it if it is a store at all.
        if not is_store(path):
            raise
        os.unlink(path)


def _gc(options: argparse.Namespace) -> int:
    folder = store_folder(create=False)
    removed = collect_temporary(folder) if os.path.isdir(folder) else []
    if options.json:
        print(json.dumps(removed, indent=2))
    else:
        for path in removed:
            print(path)
    return 0


# --- what they share


def _attach(path: str) -> Store:
    """The store that is there, whichever engine programs are told to use."""
    return Store(path, create=False, backend=owner_of(path) or "auto")


def _stores(folder: str) -> Iterator[dict[str, object]]:
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
            with _attach(path) as store:
                yield row | _stats(store)
        except FileNotFoundError:  # removed since
            continue
        except (RefstoreError, OSError) as error:
            yield row | {"error": _text(error)}


def _stats(store: Store) -> dict[str, object]:
    """The fields of the store's StoreStats, without this command among its processes."""
    stats = dataclasses.asdict(store.stats())
    stats["processes"] -= 1
    return stats


def _cells(row: dict[str, object]) -> list[str]:
    return [_size(row[name]) if name in SIZES else str(row[name]) for name in COLUMNS]


def _size(nbytes: object) -> str:
    size = float(str(nbytes))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _count(problems: list[str]) -> str:
    return _plural(len(problems), "problem") if problems else "sound"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shown(name: str) -> str:
    """A name may hold anything, and must not break a line or talk to the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def _print_table(table: list[list[str]]) -> None:
    """Names to the left, all else to the right; a row may end early, with a note."""
    width = len(table[0])
    widths = [
        max(len(row[column]) for row in table if len(row) == width) for column in range(width)
    ]
    widths[0] = max(len(row[0]) for row in table)
    for first, *rest in table:
        cells = [first.ljust(widths[0])]
        if len(rest) == width - 1:
            rest = [cell.rjust(space) for cell, space in zip(rest, widths[1:], strict=True)]
        print("  ".join([*cells, *rest]))


def _text(error: BaseException) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
