"""Trains on one machine of eight GPUs that Modal rents, and goes on by itself when it is taken away.

    modal volume create samosa
    modal volume put samosa data/climbmix /data/climbmix
    modal run --detach scripts/launch/modal_app.py \\
      --flags="--config=configs/samosa_d24.yaml --data=/samosa/data/climbmix"
    modal volume get samosa /runs/samosa_d24

One machine: a Modal Volume shows one container's files to another only after a commit and a reload, and a run
over several machines needs a folder that all of them see (docs/multihost.md).
"""

import shlex
import signal
import subprocess
from pathlib import Path

import modal

ROOT = Path(__file__).parents[2]
CHECKOUT = "/root/samosa"
VOLUME = "/samosa"
SAVE_SECONDS = 25  # Modal kills a container 30 s after it has asked it to stop
DAY = 24 * 60 * 60

app = modal.App("samosa")
volume = modal.Volume.from_name("samosa", create_if_missing=True)
image = (
    modal.Image.debian_slim(python_version="3.11")
    .add_local_dir(
        ROOT,
        CHECKOUT,
        copy=True,
        ignore=[".git", ".venv", ".cache", "runs", "data", "tests", "**/__pycache__"],
    )
    .run_commands(f"pip install '{CHECKOUT}[cuda12]'")
    .workdir(CHECKOUT)
    .env({"JAX_COMPILATION_CACHE_DIR": f"{VOLUME}/cache/xla"})
)


@app.function(
    image=image,
    gpu="H100:8",
    volumes={VOLUME: volume},
    timeout=DAY,
    retries=modal.Retries(max_retries=10, initial_delay=10.0, backoff_coefficient=1.0),
    single_use_containers=True,
)
def train(flags: str) -> None:
    """Runs `samosa train` with these flags, its runs in the volume. Raises where it ends with an error."""
    command = ["samosa", "train", f"--out_dir={VOLUME}/runs", *shlex.split(flags)]
    process = subprocess.Popen(command)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # so Modal says that the container is taken away
        process.send_signal(signal.SIGTERM)
        process.wait(SAVE_SECONDS)
        raise
    finally:
        volume.commit()
    if code:
        raise RuntimeError(f"samosa train ended with exit code {code}")


@app.local_entrypoint()
def main(flags: str) -> None:
    train.remote(flags)
