"""The models of the protocols hold, and speak of functions that there are."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refstore import _core

HERE = Path(__file__).resolve().parent
CORE = HERE.parents[2] / "refstore" / "engines" / "native"
MODELS = sorted(HERE.glob("*.pml"))

# `slots.pxd: pin, unpin` in a comment says which functions a step models.
NAMED = re.compile(r"(\w+\.pxi|\w+\.pxd): ((?:[a-z]\w*)(?:, [a-z]\w*)*)")


def functions_named(text: str) -> set[tuple[str, str]]:
    comments = " ".join(re.findall(r"/\*.*?\*/", text, re.DOTALL))
    return {(file, name) for file, names in NAMED.findall(comments) for name in names.split(", ")}


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_every_function_named_in_a_model_exists(model: Path) -> None:
    named = functions_named(model.read_text())
    assert named
    missing = [
        f"{file}: {name}"
        for file, name in sorted(named)
        if not re.search(
            rf"^ *(cdef|cpdef|def) .*\b{name}\(", (CORE / file).read_text(), re.MULTILINE
        )
    ]
    assert not missing


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_every_mutation_in_a_model_is_run(model: Path) -> None:
    mutations = set(re.findall(r"\bM_([A-Z_]+)\b", model.read_text())) - {""}
    table = (HERE / "run.py").read_text()
    assert not {name for name in mutations if not re.search(rf"\b{name}\b", table)}


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(_core.DEBUG, reason="a model is the same for every build: once is enough")
@pytest.mark.skipif(shutil.which("spin") is None, reason="spin is not installed")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_small_models_hold_and_their_mutations_are_caught() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), "--quick"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
