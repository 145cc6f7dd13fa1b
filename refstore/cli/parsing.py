"""The commands and their options, as they are typed."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import refstore
from refstore import _messages
from refstore.cli.cluster import VIEWS, cluster
from refstore.cli.completing import complete, complete_key, complete_store
from refstore.cli.contents import delete, get, put, trim
from refstore.cli.doctor import doctor
from refstore.cli.holders import holders
from refstore.cli.metrics import metrics
from refstore.cli.objects import SORTS, STATES, objects
from refstore.cli.output import note, show
from refstore.cli.stores import check, gc, ls, recover, rm, stat
from refstore.cli.top import top
from refstore.engines import choice

__all__ = ["names", "parse"]

OPTIONS = ("-h", "--help", "--version", "--json", "--foreign", "--")
NAME = "a store's name, or the path of its file if it holds a path separator"
JSON = "print JSON, with sizes in bytes"


class _Version(argparse.Action):
    """Prints which refstore this is, and which engine new stores get from it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        python = ".".join(map(str, sys.version_info[:3]))
        folder = os.path.dirname(os.path.abspath(refstore.__file__))
        try:
            chosen = choice.check_backend("auto")
        except ValueError as error:
            parser.error(str(error))
        missing = choice.why_no_core()
        if chosen == "auto":
            chosen = "native" if missing is None else "filelock"
        show(f"refstore {refstore.__version__} ({chosen} engine, Python {python}, {folder})")
        if missing is not None:
            note(missing)
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Says how a name is given that looks like an option."""

    advice = ""

    def error(self, message: str) -> NoReturn:
        super().error(message + _Parser.advice)


def map_(options: argparse.Namespace) -> int:
    from refstore.cli import pictures  # no other command needs what it takes

    return pictures.map_(options)


def _number(
    text: str, kind: type[int] | type[float], least: float, most: float, what: str
) -> float:
    """`what` it is, as in "a port, from 0 to 65535"."""
    with contextlib.suppress(ValueError):
        if least <= kind(text) <= most:
            return kind(text)
    _Parser.advice = ""  # how it is given is right
    raise argparse.ArgumentTypeError(f"it takes {what}, not {text!r}")


def _port(text: str) -> int:
    return int(_number(text, int, 0, 65535, "a port, from 0 to 65535"))


def _count(text: str) -> int:
    return int(_number(text, int, 1, math.inf, "a number of lines, 1 or more"))


def _pid(text: str) -> int:
    return int(_number(text, int, 1, math.inf, "the number of a process"))


def _interval(text: str) -> float:
    return _number(text, float, 0.01, threading.TIMEOUT_MAX, "seconds, 0.01 or more")


def _advice(given: Sequence[str], parsers: Mapping[str, _Parser]) -> str:
    """Says how to give what begins with a dash and is no option."""
    verb = next((one for one in given if one[:1] != "-"), "")
    if verb not in parsers or "--" in given:
        return ""
    known = parsers[verb]._option_string_actions
    for at, one in enumerate(given):
        if one[:1] != "-" or one in ("-", *OPTIONS) or one.partition("=")[0] in known:
            continue
        before = given[at - 1] if at else ""
        if before in known and known[before].nargs != 0:
            return f" (if {one} is what {before} takes: {before}={shlex.quote(one)})"
        told = shlex.join([*given[:at], "--", *given[at:]])
        return f" (if {shlex.quote(one)} is a name: {_messages.command()} {told})"
    return ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of one command, and the command as `run`; ends the program on bad usage."""
    parser, commands = _made()
    complete(parser)
    given = sys.argv[1:] if arguments is None else arguments
    _Parser.advice = _advice(given, commands.of_names)
    return parser.parse_args(arguments)


def names() -> list[str]:
    """The names of all commands."""
    return _made()[1].all


def _made() -> tuple[_Parser, _Commands]:
    parser = _Parser(
        prog=_messages.command(),
        description="Look at refstore's stores, at what is in them, at who holds it; clear them.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version and the engine, and exit"
    )
    parser.add_argument("--json", action="store_true", help=JSON)
    commands = _Commands(parser)
    _add_looks(commands)
    _add_views(commands)
    _add_changes(commands)
    return parser, commands


class _Commands:
    """The commands, as they are added."""

    def __init__(self, parser: _Parser) -> None:
        self._under = parser.add_subparsers(metavar="COMMAND", required=True)
        self.all: list[str] = []
        self.of_names: dict[str, _Parser] = {}  # those that take names of stores

    def add(
        self,
        run: Callable[[argparse.Namespace], int],
        does: str,
        *,
        names: str | None = "?",
        foreign: bool = True,
        text: str | None = None,
    ) -> _Parser:
        """`names`: None if it takes no store, "+" if it takes many."""
        name = run.__name__.rstrip("_")  # `map` is Python's own
        made: _Parser = self._under.add_parser(
            name,
            help=does,
            description=text or does,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        # without a default, which would take back what stands before the command
        made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=JSON)
        if foreign:
            trust = "a store of another user, whom you trust"
            made.add_argument("--foreign", action="store_true", help=trust)
        if names == "+":
            _completed(made.add_argument("names", metavar="NAME", nargs="+", help=NAME))
        elif names is not None:
            _completed(made.add_argument("name", metavar="NAME", help=NAME))
        self.all.append(name)
        if names is not None:
            self.of_names[name] = made
        return made


def _completed(action: Any, by: Callable[..., list[str]] = complete_store) -> None:
    action.completer = by


def _add_looks(commands: _Commands) -> None:
    """Commands that change nothing."""
    commands.add(ls, "list this user's stores", names=None)
    commands.add(stat, "show the figures of a store, its processes and last recoveries")
    found = commands.add(objects, "list what is in a store", text=_OF_OBJECTS)
    found.add_argument(
        "--sort", choices=list(SORTS), default="size", help="the order; by size if it is not given"
    )
    found.add_argument(
        "--by",
        choices=["process", "line"],
        help="sums, for each process that put, or each line of a program, if it tells",
    )
    found.add_argument(
        "--limit", metavar="N", type=_count, help="the first N lines; all if it is not given"
    )
    found.add_argument("--prefix", metavar="TEXT", help="those whose names begin so")
    found.add_argument("--state", choices=list(STATES), help="those in this state")
    found.add_argument("--owner", metavar="PID", type=_pid, help="those that this process put")
    found.add_argument(
        "--orphans",
        action="store_true",
        help="those whose process has ended, or has closed the store",
    )
    who = commands.add(
        holders, "show which processes pin objects or are writing some", text=_OF_HOLDERS
    )
    who.add_argument(
        "--by",
        choices=["process", "object", "line"],
        help="a line for each process, object, or line of a program, if it tells",
    )
    commands.add(check, "test every invariant of a store; exit status 1 if one does not hold")
    commands.add(
        doctor,
        "look for what is wrong on this machine, and say what to do; exit status 1 if something is",
        names=None,
        foreign=False,
    )


def _add_views(commands: _Commands) -> None:
    """Commands that show what others make of it, and change nothing."""
    drawn = commands.add(
        map_, "draw a store's memory by state; a PNG needs the extra [cli]", text=_OF_MAP
    )
    drawn.add_argument(
        "-o", "--output", metavar="FILE", help="a .png or .svg; NAME.svg here if not given"
    )
    live = commands.add(
        top, "show a store as it changes, on the whole terminal; needs the extra [cli]"
    )
    _add_times(live, 0.5)
    _add_cluster(commands)
    served = commands.add(
        metrics, "print a store's figures for Prometheus, or serve them; needs the extra [metrics]"
    )
    served.add_argument(
        "--port", metavar="PORT", type=_port, help="serve them at this port until interrupted"
    )
    served.add_argument("--address", help="the address to serve at; 127.0.0.1 if not given")


def _add_cluster(commands: _Commands) -> None:
    """Views of many machines."""
    made = commands.add(
        cluster,
        "show the nodes of a session on Ray, or the objects of all of them; needs the extra [ray]",
        names=None,
        foreign=False,
        text=_OF_CLUSTER,
    )
    made.add_argument("view", choices=list(VIEWS), help="what is shown")
    made.add_argument("--session", default="default", help='its name; "default" if not given')
    made.add_argument("--address", help="of the Ray cluster; RAY_ADDRESS, or that of this machine")
    made.add_argument(
        "--sort", choices=list(SORTS), default="size", help="the order of objects; by size"
    )
    made.add_argument(
        "--limit", metavar="N", type=_count, help="the first N objects; all if not given"
    )
    _add_times(made, 1.0)


def _add_times(live: argparse.ArgumentParser, interval: float) -> None:
    live.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_interval,
        default=interval,
        help=f"between two looks; {interval} if not given",
    )
    live.add_argument(
        "--count", metavar="N", type=_count, help="with --json: how many lines; until interrupted"
    )


_OF_CLUSTER = """Show a session of refstore.ray: `nodes` is a line for each node, `objects` all that
is in their stores, each object once, and `top` the nodes as they change, on the whole terminal.

PULLS and BROUGHT are what came to a node's store from others, SERVED what its agent handed out.
A published name is shown with its version."""

_OF_OBJECTS = """List what is in a store.

SIZE is what an object's block takes, AGE the time since it was put, PID and PUT BY the process
that did. A deleted object that somebody pins is "pending delete". Orphans are objects in any
state whose process is not attached any more: it has ended, or it has closed the store."""


def _add_changes(commands: _Commands) -> None:
    """Commands that attach, as any process does, or remove files."""
    key = "an object's name, or its ref in hex digits"
    taken = commands.add(get, "write an object to a file or to stdout", text=_OF_GET)
    _completed(taken.add_argument("key", metavar="KEY", help=key), complete_key)
    taken.add_argument("-o", "--output", metavar="FILE", help="in place of stdout")
    given = commands.add(put, "put a file into a store, and print its ref", text=_OF_PUT)
    _completed(given.add_argument("key", metavar="KEY", help="the object's name"), complete_key)
    given.add_argument("file", metavar="FILE", help="what to put; - is stdin")
    given.add_argument("--replace", action="store_true", help="in place of what has that name")
    gone = commands.add(delete, "delete objects")
    _completed(gone.add_argument("keys", metavar="KEY", nargs="+", help=key), complete_key)
    commands.add(trim, "give free memory of a store back to the system")
    commands.add(recover, "give back what dead processes held")
    commands.add(
        rm,
        "remove stores; processes that are attached keep what they have",
        names="+",
        foreign=False,
    )
    commands.add(gc, "remove temporary stores whose creator is dead", names=None, foreign=False)


_OF_HOLDERS = """Show which processes pin objects or are writing some, and what that takes.

AGE is the time since the object was put; since when it is pinned is not known.
A process tells which of its lines put and pinned an object if it was started with REFSTORE_TRACK=1
or opened the store with track=True."""

_OF_MAP = """Draw a store's memory by state, and print the picture's path. Its ground is
transparent, and its colours are for light and dark ones."""

_OF_GET = """Write an object to a file or to stdout: bytes as they are, an array in numpy's format
(.npy), any other object as a pickle, which unpickles it first."""

_OF_PUT = """Put a file into a store: the array that a .npy file holds, or the bytes of any other
file. Prints the ref."""
