#!/usr/bin/env bash
# The whole gate, in the order in which it fails fastest: format, lint, types, tests.
#   scripts/check.sh [--no-tests]
set -euo pipefail
cd "$(dirname "$0")/.."
ruff format --check .
ruff check .
pyright --warnings
[ "${1:-}" = --no-tests ] || python -m pytest -n 2 --dist=worksteal
