"""BUILD is executed with stub rules, and the dependencies it declares must be the imports that are there."""

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_layers import ROOT, imports_of

# Import name -> distribution, where they differ.
DISTRIBUTION = {"orbax": "orbax_checkpoint", "yaml": "pyyaml"}
STANDARD = {*sys.stdlib_module_names, "__future__"}
OPTIONAL = {"wandb"}  # imported only when asked for, and named in the error when missing


class Target(dict[str, Any]):
    """The keyword arguments of one rule."""


def execute_build(folder: Path = ROOT) -> dict[str, Target]:
    """Runs BUILD as Python (Starlark is a subset of it) with rules that only record their arguments."""
    targets: dict[str, Target] = {}

    def rule(kind: str) -> Callable[..., None]:
        def record(**arguments: Any) -> None:
            assert arguments["name"] not in targets, f"BUILD declares {arguments['name']} twice"
            targets[arguments["name"]] = Target(arguments, kind=kind)

        return record

    def glob(include: list[str], exclude: list[str] | None = None) -> list[str]:
        return sorted(matching(include) - matching(exclude or []))

    def matching(patterns: list[str]) -> set[str]:
        return {str(path.relative_to(folder)) for pattern in patterns for path in folder.glob(pattern)}

    stubs = {name: rule(name) for name in ("py_library", "py_binary", "py_test", "filegroup")}
    names: dict[str, Any] = {**stubs, "glob": glob, "load": lambda *_: None, "package": lambda **_: None}
    exec(compile((folder / "BUILD").read_text(), "BUILD", "exec"), names)
    return targets


TARGETS = execute_build()
PYTHON_TARGETS = {name: target for name, target in TARGETS.items() if target["kind"] != "filegroup"}
OWNER = {source: name for name, target in PYTHON_TARGETS.items() for source in target.get("srcs", [])}


def needed_by(target_name: str) -> tuple[set[str], set[str]]:
    """(our targets, distributions) that the sources of a target import."""
    ours: set[str] = set()
    third_party: set[str] = set()
    for source in PYTHON_TARGETS[target_name]["srcs"]:
        for _, module in imports_of(ROOT / source):
            top = module.split(".")[0]
            candidates = [
                f"{prefix}{module.replace('.', '/')}{suffix}"
                for prefix in ("", "kernels/", "tests/", "scripts/")
                for suffix in (".py", "/__init__.py")
            ]
            owner = next((OWNER[path] for path in candidates if path in OWNER), None)
            if owner is not None:
                ours.add(owner)
            elif top in {"samosa_jax", "samosa_kernels"}:
                pytest.fail(f"{source} imports {module}, which no target in BUILD owns")
            elif top not in STANDARD and top not in OPTIONAL:
                third_party.add(distribution(DISTRIBUTION.get(top, top)))
    return ours - {target_name}, third_party


def declared_by(target_name: str) -> tuple[set[str], set[str]]:
    dependencies = PYTHON_TARGETS[target_name].get("deps", [])
    ours = {label.removeprefix(":") for label in dependencies if label.startswith(":")}
    return ours, {label.removeprefix("@pypi//") for label in dependencies if label.startswith("@pypi//")}


def test_every_python_file_has_exactly_one_owner():
    folders = ("samosa_jax", "kernels", "tests", "scripts")
    files = {str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert files == set(OWNER)
    assert len(OWNER) == sum(len(target.get("srcs", [])) for target in PYTHON_TARGETS.values())


@pytest.mark.parametrize("name", sorted(PYTHON_TARGETS))
def test_dependencies_are_the_imports(name: str):
    assert declared_by(name) == needed_by(name)


def test_tests_that_run_are_the_tests_there_are():
    declared = {target["srcs"][0] for target in PYTHON_TARGETS.values() if target["kind"] == "py_test"}
    assert declared == {f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py")}


def test_distributions_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    named = {distribution(re.split(r"[\[<>=; ]", requirement)[0]) for requirement in requirements}
    used = set().union(*(declared_by(name)[1] for name in PYTHON_TARGETS))
    assert used <= named, f"in BUILD but not in pyproject.toml: {sorted(used - named)}"
    locked = {distribution(line.split("==")[0]) for line in (ROOT / "requirements_lock.txt").open()}
    assert used <= locked, f"in BUILD but not in requirements_lock.txt: {sorted(used - locked)}"


def distribution(name: str) -> str:
    """A name as Bazel's pip extension spells it."""
    return name.lower().replace("-", "_")
