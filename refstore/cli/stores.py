"""Commands on stores as a whole: `ls`, `stat`, `check`, `recover`, `rm`, `gc`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Iterator

from refstore import _messages
from refstore._errors import RefstoreError, StoreCorruptedError
from refstore._header import is_store
from refstore._limits import UNLIMITED
from refstore._looking import Look
from refstore._paths import store_folder
from refstore._reports import PastRecovery, ProcessInfo, Recovery
from refstore._temporary import collect_temporary, is_abandoned
from refstore._units import age_text, percent_text, pids_text, plural, size_text, time_text
from refstore.cli.output import complain, note, one_line, show, show_json, show_wrapped
from refstore.cli.reaching import attach, look, path_of, require_store, store_names
from refstore.cli.tables import STATE, Column, Row, show_table

__all__ = ["check", "gc", "labelled", "ls", "recover", "rm", "stat", "state_of", "waits_text"]

SIZES = ("capacity", "used", "free", "largest_free", "resident", "file_system_free")
ABANDONED = "temporary, and its creator is dead: `{command} gc` removes it"
OF_STORES = (  # columns of `ls`, by field
    ("name", Column("NAME", left=True, least=16)),
    ("capacity", Column("CAPACITY")),
    ("used", Column("USED")),
    ("largest_free", Column("LARGEST FREE", spare=3)),
    ("objects", Column("OBJECTS")),
    ("pinned", Column("PINNED")),
    ("condemned", Column("PENDING DELETE", spare=2)),
    ("processes", Column("PROCESSES")),
    ("backend", Column("BACKEND", spare=4)),
)
OF_PROCESSES = (
    Column("PID"),
    Column("COMMAND", left=True, least=16),
    Column(STATE, left=True),
    Column("WAITING", spare=2),
    Column("PINS"),
    Column("HOLDS"),
    Column("OWNS", spare=1),
)
OF_RECOVERIES = (
    Column("AGO"),
    Column("PID"),
    Column("COMMAND", left=True, least=16),
    Column("CAME BACK"),
)
LISTED = 10  # processes that `stat` lists


# --- ls


def ls(options: argparse.Namespace) -> int:
    folder = store_folder(create=False)
    rows = list(_stores(folder, options.foreign))
    if options.json:
        show_json(rows)
    elif not rows:
        note(f"no stores in {folder}")
    else:
        show_table([column for _, column in OF_STORES], [_row(row) for row in rows])
    return 0


def _stores(folder: str, foreign: bool) -> Iterator[dict[str, object]]:
    """A row for each store in the folder, in order of name."""
    for name in store_names(folder):
        path = os.path.join(folder, name)
        row: dict[str, object] = {"name": name, "path": path}
        try:
            if is_abandoned(path):
                yield row | {
                    "abandoned": True,
                    "error": ABANDONED.format(command=_messages.command()),
                }
                continue
            with look(path, foreign) as store:
                yield row | _figures(store)
        except FileNotFoundError:  # removed since
            continue
        except (RefstoreError, OSError, ValueError) as error:
            yield row | {"error": one_line(error)}


def _figures(store: Look) -> dict[str, object]:
    """The engine and the StoreStats."""
    return {"backend": store.backend, **dataclasses.asdict(store.stats())}


def _row(row: dict[str, object]) -> Row:
    if "error" in row:
        return Row([str(row["name"])], text=str(row["error"]))
    return Row(
        [size_text(row[field]) if field in SIZES else str(row[field]) for field, _ in OF_STORES]
    )


# --- stat


def stat(options: argparse.Namespace) -> int:
    with look(options.name, options.foreign) as store:
        row = {
            "name": options.name,
            "path": store.path,
            "uuid": store.uuid.hex(),
            "made_at": store.made_at,
            "evict": store.evict,
            "max_objects": store.max_objects,
            **_figures(store),
        }
        processes, recovered = store.processes(), store.recoveries()
        dead_bytes = store.held_by_dead() if any(not one.alive for one in processes) else 0
    if options.json:
        told = {
            "attached": [dataclasses.asdict(one) for one in processes],
            "last_recoveries": [dataclasses.asdict(one) for one in recovered],
        }
        show_json(row | told)
        return 0
    for field, value in row.items():
        head = "pending delete" if field == "condemned" else field.replace("_", " ")
        show(f"{head:16}  {_shown(field, value, row)}")
    if processes:
        show("")
        _show_processes(options.name, processes, dead_bytes)
    if recovered:
        show("")
        show("last recoveries:")
        _show_recoveries(recovered)
    return 0


def _shown(field: str, value: object, row: dict[str, object]) -> str:
    if field == "made_at":
        return time_text(float(str(value)))
    if field == "file_system_free" and value == UNLIMITED:
        return "no limit"
    if field in SIZES:
        share = ""
        if field == "used":
            share = f", {percent_text(int(str(value)), int(str(row['capacity'])))}"
        return f"{size_text(value)} ({value} bytes{share})"
    return "none" if value is None else str(value)


def waits_text(one: ProcessInfo) -> str:
    """A sentence on what a process waits for."""
    others = f", and {plural(one.waiting - 1, 'thread')} more" if one.waiting > 1 else ""
    return f"process {one.pid} waits: {one.waits_for}{others} ({labelled(one.label, one.command)})"


def _show_processes(name: str, processes: list[ProcessInfo], dead_bytes: int) -> None:
    largest = sorted(processes, key=lambda one: (-one.bytes, one.pid))
    rows = [
        Row(
            [
                *(str(one.pid), labelled(one.label, one.command), state_of(one), str(one.waiting)),
                *(str(one.pins), size_text(one.bytes), str(one.owned)),
            ]
        )
        for one in largest[:LISTED]
    ]
    show_table(OF_PROCESSES, rows)
    if len(largest) > LISTED:
        show(f"and {len(largest) - LISTED} more: --json lists all")
    waits = [one for one in largest if one.waits_for]
    if waits:
        show("")
    for one in waits[:LISTED]:
        show_wrapped("", waits_text(one))
    dead = [one for one in processes if not one.alive]
    if dead:
        show("")
        show_wrapped(
            f"{plural(len(dead), 'dead process')}: ",
            f"{plural(sum(one.pins for one in dead), 'pin')}, {size_text(dead_bytes)} held; what "
            "is deleted, unfinished or owned of it comes back when somebody needs room, or by "
            f"`{_messages.command()} recover {name}`",
        )


def _show_recoveries(recovered: list[PastRecovery]) -> None:
    now = time.time()
    show_table(
        OF_RECOVERIES,
        [
            Row([age_text(now - one.at), str(one.pid), one.command, size_text(one.nbytes)])
            for one in sorted(recovered, key=lambda one: -one.at)
        ],
    )


def labelled(label: str, command: str) -> str:
    """Describes a process: what it calls itself, and how it was started."""
    return f"{label}: {command}" if label else command


def state_of(process: ProcessInfo) -> str:
    """Whether it is alive, has ended and is kept for its children, or is dead."""
    if not process.alive:
        return "dead"
    return "ended" if process.ended else "alive"


# --- check, recover


def check(options: argparse.Namespace) -> int:
    path = path_of(options.name)
    try:
        with look(options.name, options.foreign) as store:
            problems = [str(problem) for problem in store.problems()]
    except StoreCorruptedError as error:  # so broken that it cannot even be looked at
        if not is_store(path):
            raise
        problems = [one_line(error)]
    if options.json:
        show_json({"name": options.name, "path": path, "problems": problems})
    else:
        for problem in problems:
            show(problem)
        show(f"{options.name}: {plural(len(problems), 'problem') if problems else 'sound'}")
    return 1 if problems else 0


def recover(options: argparse.Namespace) -> int:
    with attach(options.name, options.foreign) as store:
        path, recovery = store.path, store.recover()
    if options.json:
        show_json({"name": options.name, "path": path, **dataclasses.asdict(recovery)})
    else:
        show(f"{options.name}: {_what_came_back(recovery)}")
    return 0


def _what_came_back(recovery: Recovery) -> str:
    if not recovery:
        return "no dead process"
    dead = plural(recovery.processes, "dead process")
    if recovery.pids:
        dead += f" ({pids_text(recovery.pids)})"
    held = [
        plural(number, noun)
        for number, noun in (
            (recovery.pins, "pin"),
            (recovery.unfinished, "unfinished object"),
            (recovery.locks, "lock"),
        )
        if number
    ]
    held.append(size_text(recovery.nbytes))
    if recovery.published:
        dead += f", {plural(recovery.published, 'publication')} completed"
    return f"{dead}: {', '.join(held)} came back"


# --- rm, gc


def rm(options: argparse.Namespace) -> int:
    """Removes stores; says on stdout what, if it is asked for JSON."""
    removed = [path for path in map(_remove_or_say_why, options.names) if path is not None]
    if options.json:
        show_json(removed)
    return 0 if len(removed) == len(options.names) else 2


def _remove_or_say_why(name: str) -> str | None:
    try:
        path = path_of(name)
        _remove(path)
    except (RefstoreError, OSError, ValueError) as error:
        complain(error)
        return None
    return path


def _remove(path: str) -> None:
    # Without attaching: it may be broken, another user's, or of an engine that is not there.
    require_store(path)
    try:
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
