# One command each: make run, make test, make check. `make help` lists all targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed
RUNTIME_STAMP := $(VENV)/.installed-runtime
NODE_STAMP := clients/typescript/node_modules/.installed
EXAMPLES_STAMP := examples/node_modules/.installed

# The number of processes that run tests in parallel; the tests of one file stay in one process.
WORKERS ?= 2

# How many minutes `make chaos` runs, and the seed of its random choices; without one, each run has another.
MINUTES ?= 3
SEED ?=

# The tests of protocol/ must cover all of its branches.
TEST_PROTOCOL = $(BIN)/coverage run -m pytest tests/protocol && $(BIN)/coverage report

.DEFAULT_GOAL := help
.PHONY: help setup run demo test-fast test check fix bench bench-redis chaos loadtest lock clean

help: ## list all targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP) ## install everything that the other targets need into .venv

# What a gateway needs to run: half of all packages, and no compiler, browser or test.
$(RUNTIME_STAMP): requirements-runtime.lock requirements-build.lock pyproject.toml
	@PYTHON='$(PYTHON)' .ci/need venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fanway needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements-runtime.lock -r requirements-build.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMP): requirements.lock pyproject.toml clients/python/pyproject.toml | $(RUNTIME_STAMP)
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable clients/python
	@touch $@

$(NODE_STAMP): clients/typescript/package-lock.json
	@.ci/need node
	npm ci --silent --no-audit --no-fund --prefix clients/typescript
	@touch $@

$(EXAMPLES_STAMP): examples/package-lock.json | $(NODE_STAMP)
	npm ci --silent --no-audit --no-fund --prefix examples
	@touch $@

run: $(RUNTIME_STAMP) ## start a gateway in dev mode, with the demo page; installs what that needs
	$(BIN)/fanway serve --dev

demo: $(NODE_STAMP) ## build the demo page from clients/typescript/demo
	npm run --silent --prefix clients/typescript demo

test-fast: setup ## run the tests that need no other programs (under 3 minutes): tests/protocol, tests/gateway
	$(TEST_PROTOCOL)
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile tests/gateway

test: setup $(NODE_STAMP) $(EXAMPLES_STAMP) ## run all tests, with Redis, a browser, a C compiler, Java and Node
	@.ci/need redis browser cc java
	@mkdir -p artifacts
	$(TEST_PROTOCOL)
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --ignore tests/protocol

check: setup ## check style, types, and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup ## format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## compare the performance with nchan on this machine
	@.ci/need cc nchan
	$(BIN)/python bench/compare.py

bench-redis: setup ## measure one and several nodes over Redis
	@.ci/need cc redis
	$(BIN)/python bench/compare.py --peers fanway-redis,fanway --scenarios fan,max
	$(BIN)/python bench/cluster.py

chaos: setup $(NODE_STAMP) ## inject random faults into three nodes and their Redis: make chaos MINUTES=10 SEED=1
	@.ci/need redis
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

loadtest: setup ## run a load test of a few minutes with locust, and check its objectives
	$(BIN)/python -m loadtests --profile minutes

lock: ## resolve the dependencies again, and write the lock files
	@PYTHON='$(PYTHON)' .ci/lock

clean: ## remove everything that the other targets created
	rm -rf $(VENV) clients/typescript/node_modules clients/typescript/dist examples/node_modules examples/*/dist build dist artifacts .coverage .coverage.* .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
