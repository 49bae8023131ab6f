"""The README is true: its commands run, its map names every file, its table gives the counted parameters."""

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from test_layers import ROOT

from samosa_jax.command_line import load_config
from samosa_jax.data import corpus
from samosa_jax.sizes import parameter_counts

README = (ROOT / "README.md").read_text(encoding="utf-8")
# Run by continuous integration itself.
MAKE = re.compile(r"^(make setup|make quickstart|make test|samosa quickstart --text) ?.*$", re.MULTILINE)


def bash_blocks() -> list[str]:
    """The blocks marked bash. What needs a GPU or the network is marked console."""
    return re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def test_every_command_runs(tmp_path: Path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my.txt").write_text("\n\n".join(corpus.documents(max_bytes=300_000)), encoding="utf-8")
    # One device and optimised programs, as at home.
    tests_own = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    user = {name: value for name, value in os.environ.items() if name not in tests_own}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    blocks = bash_blocks()
    if importlib.util.find_spec("torch") is None:
        warnings.warn("torch is not installed: the README's exports are not tried", stacklevel=1)
        blocks = [block for block in blocks if "samosa_jax.export" not in block]
    script = "\n".join(MAKE.sub("", block) for block in blocks)
    assert script.count("python -m samosa_jax.") >= 5, "the README lost its commands"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**user, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "runs" / "my" / "loss.png").is_file()


def test_continuous_integration_runs_what_the_readme_tells():
    told = set(MAKE.findall("\n".join(bash_blocks())))
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert told == {"make setup", "make quickstart", "make test", "samosa quickstart --text"}
    assert all(line in run for line in told - {"make setup"})


def test_the_map_names_every_file():
    tree = README[README.index("## The code") :]
    tree = tree[tree.index("```\n") + 4 :]
    tree = tree[: tree.index("```")]
    named = set(re.findall(r"^\s+(\w+\.py)\s", tree, re.MULTILINE))
    files = {
        path.name
        for folder in ("samosa_jax", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert named == files, f"missing {sorted(files - named)}, no longer there {sorted(named - files)}"


@pytest.mark.parametrize("row", re.findall(r"^\| `(\w+)` \| ([\d ]+) \|", README, re.MULTILINE))
def test_parameter_counts(row: tuple[str, str]):
    preset, count = row
    config = load_config(ROOT / "configs" / f"{preset}.yaml")
    assert parameter_counts(config.model).total == int(count.replace(" ", ""))


def test_the_table_has_all_presets():
    listed = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    recipes = {"quickstart", "wikinews", "bench_cpu"}
    assert listed == {path.stem for path in (ROOT / "configs").glob("*.yaml")} - recipes
