"""Loss functions as the training step takes them: sums over tokens, never means.

Sums can be added over microbatches and devices; the step divides once, by the weight of the whole batch,
so that accumulation stays exact however the masks fall.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from samosa_kernels import CrossEntropy, softmax_cross_entropy

from samosa_jax.data.batch import Batch
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.sharding import ambient_mesh


class LossOutput(NamedTuple):
    """Sums over the tokens of a batch, float32 scalars."""

    sum: jax.Array  # what is differentiated
    weight: jax.Array  # what the sums are divided by in the end
    metrics: Mapping[str, jax.Array]  # further sums, for reading; `nll` stands for the loss that is reported


LossFn = Callable[[Params, Any, Any], LossOutput]  # of parameters, batch (rows, T) and frozen parameters


def make_pretrain_loss(network: Network, *, z_loss: float, chunk_tokens: int) -> LossFn:
    """Next-token cross-entropy, each token counted by its weight in the batch.

    `z_loss` adds z_loss * logsumexp^2 (as in PaLM, arXiv:2204.02311) to what is differentiated; metrics has
    the two parts, `nll` and `z_loss`. Logits exist for `chunk_tokens` tokens per device at a time.
    """

    def loss_fn(params: Params, batch: Batch, frozen: Any = None) -> LossOutput:
        hidden = network.hidden(
            params,
            jnp.asarray(batch.tokens),
            k_lo=jnp.asarray(batch.k_lo),
            k_hi=jnp.asarray(batch.k_hi),
            position=jnp.asarray(batch.position),
            turn_position=jnp.asarray(batch.turn_position),
        )
        targets, weights = jnp.asarray(batch.targets), jnp.asarray(batch.weights)
        loss = sharded_cross_entropy(
            hidden,
            network.head(params),
            targets,
            weights,
            vocab_size=network.config.vocab_size,
            soft_cap=network.config.soft_cap,
            z_loss=z_loss,
            chunk_tokens=chunk_tokens,
        )
        metrics = {"nll": loss.nll}
        if z_loss:
            metrics["z_loss"] = jax.lax.stop_gradient(loss.total) - loss.nll
        return LossOutput(sum=loss.total, weight=jnp.sum(weights, dtype=jnp.float32), metrics=metrics)

    return loss_fn


def sharded_cross_entropy(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    vocab_size: int,
    soft_cap: float | None,
    z_loss: float,
    chunk_tokens: int,
) -> CrossEntropy:
    """`samosa_kernels.softmax_cross_entropy` of hidden (B, T, D), head (V, D), targets and weights (B, T).

    On the ambient mesh every device takes its own rows and, where T divides, its own part of them along
    `tensor`, with the whole head; nothing is sent between devices inside the loop over chunks.
    """

    def local_sums(
        hidden: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        loss = softmax_cross_entropy(
            hidden,
            head,
            targets,
            weights,
            vocab_size=vocab_size,
            soft_cap=soft_cap,
            z_loss=z_loss,
            chunk_tokens=chunk_tokens,
        )
        return loss.total[None], loss.nll[None]

    mesh = ambient_mesh()
    if mesh is None:
        total, nll = local_sums(hidden, head, targets, weights)
        return CrossEntropy(total=total[0], nll=nll[0])
    rows = ("data", "fsdp")
    splits_rows = hidden.shape[1] % mesh.shape["tensor"] == 0
    tokens = PartitionSpec(rows, "tensor") if splits_rows else PartitionSpec(rows)
    parts = PartitionSpec((*rows, "tensor")) if splits_rows else PartitionSpec(rows)
    sums = jax.shard_map(
        local_sums,
        mesh=mesh,
        in_specs=(tokens, PartitionSpec(), tokens, tokens),
        out_specs=(parts, parts),
        check_vma=False,  # the sums over devices below are all there is to check
    )(hidden, head, targets, weights)
    return CrossEntropy(total=jnp.sum(sums[0]), nll=jnp.sum(sums[1]))
