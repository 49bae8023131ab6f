"""What the machine has: devices and their driver, memory, processors, room on disk, a cache to write to."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from samosa_jax.checkup.finding import Finding, fine, note, wrong

GIB = 2**30
DRIVER_FILE = Path("/proc/driver/nvidia/version")
# https://docs.nvidia.com/cuda/cuda-toolkit-release-notes: the oldest driver that runs programs of that CUDA.
OLDEST_DRIVER: Mapping[int, int] = {12: 525, 13: 580}
LEAST_DISK = 5 * GIB  # a checkpoint of 300 M parameters, twice
LEAST_MEMORY = 2 * GIB


def driver_version(file: Path = DRIVER_FILE) -> str | None:
    """Of the NVIDIA driver that the kernel has loaded; None where there is none."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else "unknown"


def check_backend() -> Iterator[Finding]:
    """Nothing where JAX finds devices; without any, what is wrong. Nothing else can be asked of it then."""
    try:
        jax.devices()
    except Exception as error:  # JAX and its plugins raise whatever they stumble over
        wish = os.environ.get("JAX_PLATFORMS", "")
        yield wrong(
            "devices",
            f"JAX finds none: {' '.join(str(error).split()) or type(error).__name__}",
            f"unset JAX_PLATFORMS, which is {wish}"
            if wish
            else "run `nvidia-smi`: driver and GPUs must be visible",
        )


def check_devices(driver: str | None, plugins: Mapping[str, str]) -> Iterator[Finding]:
    """What JAX computes on, and whether that is all the machine has. `plugins` are versions by package."""
    devices = jax.devices()
    kinds = ", ".join(
        f"{sum(device.device_kind == kind for device in devices)} x {kind}"
        for kind in dict.fromkeys(device.device_kind for device in devices)
    )
    platform = devices[0].platform
    wish = os.environ.get("JAX_PLATFORMS", "")
    if driver is None:
        yield fine("devices", kinds)
        yield note("NVIDIA driver", "none loaded")
        return
    if platform == "cpu":
        if wish and not {"cuda", "gpu"} & set(wish.split(",")):
            mend = f"unset JAX_PLATFORMS, which is {wish}"
        elif not any(name.startswith("jax-cuda") for name in plugins):
            mend = f"pip install 'jax[cuda{_newest_cuda(driver)}]=={jax.__version__}'"
        else:
            mend = "run `nvidia-smi`: driver and GPUs must be visible in this container too"
        yield wrong("devices", f"{kinds}, though an NVIDIA driver is loaded", mend)
    else:
        yield fine("devices", kinds)
    yield check_driver(driver, plugins)


def check_driver(driver: str, plugins: Mapping[str, str]) -> Finding:
    """Whether it is new enough for the CUDA that the plugin brings."""
    majors = [12 if "cuda12" in name else 13 for name in plugins if name.startswith("jax-cuda")]
    if majors and driver != "unknown":
        oldest = OLDEST_DRIVER[max(majors)]
        if int(driver.split(".")[0]) < oldest:
            return wrong(
                "NVIDIA driver",
                f"{driver}, too old for CUDA {max(majors)}",
                f"install driver {oldest} or newer"
                + (", or pip install 'jax[cuda12]'" if max(majors) == 13 else ""),
            )
    return fine("NVIDIA driver", driver)


def _newest_cuda(driver: str) -> int:
    number = 0 if driver == "unknown" else int(driver.split(".")[0])
    return 13 if number >= OLDEST_DRIVER[13] else 12


def check_memory(available_bytes: int, device_bytes: int | None) -> Iterator[Finding]:
    """Of the machine, and what JAX may take of a device."""
    words = f"{available_bytes / GIB:.1f} GiB free"
    if available_bytes < LEAST_MEMORY:
        yield wrong("memory", words, f"free some: at least {LEAST_MEMORY / GIB:.0f} GiB are needed")
    else:
        yield fine("memory", words)
    if device_bytes is not None:
        yield fine("device memory", f"{device_bytes / GIB:.1f} GiB that JAX may use of each device")


def check_processors() -> Finding:
    """Those that this process may run on."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return fine("processors", f"{usable} usable of {os.cpu_count()}")


def check_disk(folder: Path) -> Finding:
    """Where runs are written."""
    free = shutil.disk_usage(folder).free
    words = f"{free / GIB:.1f} GiB free in {folder.absolute()}"
    if free < LEAST_DISK:
        return wrong(
            "disk", words, f"make room, or set out_dir elsewhere: {LEAST_DISK / GIB:.0f} GiB at least"
        )
    return fine("disk", words)


def check_cache(folder: Path) -> Finding:
    """Whether compiled programs can be kept; without, every start compiles anew."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return wrong(
            "compilation cache",
            f"{folder} cannot be written ({error.strerror})",
            "set JAX_COMPILATION_CACHE_DIR to a folder that can",
        )
    return fine("compilation cache", str(folder))
