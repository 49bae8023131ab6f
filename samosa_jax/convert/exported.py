"""The model that an export holds: what was trained, rounded to the numbers that the files will have."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from samosa_jax.config import ModelConfig
from samosa_jax.config.architecture import NoTwin, Twin, find_twin
from samosa_jax.convert.layout import Layout
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params

Dtype = Literal["float32", "bfloat16"]
NUMPY_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedModel:
    """Its network and parameters compute, in float32, what the written numbers say."""

    name: str
    network: Network
    params: Params
    tokenizer: Tokenizer
    dtype: Dtype  # of the numbers in the files

    @property
    def twin(self) -> Twin | NoTwin:
        return find_twin(self.network.config)

    def known_as(self, format: str) -> str:
        """The architecture that others take it for, in one of the formats of `convert.exporting`."""
        if format == "nanochat":
            return format
        return "samosa" if format == "torch" or isinstance(self.twin, NoTwin) else self.twin

    @property
    def num_params(self) -> int:
        return sum(leaf.num_params for leaf in jax.tree.leaves(self.network.info))

    def layout_of(self, make: Callable[[ModelConfig, Any], Layout]) -> Layout:
        """How this model's parameters lie in one of the layouts of `convert.names`."""
        return make(self.network.config, self.network.info)


def as_written(
    network: Network, params: Params, tokenizer: Tokenizer, *, name: str, dtype: Dtype
) -> ExportedModel:
    """The model that files of this dtype hold. In bfloat16 every parameter is rounded, qk_gain too."""
    config = network.config
    if dtype == "bfloat16":
        params = jax.tree.map(lambda param: param.astype(jnp.bfloat16).astype(jnp.float32), params)
        gain = float(np.float32(config.qk_gain).astype(ml_dtypes.bfloat16))
        config = dataclasses.replace(config, qk_gain=gain)
    return ExportedModel(
        name=name,
        network=Network.build(config, compute_dtype="float32"),
        params=params,
        tokenizer=tokenizer,
        dtype=dtype,
    )
