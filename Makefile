# Every target sets itself up: a machine needs Python 3.11, make and a package index.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS   ?=
JOBS   ?= 3
QUICK  := tests/memory tests/contract/test_memory.py tests/unit
# Schemathesis is used as a library, and its plugin costs every test process two seconds. The files with
# the slowest tests come first (tests/conftest.py), and not those with the most tests.
PYTEST := $(BIN)/python -m pytest -p no:schemathesis
SHARED := -n $(JOBS) --dist loadgroup --no-loadscope-reorder
CHAOS_SECONDS ?= 60
EXAMPLE ?= rides

.PHONY: help demo test quick chaos check bench docs clean
.DEFAULT_GOAL := help

# Several test processes share the cores, and OpenMP threads that wait for one spin. They start hundreds of
# processes, each of which would compile the library where bytecode is not written.
test quick: export OMP_NUM_THREADS := 1
test quick chaos: export PYTHONDONTWRITEBYTECODE :=
quick: export HYPOTHESIS_PROFILE := quick

help:
	@echo "make demo    train two models on taxi trips, stream rides to three consumers, show it live"
	@echo "             (EXAMPLE=churn or web_backend for the other examples)"
	@echo "make test    all tests but the chaos tests; those that need a broker say so where there is none"
	@echo "make quick   the tests of single modules and of the in-memory backend, in about a minute"
	@echo "make chaos   workers and brokers killed under load (CHAOS_SECONDS=60 for each)"
	@echo "make check   ruff, mypy --strict, pyright on the public API, the layers"
	@echo "make bench   the benchmarks (ARGS=memory, redis, kafka or web for one of them)"
	@echo "make docs    the documentation as a site, links checked, in build/docs"
	@echo "ARGS=... is passed on: make demo ARGS='--events 50000 --producers 4'"

$(VENV)/.installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]' --requirement benchmarks/requirements.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.installed docs/requirements.txt
	$(PIP) --requirement docs/requirements.txt
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m examples.$(EXAMPLE).demo $(ARGS)

test: $(VENV)/.installed
	$(PYTEST) -m "not chaos" $(SHARED) $(ARGS)

quick: $(VENV)/.installed
	$(PYTEST) $(QUICK) -m "not (redis or kafka or slow or chaos)" $(SHARED) $(ARGS)

chaos: $(VENV)/.installed
	CHAOS_SECONDS=$(CHAOS_SECONDS) $(PYTEST) -m chaos --timeout 600 $(ARGS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

bench: $(VENV)/.installed
	@for name in $(or $(ARGS),memory redis kafka); do $(BIN)/python -m benchmarks.$$name || exit 1; done

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --site-dir build/docs

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
