"""Kills the quickstart at random moments, and compares its models with those of an undisturbed one.

    python -m scripts.kill_quickstart --kills 10 --minutes 1 --folder /tmp/kills

Both have folders of their own below --folder. Exits with 1 unless all parameters are equal bit for bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from samosa_jax.quickstart_steps import STEPS
from samosa_jax.trained import open_trained

STARTING_SECONDS = 4.0  # in which a process hardly does more than import
LONGEST_SHARE = 0.2  # of the undisturbed run, between a start and a kill


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    flags = parser.parse_args()
    whole, killed = flags.folder / "whole", flags.folder / "killed"
    started = time.monotonic()
    if start(whole, flags.minutes).wait() != 0:
        sys.exit("the undisturbed quickstart failed; see its log")
    seconds = time.monotonic() - started
    print(f"undisturbed: {seconds:.0f} s", flush=True)
    draw = random.Random(flags.seed)
    for number in range(flags.kills):
        process = start(killed, flags.minutes)
        moment = STARTING_SECONDS + draw.random() * LONGEST_SHARE * seconds
        try:
            process.wait(moment)
            print(f"kill {number + 1}: it had ended before {moment:.1f} s", flush=True)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done = sorted(path.name for path in (killed / "runs").glob("*")) or ["no run yet"]
            print(f"kill {number + 1}: after {moment:.1f} s, {', '.join(done)}", flush=True)
    if start(killed, flags.minutes).wait() != 0:
        sys.exit("the killed quickstart does not come to its end; see its log")
    differing = [stage for stage in STEPS if not same_parameters(whole, killed, stage)]
    print("different: " + ", ".join(differing) if differing else "all stages are equal bit for bit")
    sys.exit(1 if differing else 0)


def start(folder: Path, minutes: float) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "samosa_jax", "quickstart", f"--minutes={minutes:g}"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def same_parameters(first: Path, second: Path, stage: str) -> bool:
    params = [open_trained(folder / "runs" / f"quickstart_{stage}").params for folder in (first, second)]
    pairs = zip(*map(jax.tree.leaves, params), strict=True)
    return all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in pairs)


if __name__ == "__main__":
    main()
