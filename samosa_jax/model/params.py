"""How a parameter is made: its dimensions, its group and its first values, each said once.

A string such as "L D -> N H" describes a weight: layers stacked on L, D contracted, N and H coming out.
Shape, fan-in, sharding and Muon's matrix view all follow from it. An arrow may point left ("V <- D") for a
table stored row by row, a number stands for a dimension without a letter ("L 12 -> K"), and dimensions
without an arrow ("L D") scale element by element.

`initializers` is the one place where first values are decided.
"""

import dataclasses
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from samosa_jax.config import ModelConfig

Params = dict[str, Any]  # nested, with float32 arrays at the leaves
Group = Literal["matrix", "embedding", "value_embedding", "head", "residual", "scalar"]  # of OptimizerConfig
WIDE = ("matrix", "embedding", "value_embedding", "head")  # groups that are used in the compute dtype


@dataclass(frozen=True)
class Normal:
    std: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return self.std * jax.random.normal(key, shape, jnp.float32)

    def __str__(self) -> str:
        return f"normal(std {self.std:.4g})"


@dataclass(frozen=True)
class Uniform:
    low: float
    high: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, self.low, self.high)

    def __str__(self) -> str:
        return f"uniform({self.low:.4g}..{self.high:.4g})"


@dataclass(frozen=True)
class Constant:
    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jnp.full(shape, self.value, jnp.float32)

    def __str__(self) -> str:
        return f"constant({self.value:.4g})"


@dataclass(frozen=True)
class Ramp:
    """From `first` in the first layer to `last` in the last."""

    first: float
    last: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jnp.linspace(self.first, self.last, math.prod(shape), dtype=jnp.float32)

    def __str__(self) -> str:
        return f"ramp({self.first:.4g}..{self.last:.4g})"


Init = Normal | Uniform | Constant | Ramp


def centered_uniform(std: float) -> Uniform:
    """Of mean zero; without the outliers of a normal of the same standard deviation."""
    return Uniform(-math.sqrt(3) * std, math.sqrt(3) * std)


@dataclass(frozen=True)
class Initializers:
    """First values by the role of a weight."""

    embedding: Init
    head: Init
    attention_in: Init  # queries, keys, values
    attention_out: Init
    mlp_in: Init
    mlp_out: Init
    value_embedding: Init
    norm: Init = Constant(1.0)
    gate: Init = Uniform(0.0, 0.02)  # of value embeddings and smear: a shade more open than half
    residual: Init = Ramp(1.15, 1.05)
    x0: Init = Ramp(0.20, 0.05)
    smear: Init = Constant(0.0)
    backout: Init = Constant(0.2)


def initializers(config: ModelConfig) -> Initializers:
    """First values of all weights.

    `gpt2` (Radford et al. 2019): normal of std init_std, what writes into the residual stream scaled by
    1 / sqrt(2 L), so that the stream's variance does not grow with depth.

    `zero_out` (as in karpathy/nanochat): what writes into the residual stream starts at zero, so the first
    step sees embedding and head alone; what reads it is uniform of std 1 / sqrt(D). The head is near zero,
    so that the first prediction is uniform over the vocabulary.

    Tied embeddings under `zero_out` need a smaller table: the hidden state that reaches the head is then the
    embedding of the very token, normed to length sqrt(D), and the logit of repeating it is std * D, not
    std * sqrt(D). With std 1 / D it is 1; with 0.02 and D = 1024 it would be 20 and the first loss too.
    """
    D = config.model_dim
    if config.init == "gpt2":
        std = config.init_std
        residual_std = std / math.sqrt(2 * config.num_layers)
        return Initializers(
            embedding=Normal(std),
            head=Normal(std),
            attention_in=Normal(std),
            attention_out=Normal(residual_std),
            mlp_in=Normal(std),
            mlp_out=Normal(residual_std),
            value_embedding=Normal(std),
        )
    reading_std = 1 / math.sqrt(D)
    return Initializers(
        embedding=Normal(1 / D if config.tie_embeddings else config.embedding_std),
        head=Normal(0.001),
        attention_in=centered_uniform(reading_std),
        attention_out=Constant(0.0),
        mlp_in=centered_uniform(0.4 * reading_std),
        mlp_out=Constant(0.0),
        value_embedding=centered_uniform(reading_std),
    )


