# Every task of the project. A virtual environment is made on first use; second runs are quick.
#
#   make demo     a GAN trains for 200 epochs, all its weights passing through the store
#   make test     the tests, on a release build and on a debug build with failpoints
#   make test-pythons  the tests on each Python of PYTHONS that is there; names those that are not
#   make lint     format, style, types, stubs, spelling
#   make asan     the tests under AddressSanitizer and UBSan
#   make tsan     the threaded tests under ThreadSanitizer
#   make model    SPIN models of the protocols, right ones and wrong ones (Debian: apt install spin)
#   make stress   random operations with every byte checked, epochs, concurrency
#   make crash    deaths at every failpoint, once and twice, and two processes in each other's midst
#   make soak     three deaths at a million points, and on each engine half an hour of kills, stops
#                 and forks
#   make fuzz     store files that are damaged by chance, every call and command played on them;
#                 SECONDS=600, BUILD=debug, release or asan, ARGS="--engine filelock --seed 1"
#   make mutants  known mistakes, built into the core one by one: the tests must catch them
#   make bench    refstore against its peers and against its goals; ARGS=--quick for a look
#   make bench-peers         the peers that cannot live in .venv, into folders of build/
#   make bench-check         what moved by more than 15 % against docs/performance.json
#   make bench-instructions  instructions per get and put, by callgrind (Debian: apt install valgrind)
#   make bench-docs          tables and pictures of docs/performance.md from docs/performance.json
#   make wheel    dist/: a source archive, a wheel for this machine, and one in Python alone
#   make clean    removes all that was built; the virtual environment stays
#
# PYTHON=python3.13 make test    picks the interpreter of a new environment
# make test ARGS="-k names"      hands arguments to pytest, or to the program that is run

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SECONDS ?= 1800
BUILD ?= debug
PLASMA_PYTHON ?= python3.10
TRIALS ?= 1000000
PYTHONS ?= 3.10 3.11 3.12 3.13

BIN := $(abspath $(VENV))/bin
RUN := $(BIN)/python
PIP := $(RUN) -m pip --disable-pip-version-check

# cython-lint calls another tool of the environment by name.
export PATH := $(BIN):$(PATH)

