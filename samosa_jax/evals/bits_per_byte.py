"""Bits per byte: how many bits a model needs for a byte of text it has not seen, whatever its tokenizer.

    bits per byte = sum over tokens of -ln p(token) / ln 2 / sum over tokens of their bytes

Tokens that stand for no bytes (`<|bos|>` and the other special ones) have weight 0 and count on neither
side: what comes next in a text is asked, not where it ends. As in karpathy/nanochat.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import numpy as np

from samosa_jax.data.batch import Batch
from samosa_jax.data.pipeline import ValidationBatch
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.sharding import batch_sharding
from samosa_jax.training.losses import batch_cross_entropy

DEFINITION = 1  # goes up whenever the same model and text would give another number


@dataclass(frozen=True, kw_only=True)
class BitsPerByte:
    nats: float  # sum over the tokens counted
    num_tokens: int  # counted: those that stand for at least one byte
    num_bytes: int
    definition: int = DEFINITION

    @property
    def value(self) -> float:
        return self.nats / math.log(2) / self.num_bytes

    def __add__(self, other: "BitsPerByte") -> "BitsPerByte":
        """Of both texts together."""
        return BitsPerByte(
            nats=self.nats + other.nats,
            num_tokens=self.num_tokens + other.num_tokens,
            num_bytes=self.num_bytes + other.num_bytes,
        )


def make_bits_per_byte(
    network: Network, *, chunk_tokens: int, mesh: jax.sharding.Mesh
) -> Callable[[Params, Iterable[ValidationBatch]], BitsPerByte]:
    """A function of (parameters, batches); compiled once per shape of batch.

    `chunk_tokens` is the number of tokens whose logits exist at the same time, per device. The function
    raises UserError if the batches hold no token that stands for any byte.
    """
    sharding = batch_sharding(mesh)

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, array)

    @jax.jit
    def sum_nats(params: Params, batch: Batch) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return total_nats(params, batch)

    def total_nats(params: Params, batch: Batch) -> jax.Array:
        return batch_cross_entropy(network, params, batch, z_loss=0.0, chunk_tokens=chunk_tokens).nll

    def evaluate(params: Params, batches: Iterable[ValidationBatch]) -> BitsPerByte:
        nats, num_tokens, num_bytes = [], 0, 0
        for held_out in batches:
            nats.append(sum_nats(params, jax.tree.map(put, held_out.batch)))
            num_tokens += held_out.num_tokens
            num_bytes += held_out.num_bytes
        if not num_bytes:
            raise UserError(
                "the validation documents hold no token that stands for any byte; "
                "prepare the data with more of them"
            )
        # Each batch is summed in float32, the batches in float64.
        total = sum(float(part) for part in jax.device_get(nats))
        return BitsPerByte(nats=total, num_tokens=num_tokens, num_bytes=num_bytes)

    return evaluate
