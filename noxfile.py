"""Every task of the project and what it needs; `make TASK` calls `nox -s TASK -- ARGS`.

Tasks run in the environment that nox itself is in, `.venv`; `test-pythons` makes one for each
Python. What was installed or built is noted there with a digest of what it was made from, so that
a second run does neither.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = os.environ.get("PYTHONS", "3.10 3.11 3.12 3.13").split()
SECONDS = os.environ.get("SECONDS")
VARIANT = os.environ.get("BUILD", "debug")
# Two more than there are processors: many a test waits for a while. More make each slower.
PARALLEL = ("-n", str(2 + (os.cpu_count() or 1)), "--dist", "worksteal")
# Libraries with tests in tests/integrations: each that refstore has a module for is an extra.
INTEGRATIONS = ["arrow", "dask", "fsspec", "jax", "joblib", "plasma", "polars", "torch", "zarr"]
EXTRAS = {"plasma": "arrow"}  # where a library's name is not that of the extra
PIP = ("python", "-m", "pip", "--disable-pip-version-check", "install", "-q")
# PyPI's torch for Linux comes with gigabytes of CUDA; the smaller one does where it can be had.
SMALL_TORCH = (
    *("--no-deps", "--retries", "0", "--timeout", "15", "--index-url"),
    os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu"),
)

nox.options.default_venv_backend = "none"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False
# Tools call other tools of the environment by name; pyenv's Pythons need not be on the path.
pyenv = [one for v in PYTHONS for one in glob.glob(f"{Path.home()}/.pyenv/versions/{v}.*/bin")]
os.environ["PATH"] = os.pathsep.join([f"{sys.prefix}/bin", *pyenv, os.environ["PATH"]])
# Children of tests import the package thousands of times, and are to compile it once.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""

# --- what tasks need


def step(
    session: nox.Session,
    note: Path,
    made_from: object,
    *commands: Sequence[str],
    env: dict[str, str] | None = None,
) -> None:
    """Run commands, unless `note` says that they were run for what they are to make it from."""
    digest = hashlib.sha256(repr(made_from).encode()).hexdigest()
    if note.exists() and note.read_text() == digest:
        return
    for command in commands:
        session.run(*command, env=env)
    note.unlink(missing_ok=True)  # it may be a link, if a folder was copied by links
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(digest)


def core() -> list[bytes]:
    """What a core is built from."""
    parts = [path for path in ROOT.glob("refstore/**/*") if path.suffix in (".pyx", ".pxd", ".pxi")]
    return [path.read_bytes() for path in (*sorted(parts), ROOT / "setup.py")]


def install(session: nox.Session, *extras: str) -> None:
    """Install refstore, built for release beside its sources, and what the extras name."""
    home = Path(getattr(session.virtualenv, "location", sys.prefix))
    requires = PROJECT["build-system"]["requires"]
    step(session, home / "made", requires, (*PIP, *requires))
    built = (*PIP, "--no-build-isolation", "-e", ".")
    names = (ROOT / "pyproject.toml").read_bytes()  # what it installs beside the core
    step(session, home / "built", [*core(), names], built, env={"REFSTORE_BUILD": "release"})
    for extra in extras:
        needs = PROJECT["project"]["optional-dependencies"][extra]
        if needs[0].startswith("torch") and not (home / f"with-{extra}").exists():
            session.run(*PIP, *SMALL_TORCH, needs[0], success_codes=range(256))
        step(session, home / f"with-{extra}", needs, (*PIP, f"refstore[{extra}]"))


def build(session: nox.Session, variant: str) -> Path:
    """The folder of a variant: the package with a core of its own, and Python as it stands."""
    install(session, "test")
    folder = ROOT / "build" / variant
    command = ("python", "setup.py", "-q", "build", "--build-lib", str(folder))
    env = {"REFSTORE_BUILD": variant, "REFSTORE_WERROR": "1"}
    step(session, folder / "built", core(), command, env=env)
    for old in [*folder.glob("refstore/**/*.py"), *folder.glob("refstore/**/*.pyi")]:
        if not (ROOT / old.relative_to(folder)).exists():
            old.unlink()
    for new in [*ROOT.glob("refstore/**/*.py"), *ROOT.glob("refstore/**/*.pyi")]:
        copy = folder / new.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(new, copy)
    return folder


def run_on(session: nox.Session, variant: str, *command: str) -> None:
    """Run a command on a variant.

    Python looks for modules in the working folder first, and children of the tests do too: hence
    not from here, where the release build is.
    """
    folder = build(session, variant)
    env = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **sanitizer(session, variant)}
    with session.chdir(folder):
        session.run(*command, env=env)


def sanitizer(session: nox.Session, variant: str) -> dict[str, str]:
    if variant not in SANITIZERS:
        return {}
    library = session.run("gcc", f"-print-file-name=lib{variant}.so", silent=True, external=True)
    return {"LD_PRELOAD": str(library).strip(), **SANITIZERS[variant]}


SANITIZERS = {
    "asan": {
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
    },
    "tsan": {"TSAN_OPTIONS": "halt_on_error=1 exitcode=66"},
}


def test_on(session: nox.Session, variant: str, *arguments: str) -> None:
    place = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT))
    run_on(session, variant, "pytest", *place, *arguments, *session.posargs, str(ROOT / "tests"))


def side_by_side(session: nox.Session, *lists: list[tuple[str, ...]]) -> None:
    """Run the commands of each list in their order, and the lists at the same time."""

    def run(commands: list[tuple[str, ...]]) -> None:
        for command in commands:
            session.run(*command)

    with ThreadPoolExecutor(len(lists)) as pool:
        list(pool.map(run, lists))


def python(session: nox.Session, *arguments: str) -> None:
    session.run("python", *arguments, *session.posargs)


# --- tasks


@nox.session
def demo(session: nox.Session) -> None:
    """Train a GAN for 200 epochs, all its weights passing through the store."""
    install(session, "demo")
    gan = ("examples.gan.train", "--mode", "distributed", "--workers", "4", "--epochs", "200")
    python(session, "-m", *gan)


@nox.session(name="install")
def install_release(session: nox.Session) -> None:
    """Build a release core beside the sources, and install the package from here."""
    install(session, *session.posargs)


@nox.session(name="build")
def build_variant(session: nox.Session) -> None:
    """Build the variant BUILD in its folder below build/."""
    build(session, VARIANT)


@nox.session(name="test-release")
def test_release(session: nox.Session) -> None:
    """Test the release build, on both engines."""
    install(session, "test", "test-torch")
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session(name="test-debug")
def test_debug(session: nox.Session) -> None:
    """Test a debug build, whose failpoints the native engine's tests need."""
    # which the tests of the public calls do not arm: of those the release build says all there is
    folders = ("api", "processes", "integrations", "typing")
    others = [f"--ignore={ROOT / 'tests' / name}" for name in folders]
    test_on(session, "debug", *PARALLEL, *others)


