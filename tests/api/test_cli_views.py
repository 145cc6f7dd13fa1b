"""`refstore map`, `metrics`, completion, and what is said where an extra is missing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import helpers
import numpy as np
import pytest
from command import Command, in_a_process

import refstore
from refstore.cli import page_map, pictures

# --- map


def colour(red: int, green: int, blue: int) -> str:
    return f"#{red:02x}{green:02x}{blue:02x}"


@pytest.fixture
def held(train: refstore.Store) -> Any:
    """The store with a live object, one that is pinned, and one that is deleted, of pages each."""
    for name in ("live", "pinned", "going"):
        train.put(bytes(400_000), name=name)
    with train.get("pinned"), train.get("going"):
        train.delete("going")
        yield train


def test_a_map_as_svg_has_the_colours_of_states(
    run: Command, held: refstore.Store, tmp_path: Path
) -> None:
    file = tmp_path / "map.svg"
    assert run("map", "train", "-o", str(file)) == (0, f"{file}\n", "")
    root = ElementTree.parse(file).getroot()
    fills = [one.get("fill") for one in root.iter("{http://www.w3.org/2000/svg}rect")]
    cells = fills[: -len(page_map.STATES)]
    for state in page_map.STATES[2:5]:
        assert colour(*state.colour) in cells, state.name
    assert colour(*page_map.STATES[5].colour) not in cells
    text = "".join(root.itertext())
    assert "train: " in text
    assert "pending delete: 39" in text
    assert float(root.get("width") or 0) > 800


def test_a_map_as_png_is_for_light_and_dark(
    run: Command, held: refstore.Store, tmp_path: Path
) -> None:
    Image = pytest.importorskip("PIL.Image")
    file = tmp_path / "map.png"
    assert run("map", "train", "-o", str(file)).status == 0
    pixels = np.asarray(Image.open(file))
    assert pixels.shape[2] == 4
    assert pixels[0, 0, 3] == 0, "the ground is transparent"
    colours = np.unique(np.ascontiguousarray(pixels).view("u4"))  # as numbers: rows sort slowly
    seen = {tuple(one) for one in colours.view("u1").reshape(-1, 4).tolist()}
    for state in page_map.STATES[2:5]:
        assert (*state.colour, 255) in seen, state.name
    assert (*pictures.TEXT, 255) in seen
    for ground in (255, 13):  # what is written can be read
        assert contrast(pictures.TEXT, (ground, ground, ground)) > 3.5


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """As the WCAG has it."""

    def luminance(rgb: tuple[int, int, int]) -> float:
        parts = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in (part / 255 for part in rgb)
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_bytes_of_a_map_are_those_of_the_store(
    run: Command, held: refstore.Store, tmp_path: Path
) -> None:
    said = run("map", "train", "-o", str(tmp_path / "map.svg"), "--json").json["bytes"]
    assert sum(said.values()) == held.capacity
    assert 390_000 < said["pinned"] < 410_000
    assert 390_000 < said["pending_delete"] < 410_000
    assert said["being_written"] == 0


def test_a_map_goes_to_no_other_kind_of_file(run: Command, train: refstore.Store) -> None:
    said = run("map", "train", "-o", "map.gif")
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert not os.path.exists("map.gif")


@pytest.mark.once("opens no store")
def test_cells_have_all_pages_once() -> None:
    states = bytes([0] * 10 + [2] * 5 + [3] + [4] * 7)
    parts = page_map.shares(states, 4)
    assert parts.shape == (4, len(page_map.STATES))
    np.testing.assert_allclose(parts.sum(axis=1), 1)
    assert page_map.strongest(states, 4).tolist() == [0, 2, 4, 4]
    assert page_map.strongest(states, 1000).tolist() == list(states)
    assert page_map.strongest(b"", 4).tolist() == []
    assert list(page_map.bytes_of(states)) == [40960, 0, 20480, 4096, 28672, 0, 0]
    assert page_map.mixed(page_map.shares(bytes([2]), 1)).tolist() == [[58, 134, 214, 255]]


# --- metrics


def test_metrics_are_what_prometheus_reads(run: Command, train: refstore.Store) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    with train.get("weights"):
        said = run("metrics", "train")
        assert said.status == 0
        families = {one.name: one for one in parser.text_string_to_metric_families(said.out)}
        stats = train.stats()
    for field, name in (("used", "used_bytes"), ("pinned", "pinned_objects")):
        (sample,) = families[f"refstore_{name}"].samples
        assert (sample.value, sample.labels) == (getattr(stats, field), {"store": "train"})
    assert families["refstore_puts"].type == "counter"
    assert families["refstore_puts"].samples[0].name == "refstore_puts_total"
    assert families["refstore_puts"].samples[0].value == stats.puts
    (held,) = families["refstore_process_held_bytes"].samples
    assert held.labels["pid"] == str(os.getpid())
    for one in families.values():
        assert one.documentation.endswith(".")
        assert one.type in ("counter", "gauge")
        if one.type == "gauge" and one.unit:
            assert one.unit == "bytes"


def test_metrics_are_served_until_a_signal_ends_it(run: Command, train: refstore.Store) -> None:
    pytest.importorskip("prometheus_client")
    command = [sys.executable, "-m", "refstore", "metrics", "train", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = server.stderr.readline().strip()

        def fetched() -> str:
            with urllib.request.urlopen(address, timeout=helpers.BUSY_TIMEOUT) as answer:
                return str(answer.read().decode())

        assert 'refstore_up{store="train"} 1.0' in fetched()
        before = re.findall(r"refstore_objects\{.*\} (.*)", fetched())
        train.put(b"one more")
        assert re.findall(r"refstore_objects\{.*\} (.*)", fetched()) == [str(float(before[0]) + 1)]
        train.unlink()
        assert 'refstore_up{store="train"} 0.0' in fetched()
        assert "refstore_objects" not in fetched()
        server.send_signal(signal.SIGTERM)
        assert server.wait(helpers.BUSY_TIMEOUT) == 0
        assert server.stderr.read() == ""


def test_metrics_of_no_store_are_2(run: Command) -> None:
    pytest.importorskip("prometheus_client")
    for more in ([], ["--port", "0"], ["--json"]):
        said = run("metrics", "absent", *more)
        assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)


def test_an_address_that_cannot_be_served_is_named(run: Command, train: refstore.Store) -> None:
    pytest.importorskip("prometheus_client")
    for arguments, named in (
        (["--port", "99999"], "a port, from 0 to 65535"),
        (["--port", "9100", "--address", "192.0.2.1"], "192.0.2.1:9100: "),
        (["--address", "127.0.0.1"], "--port"),
    ):
        said = run("metrics", "train", *arguments)
        assert (said.status, said.out) == (2, "")
        assert named in said.err
        assert "Traceback" not in said.err


# --- completion


def completed(line: str) -> list[str]:
    """What a shell is offered behind what was typed."""
    script = "from refstore.cli import main; main()"
    read, write = os.pipe()
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": f"/dev/fd/{write}",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    subprocess.run([sys.executable, "-c", script], env=environment, pass_fds=[write], check=False)
    os.close(write)
    with os.fdopen(read) as said:
        return [one.strip() for one in said.read().split("\n") if one.strip()]


def test_a_shell_completes_names(run: Command, train: refstore.Store) -> None:
    pytest.importorskip("argcomplete")
    train.put(b"x", name="weird")
    assert completed("refstore sta") == ["stat"]
    assert completed("refstore stat tr") == ["train"]
    assert completed("refstore delete train we") == ["weights", "weird"]
    assert completed("refstore get train weig") == ["weights"]
    assert completed("refstore get absent we") == []
    assert "pins" in completed("refstore objects train --sort ")


# --- without the extras


MISSING = """
    import sys
    for name in {missing}:
        sys.modules[name] = None
    from refstore.cli import main
    sys.exit(main({arguments}))
