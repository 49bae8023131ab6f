#!/usr/bin/env bash
# What a first run on one GPU should answer, in nine minutes: are the kernels right, and how fast is everything.
#
#   bash scripts/gpu_check.sh OUT_FOLDER [--quick] [--budget SECONDS] [--parts LIST] [--limit PART=SECONDS]
#
# Needs Python with jax, flax and optax ($PYTHON, by default python3); nothing of this repository is installed.
# Leaves gpu_check.json, gpu_check.md and gpu_check.log in OUT_FOLDER.
# Exit code: 0 all parts ran, whatever they found; 1 a part failed or got no time; 2 wrong usage.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
if ! command -v "$python" >/dev/null; then
  echo "gpu_check: no $python here; set PYTHON to a Python with jax" >&2
  exit 2
fi
export PYTHONPATH="$root:$root/kernels${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m scripts.gpu_check "$@"
