"""The PyTorch files of an export, put together from those of `convert.pytorch`.

There, the files import `network.py`, so that they are checked like all others. In an export its text takes
the place of that import, and nothing of samosa_jax is needed any more.
"""

import ast
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from textwrap import indent
from typing import Any, NamedTuple

from samosa_jax.config import ModelConfig

NETWORK = "samosa_jax.convert.pytorch.network"
# Fields of ModelConfig that decide how it is trained or computed, but not what it computes.
WITHOUT_EFFECT = (
    "architecture",
    "depth",
    "init",
    "init_std",
    "embedding_std",
    "remat",
    "unroll_layers",
    "attention",
)


def samosa_config(config: ModelConfig, special_ids: Mapping[str, int]) -> dict[str, Any]:
    """What config.json says of a network, for `network.py` and for transformers.

    Args:
        special_ids: ids of special tokens by name, as in `Tokenizer.special_ids`.
    """
    fields = [spec.name for spec in dataclasses.fields(config) if spec.name not in WITHOUT_EFFECT]
    return {
        "architectures": ["SamosaForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_samosa.SamosaConfig",
            "AutoModelForCausalLM": "modeling_samosa.SamosaForCausalLM",
        },
        "model_type": "samosa",
        **{name: getattr(config, name) for name in fields},
        "bos_token_id": special_ids["<|bos|>"],
        "eos_token_id": special_ids["<|assistant_end|>"],
        "user_start_token_id": special_ids["<|user_start|>"],
        "assistant_start_token_id": special_ids["<|assistant_start|>"],
        "special_token_ids": dict(special_ids),  # whatever tokenizer.json calls them
    }


def remote_code() -> dict[str, str]:
    """The files that transformers loads with trust_remote_code: their texts by name."""
    return {
        "configuration_samosa.py": _read("configuration_samosa.py"),
        "modeling_samosa.py": _with_network(_read("modeling_samosa.py")),
    }


def chat_program() -> str:
    """The text of chat.py, which talks with an export and needs torch, safetensors and tokenizers only."""
    return _with_network(_read("chat.py"))


def _read(name: str) -> str:
    return resources.files("samosa_jax.convert.pytorch").joinpath(name).read_text(encoding="utf-8")


def _with_network(source: str) -> str:
    network, program = _take_apart(_read("network.py")), _take_apart(source)
    imports = {one for one in (*network.imports, *program.imports) if one.module != NETWORK}
    comment = "\n".join(f"# {line}".rstrip() for line in network.docstring.splitlines())
    sections = [
        _render(one for one in imports if one.is_standard),
        _guard(_render(one for one in imports if not one.is_standard and not one.is_relative), program.guard),
        _render(one for one in imports if one.is_relative),
    ]
    head = "\n\n".join([f'"""{program.docstring}"""', *filter(None, sections)])
    return f"{head}\n\n{comment}\n\n{network.code}\n\n\n{program.code}\n"


class _Import(NamedTuple):
    module: str  # begins with a dot where it is relative
    name: str  # what is imported from it; empty: the module itself
    alias: str

    @property
    def is_standard(self) -> bool:
        return self.module.partition(".")[0] in sys.stdlib_module_names

    @property
    def is_relative(self) -> bool:
        return self.module.startswith(".")


class _Module(NamedTuple):
    """A source in parts."""

    docstring: str
    imports: tuple[_Import, ...]
    guard: str  # what follows imports under a `try`; empty: they stand under none
    code: str  # the rest


def _take_apart(source: str) -> _Module:
    """A source that begins with a docstring and imports, of which some may stand under one `try`."""
    lines = source.splitlines()
    opening, *statements = ast.parse(source).body
    imports: list[_Import] = []
    guard, end = "", opening.end_lineno
    for statement in statements:
        if isinstance(statement, ast.Try):
            imports += _imports(statement.body)
            guard = "\n".join(lines[statement.body[-1].end_lineno : statement.end_lineno])
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            imports += _imports([statement])
        else:
            break
        end = statement.end_lineno
    docstring = ast.get_docstring(ast.parse(source), clean=False) or ""
    return _Module(docstring, tuple(imports), guard, "\n".join(lines[end:]).strip("\n"))


def _imports(statements: Sequence[ast.stmt]) -> list[_Import]:
    found: list[_Import] = []
    for statement in statements:
        if isinstance(statement, ast.Import):
            found += [_Import(name.name, "", name.asname or "") for name in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            module = "." * statement.level + (statement.module or "")
            found += [_Import(module, name.name, name.asname or "") for name in statement.names]
    return found


def _render(imports: Iterable[_Import]) -> str:
    """Lines in the order of isort: whole modules first, constants before classes before the rest."""
    modules: list[str] = []
    names: dict[str, list[_Import]] = {}
    for one in sorted(imports):
        if one.name:
            names.setdefault(one.module, []).append(one)
        else:
            modules.append(f"import {one.module}" + _alias(one))
    lines = []
    for module, found in names.items():
        found.sort(key=lambda one: (not one.name.isupper(), not one.name[0].isupper(), one.name))
        lines.append(f"from {module} import " + ", ".join(one.name + _alias(one) for one in found))
    return "\n".join([*modules, *lines])


def _alias(one: _Import) -> str:
    return f" as {one.alias}" if one.alias else ""


def _guard(lines: str, guard: str) -> str:
    return f"try:\n{indent(lines, '    ')}\n{guard}" if guard else lines