SOURCES := $(wildcard refstore/*.pyx refstore/*.pxd) setup.py pyproject.toml MANIFEST.in
# As build-system.requires and the extra `demo` in pyproject.toml have them.
BUILD_TOOLS := "setuptools>=77" "Cython>=3.1,<4" "numpy>=2.1"
TORCH := torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test test-release test-debug test-pythons lint asan tsan model stress crash soak fuzz mutants wheel
.PHONY: clean bench bench-peers bench-check bench-instructions bench-docs
.DELETE_ON_ERROR:

# --- tasks

demo: $(VENV)/with-demo
	$(RUN) -m examples.gan.train --mode distributed --workers 4 --epochs 200 $(ARGS)

test: test-release test-debug

test-release: $(VENV)/with-test
	$(BIN)/pytest $(ARGS)

test-debug: build/debug/built
	$(call pytest_on,debug,)

# Each in an environment of its own below build/, a release build beside the sources.
test-pythons:
	@failed= missing=; for version in $(PYTHONS); do \
	    python=; for one in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
	        if "$$one" -c "" 2> /dev/null; then python=$$one; break; fi; done; \
	    if [ -z "$$python" ]; then missing="$$missing $$version"; continue; fi; \
	    echo "--- Python $$version: $$python"; \
	    $(MAKE) PYTHON=$$python VENV=build/python$$version test-release || failed="$$failed $$version"; \
	done; \
	if [ -n "$$missing" ]; then echo "not there, hence not tested: Python$$missing"; fi; \
	if [ -n "$$failed" ]; then echo "failed: Python$$failed"; exit 1; fi

asan: build/asan/built
	$(call pytest_on,asan,$(SANITIZED),--timeout 900)

SANITIZED = LD_PRELOAD=$$(gcc -print-file-name=libasan.so) PYTHONMALLOC=malloc \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1

# ThreadSanitizer does not see that two mappings show the same memory, so threads it is.
tsan: build/tsan/built
	$(call pytest_on,tsan,LD_PRELOAD=$$(gcc -print-file-name=libtsan.so) \
	    TSAN_OPTIONS="halt_on_error=1 exitcode=66", --timeout 900 -k threads)

lint: $(VENV)/with-test $(VENV)/with-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/cython-lint refstore stress
	$(BIN)/codespell -L nd refstore tests stress examples docs setup.py Makefile *.md
	$(RUN) -m mypy.stubtest refstore._core --allowlist tests/typing/stubtest.txt

model: $(VENV)/made
	$(RUN) tests/native/model/run.py $(ARGS)

stress: $(VENV)/with-stress
	$(RUN) stress/ops.py --operations 100000 --procs 4
	$(RUN) stress/ops.py --operations 100000 --procs 4 --backend filelock
	$(RUN) stress/epochs.py --epochs 200
	$(RUN) stress/epochs.py --epochs 200 --backend filelock
	$(RUN) stress/concurrent.py --procs 1,2,4

crash: build/debug/built
	$(call run_on,debug,tests.native.crash.matrix --depth=1 $(ARGS))
	$(call run_on,debug,tests.native.crash.matrix --depth=2 $(ARGS))
	$(call run_on,debug,tests.native.crash.interleave $(ARGS))
	$(RUN) -m tests.filelock.kills --trials=5000
	$(RUN) -m tests.filelock.kills --trials=5000 --depth=2

soak: build/debug/built
	$(call run_on,debug,tests.native.crash.matrix --depth=3 --trials=$(TRIALS))
	$(RUN) -m stress.crash --seconds=$(SECONDS) --procs=8
	$(RUN) -m stress.crash --seconds=$(SECONDS) --procs=8 --backend=filelock

# asan: the native engine under sanitizers, which take the place of limits on memory.
fuzz: SECONDS = 600
fuzz: build/$(BUILD)/built
	$(call run_on,$(BUILD),tests.fuzz --seconds=$(SECONDS) $(ARGS),\
	    $(if $(filter asan,$(BUILD)),$(SANITIZED)))

mutants: $(VENV)/with-test
	$(RUN) tests/native/mutants/run.py $(ARGS)

bench: $(VENV)/with-bench
	mkdir -p build/bench
	$(RUN) stress/bench.py --json build/bench/performance.json $(ARGS)

# Redis needs its server (Debian: apt install redis-server), torch comes with the extra `demo`.
bench-peers: $(VENV)/with-bench build/peers-venv/made build/plasma-venv/made

bench-check: $(VENV)/with-bench
	$(RUN) stress/bench_check.py $(ARGS)

bench-instructions: $(VENV)/built
	$(RUN) stress/instructions.py $(ARGS)

bench-docs: $(VENV)/with-bench
	$(RUN) -m stress.side_by_side.tables docs/performance.json docs/performance.md
	$(RUN) -m stress.side_by_side.pictures docs/performance.json docs/img

wheel: $(VENV)/built
	$(PIP) install -q build
	$(RUN) -m build
	REFSTORE_BUILD=none $(RUN) -m build --wheel

clean:
	rm -rf build dist *.egg-info refstore/*.so refstore/*.c stress/*.so examples/gan/out stress/out
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find refstore tests stress examples -name __pycache__ -prune -exec rm -rf {} +
	rm -f $(VENV)/built $(VENV)/with-*

# --- what they need: an empty file stands for a step that is done

$(VENV)/made:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade pip
	$(PIP) install -q $(BUILD_TOOLS)
	touch $@

$(VENV)/built: $(VENV)/made $(SOURCES)
	REFSTORE_BUILD=release $(PIP) install -q --no-build-isolation -e .
	touch $@

# refstore itself is there already, so this adds what the extra names.
$(VENV)/with-%: $(VENV)/made pyproject.toml | $(VENV)/built
	$(PIP) install -q "refstore[$*]"
	touch $@

# PyPI's torch for Linux comes with gigabytes of CUDA; the smaller one does where it can be had.
$(VENV)/with-demo: $(VENV)/made pyproject.toml | $(VENV)/built
	$(PIP) install -q --no-deps --retries 0 --timeout 15 --index-url $(TORCH_INDEX) $(TORCH) || true
	$(PIP) install -q "refstore[demo]"
	touch $@

build/peers-venv/made:
	$(PYTHON) -m venv build/peers-venv
	build/peers-venv/bin/pip install -q ray vineyard numpy
	touch $@

# The last pyarrow that has Plasma is built for Python 3.7 to 3.11, and with numpy 1.
build/plasma-venv/made:
	$(PLASMA_PYTHON) -m venv build/plasma-venv
	build/plasma-venv/bin/pip install -q "pyarrow==11.0.0" "numpy<2"
	touch $@

build/%/built: $(VENV)/with-test $(SOURCES)
	REFSTORE_BUILD=$* REFSTORE_WERROR=1 $(RUN) setup.py -q build --build-lib build/$*
	touch $@

# Runs the tests on a variant: 1 its name, 2 environment, 3 arguments. Python looks for modules in
# the working folder first, and children of the tests do too: hence not from here, where the
# release build is. What is not compiled is copied anew each time.
define pytest_on
cp refstore/*.py refstore/*.pyi build/$(1)/refstore/
cp refstore/locked/*.py build/$(1)/refstore/locked/
cd build/$(1) && PYTHONPATH=$(CURDIR)/build/$(1) $(2) \
    $(BIN)/pytest -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) $(3) $(ARGS) $(CURDIR)/tests
endef

# Runs a program of tests/ on a variant: 1 its name, 2 the module and its arguments, 3 environment.
define run_on
cp refstore/*.py refstore/*.pyi build/$(1)/refstore/
cp refstore/locked/*.py build/$(1)/refstore/locked/
cd build/$(1) && PYTHONPATH=$(CURDIR)/build/$(1):$(CURDIR) $(3) $(RUN) -m $(2)
endef
