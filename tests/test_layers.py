"""Imports go down the floors of docs/design.md, and nothing below the model floor knows JAX."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "samosa_jax/convert/pytorch"  # goes with exports, where its files lie side by side
GROUND = {"config", "shapes", "errors", "command_line", "dial", "sizes", "__init__", "__main__"} | {
    "config_file",
    "explain",
    "keys",
    "mesh_sizes",
}
FLOORS = [
    {"ground"},
    {"samosa_kernels", "data", "tasks"},
    {"model", "parallel"},
    {"training", "rollout"},
    {"evals", "rl", "convert"},
    {"server", "reporting", "experiments", "planning", "checkup"},
    {"commands"},
]
SAME_FLOOR = {("model", "parallel"), ("tasks", "data"), ("rl", "evals")}
WITHOUT_JAX = ("data", "tasks", "ground")
JAX_FAMILY = {"jax", "jaxlib", "flax", "optax", "orbax", "samosa_kernels"}
ONLY_JAX = {"jax", "numpy"}
FLOOR_OF = {part: height for height, floor in enumerate(FLOORS) for part in floor}


def python_files() -> list[Path]:
    return sorted([*ROOT.glob("samosa_jax/**/*.py"), *ROOT.glob("kernels/**/*.py")])


def part_of(module: str) -> str:
    """The part of the house a module belongs to: a folder, the ground floor, or the commands."""
    if module.split(".")[0] == "samosa_kernels":
        return "samosa_kernels"
    names = module.split(".")[1:]
    if not names:
        return "ground"
    if names[0] in GROUND:
        return "ground"
    return names[0] if (ROOT / "samosa_jax" / names[0]).is_dir() else "commands"


def module_of(path: Path) -> str:
    base = ROOT / "kernels" if ROOT / "kernels" in path.parents else ROOT
    name = ".".join(path.relative_to(base).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            module = node.module
            if path.parent == SHIPPED and node.level == 1:
                module = f"{module_of(path).rpartition('.')[0]}.{module}"
            else:
                assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                is_ours = (ROOT / submodule.replace(".", "/")).is_dir() or (
                    ROOT / f"{submodule.replace('.', '/')}.py"
                ).is_file()
                yield node.lineno, submodule if is_ours else module


def complaints(path: Path, module: str, source: Iterator[tuple[int, str]]) -> list[str]:
    here = part_of(module)
    found = []
    for line, target in source:
        top = target.split(".")[0]
        where = f"{path}:{line}: {module} imports {target}"
        allowed = {*ONLY_JAX, "samosa_kernels", *sys.stdlib_module_names}
        if module == "samosa_kernels.bench.report":
            allowed.add("matplotlib")  # where the picture is drawn
        if here == "samosa_kernels" and top not in allowed:
            found.append(f"{where}: the kernels know only JAX")
        if here in WITHOUT_JAX and module != "samosa_jax.shapes" and top in JAX_FAMILY:
            found.append(f"{where}: {here} must not need JAX")
        if top not in {"samosa_jax", "samosa_kernels"}:
            continue
        there = part_of(target)
        entry_point = module == "samosa_jax.__main__"
        up = FLOOR_OF[there] > FLOOR_OF[here]
        across = FLOOR_OF[there] == FLOOR_OF[here] and there != here and (here, there) not in SAME_FLOOR
        if (up or across) and not entry_point:
            found.append(f"{where}: from {here} up or across to {there}")
    return found


def test_imports_go_down_only():
    found = [line for path in python_files() for line in complaints(path, module_of(path), imports_of(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("samosa_jax.data.shards", "jax.numpy"),
        ("samosa_jax.config", "flax"),
        ("samosa_jax.model.gpt", "samosa_jax.training.step"),
        ("samosa_jax.training.loop", "samosa_jax.rollout.sample"),
        ("samosa_jax.training.step", "samosa_jax.train"),
        ("samosa_kernels.attention.api", "samosa_jax.config"),
        ("samosa_kernels.attention.api", "optax"),
    ],
)
def test_a_wrong_import_is_caught(module: str, target: str):
    assert complaints(Path("x.py"), module, iter([(1, target)]))


@pytest.mark.parametrize(
    "module",
    [
        "samosa_jax.config",
        "samosa_jax.data.pipeline",
        "samosa_jax.data.preparation",
        "samosa_jax.data.chat.opening",
        "samosa_jax.tasks.catalog",
    ],
)
def test_importing_the_lower_floors_does_not_load_jax(module: str):
    """The static test cannot see what third parties import; a fresh interpreter can."""
    code = f"import sys, {module}; assert 'jax' not in sys.modules, 'jax was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_no_file_is_named_for_nothing():
    vague = {"utils", "util", "common", "helpers", "misc"}
    assert not [path for path in python_files() if path.stem in vague]


def test_no_private_jax():
    found = [
        f"{path}:{line}: {target}"
        for path in python_files()
        for line, target in imports_of(path)
        if target.startswith(("jax._src", "jaxlib"))
    ]
    assert not found, "\n".join(found)
