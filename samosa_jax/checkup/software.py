"""Versions that decide whether anything runs, and how: Python, JAX and its plugins, the optional extras."""

import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

from samosa_jax.checkup.finding import Finding, fine, note, wrong

# The oldest that are known to work, as pyproject.toml asks for them.
OLDEST: Mapping[str, str] = {
    "jax": "0.10.2",
    "jaxlib": "0.10.2",
    "flax": "0.12",
    "optax": "0.2.8",
    "orbax-checkpoint": "0.12",
    "grain": "0.2.15",
    "numpy": "2",
    "sentencepiece": "0.2.1",
}
OLDEST_PYTHON = (3, 11)
PLUGINS = tuple(f"jax-cuda{major}-{part}" for major in (12, 13) for part in ("plugin", "pjrt"))
# Module -> the extra of samosa-jax that brings it, and what for.
EXTRAS: Mapping[str, tuple[str, str]] = {
    "fastapi": ("serve", "samosa serve"),
    "torch": ("torch", "checking exports"),
    "gguf": ("gguf", "exports for llama.cpp"),
    "lm_eval": ("lm-eval", "samosa lm_eval"),
    "wandb": ("wandb", "log.wandb_project"),
}


def installed_versions() -> dict[str, str]:
    """Of what is looked at here, as far as it is installed."""
    found = {}
    for name in (*OLDEST, *PLUGINS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_software(versions: Mapping[str, str]) -> Iterator[Finding]:
    """`versions` are those of `installed_versions`."""
    yield check_python(sys.version_info[:2])
    for name, oldest in OLDEST.items():
        yield _check_version(name, versions.get(name), oldest)
    if {"jax", "jaxlib"} <= versions.keys():
        yield from check_pair(versions["jax"], versions["jaxlib"])
        yield from check_plugins(versions)


def check_python(version: tuple[int, ...]) -> Finding:
    if version >= OLDEST_PYTHON:
        return fine("python", platform.python_version())
    wanted = ".".join(map(str, OLDEST_PYTHON))
    return wrong("python", ".".join(map(str, version)), f"use Python {wanted} or newer")


def _check_version(name: str, version: str | None, oldest: str) -> Finding:
    mend = f"pip install -U '{name}>={oldest}'"
    if version is None:
        return wrong(name, "missing", mend)
    if _number(version) < _number(oldest):
        return wrong(name, f"{version}, older than {oldest}", mend)
    return fine(name, version)


def check_pair(jax: str, jaxlib: str) -> Iterator[Finding]:
    """jax asks for a jaxlib of its own version or a little older; a newer one breaks it in odd places."""
    if _number(jaxlib) > _number(jax) or _number(jaxlib)[:2] != _number(jax)[:2]:
        yield wrong(
            "jax and jaxlib",
            f"jax {jax} beside jaxlib {jaxlib}",
            f"pip install -U 'jax=={jax}' 'jaxlib=={jax}'",
        )


def check_plugins(versions: Mapping[str, str]) -> Iterator[Finding]:
    """The CUDA plugin comes in two packages of exactly the version of jaxlib, for one version of CUDA."""
    here = {name: versions[name] for name in PLUGINS if name in versions}
    majors = sorted({_cuda(name) for name in here})
    if not here:
        yield note(
            "CUDA plugin", "none: JAX computes on the CPU", "on NVIDIA GPUs: pip install 'jax[cuda12]'"
        )
        return
    listed = ", ".join(f"{name} {version}" for name, version in here.items())
    reinstall = f"pip install -U 'jax[cuda{majors[-1]}]=={versions['jax']}'"
    if len(majors) > 1:
        yield wrong("CUDA plugin", f"for two versions of CUDA: {listed}", f"pip uninstall {_other(here)}")
    elif len(here) == 1:
        yield wrong("CUDA plugin", f"{listed} without its other half", reinstall)
    elif set(here.values()) != {versions["jaxlib"]}:
        yield wrong("CUDA plugin", f"{listed} beside jaxlib {versions['jaxlib']}", reinstall)
    else:
        yield fine("CUDA plugin", listed)


def _other(here: Iterable[str]) -> str:
    """The packages of the older CUDA."""
    return " ".join(name for name in here if _cuda(name) == 12)


def _cuda(plugin: str) -> int:
    return 12 if "cuda12" in plugin else 13


def check_extras() -> Iterator[Finding]:
    """What is optional and not there is a note: it is missed by nobody who does not use it."""
    present = [extra for module, (extra, _) in EXTRAS.items() if importlib.util.find_spec(module)]
    if present:
        yield fine("extras", ", ".join(present))
    for module, (extra, purpose) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield note(
                f"extra {extra}", f"not installed; for {purpose}", f"pip install 'samosa-jax[{extra}]'"
            )


def _number(version: str) -> tuple[int, ...]:
    """0.10.2 of "0.10.2.dev3+local": as far as releases are told apart."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
