"""Pictures of the command for docs/img: `python tests/support/screenshots.py docs/img`.

They show a store in which somebody leaks.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LEAK = """
import os, random, sys, time
import refstore

store = refstore.Store("train", capacity="256MiB", track=True)
random.seed(len(sys.argv[1]))
history = []


def next_batch():
    store.put(bytes(2 << 20), name="batch", replace=True)
    history.append(store.get("batch").array)


if sys.argv[1] == "loader":
    for _ in range(40):
        next_batch()
elif sys.argv[1] == "trainer":
    for number in range(300):
        store.put(bytes(random.choice((500, 9000, 70_000, 900_000))), name=f"cache/{number}")
    for number in range(0, 300, 3):
        store.delete(f"cache/{number}")
    kept = [store.get(f"cache/{number}") for number in (1, 4, 7, 10)]
print("ready", flush=True)
if sys.argv[1] == "evaluator":
    store.get("checkpoint", timeout=600)
while True:
    with store.get(f"cache/{random.choice((1, 2, 4, 5))}", timeout=60):
        pass
    time.sleep(0.001)
"""


def main(folder: Path) -> None:
    from rich.console import Console
    from rich.text import Text
    from terminal import on_terminal

    with tempfile.TemporaryDirectory(dir="/dev/shm") as stores, tempfile.TemporaryDirectory() as at:
        os.environ["REFSTORE_DIR"] = stores
        os.chdir(at)
        Path("train.py").write_text(LEAK)
        programs = []
        for role in ("trainer", "loader", "evaluator"):
            command = [sys.executable, "train.py", role]
            environment = os.environ | {"REFSTORE_LABEL": role}
            program = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
            assert program.stdout is not None
            program.stdout.readline()
            programs.append(program)
        try:
            with on_terminal(90, 60, "holders", "train") as terminal:
                terminal.status()
                said = terminal.raw.decode().replace("\r", "")
            console = Console(record=True, width=90, file=io.StringIO())
            console.print(Text.from_ansi(said))
            console.save_svg(str(folder / "holders.svg"), title="refstore holders train")
            command = [sys.executable, "-m", "refstore", "map", "train", "-o"]
            subprocess.run([*command, str(folder / "map.svg")], check=True)
            (folder / "top.svg").write_text(asyncio.run(top(stores)))
        finally:
            for program in programs:
                program.kill()
                program.wait()


async def top(stores: str) -> str:
    from refstore._looking import Look
    from refstore.cli.screen import Screen

    with Look(os.path.join(stores, "train")) as store:
        app = Screen(store, "train", 0.5)
        async with app.run_test(size=(100, 28)) as pilot:
            end = time.monotonic() + 2.2
            while time.monotonic() < end:
                await pilot.pause(0.1)
            return str(app.export_screenshot(title="refstore top train"))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