@nox.session(name="test-pythons", python=PYTHONS, venv_backend="venv")
def test_pythons(session: nox.Session) -> None:
    """Test the release build on each Python of PYTHONS that is there."""
    install(session, "test")
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session(name="test-integrations", venv_backend="venv")
@nox.parametrize("library", INTEGRATIONS)
def test_integrations(session: nox.Session, library: str) -> None:
    """Test each integration in an environment of its own: what its extra names, and no more.

    An extra `test-<library>` has what else its tests try it with; some libraries need no extra.
    """
    extras = (EXTRAS.get(library, library), f"test-{library}")
    there = [one for one in extras if one in PROJECT["project"]["optional-dependencies"]]
    install(session, "test-tools", *there)
    session.run("pytest", *session.posargs, *glob.glob(f"tests/integrations/test_{library}*.py"))


@nox.session(name="test-cluster", venv_backend="venv")
def test_cluster(session: nox.Session) -> None:
    """Test what goes past one machine, on clusters of several nodes on this one."""
    install(session, "test-tools", "ray", "test-ray")
    session.run("pytest", *session.posargs, *glob.glob("tests/integrations/test_ray*.py"))


@nox.session(name="cluster-net", venv_backend="venv")
def cluster_net(session: nox.Session) -> None:
    """Cut and mend the link between two hosts of a cluster, network namespaces; as root."""
    install(session, "ray")
    python(session, "-m", "stress.cluster_net")


@nox.session
def asan(session: nox.Session) -> None:
    """Test under AddressSanitizer and UBSan."""
    test_on(session, "asan", "--timeout", "900")


