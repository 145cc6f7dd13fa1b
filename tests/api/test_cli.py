"""The `refstore` command, run in this process unless a test needs one of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import helpers
import pytest
import workers
from children import child_process, child_processes
from command import Command

import refstore
from refstore import _messages, _units
from refstore._units import size_text
from refstore.cli import stores
from refstore.engines import choice

# --- ls


def test_ls_of_no_stores_says_so(run: Command, folder: Path) -> None:
    assert run("ls") == (0, "", f"no stores in {folder}\n")
    assert run("ls", "--json") == (0, "[]\n", "")


def test_ls_without_a_folder_makes_none(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder / "none"))
    assert run("ls") == (0, "", f"no stores in {folder}/none\n")
    assert not (folder / "none").exists()


def test_ls_prints_a_line_for_each_store(run: Command, train: refstore.Store) -> None:
    with refstore.Store("a longer name", capacity="1GiB", max_objects=5000) as other:
        said = run("ls")
        assert said.status == 0
        header, first, second = said.out.splitlines()
        assert header.split() == [
            *(
                "NAME",
                "CAPACITY",
                "USED",
                "LARGEST",
                "FREE",
                "OBJECTS",
                "PINNED",
                "PENDING",
                "DELETE",
            ),
            *("PROCESSES", "BACKEND"),
        ]
        assert first.split()[:5] == ["a", "longer", "name", "1.0", "GiB"]
        assert second.split()[:3] == ["train", "4.0", "MiB"]
        assert second.split()[-1] == train.backend
        assert len({len(line) for line in said.out.splitlines()}) == 1
        other.unlink()


def test_ls_as_json_has_every_figure(run: Command, train: refstore.Store) -> None:
    (row,) = run("ls", "--json").json
    assert row["name"] == "train"
    assert row["path"] == train.path
    assert row["capacity"] == 4 << 20
    assert row["objects"] == 2
    assert row["used"] == train.stats().used
    assert row["backend"] == train.backend


def test_ls_passes_over_what_is_no_store(run: Command, train: refstore.Store, folder: Path) -> None:
    (folder / "text").write_text("no store")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("train")
    assert [row["name"] for row in run("ls", "--json").json] == ["train"]
    (folder / "text").unlink()
    (folder / "folder").rmdir()
    (folder / "link").unlink()


def test_ls_says_what_is_wrong_with_a_broken_store(
    run: Command, train: refstore.Store, folder: Path
) -> None:
    broken = folder / "broken"
    broken.write_bytes(Path(train.path).read_bytes()[:4096])
    said = run("ls")
    assert said.status == 0
    assert [line.split()[0] for line in said.out.splitlines()] == ["NAME", "broken", "train"]
    row = run("ls", "--json").json[0]
    assert row["name"] == "broken"
    assert row["error"]
    assert run("rm", "broken") == (0, "", "")
    assert not broken.exists()


# --- stat


def test_stat_prints_every_figure(run: Command, train: refstore.Store) -> None:
    said = run("stat", "train")
    assert said.status == 0
    shown = {line[:16].strip(): line[18:] for line in said.out.splitlines()}
    assert shown["capacity"] == "4.0 MiB (4194304 bytes)"
    assert shown["largest free"].endswith(" bytes)")
    assert shown["objects"] == "2"
    assert shown["path"] == train.path
    assert shown["backend"] == train.backend


def test_stat_as_json_has_the_fields_of_store_stats(run: Command, train: refstore.Store) -> None:
    row = run("stat", "train", "--json").json
    stats = train.stats()
    for field in ("capacity", "used", "free", "largest_free", "objects", "pinned", "condemned"):
        assert row[field] == getattr(stats, field)
    assert {"puts", "gets", "deletes", "evictions", "recoveries", "processes"} <= set(row)


def test_a_store_is_found_by_its_path(run: Command, train: refstore.Store) -> None:
    assert run("stat", train.path, "--json").json["path"] == train.path


# --- check


def test_check_of_a_sound_store_is_0(run: Command, train: refstore.Store) -> None:
    assert run("check", "train") == (0, "train: sound\n", "")
    assert run("check", "train", "--json").json["problems"] == []


def test_check_prints_the_problems_and_is_1(
    run: Command, train: refstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stores, "look", lambda name, foreign: _Unsound())
        said = run("check", "train")
        assert said == (1, "slot 3 is odd\nslot 4 is even\ntrain: 2 problems\n", "")
        said = run("check", "train", "--json")
        assert (said.status, said.json["problems"]) == (1, ["slot 3 is odd", "slot 4 is even"])


class _Unsound:
    """A store with problems, which no sequence of calls can bring about."""

    def __enter__(self) -> _Unsound:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def problems(self) -> list[str]:
        return ["slot 3 is odd", "slot 4 is even"]


def test_check_of_a_store_that_cannot_be_attached_to_is_1(
    run: Command, train: refstore.Store, folder: Path
) -> None:
    (folder / "broken").write_bytes(Path(train.path).read_bytes()[:4096])
    said = run("check", "broken")
    assert said.status == 1
    assert "truncated" in said.out
    assert f"{_messages.command()} rm {folder}/broken`" in said.out
    assert said.out.endswith("broken: 1 problem\n")
    (folder / "broken").unlink()


# --- recover


def test_recover_with_nobody_dead_says_so(run: Command, train: refstore.Store) -> None:
    with train.get("weights"):
        assert run("recover", "train") == (0, "train: no dead process\n", "")
    shown = run("recover", "train", "--json").json
    assert shown == {
        "name": "train",
        "path": train.path,
        **dict.fromkeys(("processes", "pins", "unfinished", "published", "locks", "nbytes"), 0),
        "pids": [],
    }


def test_recover_says_what_came_back(run: Command, train: refstore.Store) -> None:
    before = train.stats().used
    with child_process(train.path) as child:
        for label in ("a", "b", "c"):
            child.do(workers.hold, "weights", label)
        child.do(workers.begin, 70_000)
        child.kill()
        nbytes = train.stats().used - before
        said = f"train: 1 dead process (pid {child.pid}): 3 pins, 1 unfinished object, "
        assert run("recover", "train") == (0, f"{said}{size_text(nbytes)} came back\n", "")
    assert run("recover", "train").out == "train: no dead process\n"


def test_recover_as_json_has_the_fields_of_a_recovery(run: Command, train: refstore.Store) -> None:
    with child_processes(2, train.path) as children:
        for child in children:
            child.do(workers.hold, "weights")
            child.kill()
        shown = run("recover", "train", "--json").json
        assert (shown["processes"], shown["pins"], shown["unfinished"]) == (2, 2, 0)
        assert sorted(shown["pids"]) == sorted(child.pid for child in children)


def test_recover_tells_of_what_its_own_coming_brought_back(
    run: Command, train: refstore.Store
) -> None:
    with child_process(train.path) as child:
        child.do(workers.hold, "weights")
        child.kill()
        assert train.refcount("weights") == 2
        command = [sys.executable, "-m", "refstore", "recover", "train"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        held = f"train: 1 dead process (pid {child.pid}): 1 pin, 0 B came back\n"
        assert (said.stdout, said.stderr) == (held, "")
    assert train.refcount("weights") == 1


@pytest.mark.parametrize(
    ("recovery", "said"),
    [
        ((1, (), 0, 0, 0, 0, 1), "1 dead process: 1 B came back"),
        (
            (2, (12, 34), 0, 2, 1, 3, 64),
            "2 dead processes (pids 12, 34), 1 publication completed: "
            "2 unfinished objects, 3 locks, 64 B came back",
        ),
    ],
)
def test_the_sentence_about_a_recovery(recovery: tuple[Any, ...], said: str) -> None:
    assert stores._what_came_back(refstore.Recovery(*recovery)) == said


# --- rm


def test_rm_removes_a_store_and_leaves_those_attached_alone(
    run: Command, train: refstore.Store
) -> None:
    assert run("rm", "train") == (0, "", "")
    assert run("ls", "--json").json == []
    with train.get("weights") as buf:
        assert len(buf) == 100_000


def test_rm_goes_on_after_a_store_that_is_not_there(run: Command, train: refstore.Store) -> None:
    said = run("rm", "absent", "train")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("refstore: ")
    assert said.err.count("\n") == 1
    assert not os.path.exists(train.path)


def test_rm_spares_a_file_that_is_no_store(run: Command, folder: Path) -> None:
    (folder / "text").write_text("no store" * 1000)
    said = run("rm", "text")
    assert (said.status, said.out) == (2, "")
    assert "is not a store of refstore: give another name" in said.err
    assert "remove" not in said.err
    (folder / "text").unlink()


def test_rm_spares_what_a_link_leads_to(run: Command, train: refstore.Store, folder: Path) -> None:
    (folder / "link").symlink_to("train")
    said = run("rm", "link")
    assert said.status == 2
    assert "symbolic link" in said.err
    assert os.path.exists(train.path)
    (folder / "link").unlink()


def test_rm_of_a_folder_says_what_it_is(run: Command, folder: Path) -> None:
    (folder / "inner").mkdir()
    assert run("rm", "inner").status == 2
    (folder / "inner").rmdir()


def test_rm_takes_along_what_the_engine_keeps_beside_the_store(run: Command, folder: Path) -> None:
    refstore.Store("train", capacity="1MiB").close()
    assert (folder / "train").exists()
    assert run("rm", "train") == (0, "", "")
    assert list(folder.iterdir()) == []


def test_rm_needs_no_engine(run: Command, folder: Path) -> None:
    refstore.Store("train", capacity="1MiB").close()
    script = """
        import sys
        sys.modules["refstore._core"] = None  # as where there is no compiler
        from refstore.cli import main
        sys.exit(main(["rm", "train"]))
    """
    done = helpers.run_script(script)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(folder.iterdir()) == []


# --- gc


def test_gc_removes_a_temporary_store_whose_creator_was_killed(run: Command, folder: Path) -> None:
    script = "import os, refstore; s = refstore.Store.temporary('1MiB'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], check=False)
    (name,) = helpers.stores(folder)
    left = folder / name
    with refstore.Store.temporary(capacity="1MiB") as alive:
        if left.exists():  # a create in the same folder may have removed it already
            assert run("gc", "--json").json == [str(left)]
        assert not left.exists()
        assert run("gc") == (0, "", "")
        assert os.path.exists(alive.path)


def test_ls_marks_what_gc_removes_and_removes_nothing(run: Command, folder: Path) -> None:
    script = """
        import os, signal, refstore
        stores = [refstore.Store.temporary("1MiB") for _ in range(2)]
        os.kill(os.getpid(), signal.SIGTERM)
    """
    with refstore.Store("kept", capacity="1MiB") as kept:
        assert helpers.run_script(script).returncode == -signal.SIGTERM
        orphans = [name for name in helpers.stores(folder) if name != "kept"]
        assert len(orphans) == 2
        for _ in range(2):
            said = run("ls")
            lines = [line for line in said.out.splitlines() if "creator is dead" in line]
            assert [line.split()[0] for line in lines] == orphans
        rows = run("ls", "--json").json
        assert [row["name"] for row in rows if row.get("abandoned")] == orphans
        assert run("stat", "kept").status == 0
        said = run("gc")
        assert said.out.split() == [str(folder / name) for name in orphans]
        assert (said.status, said.err) == (0, "2 temporary stores removed\n")
        assert helpers.stores(folder) == ["kept"]
        kept.unlink()


def test_gc_without_a_folder_has_nothing_to_do(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_DIR", str(folder / "none"))
    assert run("gc") == (0, "", "")


# --- usage


@pytest.mark.parametrize("command", ["stat", "holders", "check", "recover", "rm"])
def test_a_missing_store_is_2_and_one_line(run: Command, command: str) -> None:
    said = run(command, "absent")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("refstore: ")
    assert said.err.count("\n") == 1
    assert "absent" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["nonsense"], ["stat"], ["stat", "a", "b"], ["ls", "a"], ["rm"]),
        *(["ls", "--nonsense"], ["ls", "--jso"], ["--jso", "ls"], ["--versio"]),
        *(["--foreign", "ls"], ["rm", "a", "--foreign"], ["objects", "a", "--state", "lost"]),
        *(["get", "a"], ["put", "a", "b"], ["delete", "a"], ["holders", "a", "--by", "chance"]),
    ],
    ids=" ".join,
)
def test_bad_usage_is_2(run: Command, arguments: list[str]) -> None:
    said = run(*arguments)
    assert (said.status, said.out) == (2, "")
    assert f"usage: {_messages.command()}" in said.err


@pytest.mark.parametrize("name", ["", "..", "x" * 300])
def test_a_bad_name_is_2(run: Command, name: str) -> None:
    assert run("stat", name).status == 2


def test_help_and_version_are_0(run: Command) -> None:
    assert run("--help").status == 0


def test_the_version_comes_with_the_engine_of_new_stores(
    run: Command, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    package = Path(refstore.__file__).parent
    python = ".".join(map(str, sys.version_info[:3]))
    said = run("--version")
    about = f"{engine} engine, Python {python}, {package}"
    assert said[:2] == (0, f"refstore {refstore.__version__} ({about})\n")
    monkeypatch.setenv("REFSTORE_BACKEND", "other")
    said = run("--version")
    assert (said.status, said.out) == (2, "")
    assert "REFSTORE_BACKEND is 'other'" in said.err


def test_the_version_says_why_there_is_no_core(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSTORE_BACKEND", "auto")
    monkeypatch.setattr(choice, "why_no_core", lambda: "it is not there: do this")
    said = run("--version")
    assert "(filelock engine, " in said.out
    assert (said.status, said.err) == (0, "it is not there: do this\n")


def test_the_version_is_that_of_the_package() -> None:
    assert refstore.__version__ == metadata.version("refstore")


def test_a_checkout_that_was_never_installed_has_its_version(
    run: Command, train: refstore.Store
) -> None:
    script = """
        import importlib.metadata, sys
        def absent(name):
            raise importlib.metadata.PackageNotFoundError(name)
        importlib.metadata.version = importlib.metadata.distribution = absent
        from refstore.cli import main
        assert main(["ls"]) == 0
        main(["--version"])
    """
    done = helpers.run_script(script)
    assert done.stdout.splitlines()[-1].startswith(f"refstore {refstore.__version__} (")


def test_the_module_runs_as_the_command_does(run: Command, train: refstore.Store) -> None:
    command = [sys.executable, "-m", "refstore", "ls", "--json"]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    (row,) = json.loads(said.stdout)
    assert row["name"] == "train"
    assert row["processes"] == 1  # this one, and not the command
    command = [sys.executable, "-m", "refstore", "stat", "absent"]
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("refstore: ")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (1 << 46, "64.0 TiB")],
)
def test_sizes_are_rounded_for_people(nbytes: int, text: str) -> None:
    assert _units.size_text(nbytes) == text
