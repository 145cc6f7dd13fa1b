"""The `refstore` command: look at stores, check and clear them, remove them.

Each command attaches as any process does, so it sees what they see and is safe beside them.
Exit status: 0 if all is well, 1 if `check` finds a problem, 2 on bad usage, or where no store is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import refstore
from refstore import messages
from refstore.engine import check_backend, holds_store, is_store, why_no_core
from refstore.errors import RefstoreError, StoreCorruptedError
from refstore.paths import open_store, store_folder, store_path
from refstore.records import Recovery
from refstore.store import Store, attached
from refstore.temporary import collect_temporary, is_abandoned

__all__ = ["main"]

OPTIONS = ("-h", "--help", "--version", "--json", "--foreign", "--")
NAMING = ("stat", "holders", "check", "recover", "rm")  # commands that take names of stores
SIZES = ("capacity", "used", "free", "largest_free")  # fields of StoreStats that count bytes
ABANDONED = "temporary, and its creator is dead: `{command} gc` removes it"
COLUMNS = (  # of `ls`
    *("capacity", "used", "largest_free", "objects", "pinned", "condemned", "processes"),
    "backend",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    options = _parse(arguments)
    try:
        status: int = options.run(options)
        _flush()
    except BrokenPipeError:  # `refstore ls | head`: the reader has seen enough
        _give_up_output()
        return 0
    except (RefstoreError, OSError, ValueError) as error:
        _complain(error)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _flush() -> None:
    if sys.stdout is None:  # closed by the shell: `refstore ls >&-`
        return
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_output()
        raise


def _give_up_output() -> None:
    # Python flushes stdout once more at exit, and would complain of the same.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- usage


class _Version(argparse.Action):
    """Prints which refstore this is, and which engine new stores get from it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        python = ".".join(map(str, sys.version_info[:3]))
        folder = os.path.dirname(os.path.abspath(refstore.__file__))
        try:
            chosen = check_backend("auto")
        except ValueError as error:
            parser.error(str(error))
        missing = why_no_core()
        if chosen == "auto":
            chosen = "native" if missing is None else "filelock"
        _print(f"refstore {refstore.__version__} ({chosen} engine, Python {python}, {folder})")
        if missing is not None:
            _note(missing)
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Says how a name is given that looks like an option."""

    advice = ""

    def error(self, message: str) -> NoReturn:
        super().error(message + _Parser.advice)


def _advice(given: Sequence[str]) -> str:
    verb = next((one for one in given if one[:1] != "-"), "")
    dashed = next((shlex.quote(one) for one in given if one[:1] == "-" and one not in OPTIONS), "")
    if not dashed or verb not in NAMING:
        return ""
    return f" (if {dashed} names a store: {messages.command()} {verb} -- {dashed})"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    _Parser.advice = _advice(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(
        prog=messages.command(),
        description="Look at refstore's stores, check and clear them, remove them.",
        allow_abbrev=False,
    )
    json_help = "print JSON, with sizes in bytes"
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version and the engine, and exit"
    )
    parser.add_argument("--json", action="store_true", help=json_help)
    as_json = _Parser(add_help=False)
    # without a default, which would take back what stands before the command
    as_json.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=json_help)
    foreign = _Parser(add_help=False)
    foreign.add_argument(
        "--foreign", action="store_true", help="attach to a store of another user, whom you trust"
    )
    name = _Parser(add_help=False)
    name_help = "a store's name, or the path of its file if it holds a path separator"
    name.add_argument("name", metavar="NAME", help=name_help)
    names = _Parser(add_help=False)
    names.add_argument("names", metavar="NAME", nargs="+", help=name_help)

    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    of_one = [as_json, foreign, name]
    for run, parents, does in (
        (_ls, [as_json, foreign], "list this user's stores"),
        (_stat, of_one, "show the state of a store"),
        (_holders, of_one, "show which processes pin objects or are writing some"),
        (_check, of_one, "test every invariant of a store; changes nothing"),
        (_recover, of_one, "give back what dead processes held"),
        (_rm, [names], "remove stores; processes that are attached keep what they have"),
        (_gc, [as_json], "remove temporary stores whose creator is dead"),
    ):
        command = commands.add_parser(
            run.__name__.lstrip("_"), parents=parents, help=does, allow_abbrev=False
        )
        command.set_defaults(run=run)
    options = parser.parse_args(arguments)
    if options.json and options.run is _rm:
        parser.error("rm prints nothing, so it takes no --json")
    return options


# --- commands


def _ls(options: argparse.Namespace) -> int:
    folder = store_folder(create=False)
    rows = list(_stores(folder, options.foreign))
    if options.json:
        _print_json(rows)
    elif not rows:
        _note(f"no stores in {folder}")
    else:
        table = [["NAME", *(column.upper().replace("_", " ") for column in COLUMNS)]]
        for row in rows:
            cells = [str(row["error"])] if "error" in row else _cells(row)
            table.append([str(row["name"]), *cells])
        _print_table(table)
    return 0


def _stat(options: argparse.Namespace) -> int:
    path = store_path(options.name)
    with _attach(path, options.foreign) as store:
        limit = {"max_objects": store.max_objects}
        row = {"name": options.name, "path": path, **limit, **_stats(store)}
    if options.json:
        _print_json(row)
    else:
        for field, value in row.items():
            shown = f"{_size(value)} ({value} bytes)" if field in SIZES else str(value)
            _print(f"{field.replace('_', ' '):13} {shown}")
    return 0


def _holders(options: argparse.Namespace) -> int:
    with _attach(store_path(options.name), options.foreign) as store:
        holders = store.holders()
    if options.json:
        rows = [
            holder._asdict() | {"ref": None if holder.ref is None else holder.ref.hex()}
            for holder in holders
        ]
        _print_json(rows)
    elif not holders:
        _note(f"{options.name}: no process pins an object or is writing one")
    else:
        table = [["PID", "COMMAND", "ALIVE", "PINS", "BYTES", "NAME OR REF"]]
        for pid, command, ref, name, pins, nbytes, alive in holders:
            what = "(being written)" if ref is None else ref.hex() if name is None else name
            table.append(
                [str(pid), command, "yes" if alive else "no", str(pins), str(nbytes), what]
            )
        _print_table(table)
    return 0


def _recover(options: argparse.Namespace) -> int:
    path = store_path(options.name)
    with _attach(path, options.foreign) as store:
        recovery = store.recover()
    if options.json:
        row = {"name": options.name, "path": path, **dataclasses.asdict(recovery)}
        _print_json(row)
    else:
        _print(f"{options.name}: {_what_came_back(recovery)}")
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
        with _attach(path, options.foreign) as store:
            problems = [str(problem) for problem in store.check()]
    except StoreCorruptedError as error:  # so broken that it cannot even be attached to
        if not is_store(path):
            raise
        problems = [_text(error)]
    if options.json:
        _print_json({"name": options.name, "path": path, "problems": problems})
    else:
        for problem in problems:
            _print(problem)
        _print(f"{options.name}: {_count(problems)}")
    return 1 if problems else 0


def _rm(options: argparse.Namespace) -> int:
    return max(_remove_or_say_why(name) for name in options.names)


def _remove_or_say_why(name: str) -> int:
    try:
        _remove(store_path(name))
    except (RefstoreError, OSError, ValueError) as error:
        _complain(error)
        return 2
    return 0


def _remove(path: str) -> None:
    # Without attaching: it may be broken, another user's, or of an engine that is not there.
    try:
        _demand_store(path)
        os.unlink(path)
    except OSError as error:
        raise messages.of_path(path, error) from None
    collect_temporary(os.path.dirname(path))  # what the filelock engine keeps beside its stores


def _gc(options: argparse.Namespace) -> int:
    folder = store_folder(create=False)
    removed = sorted(collect_temporary(folder)) if os.path.isdir(folder) else []
    if options.json:
        _print_json(removed)
    else:
        for path in removed:
            _print(path)
        if removed:
            _note(f"{_plural(len(removed), 'temporary store')} removed")
    return 0


# --- what they share


def _attach(path: str, foreign: bool) -> Store:
    """The store that is there, whichever engine programs are told to use."""
    with contextlib.suppress(OSError):  # first of all: who owns what is no store does not matter
        _demand_store(path)
    return attached(Store, path, foreign=foreign)


def _demand_store(path: str) -> None:
    with open_store(path, os.O_RDONLY) as file:
        if not holds_store(file.fileno()):
            raise messages.no_store(path, messages.NOT_A_STORE)


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
                    "error": ABANDONED.format(command=messages.command()),
                }
                continue
            with _attach(path, foreign) as store:
                yield row | _stats(store)
        except FileNotFoundError:  # removed since
            continue
        except (RefstoreError, OSError) as error:
            yield row | {"error": _text(error)}


def _stats(store: Store) -> dict[str, object]:
    """The engine and the StoreStats, without this command among the processes."""
    stats = dataclasses.asdict(store.stats())
    stats["processes"] -= 1
    return {"backend": store.backend, **stats}


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


def _shown(text: str) -> str:
    """Names, paths and commands may hold anything, and must not break a line or talk to the
    terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _print(line: str) -> None:
    print(_shown(line))


def _print_json(rows: Any) -> None:
    print(json.dumps(rows, indent=2))


def _note(line: str) -> None:
    if sys.stderr is not None:  # print() would take stdout for it
        print(_shown(line), file=sys.stderr)


def _complain(error: BaseException) -> None:
    _note(f"refstore: {_text(error)}")


def _print_table(table: list[list[str]]) -> None:
    """Names to the left, all else to the right; a row may end early, with a note."""
    table = [[_shown(cell) for cell in row] for row in table]
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
