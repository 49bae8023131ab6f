# make setup       a virtual environment in .venv with everything (also done by the targets below)
# make quickstart  from nothing to a chat model of your own on this machine, offline, in ten minutes; MINUTES=3 for fewer
# make speedrun-tiny  the whole pipeline for eight GPUs, as small as can be, on a CPU
# make test        all tests
# make torch       PyTorch and what exports are compared with, so that make test compares them
# make aot         what compiles for GPUs that are not here, so that make test checks that too
# make check       the whole gate: format, lint, types, tests
# PYTHON=python3.12 chooses the interpreter of a new .venv, TORCH=torch==2.9 the PyTorch; one for CPUs is enough.

PYTHON ?= python3
BIN := .venv/bin

TORCH ?= torch
MINUTES ?= 10

.PHONY: setup torch aot quickstart speedrun-tiny test check lint clean

setup: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

aot: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[aot]'

torch: .venv/with-torch

.venv/with-torch: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch,gguf,lm-eval]'
	touch $@

quickstart: setup
	$(BIN)/python -m samosa_jax.quickstart --minutes $(MINUTES)

speedrun-tiny: torch
	mkdir -p .cache/speedrun
	cd .cache/speedrun && PATH="$(CURDIR)/$(BIN):$$PATH" bash "$(CURDIR)/scripts/speedrun.sh" --tiny

test: setup
	$(BIN)/python -m pytest -n 2 --dist=worksteal

check: torch
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/check.sh

lint: torch
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/check.sh --no-tests

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis
