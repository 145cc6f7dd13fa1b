"""The `refstore` command: look at stores, check and clear them, remove them.

Private, but for `main`.

Each command attaches as any process does, so it sees what they see and is safe beside them.
Exit status: 0 if all is well, 1 if `check` finds a problem, 2 on bad usage, or where no store is.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

import refstore
from refstore import _messages
from refstore._errors import RefstoreError
from refstore.cli.commands import check, gc, holders, ls, recover, rm, stat
from refstore.cli.output import complain, flush, give_up_output, note, show
from refstore.engines.choice import check_backend, why_no_core

__all__ = ["main"]

OPTIONS = ("-h", "--help", "--version", "--json", "--foreign", "--")
NAMING = ("stat", "holders", "check", "recover", "rm")  # commands that take names of stores


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    options = _parse(arguments)
    try:
        status: int = options.run(options)
        flush()
    except BrokenPipeError:  # `refstore ls | head`: the reader has seen enough
        give_up_output()
        return 0
    except (RefstoreError, OSError, ValueError) as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


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
        show(f"refstore {refstore.__version__} ({chosen} engine, Python {python}, {folder})")
        if missing is not None:
            note(missing)
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
    return f" (if {dashed} names a store: {_messages.command()} {verb} -- {dashed})"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    _Parser.advice = _advice(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(
        prog=_messages.command(),
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
        (ls, [as_json, foreign], "list this user's stores"),
        (stat, of_one, "show the state of a store"),
        (holders, of_one, "show which processes pin objects or are writing some"),
        (check, of_one, "test every invariant of a store; changes nothing"),
        (recover, of_one, "give back what dead processes held"),
        (rm, [names], "remove stores; processes that are attached keep what they have"),
        (gc, [as_json], "remove temporary stores whose creator is dead"),
    ):
        command = commands.add_parser(run.__name__, parents=parents, help=does, allow_abbrev=False)
        command.set_defaults(run=run)
    options = parser.parse_args(arguments)
    if options.json and options.run is rm:
        parser.error("rm prints nothing, so it takes no --json")
    return options