"""
EXTRAS = ["rich", "textual", "argcomplete", "PIL", "prometheus_client"]


def without_extras(*arguments: str) -> subprocess.CompletedProcess[str]:
    return helpers.run_script(MISSING.format(missing=EXTRAS, arguments=list(arguments)))


@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["stat", "train"], ["objects", "train"], ["holders", "train"], ["check", "train"]],
    ids=lambda arguments: arguments[0],
)
def test_commands_work_plainly_without_the_extras(
    run: Command, train: refstore.Store, arguments: list[str]
) -> None:
    done = without_extras(*arguments)
    assert done.returncode == 0
    plain = in_a_process(*arguments)
    assert re.sub(r"\d", "", done.stdout) == re.sub(r"\d", "", plain.out)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(["metrics", "train"], "metrics"), (["map", "train", "-o", "{tmp}/map.png"], "cli")],
    ids=["metrics", "map"],
)
def test_a_command_names_the_extra_that_it_needs(
    run: Command, train: refstore.Store, tmp_path: Path, arguments: list[str], extra: str
) -> None:
    done = without_extras(*(one.format(tmp=tmp_path) for one in arguments))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"pip install '.[{extra}]'" in done.stderr


def test_a_map_as_svg_needs_no_extra(run: Command, train: refstore.Store, tmp_path: Path) -> None:
    assert without_extras("map", "train", "-o", str(tmp_path / "map.svg")).returncode == 0
