"""The command `doctor`: what may be wrong with stores on this machine, and what to do about it."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import refstore
from refstore import _messages
from refstore._errors import RefstoreError
from refstore._looking import Look
from refstore._paths import store_folder
from refstore._reports import ObjectInfo, ProcessInfo, StoreStats
from refstore._temporary import is_abandoned
from refstore._units import pids_text, plural, size_text
from refstore.cli import surroundings
from refstore.cli.objects import living
from refstore.cli.output import one_line, show, show_json, show_styled, show_wrapped
from refstore.cli.reaching import look, store_names
from refstore.engines import choice

__all__ = ["doctor"]

LITTLE = 64 << 20  # bytes of shared memory: what Docker gives
CHECKED = 100_000  # objects at most of a store whose invariants are tested here
NEARLY_FULL = 0.05  # of a file system, or of a store, that is free
STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what is the case, and what to do."""

    topic: str
    state: Literal["ok", "note", "problem"]
    what: str
    advice: str = ""


def doctor(options: argparse.Namespace) -> int:
    findings = list(_findings())
    problems = [one for one in findings if one.state == "problem"]
    if options.json:
        show_json([asdict(one) for one in findings])
    else:
        for one in findings:
            show_styled([[(f"{one.state:8}", STYLES[one.state]), (f"{one.topic}", "bold")]])
            show_wrapped("        ", one.what)
            if one.advice:
                show_wrapped("        -> ", one.advice)
        notes = sum(one.state == "note" for one in findings)
        told = f", {plural(notes, 'note')}" if notes else ""
        show((plural(len(problems), "problem") if problems else "no problem") + told)
    return 1 if problems else 0


def _findings() -> Iterator[Finding]:
    yield _python()
    yield _engine()
    try:
        folder = store_folder()
    except OSError as error:
        yield Finding("folder of stores", "problem", one_line(error), "Set REFSTORE_DIR to another")
        yield _limit([])
        yield from _kernel()
        return
    seen = [_see(os.path.join(folder, name)) for name in store_names(folder)]
    yield from _folder(folder)
    yield from _shared_memory(folder)
    yield _limit(seen)
    yield from _kernel()
    for one in seen:
        yield from _of_store(one)
    what = f"{plural(len(seen), 'store')} in {folder}"
    large = [one.name for one in seen if not one.is_checked]
    if large:
        what += (
            f"; too large to be checked here (`{_messages.command()} check`): {', '.join(large)}"
        )
    yield Finding("stores", "ok", what)


# --- Python and the engine


def _python() -> Finding:
    what = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if platform.python_implementation() != "CPython":
        return Finding("Python", "problem", what, "refstore is made for CPython: use that")
    if surroundings.free_threading():
        return Finding(
            "Python",
            "note",
            f"{what}, a free-threaded build: importing the compiled core turns the GIL on",
            "Use a build with the GIL where that matters",
        )
    return Finding("Python", "ok", what)


def _engine() -> Finding:
    try:
        asked = choice.check_backend("auto")
    except ValueError as error:
        return Finding("engine", "problem", str(error), "Set REFSTORE_BACKEND to one of these")
    about = f"refstore {refstore.__version__}"
    if asked != "auto":
        why = "because REFSTORE_BACKEND says so"
        return Finding("engine", "ok", f"{about}: new stores are of the {asked} engine, {why}")
    missing = choice.why_no_core()
    if missing is not None:
        what, _, advice = missing.rpartition(": ")
        return Finding("engine", "problem", f"{about}: file locks alone, since {what}", advice)
    return Finding("engine", "ok", f"{about}: new stores are of the native engine, which is there")


# --- where stores are


def _folder(folder: str) -> Iterator[Finding]:
    if choice.why_no_core() is not None:
        return
    obstacle = choice.load("native").unsupported_reason(folder)
    if obstacle is None:
        what = (
            f"{folder}: its file system has locks that outlive their descriptor, and shares memory"
        )
        yield Finding("kernel locks", "ok", what)
    else:
        yield Finding(
            "kernel locks",
            "problem",
            f"{folder} is not for the native engine: {obstacle}",
            "Set REFSTORE_DIR to a directory on tmpfs, ext4 or xfs",
        )