@dataclass(frozen=True, kw_only=True)
class ParamInfo:
    """All there is to know of a parameter but its values. A leaf of `Network.info`."""

    path: str  # keys of the nested dict, joined by "/"
    dims: str  # see the module's docstring
    shape: tuple[int, ...]
    group: Group
    init: Init

    @property
    def letters(self) -> tuple[str, ...]:
        """What each dimension is."""
        return tuple(token for token in self.dims.split() if token not in ("->", "<-"))

    @property
    def batch_axis(self) -> tuple[int, ...]:
        """Dimensions that count independent weights: the stacked layers."""
        return tuple(dim for dim, letter in enumerate(self.letters) if letter == "L")

    @property
    def reduction_axis(self) -> tuple[int, ...]:
        """Dimensions the product contracts, as in optax.contrib.MuonDimensionNumbers; () without an arrow."""
        return self._sides[0]

    @property
    def output_axis(self) -> tuple[int, ...]:
        """Dimensions that come out of it, as in optax.contrib.MuonDimensionNumbers; () without an arrow."""
        return self._sides[1]

    @property
    def _sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The dimensions contracted, and those that come out."""
        tokens = self.dims.split()
        arrow = next((token for token in tokens if token in ("->", "<-")), None)
        if arrow is None:
            return (), ()
        middle = tokens.index(arrow)
        dims = [dim for dim in range(len(self.letters)) if dim not in self.batch_axis]
        left = tuple(dim for dim in dims if dim < middle)
        right = tuple(dim for dim in dims if dim >= middle)
        return (left, right) if arrow == "->" else (right, left)

    @property
    def fan_in(self) -> int:
        """Numbers that are summed into one output; 1 for elementwise parameters."""
        return math.prod(self.shape[dim] for dim in self.reduction_axis)

    @property
    def num_params(self) -> int:
        return math.prod(self.shape)


def layer_sizes(config: ModelConfig) -> dict[str, int]:
    """The size of every letter that stands in a weight's dimensions."""
    return {
        "L": config.num_layers,
        "D": config.model_dim,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_dim,
        "F": config.mlp_dim,
        "V": config.padded_vocab_size,
    }


def weight(dims: str, *, sizes: Mapping[str, int], group: Group, init: Init) -> nnx.Param[jax.Array]:
    """A parameter as a module holds it: float32, its description in its metadata, its values yet to come."""
    info = ParamInfo(path="", dims=dims, shape=(), group=group, init=init)
    shape = tuple(int(letter) if letter.isdigit() else sizes[letter] for letter in info.letters)
    return nnx.Param(jnp.zeros(shape, jnp.float32), info=dataclasses.replace(info, shape=shape))


def describe(state: nnx.State) -> Any:
    """The ParamInfo of every parameter of a module, in a tree shaped like its parameters."""
    flat = nnx.to_flat_state(state)
    infos = {path: dataclasses.replace(param.info, path="/".join(map(str, path))) for path, param in flat}
    return traverse_util.unflatten_dict(infos)


def in_compute_dtype(params: Params, info: Any, dtype: Any) -> Params:
    """The parameters as computing reads them: matrices and tables in that dtype, all others in float32.

    `info` is a tree of ParamInfo shaped like them.
    """
    return jax.tree.map(lambda leaf, x: x.astype(dtype) if leaf.group in WIDE else x, info, params)


def sample(info: ParamInfo, key: jax.Array) -> jax.Array:
    """First values of one parameter. Its path picks its key: parameters that come or go leave it as it is."""
    return info.init(jax.random.fold_in(key, zlib.crc32(info.path.encode())), info.shape)


def num_params_by_group(info: Any) -> dict[str, int]:
    """Parameters per group, as allocated: the vocabulary padded, a tied table counted once."""
    counts: dict[str, int] = {}
    for leaf in jax.tree.leaves(info):
        counts[leaf.group] = counts.get(leaf.group, 0) + leaf.num_params
    return counts
