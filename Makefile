# make setup       a virtual environment in .venv with everything (also done by the targets below)
# make quickstart  train a small model on this machine, offline, in minutes
# make test        all tests
# make aot         what compiles for GPUs that are not here, so that make test checks that too
# make check       the whole gate: format, lint, types, tests
# PYTHON=python3.12 chooses the interpreter of a new .venv.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup aot quickstart test check lint clean

setup: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

aot: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[aot]'

quickstart: setup
	$(BIN)/python -m samosa_jax.quickstart

test: setup
	$(BIN)/python -m pytest -n 2 --dist=worksteal

check: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/check.sh

lint: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/check.sh --no-tests

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis
