"""The network: a decoder-only transformer, as a static object of pure functions over a tree of parameters.

`Network.build` describes it without allocating anything; `init` makes parameters, `hidden` and `logits` read
them. Networks of the same configuration are equal and hash alike, so that a Network may be a static argument
or a closure of a jitted function.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from samosa_kernels import KeyRanges
from samosa_kernels.float8 import float8_product

from samosa_jax.config import ModelConfig
from samosa_jax.model.layers import (
    Attend,
    Block,
    LayerInputs,
    Norm,
    Product,
    Smear,
    ValueEmbedding,
    ValueEmbeddings,
    look_up,
)
from samosa_jax.model.params import (
    ParamInfo,
    Params,
    describe,
    initializers,
    layer_sizes,
    sample,
    weight,
)
from samosa_jax.model.rope import make_rotation
from samosa_jax.parallel.sharding import constrain


class GPT(nnx.Module):
    """The modules and the order they run in. `Network` merges parameters into their graph inside a trace."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        sizes, init = layer_sizes(config), initializers(config)
        # A tied table moves at the head's pace: an embedding's steps are far too large for logits.
        self.embedding = weight(
            "V -> D",
            sizes=sizes,
            group="head" if config.tie_embeddings else "embedding",
            init=init.embedding,
        )
        self.head = (
            None if config.tie_embeddings else weight("V <- D", sizes=sizes, group="head", init=init.head)
        )
        self.embedding_norm = Norm(config, "D", sizes=sizes, init=init) if config.embedding_norm else None
        self.smear = Smear(sizes=sizes, init=init) if config.smear else None
        self.blocks = Block(config, sizes=sizes, init=init)
        num_valued = len(config.value_embedding_layers)
        self.value_embeddings = (
            ValueEmbeddings(sizes={**sizes, "L": num_valued}, init=init) if num_valued else None
        )
        self.backout = weight("", sizes=sizes, group="scalar", init=init.backout) if config.backout else None
        self.final_norm = Norm(config, "D", sizes=sizes, init=init)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        ranges: KeyRanges,
        position: jax.Array,
        turn_position: jax.Array,
        dtype: jnp.dtype,
        attend: Attend | None = None,
        product: Product = jnp.matmul,
        before: jax.Array | None = None,
        layers: Sequence[Any] | None = None,
    ) -> jax.Array:
        """Hidden states (B, T, D) after the last norm; see LayerInputs for `attend` and `product`, Smear for
        `before`.

        `layers` are the weights of the blocks, layer by layer, where they were unstacked before.
        """
        x = self.embed(tokens, dtype)
        if self.smear is not None:
            x = self.smear(x, position, before)
        rotation = make_rotation(self.config, position=position, turn_position=turn_position)
        inputs = LayerInputs(x0=x, rotation=rotation, ranges=ranges, attend=attend, product=product)
        # Layers that attend elsewhere are told apart by the order of their calls.
        if self.config.unroll_layers or attend is not None:
            x, middle = self._run_unrolled(x, tokens=tokens, inputs=inputs, layers=layers)
        else:
            x, middle = self._run_scanned(x, inputs=inputs)
        if self.backout is not None:
            x = x - self.backout[...].astype(dtype) * middle
        return self.final_norm(x)

    def embed(self, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """The embeddings (B, T, D) of tokens."""
        # Its rows whole: XLA of jaxlib 0.11.2 aborts where it splits them inside a shard_map of other axes.
        table = constrain(self.embedding[...], "rows D")
        x = constrain(look_up(table, tokens, axis=0).astype(dtype), "B T D")
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def _run_unrolled(
        self, x: jax.Array, *, tokens: jax.Array, inputs: LayerInputs, layers: Sequence[Any] | None
    ) -> tuple[jax.Array, jax.Array]:
        """All layers, each in the program for itself. Returns the last and the middle residual."""
        graph, stacked = nnx.split(self.blocks)
        valued = self._look_up_values(tokens, x.dtype)
        middle = x
        for layer, weights in enumerate(unstack(stacked) if layers is None else layers):
            block = nnx.merge(graph, weights)
            window = self.config.layer_windows[layer]
            x = block(x, inputs=inputs, window=window, value_embedding=valued.get(layer))
            if layer == self.config.num_layers // 2:
                middle = x
        return x, middle

    def _run_scanned(self, x: jax.Array, *, inputs: LayerInputs) -> tuple[jax.Array, jax.Array]:
        """As `_run_unrolled`, for layers that are all alike: one of them is compiled, and run in a loop."""
        graph, stacked = nnx.split(self.blocks)

        def step(x: jax.Array, weights: Any) -> tuple[jax.Array, None]:
            block = nnx.merge(graph, weights)
            return block(x, inputs=inputs, window=self.config.layer_windows[0], value_embedding=None), None

        if self.backout is None:
            return lax.scan(step, x, stacked)[0], x
        past_middle = self.config.num_layers // 2 + 1
        middle, _ = lax.scan(step, x, jax.tree.map(lambda stack: stack[:past_middle], stacked))
        x, _ = lax.scan(step, middle, jax.tree.map(lambda stack: stack[past_middle:], stacked))
        return x, middle

    def _look_up_values(self, tokens: jax.Array, dtype: jnp.dtype) -> dict[int, ValueEmbedding]:
        """The value embedding of every layer that has one."""
        if self.value_embeddings is None:
            return {}
        gates = unstack(self.value_embeddings.gate[...])
        values = unstack(self.value_embeddings.look_up(tokens, dtype))
        layers = self.config.value_embedding_layers
        return {
            layer: ValueEmbedding(gate=gate, values=value)
            for layer, gate, value in zip(layers, gates, values, strict=True)
        }


def unstack(stacked: Any) -> list[Any]:
    """The layers of a tree of stacked arrays. One `lax.split` each, whose gradient is one concatenation."""
    leaves, structure = jax.tree.flatten(stacked)
    columns = [[layer[0] for layer in lax.split(leaf, (1,) * leaf.shape[0])] for leaf in leaves]
    return [jax.tree.unflatten(structure, layer) for layer in zip(*columns, strict=True)]


MatmulDtype = Literal["compute", "float8"]


@dataclass(frozen=True)
class Network:
    """A model as a static, hashable object; its parameters are always an argument.

    `matmul_dtype` is that of the matrix products of the layers in `hidden`, as `config.TrainConfig` has it.
    Decoding (`model.decoding`) takes no notice of it.

    Arrays of a batch are (B, T); `samosa_jax.data.batch.Batch` says what they mean.
    """

    config: ModelConfig
    compute_dtype: str
    info: Any = field(compare=False, repr=False)  # a tree of ParamInfo shaped like the parameters
    graph: nnx.GraphDef[GPT] = field(compare=False, repr=False)
    matmul_dtype: MatmulDtype = "compute"

    @classmethod
    def build(
        cls, config: ModelConfig, *, compute_dtype: Any = "float32", matmul_dtype: MatmulDtype = "compute"
    ) -> "Network":
        """Describes the network; allocates nothing."""
        graph, state = nnx.split(nnx.eval_shape(lambda: GPT(config)))
        return cls(
            config=config,
            compute_dtype=jnp.dtype(compute_dtype).name,
            info=describe(state),
            graph=graph,
            matmul_dtype=matmul_dtype,
        )

    def init(self, key: jax.Array) -> Params:
        """First parameters, float32: the same on every mesh, and each independent of which others exist.

        Rows of tables beyond vocab_size are zero, and stay so: no token of a batch stands for them.
        """

        def first_values(info: ParamInfo) -> jax.Array:
            values = sample(info, key)
            if "V" not in info.letters:
                return values
            axis = info.letters.index("V")
            return values * (lax.broadcasted_iota(jnp.int32, info.shape, axis) < self.config.vocab_size)

        return jax.tree.map(first_values, self.info)

    def hidden(
        self,
        params: Params,
        tokens: jax.Array,
        *,
        k_lo: jax.Array,
        k_hi: jax.Array,
        position: jax.Array,
        turn_position: jax.Array,
    ) -> jax.Array:
        """What the head reads: (B, T, D) in the compute dtype, after the last norm."""
        model = nnx.merge(self.graph, params)
        return model(
            tokens,
            ranges=KeyRanges(lo=k_lo, hi=k_hi),
            position=position,
            turn_position=turn_position,
            dtype=jnp.dtype(self.compute_dtype),
            product=float8_product if self.matmul_dtype == "float8" else jnp.matmul,
        )

    def head(self, params: Params) -> jax.Array:
        """The head, float32 (V, D): the table of the embedding itself when they are tied. V is padded."""
        return params["embedding"] if self.config.tie_embeddings else params["head"]

    def logits(
        self,
        params: Params,
        tokens: jax.Array,
        *,
        k_lo: jax.Array,
        k_hi: jax.Array,
        position: jax.Array,
        turn_position: jax.Array,
    ) -> jax.Array:
        """Logits after the soft-cap, float32 (B, T, vocab_size)."""
        hidden = self.hidden(
            params, tokens, k_lo=k_lo, k_hi=k_hi, position=position, turn_position=turn_position
        )
        return self.project(params, hidden)

    def project(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Hidden states (..., D) -> logits after the soft-cap, float32 (..., vocab_size)."""
        head = self.head(params).astype(hidden.dtype)
        return self.cap(jnp.einsum("...d,vd->...v", hidden, head, preferred_element_type=jnp.float32))

    def cap(self, logits: jax.Array) -> jax.Array:
        """Of products with the head (..., V) those that stand for tokens (..., vocab_size), soft-capped."""
        logits = logits[..., : self.config.vocab_size]
        cap = self.config.soft_cap
        return logits if cap is None else cap * jnp.tanh(logits / cap)
