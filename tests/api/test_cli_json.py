"""JSON that the commands print is as docs/commands.schema.json says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import workers
from children import child_process
from command import Command

import refstore
from refstore.cli import parsing

pytest.importorskip("jsonschema")
pytest.importorskip("prometheus_client")

import jsonschema
from command_schema import FILE, require, schema

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="needs the sources")

PRINTED = {  # what is typed behind the command
    "ls": [],
    "stat": ["train"],
    "objects": ["train"],
    "objects --by process": ["train"],
    "objects --by line": ["train"],
    "holders": ["train"],
    "holders --by process": ["train"],
    "holders --by object": ["train"],
    "holders --by line": ["train"],
    "check": ["train"],
    "doctor": [],
    "map": ["train", "-o", "{tmp}/map.svg"],
    "metrics": ["train"],
    "top": ["train", "--interval", "0.01", "--count", "1"],
    "get": ["train", "weights", "-o", "{tmp}/weights"],
    "put": ["train", "new", "{tmp}/file"],
    "delete": ["train", "weights"],
    "trim": ["train"],
    "recover": ["train"],
    "gc": [],
    "rm": ["other"],
}
OF_CLUSTERS = {"cluster nodes", "cluster objects", "cluster top"}  # tests of Ray play these


@pytest.fixture
def busy(run: Command, train: refstore.Store, folder: Path) -> Iterator[refstore.Store]:
    """A store with objects in every state, a dead holder, and others beside it."""
    refstore.Store("other", capacity="1MiB").close()
    (folder / "broken").write_bytes(Path(train.path).read_bytes()[:4096])
    with (
        child_process(train.path) as child,
        child_process(train.path) as dead,
        train.get("weights"),
        train.create(1000) as writer,
    ):
        train.put(b"x", name="going")
        child.do(workers.hold, "going")
        child.do(workers.claim, 100, "claimed")
        dead.do(workers.hold, "weights")
        dead.kill()
        train.delete("going")
        yield train
        writer.abort()
    (folder / "broken").unlink()


@pytest.mark.parametrize("command", PRINTED)
def test_what_is_printed_is_what_the_schema_says(
    run: Command, busy: refstore.Store, tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    arguments = [one.format(tmp=tmp_path) for one in PRINTED[command]]
    said = run(*command.split(), *arguments, "--json")
    assert said.status == (1 if command == "doctor" else 0), said.err
    assert said.json or command == "gc"
    require(said.json, command)
    if command != "rm":
        run("rm", "other")


def test_every_command_has_a_schema(run: Command) -> None:
    defined = {command.split()[0] for command in schema()["$defs"]}
    assert defined == {command.split()[0] for command in PRINTED} | {"cluster"}
    assert defined == set(parsing.names())
    assert set(schema()["$defs"]) == set(PRINTED) | OF_CLUSTERS


def test_all_that_is_defined_is_required_and_nothing_else_is_allowed() -> None:
    def objects(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict):
            if "properties" in part and "type" in part:
                yield part
            for inner in part.values():
                yield from objects(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from objects(inner)

    found = list(objects(schema()["$defs"]))
    assert len(found) > 15
    for one in found:
        assert one["additionalProperties"] is False
        assert set(one["properties"]) - set(one["required"]) <= {"abandoned"}


def test_a_field_that_is_not_in_the_schema_is_found(run: Command, train: refstore.Store) -> None:
    row = run("check", "train", "--json").json
    for wrong in (row | {"more": 1}, row | {"problems": [3]}, {"name": "train"}):
        with pytest.raises(jsonschema.ValidationError):
            require(wrong, "check")