def _shared_memory(folder: str) -> Iterator[Finding]:
    """The file system of the stores, and who shares it."""
    use = surroundings.use_of(folder)
    what = f"{use.root} ({use.kind}): {size_text(use.free)} of {size_text(use.size)} free"
    users = sorted(use.by_user.items(), key=lambda pair: -pair[1])
    if users:
        named = ", ".join(f"user {uid} has {size_text(nbytes)}" for uid, nbytes in users[:3])
        what += f"; {named}"
    if use.largest is not None and use.largest[0]:
        what += f"; the largest file is {use.largest[1]} ({size_text(use.largest[0])})"
    advice = f"Remove what nobody needs (`{_messages.command()} ls`, `{_messages.command()} gc`)"
    if use.size and use.size <= LITTLE:
        larger = "or enlarge it: docker run --shm-size, an emptyDir of medium Memory in Kubernetes"
        yield Finding("shared memory", "problem", what, f"{advice}, {larger}")
    elif use.size and use.free < use.size * NEARLY_FULL:
        yield Finding("shared memory", "problem", what, advice)
    elif use.kind not in surroundings.IN_MEMORY:
        advice = "Leave REFSTORE_DIR unset, or set it to a directory on tmpfs"
        yield Finding("shared memory", "note", f"{what}; stores are on a disk there", advice)
    else:
        yield Finding("shared memory", "ok", what)


def _limit(seen: list[Seen]) -> Finding:
    limit = surroundings.memory_limit()
    where = "in a container, " if surroundings.in_container() else ""
    if limit is None:
        return Finding("memory limit", "ok", f"{where}no control group has less than the machine")
    what = (
        f"{where}a control group has {size_text(limit)}; what a store takes counts for the group "
        "of the process that touched it first"
    )
    larger = [f"{one.name} ({size_text(one.capacity)})" for one in seen if one.capacity > limit]
    if larger:
        advice = "Make them smaller (capacity=), or raise the limit: past it the kernel kills"
        return Finding(
            "memory limit", "problem", f"{what}; larger than that: {', '.join(larger)}", advice
        )
    return Finding("memory limit", "ok", what)


# --- the kernel


def _kernel() -> Iterator[Finding]:
    kernel = f"{platform.system()} {platform.release()}"
    has_it = surroundings.has_futex_waitv()
    if has_it:
        yield Finding("futex_waitv", "ok", f"{kernel} has it: waits for many names sleep at once")
    elif has_it is False:
        yield Finding(
            "futex_waitv",
            "note",
            f"{kernel} has no such call, or a seccomp profile forbids it: a wait for names in many "
            "places wakes up more often than it need",
            "Use Linux 5.16 or later, or a newer container runtime",
        )
    mode = surroundings.huge_pages()
    if mode is None:
        yield Finding("huge pages", "note", f"{kernel} says nothing of huge pages in shared memory")
    elif mode == "deny":
        yield Finding(
            "huge pages",
            "note",
            "shmem_enabled is deny: large objects get single pages, and first puts take longer",
            "echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled lets refstore ask",
        )
    else:
        yield Finding("huge pages", "ok", f"shmem_enabled is {mode}: refstore asks for them itself")


# --- stores


@dataclass(frozen=True)
class Seen:
    """A store, as far as it could be looked at."""

    name: str
    path: str
    capacity: int = 0
    evict: str | None = None
    stats: StoreStats | None = None
    dead: Sequence[ProcessInfo] = ()
    dead_bytes: int = 0  # that those hold
    orphans: Sequence[ObjectInfo] = ()
    problems: Sequence[str] = ()
    is_checked: bool = True
    is_abandoned: bool = False
    error: str = ""


