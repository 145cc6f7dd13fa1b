"""What is installed where there is no C compiler, and in the wheel in Python alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import helpers
import pytest

SOURCES = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.once("the package's own choice of an engine is what is looked at"),
    pytest.mark.skipif(not (SOURCES / "setup.py").exists(), reason="needs the sources"),
]

FIRST_STORE = """
    import sys, warnings
    sys.path[0] = sys.argv[2]
    import refstore
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with refstore.Store(sys.argv[1], capacity="1MiB") as store:
                ref = store.put(b"payload")
                with store.get(ref) as buf:
                    print(store.backend, bytes(buf).decode(), bytes(memoryview(buf)).decode())
                store.unlink()
    for warning in caught:
        assert str(warning.message).endswith("(pass backend='filelock' to silence this)")
        print(warning.category.__name__, "compiled core" in str(warning.message))
"""


NO_COMPILER = "/no/such/compiler"


def build(folder: Path, **environment: str) -> tuple[str, list[str]]:
    """What the build printed, and the compiled files that it left, in `folder`/lib."""
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    for name in ("refstore", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        source = SOURCES / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    (folder / "refstore" / "_core.pyx").write_text("")  # translated and compiled at once
    given = {k: v for k, v in os.environ.items() if not k.startswith("REFSTORE")}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-lib", "lib"],
        cwd=folder,
        env=given | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr, [path.name for path in (folder / "lib").rglob("*.so")]


@pytest.mark.parametrize("how", [{"CC": NO_COMPILER}, {"REFSTORE_BUILD": "none"}])
def test_without_a_compiled_core_the_first_store_says_so_and_works(
    tmp_path: Path, how: dict[str, str]
) -> None:
    said, compiled = build(tmp_path, **how)
    assert compiled == []
    assert said.count("no compiled core") == ("CC" in how)
    result = helpers.run_script(
        FIRST_STORE, tmp_path / "s", tmp_path / "lib", env={"REFSTORE_BACKEND": "auto"}
    )
    assert result.stderr == ""
    worked = "filelock payload payload"
    assert result.stdout.splitlines() == [worked, worked, "RefstoreWarning True"]


def test_a_variant_that_is_asked_for_must_build(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build(tmp_path, CC=NO_COMPILER, REFSTORE_BUILD="release")
    assert NO_COMPILER in caught.value.stderr


def test_a_source_tree_that_is_not_built_says_so(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(SOURCES / "refstore", tmp_path / "refstore", ignore=ignored)
    script = """
        import sys, warnings
        sys.path[0] = sys.argv[1]
        import refstore
        warnings.simplefilter("ignore")
        with refstore.Store(sys.argv[1] + "/s", capacity="1MiB") as store:
            assert store.backend == "filelock"
            store.unlink()
        warnings.simplefilter("error")
        refstore.engines.choice._warn.cache_clear()
        for backend in ("auto", "native"):
            try:
                refstore.Store(sys.argv[1] + "/s", capacity="1MiB", backend=backend)
            except (refstore.RefstoreError, refstore.RefstoreWarning) as error:
                assert "this is refstore's source tree" in str(error), error
                assert f"`pip install .` in {sys.argv[1]}, or start Python in another" in str(error)
                assert "compiler" not in str(error)
            else:
                raise AssertionError(backend)
    """
    done = helpers.run_script(script, tmp_path, env={"REFSTORE_BACKEND": "auto"})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_release_core_is_left_beside_its_sources(tmp_path: Path) -> None:
    """Else Python in a clone would take the package from there, and do without its core: what the
    README shows is run in one."""
    _, compiled = build(tmp_path)
    (core,) = compiled
    assert (tmp_path / "refstore" / core).exists()


@pytest.mark.skipif(not (SOURCES / ".git").exists(), reason="needs a clone")
def test_the_source_archive_holds_what_the_repository_does(tmp_path: Path) -> None:
    command = ["setup.py", "-q", "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir"]
    options = {"cwd": SOURCES, "check": True, "capture_output": True, "text": True}
    environment = os.environ | {"REFSTORE_BUILD": "none"}
    subprocess.run([sys.executable, *command, tmp_path], env=environment, **options)  # type: ignore[call-overload]
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    listed = subprocess.run(["git", "ls-files", "-z"], **options).stdout.split("\0")  # type: ignore[call-overload]
    expected = {name for name in listed if name and name[0] != "." and (SOURCES / name).exists()}
    assert expected <= held
    assert {"Makefile", "noxfile.py", "CHANGELOG.md", "tests/conftest.py"} <= held
    built = ("__pycache__", "examples/gan/out", "build/", "dist/", ".venv")
    assert not [name for name in held - expected if name.endswith((".so", ".c", ".pyc"))]
    assert not [name for name in held if any(part in name for part in built)]
