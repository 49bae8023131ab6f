"""The checkup: what is wrong is named with its mend, what works is measured, and the exit code says which."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from samosa_jax import doctor
from samosa_jax.checkup import machine, software
from samosa_jax.checkup.finding import Finding, fine, wrong
from samosa_jax.checkup.speed import Workload, judge, measure_copy, measure_matmul

GOOD: Mapping[str, str] = {**software.OLDEST, "jax": "0.10.2", "jaxlib": "0.10.2"}


def faults(findings: list[Finding]) -> dict[str, str]:
    """Subject -> mend of what is wrong."""
    return {finding.subject: finding.mend for finding in findings if finding.state == "wrong"}


def test_on_this_machine_nothing_is_wrong_and_every_part_is_looked_at():
    done = subprocess.run(
        [sys.executable, "-m", "samosa_jax", "doctor", "--seconds=0.05"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is wrong" in done.stdout
    for subject in ("jaxlib", "orbax-checkpoint", "devices", "NVIDIA driver", "memory", "processors", "disk"):
        assert subject in done.stdout
    assert jax.__version__ in done.stdout
    assert "TFLOP/s" in done.stdout
    assert "GB/s" in done.stdout
    assert "sandbox" in done.stdout


def test_something_wrong_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    found = [fine("jax", "0.10.2"), wrong("disk", "1.0 GiB free", "make room")]
    monkeypatch.setattr(doctor, "examine", lambda *, seconds: iter(found))
    with pytest.raises(SystemExit) as ended:
        doctor.main([])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "make room" in shown
    assert "1 of 2 are wrong: disk" in shown


def test_a_broken_jax_is_named_without_importing_it(tmp_path: Path):
    """As after `pip install -U jaxlib`: import jax fails, and the doctor still speaks."""
    folder = tmp_path / "jaxlib-9.9.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: jaxlib\nVersion: 9.9.9\n")
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise RuntimeError('jaxlib is too new')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "samosa_jax.doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "beside jaxlib 9.9.9" in done.stdout
    assert f"pip install -U 'jax=={jax.__version__}'" in done.stdout
    assert "Traceback" not in done.stderr


def test_without_any_device_the_rest_is_still_looked_at():
    """As where JAX_PLATFORMS asks for GPUs that are not there: JAX fails at the first question."""
    done = subprocess.run(
        [sys.executable, "-m", "samosa_jax.doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cuda"},
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "JAX finds none" in done.stdout
    assert "unset JAX_PLATFORMS, which is cuda" in done.stdout
    assert "are wrong: devices" in done.stdout
    assert "samosa_jax/" not in done.stderr, "a traceback of ours; JAX's CUDA plugin shows its own"


@pytest.mark.parametrize(
    ("changed", "subject", "mend"),
    [
        ({"flax": "0.9.1"}, "flax", "pip install -U 'flax>=0.12'"),
        ({"optax": None}, "optax", "pip install -U 'optax>=0.2.8'"),
        ({"jaxlib": "0.11.2"}, "jax and jaxlib", "'jaxlib==0.10.2'"),
        ({"jax-cuda12-plugin": "0.10.2"}, "CUDA plugin", "'jax[cuda12]==0.10.2'"),
        (
            {"jax-cuda12-plugin": "0.10.1", "jax-cuda12-pjrt": "0.10.1"},
            "CUDA plugin",
            "pip install -U 'jax[cuda12]==0.10.2'",
        ),
        (
            {f"jax-cuda{major}-{part}": "0.10.2" for major in (12, 13) for part in ("plugin", "pjrt")},
            "CUDA plugin",
            "pip uninstall jax-cuda12-plugin jax-cuda12-pjrt",
        ),
    ],
)
def test_versions_that_do_not_go_together_are_named(
    changed: Mapping[str, str | None], subject: str, mend: str
):
    versions = {name: version for name, version in {**GOOD, **changed}.items() if version is not None}
    found = faults(list(software.check_software(versions)))
    assert list(found) == [subject]
    assert mend in found[subject]


def test_versions_that_go_together_are_fine():
    plugins = {"jax-cuda13-plugin": "0.10.2", "jax-cuda13-pjrt": "0.10.2"}
    assert not faults(list(software.check_software({**GOOD, **plugins})))
    assert software.check_python((3, 10)).state == "wrong"


def test_the_driver_is_read_and_held_against_cuda(tmp_path: Path):
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    )
    assert machine.driver_version(file) == "550.54.15"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build\nGCC: 13\n"
    )
    assert machine.driver_version(file) == "570.124.06"
    assert machine.driver_version(tmp_path / "none") is None
    assert machine.check_driver("570.124.06", {"jax-cuda12-plugin": "0.10.2"}).state == "fine"
    old = machine.check_driver("570.124.06", {"jax-cuda13-plugin": "0.11.2"})
    assert old.state == "wrong"
    assert "driver 580 or newer" in old.mend


def test_a_driver_without_gpus_in_jax_is_wrong(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    found = faults(list(machine.check_devices("570.1", {})))
    assert found == {"devices": "unset JAX_PLATFORMS, which is cpu"}
    monkeypatch.delenv("JAX_PLATFORMS")
    found = faults(list(machine.check_devices("570.1", {})))
    assert found == {"devices": f"pip install 'jax[cuda12]=={jax.__version__}'"}
    plugin = {"jax-cuda13-plugin": jax.__version__}
    assert "nvidia-smi" in faults(list(machine.check_devices("590.1", plugin)))["devices"]


def test_a_cache_that_cannot_be_written_is_wrong(tmp_path: Path):
    (tmp_path / "file").write_text("")
    found = machine.check_cache(tmp_path / "file" / "cache")
    assert found.state == "wrong"
    assert "JAX_COMPILATION_CACHE_DIR" in found.mend
    assert machine.check_cache(tmp_path / "new" / "cache").state == "fine"


def test_short_memory_and_disk_are_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert faults(list(machine.check_memory(2**30, None)))
    assert not faults(list(machine.check_memory(2**35, 2**36)))
    monkeypatch.setattr(machine, "LEAST_DISK", 2**60)
    assert "out_dir" in machine.check_disk(tmp_path).mend


def test_rates_are_measured_and_judged():
    small = Workload(width=128, dtype="float32", copy_bytes=2**16)
    assert measure_matmul(small, seconds=0.01) > 1e6
    assert measure_copy(small, seconds=0.01) > 1e6
    slow = judge("matmul", 300e12, unit="TFLOP/s", scale=1e12, peak=989e12, least=0.5)
    assert slow.state == "wrong"
    assert slow.found == "300 TFLOP/s, 30% of 989"
    assert judge("matmul", 700e12, unit="TFLOP/s", scale=1e12, peak=989e12, least=0.5).state == "fine"
    assert judge("matmul", 1e9, unit="TFLOP/s", scale=1e12, peak=None, least=0.5).state == "fine"


def test_a_measured_product_is_worked_off_not_skipped():
    """Twice the width is eight times the work: a rate that did not fall with it would be no measurement."""

    def seconds(width: int) -> float:
        work = Workload(width=width, dtype="float32", copy_bytes=4)
        return 2 * width**3 / measure_matmul(work, seconds=0.05)

    assert seconds(512) > 2 * seconds(128)
    assert jnp.isfinite(seconds(64))
