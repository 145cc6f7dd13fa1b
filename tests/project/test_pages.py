"""What the pages on the command show works as shown, in the order of each page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import helpers
import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("commands", "store-full", "containers", "faq")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FAILS = {"python job.py": 1, "REFSTORE_TRACK=1 python alone.py": 1}  # as its page says
MAY_FIND_SOMETHING = ("refstore doctor",)
INSTEAD = {  # of what runs until it is ended
    "refstore top tour": "refstore top tour --json --count 1",
    "refstore metrics tour --port 9100": "timeout -s TERM 5 refstore metrics tour --port 0",
    "refstore cluster nodes": "refstore cluster nodes --help",  # there is no cluster here
    "refstore cluster objects --sort age --limit 20": "refstore cluster objects --limit 20 --help",
    "refstore cluster top": "refstore cluster top --help",
    'eval "$(register-python-argcomplete refstore)"': "register-python-argcomplete refstore",
}

pytestmark = [
    pytest.mark.skipif(not DOCS.exists(), reason="needs the sources"),
    pytest.mark.once("shows what a page shows, which is on the native engine"),
]


class Shell:
    """Command lines in one folder, with what they leave running."""

    def __init__(self, folder: Path, stores: Path) -> None:
        self._folder = folder
        bin_ = os.path.dirname(sys.executable)
        self._environment = os.environ | {
            "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "REFSTORE_DIR": str(stores),
            "REFSTORE_BACKEND": "auto",
        }
        self._left: list[subprocess.Popen[bytes]] = []

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", INSTEAD.get(line, line)],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=helpers.BUSY_TIMEOUT,
        )

    def start(self, line: str) -> None:
        """Run a line that ends with &."""
        command = f"exec env {line.rstrip('& ')}"
        self._left.append(
            subprocess.Popen(["sh", "-c", command], cwd=self._folder, env=self._environment)
        )

    def end(self) -> None:
        """`kill PID`, of the program that was started last."""
        self._left[-1].terminate()
        self._left[-1].wait(helpers.BUSY_TIMEOUT)

    def close(self) -> None:
        for program in self._left:
            program.kill()
            program.wait()


def commands(block: str) -> list[str]:
    lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(folder: Path, tmp_path: Path, page: str) -> None:
    pytest.importorskip("prometheus_client")
    shell = Shell(tmp_path, folder)
    said: dict[str, str] = {}
    try:
        for language, block in BLOCK.findall((DOCS / f"{page}.md").read_text()):
            if language == "python":
                name = block.partition("\n")[0].removeprefix("# ")
                (tmp_path / name).write_text(block)
            elif language == "sh":
                for line in commands(block):
                    if line.endswith("&"):
                        shell.start(line)
                    elif line == "kill PID":
                        shell.end()
                    else:
                        done = shell.run(line)
                        assert "Traceback" not in done.stderr or line in FAILS, (line, done.stderr)
                        expected = {FAILS.get(line, 0)} | (
                            {1} if line in MAY_FIND_SOMETHING else set()
                        )
                        if INSTEAD.get(line, "").startswith("timeout"):
                            expected = {124}
                        assert done.returncode in expected, (line, done.stdout, done.stderr)
                        said[line] = done.stdout + done.stderr
    finally:
        shell.close()
    if page == "store-full":
        require_the_culprit(said, (tmp_path / "serve.py").read_text())


def require_the_culprit(said: dict[str, str], program: str) -> None:
    """The page ends at the line that leaks, and the error has named its process."""
    assert "(serve.py) 58720256 bytes" in said["python job.py"]
    lines = program.splitlines()
    (leak,) = [n for n, line in enumerate(lines, 1) if "history.append(" in line]
    assert f"pinned at serve.py:{leak} in next_batch (13 times)" in said["refstore holders jobs"]
    page = (DOCS / "store-full.md").read_text()
    assert f"pinned at serve.py:{leak} in next_batch (13 times)" in page
    assert f"line {leak} of `serve.py`" in page
    assert f"serve.py:{leak} in next_batch" in said["refstore holders jobs --by line"]
    assert "fill.py:8 in <module>" in said["refstore objects jobs --by line"]
    alone = said["REFSTORE_TRACK=1 python alone.py"]
    assert " this process " in alone
    assert alone.strip().endswith(" bytes pinned at alone.py:8 in <module>")


def test_every_command_stands_on_its_page() -> None:
    from refstore.cli import parsing

    text = (DOCS / "commands.md").read_text()
    for name in parsing.names():
        assert f"| `{name}" in text


def test_the_dashboard_asks_for_what_there_is(folder: Path) -> None:
    pytest.importorskip("prometheus_client")
    import refstore
    from refstore.cli.metrics import _Collector

    path = str(folder / "store")
    with refstore.Store(path, capacity="1MiB"):
        found = {
            sample.name for one in _Collector(path, False).collect() for sample in one.samples
        } | {one.name for one in _Collector(path, False).collect()}
        os.unlink(path)
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    asked = set(re.findall(r"refstore_\w+", json.dumps(dashboard["panels"])))
    assert len(asked) > 12
    assert asked - {"refstore_up"} <= found | {"refstore_up"}
