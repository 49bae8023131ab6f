"""Settings for GPUs: this jaxlib knows every flag of its row, and what a person has set stays."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samosa_jax.gpu_settings import XLA_FLAGS, settings, use_gpu_settings

JAXLIB = importlib.metadata.version("jaxlib")
START = "import jax; print(jax.devices()[0].platform)"


def start(flags: str) -> subprocess.CompletedProcess[str]:
    """A process that asks for its devices under these flags."""
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", START], env=environment, capture_output=True, text=True, check=False
    )


def test_this_jaxlib_is_in_the_table_and_knows_its_flags():
    done = start(settings({}, jaxlib=JAXLIB)["XLA_FLAGS"])
    assert (done.returncode, done.stdout) == (0, "cpu\n"), done.stderr
    unknown = start("--xla_gpu_graph_level=0")  # a flag of old recipes
    assert unknown.returncode != 0
    assert "Unknown flag" in unknown.stderr


def test_what_is_set_already_stays():
    flag = XLA_FLAGS["0.10"][0]
    own = {"XLA_FLAGS": f"--xla_dump_to=/x {flag.partition('=')[0]}=false"}
    assert "XLA_FLAGS" not in settings(own, jaxlib="0.10.2")
    added = settings({"XLA_FLAGS": "--xla_dump_to=/x"}, jaxlib="0.10.2")
    assert added["XLA_FLAGS"].split() == ["--xla_dump_to=/x", *XLA_FLAGS["0.10"]]
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        assert settings({name: "0.5"}, jaxlib="9.9") == {}


def test_a_jaxlib_that_is_not_in_the_table_gets_no_flags():
    assert settings({}, jaxlib="9.9.1") == {"XLA_CLIENT_MEM_FRACTION": "0.92"}


@pytest.mark.parametrize(
    ("has_driver", "platforms", "is_set"),
    [(True, "", True), (True, "cuda,cpu", True), (True, "cpu", False), (False, "", False)],
)
def test_they_are_set_only_where_jax_may_use_an_nvidia_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_driver: bool, platforms: str, is_set: bool
):
    driver = tmp_path / "nvidiactl"
    if has_driver:
        driver.touch()
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("XLA_FLAGS", "")
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.setenv(name, "unset")  # so that monkeypatch removes what the call sets
        monkeypatch.delenv(name)
    use_gpu_settings(driver=driver)
    assert ("XLA_CLIENT_MEM_FRACTION" in os.environ) is is_set
    assert bool(os.environ["XLA_FLAGS"]) is is_set
