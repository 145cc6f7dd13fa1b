"""What the README shows works as shown: in a fresh clone, in a fresh environment, in its order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import builds
import engines
import pytest

SOURCES = Path(__file__).parents[2]
ALONE = ("loader", "parameters", "service", "actors", "dataset", "consumer")  # need refstore alone
EXTRAS = ("frames", "web", "cluster")
TRIES_ONLY = {  # what takes long, downloads much, or is run by test_examples.py is only looked at
    "make demo": "make --dry-run demo",
    "make test": "make --dry-run test",
    "make test-pythons": "make --dry-run PYTHONS= test-pythons",
    "pip install '.[demo]'": "pip --version",
    "pip install -e .": "pip --version",
    **{f"python -m examples.{name}": f"python -c 'import examples.{name}'" for name in ALONE},
    **{f"python -m examples.{name}": "python -V" for name in EXTRAS},
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.once("the engine is the README's affair"),
    pytest.mark.skipif(not (SOURCES / ".git").exists(), reason="needs a clone"),
    pytest.mark.skipif(engines.is_debug(), reason="builds a core of its own"),
]


class Shown(NamedTuple):
    """A command line or a program of the README."""

    language: str
    text: str


def shown() -> list[Shown]:
    found = []
    readme = (SOURCES / "README.md").read_text()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", readme, re.DOTALL | re.MULTILINE):
        if language == "sh":
            lines = [line.partition(" #")[0].strip() for line in block.splitlines()]
            found += [Shown("sh", line) for line in lines if line]
        else:
            found.append(Shown(language, block))
    return found


def clone(to: Path) -> None:
    """The repository, with what is not committed yet."""
    run = {"cwd": SOURCES, "check": True, "capture_output": True, "text": True}
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(SOURCES), str(to)], **run)  # type: ignore[call-overload]
    command = ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"]
    listed = subprocess.run(command, **run)  # type: ignore[call-overload]
    for name in filter(None, listed.stdout.split("\0")):
        if (SOURCES / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCES / name, to / name)
        else:
            (to / name).unlink()


class FirstUser:
    """Who cloned the repository, and has a new environment and an empty folder of stores."""

    def __init__(self, home: Path, stores: Path) -> None:
        self.here = home / "refstore"
        clone(self.here)
        subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
        kept = ("HOME", "LANG", "LC_", "PIP_", "SSL_", "http", "no_proxy", "TMPDIR")
        self.environment = {k: v for k, v in os.environ.items() if k.startswith(kept)}
        self.environment |= {
            "PATH": f"{home / 'venv' / 'bin'}:{os.environ['PATH']}",
            "REFSTORE_DIR": str(stores),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_COMPILE": "1",  # most of what is installed is imported once, or never
            "CC": builds.quick_compiler(home),
        }

    def run(self, *command: str, program: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.here,
            env=self.environment,
            input=program,
            capture_output=True,
            text=True,
            check=False,
        )

    def does(self, one: Shown) -> subprocess.CompletedProcess[str]:
        if one.language == "sh":
            return self.run("sh", "-c", TRIES_ONLY.get(one.text, one.text))
        return self.run("python", "-", program=one.text)

    def changes(self) -> str:
        return self.run("git", "status", "--porcelain").stdout


@pytest.mark.timeout(600)
def test_what_the_readme_shows_works_as_shown(folder: Path, tmp_path: Path) -> None:
    user = FirstUser(tmp_path, folder)
    before = user.changes()
    for one in shown():
        done = user.does(one)
        if done.returncode and "Could not find a version" in done.stderr:
            pytest.skip("there is no package index to install from")
        assert done.returncode == 0, (one.text, done.stdout, done.stderr)
        if not one.text.startswith("pip "):  # which may say something of its own
            assert "Warning" not in done.stderr, (one.text, done.stderr)
        if "--version" in one.text:
            assert "(native engine, " in done.stdout
    for program in (["refstore"], ["python", "-W", "error", "-m", "refstore"]):
        done = user.run(*program, "--version")
        assert "(native engine, " in done.stdout, (program, done)
    # the last of them runs in the clone, whose core was left beside its sources
    python = sys.version.split()[0]
    assert f"native engine, Python {python}, {user.here}/refstore" in done.stdout
    assert user.changes() == before, "an installation leaves nothing that git sees"


def test_the_readme_shows_how_to_get_it_first() -> None:
    commands = [one.text for one in shown() if one.language == "sh"]
    assert commands[0] == "pip install ."
    assert {"make demo", "make test"} <= set(commands)
    assert set(TRIES_ONLY) <= set(commands), "no longer shown"
    assert {one.language for one in shown()} == {"sh", "python"}
    head = (SOURCES / "README.md").read_text().partition("pip install .")[0]
    (picture,) = re.findall(r"!\[[^]]*\]\((.*?)\)", head)
    assert (SOURCES / picture).exists()
