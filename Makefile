# Every target sets itself up: a machine needs Python 3.11, make and a package index.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
ARGS   ?=
JOBS   ?= 3
QUICK  := tests/memory tests/contract/test_memory.py tests/unit
# Schemathesis is used as a library, and its plugin costs every test process two seconds. The files with
# the slowest tests come first (tests/conftest.py), and not those with the most tests.
PYTEST := $(BIN)/python -m pytest -p no:schemathesis
# A test process that ends (tests/limits.py ends one that hangs) ends the run, which names the test: pytest-xdist 3.8
# waits for ever after it has replaced one (its issues 1323 and 1378).
SHARED := -n $(JOBS) --dist loadgroup --no-loadscope-reorder --max-worker-restart 0
CHAOS_SECONDS ?= 60
SOAK_SECONDS ?= 900
EXAMPLE ?= rides

.PHONY: help demo test quick pythons chaos soak coverage check bench docs release lock clean
.DEFAULT_GOAL := help

# Several test processes share the cores, and OpenMP threads that wait for one spin. They start hundreds of
# processes, each of which would compile the library where bytecode is not written.
test quick coverage: export OMP_NUM_THREADS := 1
test quick chaos soak coverage: export PYTHONDONTWRITEBYTECODE :=
quick: export HYPOTHESIS_PROFILE := quick

help:
	@echo "make demo    train two models on taxi trips, stream rides to three consumers, show it live"
	@echo "             (EXAMPLE=churn or web_backend for the other examples; ARGS='--workers 2 --bad 200"
	@echo "             --backend redis://...' kills a worker and sends bad rides, as eventml demo does)"
	@echo "make test    all tests but the chaos tests; those that need a broker say so where there is none"
	@echo "make quick   the tests of single modules and of the in-memory backend, in about a minute"
	@echo "make pythons  make quick on Python 3.11 to 3.14, as far as they are installed (PYTHONS='3.12 3.13')"
	@echo "make chaos   workers and brokers killed under load (CHAOS_SECONDS=60 for each)"
	@echo "make soak    an hour of load while everything fails (SOAK_SECONDS=900 for each of four; SOAK_SEED=...)"
	@echo "make coverage  what make test runs of src/eventml, by lines and branches"
	@echo "make check   ruff, mypy --strict, pyright on the public API, the layers"
	@echo "make bench   the benchmarks (ARGS=memory, redis, kafka, handlers or web for one of them)"
	@echo "make docs    the documentation as a site, links checked, in build/docs"
	@echo "make release  the distribution, built, checked and tried in an empty environment; nothing is uploaded"
	@echo "make lock    write requirements.lock anew (ARGS=--upgrade for newer versions)"
	@echo "ARGS=... is passed on: make demo ARGS='--events 50000 --producers 4'"

# pip installs a file only if its SHA-256 is in the lock. So are those of setuptools, which is in the image's lock and
# builds what has no wheel for this machine, and the package.
$(VENV)/.installed: pyproject.toml requirements.lock deployment/requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --requirement deployment/requirements.lock
	$(PIP) --require-hashes --no-build-isolation --requirement requirements.lock
	$(PIP) --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m examples.$(EXAMPLE).demo $(ARGS)

test: $(VENV)/.installed
	$(PYTEST) -m "not (chaos or soak)" $(SHARED) $(ARGS)

quick: $(VENV)/.installed
	$(PYTEST) $(QUICK) -m "not (redis or kafka or slow or chaos or soak)" $(SHARED) $(ARGS)

chaos: $(VENV)/.installed
	CHAOS_SECONDS=$(CHAOS_SECONDS) $(PYTEST) -m chaos --timeout 600 $(ARGS)

# ARGS="-k test_redis", test_sentinel, at_least_once or exactly_once for one of them.
soak: $(VENV)/.installed
	SOAK_SECONDS=$(SOAK_SECONDS) $(PYTEST) tests/chaos/test_soak.py -s $(ARGS)

# Not part of CI, where it would take some minutes more: a number to look at, not one to reach.
coverage: $(VENV)/.installed
	$(PYTEST) -m "not (chaos or soak)" $(SHARED) --cov --cov-report=term $(ARGS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

bench: $(VENV)/.installed
	@for name in $(or $(ARGS),memory redis kafka); do $(BIN)/python -m benchmarks.$$name || exit 1; done

docs: $(VENV)/.installed
	$(BIN)/zensical build --strict --clean

# Versions: PYTHONS="3.12 3.13".
pythons:
	.ci/pythons

release: $(VENV)/.installed
	PYTHON=$(BIN)/python .ci/release

# The versions in the locks are kept, unless ARGS says otherwise; the image's are those of the other lock.
LOCK := build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-annotate pyproject.toml
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check uv
	$(LOCK) */requirements.txt --extra dev --output-file requirements.lock $(ARGS)
	$(LOCK) deployment/requirements.txt --extra redis --extra kafka --extra sklearn --extra metrics \
	  --constraint requirements.lock --output-file deployment/requirements.lock

clean:
	rm -rf $(VENV) build dist .cache .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
