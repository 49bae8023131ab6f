"""Every test sees eight virtual CPU devices, one persistent compilation cache, and no network by accident."""

import gc
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
# Tests compile far more than they compute: unoptimised machine code takes half as long to make.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# transformers copies the code that comes with a model to a folder and imports it as one package, so a process
# can have only one such folder: these tests' own.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="remote-code-")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import pytest

# XLA's emitters of fused loops take two thirds of the time that it compiles for a CPU. Later versions do not
# know the flag, and XLA ends the process at a flag that it does not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
gc.set_threshold(20_000, 20, 20)  # a tenth of the tests' time went to garbage collections
# A busy machine is no fault of what is tested.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")


def pytest_collection_finish() -> None:
    """What is imported stays: a garbage collection need not visit the million objects of JAX and PyTorch."""
    gc.freeze()


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["HF_MODULES_CACHE"])


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data sets that SAMOSA_TEST_DATA names; without it, tests that need it skip aloud."""
    folder = os.environ.get("SAMOSA_TEST_DATA")
    if not folder:
        pytest.skip("real data sets not found: set SAMOSA_TEST_DATA to their folder to run this test")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"SAMOSA_TEST_DATA is {folder}, which is not a folder")
    return path
