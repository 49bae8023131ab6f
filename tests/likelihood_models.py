"""A small network with numbers like trained ones, and a scorer of it."""

from typing import Any

import jax
import numpy as np

from samosa_jax.config import MeshConfig, ModelConfig
from samosa_jax.evals.likelihood import Scorer
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.parallel.sharding import param_shardings

MODEL = ModelConfig(
    vocab_size=512,
    context_len=128,
    num_layers=2,
    model_dim=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    mlp_dim=64,
)
TOKEN_BYTES = np.arange(512) % 7


def random_params(network: Network, *, seed: int = 0) -> Params:
    """Far from the first ones, whose blocks add nothing."""
    params = jax.jit(network.init)(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def make_scorer(
    network: Network, params: Params, *, mesh: MeshConfig | None = None, **options: Any
) -> Scorer:
    config = mesh or MeshConfig(data=1)
    made = make_mesh(config, devices=jax.devices() if mesh else jax.devices()[:1])
    placed = jax.device_put(params, param_shardings(network.info, made))
    return Scorer(network, placed, mesh=made, **{"token_bytes": TOKEN_BYTES, **options})
