# Every task of the project, done by nox (noxfile.py) in .venv, which is made on first use.
#
#   make demo     a GAN trains for 200 epochs, all its weights passing through the store
#   make test     the tests, on a release build and on a debug build with failpoints
#   make test-pythons  the tests on each Python of PYTHONS that is there; names those that are not
#   make test-integrations  the modules beside other libraries, each in an environment of its own
#   make test-cluster  what goes past one machine, on Ray clusters of several nodes on this one
#   make cluster-net   two hosts of a Ray cluster, whose link is slow, cut and mended; as root
#   make lint     format, style, types, stubs, spelling
#   make asan     the tests under AddressSanitizer and UBSan
#   make tsan     the threaded tests under ThreadSanitizer
#   make model    SPIN models of the protocols, right ones and wrong ones (Debian: apt install spin)
#   make stress   random operations with every byte checked, epochs, concurrency
#   make crash    deaths at every failpoint, once and twice, and two processes in each other's midst
#   make soak     three deaths at a million points, and on each engine half an hour of kills, stops
#                 and forks; SECONDS=1800 TRIALS=1000000
#   make fuzz     store files that are damaged by chance, every call and command played on them;
#                 SECONDS=600, BUILD=debug, release or asan, ARGS="--engine filelock --seed 1"
#   make mutants  known mistakes, built into the core one by one: the tests must catch them
#   make bench    refstore against its peers and against its goals; ARGS=--quick for a look
#   make bench-peers         the peers that cannot live in .venv, into folders of build/; Redis
#                            needs its server (Debian: apt install redis-server)
#   make bench-check         what moved by more than 15 % against docs/performance.json
#   make bench-instructions  instructions per get and put, by callgrind (Debian: apt install valgrind)
#   make bench-docs          tables and pictures of docs/performance.md from docs/performance.json
#   make wheel    dist/: a source archive, a wheel for this machine, and one in Python alone
#   make install  the release build beside the sources, for .venv/bin/python
#   make build    the variant BUILD=debug, release, asan, tsan or gcov, in its folder of build/
#   make clean    removes all that was built; the virtual environment stays
#
# PYTHON=python3.13 make test    picks the interpreter of a new environment
# make test ARGS="-k names"      hands arguments to pytest, or to the program that is run

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

NOX := $(VENV)/bin/nox
TASKS := demo test-release test-debug test-pythons test-integrations test-cluster cluster-net lint asan tsan model stress \
    crash soak fuzz mutants bench bench-peers bench-check bench-instructions bench-docs wheel install build

.PHONY: test clean $(TASKS)

$(TASKS): $(NOX)
	$(NOX) -s $@ -- $(ARGS)

test: $(NOX)
	$(NOX) -s test-release test-debug -- $(ARGS)

$(NOX):
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip --disable-pip-version-check install -q nox

clean:
	rm -rf build dist *.egg-info refstore/*.so refstore/*.c stress/baseline/*.so benchmarks/*.so \
	    examples/gan/out
	rm -rf .nox .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find refstore tests stress benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
	rm -f $(VENV)/built $(VENV)/with-*
