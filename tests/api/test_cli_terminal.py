"""The commands on terminals: what they show fits, and has colours there alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
import workers
from children import child_process
from command import Command, in_a_process
from terminal import SIZES, on_terminal, shown_on_terminal

import refstore
from refstore._reports import ProcessInfo
from refstore.cli import drawing, tables, watching
from refstore.cli.output import width_of

pytest.importorskip("textual")
pytest.importorskip("rich")

LONG = "experiments/2026/a name that is far too long for a terminal/of eighty columns/weights"
DELETED = re.compile(r"pending delete (96|100)\.0 KiB")  # as either engine rounds it
LOOKS = [
    ["ls"],
    ["stat", "train"],
    ["objects", "train"],
    ["holders", "train"],
    ["holders", "train", "--by", "process"],
    ["holders", "train", "--by", "object"],
    ["check", "train"],
    ["doctor"],
]


@pytest.fixture
def busy(run: Command, train: refstore.Store) -> Iterator[refstore.Store]:
    """A store with objects in many states, of which two processes hold some."""
    train.put(bytes(300_000), name=LONG)
    with child_process(train.path) as child, train.get("weights"), train.get(LONG):
        child.do(workers.hold, "weights")
        train.delete("weights")
        yield train


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("arguments", LOOKS, ids=" ".join)
def test_every_line_fits(busy: refstore.Store, arguments: list[str], columns: int) -> None:
    status, lines, _ = shown_on_terminal(columns, *arguments)
    assert status == 0 or arguments == ["doctor"]
    assert [line for line in lines if width_of(line) > columns] == []


def test_more_columns_show_more(busy: refstore.Store) -> None:
    for arguments, more in ((["ls"], "PENDING DELETE"), (["objects", "train"], "KIND")):
        assert more not in shown_on_terminal(60, *arguments)[1][0]
        assert more in shown_on_terminal(200, *arguments)[1][0]
    narrow = shown_on_terminal(80, "objects", "train")[1]
    wide = shown_on_terminal(300, "objects", "train")[1]
    assert not any(LONG in line for line in narrow)
    assert any(line.startswith("experiments/") and "…" in line for line in narrow)
    assert any(line.startswith(LONG) for line in wide)


def test_the_engine_is_left_out_first(busy: refstore.Store) -> None:
    head = shown_on_terminal(80, "ls")[1][0]
    assert ("BACKEND" in head, "PENDING DELETE" in head) == (False, True)


def test_what_goes_to_no_terminal_is_whole(busy: refstore.Store) -> None:
    said = in_a_process("objects", "train")
    assert LONG in said.out
    assert "\x1b" not in said.out


def test_colours_are_for_terminals_that_want_them(busy: refstore.Store) -> None:
    assert shown_on_terminal(80, "objects", "train")[2]
    assert not shown_on_terminal(80, "objects", "train", TERM="dumb")[2]
    status, lines, _ = shown_on_terminal(80, "objects", "train", NO_COLOR="1")
    assert status == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", "\n".join(lines))


def test_wide_letters_are_counted_as_they_are_shown(run: Command, train: refstore.Store) -> None:
    train.put(b"x", name="重み" * 30)
    lines = shown_on_terminal(80, "objects", "train")[1]
    assert {width_of(line) for line in lines[1:-1]} == {width_of(lines[0])}
    assert width_of(lines[0]) <= 80


def test_bytes_are_not_for_terminals(run: Command, train: refstore.Store) -> None:
    train.put(bytes(range(256)), name="binary")
    train.put(b"plain\n", name="text")
    status, lines, _ = shown_on_terminal(200, "get", "train", "binary")
    assert (status, len(lines)) == (2, 1)
    assert "is not text for a terminal: give -o FILE" in lines[0]
    assert shown_on_terminal(80, "get", "train", "text")[:2] == (0, ["plain"])


# --- top


def shows(part: str) -> Callable[[str], bool]:
    return lambda text: part in text


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_top_shows_the_store_as_it_changes(busy: refstore.Store, columns: int, rows: int) -> None:
    with on_terminal(columns, rows, "top", "train", "--interval", "0.1") as top:
        top.wait_for(lambda text: "q: quit" in text and " pinned" in text)
        assert top.lines[0].startswith("train  ")
        assert f"of {busy.capacity >> 20}.0 MiB" in top.lines[1]
        top.wait_for(shows("2 objects, 2 pinned, 1 pending delete"))
        top.wait_for(DELETED.search)
        assert len(top.lines) == rows
        assert max(map(width_of, top.lines)) <= columns

        def sees_a_put(text: str) -> object:
            busy.put(bytes(50_000), name="new", replace=True)
            return re.search(r"puts [1-9]\d* /s", text)

        top.wait_for(sees_a_put)
        top.wait_for(lambda text: "3 objects" in text and "puts 0 /s" in text)
        top.press("q")
        assert top.status() == 0


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_top_opens_objects(busy: refstore.Store, columns: int, rows: int) -> None:
    with on_terminal(columns, rows, "top", "train") as top:
        top.wait_for(lambda text: "o: objects" in text)
        top.press("o")
        top.wait_for(lambda text: "3 objects, " in text and "esc: back" in text)
        assert top.lines[2].startswith("experiments/")
        top.press("n")
        top.wait_for(lambda text: "[name]" in text)
        top.press("j")
        top.press("\r")
        top.wait_for(lambda text: "payload" in text and text.count("alive") == 2)
        assert "pending delete" in top.text
        top.press("\x1b")
        top.wait_for(lambda text: "payload" not in text and "3 objects, " in text)
        top.press("\x1b")
        top.wait_for(lambda text: "o: objects" in text)
        top.press("q")
        assert top.status() == 0


def test_top_sorts_processes(busy: refstore.Store) -> None:
    with on_terminal(80, 24, "top", "train", "--interval", "0.1") as top:
        for key, order in (("p", "pins"), ("r", "rate"), ("w", "waiting"), ("b", "bytes")):
            top.wait_for(lambda text: "sort: " in text)
            top.press(key)
            top.wait_for(shows(f"[{order}]"))
        top.interrupt()
        assert top.status() in (0, 130)


ALTERNATE_SCREEN_LEFT = b"\x1b[?1049l"


def test_top_ends_by_control_c(busy: refstore.Store) -> None:
    with on_terminal(80, 24, "top", "train") as top:
        top.wait_for(shows("q: quit"))
        top.press("\x03")
        assert top.status() == 0
        assert ALTERNATE_SCREEN_LEFT in top.raw


def test_top_gives_the_terminal_back_when_it_is_ended(busy: refstore.Store) -> None:
    with on_terminal(80, 24, "top", "train") as top:
        top.wait_for(shows("q: quit"))
        assert ALTERNATE_SCREEN_LEFT not in top.raw
        top.terminate()
        assert top.status() == 128 + signal.SIGTERM
        assert ALTERNATE_SCREEN_LEFT in top.raw


def test_top_ends_with_its_store(run: Command, train: refstore.Store) -> None:
    with on_terminal(80, 24, "top", "train", "--interval", "0.1") as top:
        top.wait_for(shows("q: quit"))
        assert run("rm", "train").status == 0
        assert top.status() == 2
        assert "train was removed meanwhile" in top.text


def test_top_ends_when_its_store_is_truncated(run: Command, train: refstore.Store) -> None:
    """It would be a signal to read what was cut off. Another file is: who is attached may read."""
    copy = f"{train.path}-copy"
    shutil.copy(train.path, copy)
    with on_terminal(80, 24, "top", "train-copy", "--interval", "0.1") as top:
        top.wait_for(shows("q: quit"))
        os.truncate(copy, 4096)
        assert top.status() == 2
        assert "train-copy was truncated meanwhile" in top.text
    os.unlink(copy)


def test_a_name_that_is_that_of_a_state_has_no_colour(train: refstore.Store) -> None:
    for name in tables.STYLES:
        train.put(b"x", name=name)
    with on_terminal(100, 24, "objects", "train") as objects:
        assert objects.status() == 0
        assert "pending delete" in objects.text
        assert objects.colours() == {"default"}
    writer = train.create(10)
    with on_terminal(100, 24, "objects", "train") as objects:
        assert objects.status() == 0
        assert objects.colours() == {"default", "cyan"}
    writer.abort()


def test_an_object_that_is_open_is_looked_at_anew(run: Command, train: refstore.Store) -> None:
    with on_terminal(80, 24, "top", "train", "--interval", "0.1") as top:
        top.wait_for(shows("o: objects"))
        top.press("o")
        top.wait_for(shows("weights"))
        top.press("\r")
        top.wait_for(shows("nobody holds it"))
        with train.get("weights"):
            top.wait_for(lambda text: "live" in text and "alive" in text)
            train.delete("weights")
            top.wait_for(shows("pending delete"))
        top.wait_for(shows("gone"))
        top.press("q")
        assert top.status() == 0


def test_the_dead_are_seen_on_a_narrow_terminal(run: Command, train: refstore.Store) -> None:
    with child_process(train.path) as child:
        child.do(workers.hold, "weights")
        child.kill()
        with on_terminal(50, 20, "top", "train") as top:
            top.wait_for(shows("1 dead"))
            top.press("q")
            assert top.status() == 0


def test_what_a_process_holds_is_seen_on_the_narrowest_terminal() -> None:
    cells = ["1234567", "a command of some length", "alive", "0", "12", "100.0 MiB", *["0 /s"] * 4]
    for columns in (40, 60, 80):
        kept, widths = tables.fitted(drawing.PROCESSES, [tables.Row(cells)], columns)
        heads = [drawing.PROCESSES[number].head for number in kept]
        assert {"PID", "COMMAND", "STATE", "HOLDS"} <= set(heads)
        assert sum(widths) + 2 * (len(kept) - 1) <= columns


def test_a_long_name_is_whole_where_its_object_is_open(train: refstore.Store) -> None:
    ref = train.put(b"x", name=LONG + "重み" * 20)
    lines = drawing.draw_object(train.info(ref), [], False, 40, 30)
    texts = ["".join(text for text, _ in line) for line in lines]
    assert max(map(width_of, texts)) == 40
    assert "".join(text[10:] for text in texts[:6]).startswith(LONG + "重み" * 20)


def process(slot: int, nbytes: int) -> ProcessInfo:
    return ProcessInfo(1, "", "", True, False, 0, "", 0, nbytes, 0, 0, 0, 0, 0, slot)


@pytest.mark.once("opens no store")
def test_rows_stay_where_they_are_unless_one_is_well_ahead() -> None:
    ranking = watching.Ranking()

    def slots(*nbytes: int) -> list[int]:
        rows = [process(slot, n) for slot, n in enumerate(nbytes)]
        return [one.slot for one in ranking.of(rows, watching.NONE, "bytes")]

    assert slots(100, 110, 300) == [2, 1, 0]
    assert slots(112, 100, 300) == slots(110, 111, 300) == slots(130, 100, 300) == [2, 1, 0]
    for _ in range(20):
        latest = slots(130, 100, 0)
    assert latest == [0, 1, 2]
    assert slots(130, 100) == [0, 1]
    assert slots(130, 100, 400) == [2, 0, 1]
    assert [one.pid for one in ranking.of([process(0, 5)], watching.NONE, "pins")] == [1]


def test_top_follows_its_window(busy: refstore.Store) -> None:
    with on_terminal(80, 24, "top", "train") as top:
        top.wait_for(lambda text: "q: quit" in text)
        top.resize(120, 40)
        top.wait_for(lambda text: "q: quit" in text.splitlines()[-1] and len(top.lines[0]) > 80)
        top.press("q")
        assert top.status() == 0


def test_top_has_colours_for_states(busy: refstore.Store) -> None:
    with on_terminal(80, 24, "top", "train") as top:
        top.wait_for(DELETED.search)
        assert {"de5e14", "009e73"} <= top.colours()
        top.press("q")
        assert top.status() == 0


def test_top_needs_a_terminal(run: Command, train: refstore.Store) -> None:
    said = run("top", "train")
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert "--json" in said.err


def test_top_tells_programs(run: Command, train: refstore.Store) -> None:
    said = run("top", "train", "--json", "--interval", "0.01", "--count", "3")
    assert (said.status, said.out.count("\n")) == (0, 3)
    assert run("top", "train", "--interval", "0").status == 2
