"""Compiled programs outlive the process, so that the second start of a command takes seconds."""

import os
from pathlib import Path

import jax


def cache_folder() -> Path:
    """`$JAX_COMPILATION_CACHE_DIR`, by default `~/.cache/samosa_jax/xla`."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "samosa_jax" / "xla"


def use_compilation_cache() -> None:
    """Keeps compiled programs in `cache_folder`."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