def _see(path: str) -> Seen:
    name = os.path.basename(path)
    try:
        if is_abandoned(path):
            return Seen(name, path, is_abandoned=True)
        with look(path, False) as store:
            processes = store.processes()
            dead = [one for one in processes if not one.alive]
            stats = store.stats()
            is_small = stats.objects + stats.condemned <= CHECKED
            return Seen(
                name,
                path,
                store.capacity,
                store.evict,
                stats,
                dead=dead,
                dead_bytes=store.held_by_dead() if dead else 0,
                orphans=_orphans(store, processes) if is_small else (),
                problems=store.problems() if is_small else (),
                is_checked=is_small,
            )
    except FileNotFoundError:  # removed since
        return Seen(name, path)
    except (RefstoreError, OSError, ValueError) as error:
        return Seen(name, path, error=one_line(error))


def _orphans(store: Look, processes: Sequence[ProcessInfo]) -> list[ObjectInfo]:
    """Objects without a name, put by processes that are gone: whoever has the ref, if anybody."""
    alive = living(processes)
    return [
        one
        for one in store.objects()
        if one.name is None and one.state == "live" and one.pid not in alive
    ]


def _of_store(one: Seen) -> Iterator[Finding]:
    """A store that is damaged, was left, has dead processes, leaks or fills up."""
    command, topic = _messages.command(), f"store {one.name}"
    if one.is_abandoned:
        what = "temporary, and its creator is dead"
        yield Finding(topic, "problem", what, f"`{command} gc` removes it")
    elif one.error:
        advice = f"`{command} rm {shlex.quote(one.path)}` if nobody needs what it holds"
        said = f"{command} rm " in one.error
        yield Finding(topic, "problem", one.error, "" if said else advice)
    elif one.problems:
        what = f"damaged: {one.problems[0]}"
        if len(one.problems) > 1:
            what += f"; and {plural(len(one.problems) - 1, 'more problem')}"
        advice = (
            f"`{command} check {one.name}` lists all; save what can be read, then "
            f"`{command} rm {one.name}`"
        )
        yield Finding(topic, "problem", what, advice)
    elif one.dead:
        pids = pids_text([other.pid for other in one.dead])
        held = size_text(one.dead_bytes)
        what = f"{plural(len(one.dead), 'dead process')} ({pids}) with {held}"
        advice = f"`{command} recover {one.name}` lets go of it; so does whoever needs room"
        yield Finding(topic, "note", what, advice)
    elif one.stats is not None and one.stats.objects and not one.stats.processes:
        what = (
            f"nobody is attached, and {size_text(one.stats.used)} are used by "
            f"{plural(one.stats.objects, 'object')}"
        )
        advice = f"`{command} rm {one.name}` if nobody will come back for them"
        yield Finding(topic, "note", what, advice)
    elif one.stats is not None:
        yield from _of_store_in_use(one, one.stats)


def _of_store_in_use(one: Seen, stats: StoreStats) -> Iterator[Finding]:
    command, topic = _messages.command(), f"store {one.name}"
    if one.orphans:
        held = size_text(sum(other.nbytes for other in one.orphans))
        yield Finding(
            topic,
            "note",
            f"{plural(len(one.orphans), 'object')} of {held} without a name, put by processes "
            "that are gone: a leak, unless somebody kept the refs",
            f"`{command} objects {one.name} --orphans` lists them, `{command} delete` deletes "
            "them; put(owned=True) lets objects go with their process",
        )
    if stats.free < stats.capacity * NEARLY_FULL and one.evict is None:
        yield Finding(
            topic,
            "note",
            f"nearly full: {size_text(stats.free)} of {size_text(stats.capacity)} free, "
            f"{plural(stats.pinned, 'object')} of {stats.objects + stats.condemned} pinned",
            f"`{command} objects {one.name} --sort size` shows what fills it, `{command} holders "
            f"{one.name}` who pins it",
        )
