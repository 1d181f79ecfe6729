# One command each: make run, make test, make check. `make help` lists them all.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What tests run in parallel processes; a file's tests stay together, in one of them.
WORKERS ?= 2

# For how long `make chaos` runs, and what its chances come from: a number, or nothing for another one each time.
MINUTES ?= 3
SEED ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test check fix bench bench-redis chaos loadtest lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP) ## create .venv with everything that run and test need

$(STAMP): requirements.lock pyproject.toml
	@PYTHON='$(PYTHON)' .ci/need venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fanway needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## start a gateway in dev mode, with the demo page
	$(BIN)/fanway serve --dev

test: setup ## run every test; protocol/ must be covered to the last branch by its own
	@.ci/need redis browser cc
	@if [ -f package.json ]; then npm ci --silent; fi
	@mkdir -p artifacts
	$(BIN)/coverage run -m pytest tests/protocol
	$(BIN)/coverage report
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --ignore tests/protocol

check: setup ## lint, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup ## apply what ruff can fix, and the format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## compare with nchan, side by side on this machine
	@.ci/need cc nchan
	$(BIN)/python bench/compare.py

bench-redis: setup ## what one and many nodes over Redis cost
	@.ci/need cc redis
	$(BIN)/python bench/compare.py --peers fanway-redis,fanway --scenarios fan,max
	$(BIN)/python bench/cluster.py

chaos: setup ## break three nodes and their Redis at random: make chaos MINUTES=10 SEED=1
	@.ci/need redis
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

loadtest: setup ## minutes of load from locust, checked against the objectives
	$(BIN)/python -m loadtests --profile minutes

lock: ## resolve the dependencies anew into the lock files
	@PYTHON='$(PYTHON)' .ci/lock

clean: ## remove everything that the other targets made
	rm -rf $(VENV) node_modules build dist artifacts .coverage .coverage.* .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