@nox.session
def tsan(session: nox.Session) -> None:
    """Test threads under ThreadSanitizer, which does not see what two mappings share."""
    test_on(session, "tsan", "--timeout", "900", "-k", "threads")


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, style, types, stubs and spelling."""
    install(session, "test", "lint")
    files = (*PROJECT["tool"]["mypy"]["files"], "docs", "setup.py", "Makefile", *glob.glob("*.md"))
    allowed = ("--allowlist", "tests/typing/stubtest.txt")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    side_by_side(
        session,
        [("mypy",), ("python", "-m", "mypy.stubtest", "refstore._core", *allowed)],
        [
            ("cython-lint", "refstore", "stress", "benchmarks"),
            ("codespell", "-L", "nd", *files),
        ],
    )


@nox.session
def model(session: nox.Session) -> None:
    """Check SPIN models of the protocols, right ones and wrong ones (Debian: spin)."""
    python(session, "tests/native/model/run.py")


@nox.session
def stress(session: nox.Session) -> None:
    """Run random operations with every byte checked, epochs, concurrency."""
    install(session, "stress")
    for engine in ("native", "filelock"):
        for load in ("ops.py --operations 100000 --procs 4", "epochs.py --epochs 200"):
            session.run("python", *shlex.split(f"stress/{load} --backend {engine}"))
    session.run("python", "stress/concurrent.py", "--procs", "1,2,4")


@nox.session
def crash(session: nox.Session) -> None:
    """Kill at every failpoint, once and twice, and two processes in each other's midst."""
    for program in ("matrix --depth=1", "matrix --depth=2", "interleave"):
        command = shlex.split(f"python -m tests.native.crash.{program}")
        run_on(session, "debug", *command, *session.posargs)
    for depth in ("1", "2"):
        session.run("python", "-m", "tests.filelock.kills", "--trials=5000", f"--depth={depth}")


@nox.session
def soak(session: nox.Session) -> None:
    """Kill thrice at TRIALS points; on each engine, SECONDS of kills, stops and forks."""
    trials = f"--trials={os.environ.get('TRIALS', '1000000')}"
    run_on(session, "debug", "python", "-m", "tests.native.crash.matrix", "--depth=3", trials)
    for engine in ("native", "filelock"):
        load = ("stress.crash", f"--seconds={SECONDS or 1800}", "--procs=8", f"--backend={engine}")
        session.run("python", "-m", *load)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Damage store files by chance, on BUILD, and play every call and command on them."""
    command = ("python", "-m", "tests.fuzz", f"--seconds={SECONDS or 600}", *session.posargs)
    run_on(session, VARIANT, *command)


@nox.session
def mutants(session: nox.Session) -> None:
    """Build known mistakes into the core one by one: the tests must catch them."""
    install(session, "test")
    python(session, "tests/native/mutants/run.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure refstore against its peers and against its goals."""
    install(session, "bench")
    Path("build/bench").mkdir(parents=True, exist_ok=True)
    python(session, "-m", "benchmarks", "--json", "build/bench/performance.json")


@nox.session(name="bench-check")
def bench_check(session: nox.Session) -> None:
    """Say what moved by more than 15 % against docs/performance.json."""
    install(session, "bench")
    python(session, "-m", "benchmarks.check")


@nox.session(name="bench-instructions")
def bench_instructions(session: nox.Session) -> None:
    """Count instructions per get and put, by callgrind (Debian: valgrind)."""
    install(session)
    python(session, "-m", "benchmarks.instructions")


@nox.session(name="bench-docs")
def bench_docs(session: nox.Session) -> None:
    """Make tables and pictures of docs/performance.md from docs/performance.json."""
    install(session, "bench")
    for part, where in (("tables", "docs/performance.md"), ("pictures", "docs/img")):
        session.run("python", "-m", f"benchmarks.comparison.{part}", "docs/performance.json", where)


@nox.session(name="bench-peers")
def bench_peers(session: nox.Session) -> None:
    """Install the peers that cannot live in .venv into folders of build/.

    The last pyarrow that has Plasma is built for Python 3.7 to 3.11, and with numpy 1.
    """
    install(session, "bench")
    plasma = os.environ.get("PLASMA_PYTHON", "python3.10")
    for name, program, needs in (
        ("peers", sys.executable, ("ray", "vineyard", "numpy")),
        ("plasma", plasma, ("pyarrow==11.0.0", "numpy<2")),
    ):
        where = f"build/{name}-venv"
        pip = (f"{where}/bin/pip", "install", "-q", *needs)
        step(session, Path(where, "made"), needs, (program, "-m", "venv", where), pip)


@nox.session
def wheel(session: nox.Session) -> None:
    """Make dist/: a source archive, a wheel for this machine, and one in Python alone."""
    install(session)
    session.run(*PIP, "build")
    session.run("python", "-m", "build")
    session.run("python", "-m", "build", "--wheel", env={"REFSTORE_BUILD": "none"})
