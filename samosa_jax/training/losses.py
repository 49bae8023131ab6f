"""Loss functions as the training step takes them: sums over tokens, never means.

Sums can be added over microbatches and devices; the step divides once, by the weight of the whole batch,
so that accumulation stays exact however the masks fall.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from samosa_kernels import CrossEntropy, softmax_cross_entropy, token_nll

from samosa_jax.data.batch import Batch
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.sharding import ambient_mesh, free_axes


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
        weights = jnp.asarray(batch.weights)
        loss = batch_cross_entropy(network, params, batch, z_loss=z_loss, chunk_tokens=chunk_tokens)
        metrics = {"nll": loss.nll}
        if z_loss:
            metrics["z_loss"] = jax.lax.stop_gradient(loss.total) - loss.nll
        return LossOutput(sum=loss.total, weight=jnp.sum(weights, dtype=jnp.float32), metrics=metrics)

    return loss_fn


def batch_cross_entropy(
    network: Network, params: Params, batch: Batch, *, z_loss: float, chunk_tokens: int
) -> CrossEntropy:
    """`sharded_cross_entropy` of a batch's targets under its weights, as the network predicts them."""
    return sharded_cross_entropy(
        _hidden_states(network, params, batch),
        network.head(params),
        jnp.asarray(batch.targets),
        jnp.asarray(batch.weights),
        vocab_size=network.config.vocab_size,
        soft_cap=network.config.soft_cap,
        z_loss=z_loss,
        chunk_tokens=chunk_tokens,
    )


def batch_token_nll(network: Network, params: Params, batch: Batch, *, chunk_tokens: int) -> jax.Array:
    """`sharded_token_nll` of a batch's targets, whatever their weights: float32 (B, T)."""
    return sharded_token_nll(
        _hidden_states(network, params, batch),
        network.head(params),
        jnp.asarray(batch.targets),
        vocab_size=network.config.vocab_size,
        soft_cap=network.config.soft_cap,
        chunk_tokens=chunk_tokens,
    )


def _hidden_states(network: Network, params: Params, batch: Batch) -> jax.Array:
    """What the head reads of every position of a batch: (B, T, D)."""
    return network.hidden(
        params,
        jnp.asarray(batch.tokens),
        k_lo=jnp.asarray(batch.k_lo),
        k_hi=jnp.asarray(batch.k_hi),
        position=jnp.asarray(batch.position),
        turn_position=jnp.asarray(batch.turn_position),
    )


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

    def local_losses(
        hidden: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
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
        return loss.total[None], loss.nll[None], loss.token_nll

    mesh = ambient_mesh()
    if mesh is None:
        total, nll, by_token = local_losses(hidden, head, targets, weights)
        return CrossEntropy(total=total[0], nll=nll[0], token_nll=by_token)
    rows, positions = token_axes(mesh, length=hidden.shape[1])
    tokens, parts = PartitionSpec(rows, positions), PartitionSpec(rows + positions)
    totals, nlls, by_token = jax.shard_map(
        local_losses,
        mesh=mesh,
        in_specs=(tokens, PartitionSpec(), tokens, tokens),
        out_specs=(parts, parts, tokens),
        axis_names=free_axes(mesh),
        check_vma=False,  # the sums over devices below are all there is to check
    )(hidden, head, targets, weights)
    return CrossEntropy(total=jnp.sum(totals), nll=jnp.sum(nlls), token_nll=by_token)


def sharded_token_nll(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    *,
    vocab_size: int,
    soft_cap: float | None,
    chunk_tokens: int,
) -> jax.Array:
    """`samosa_kernels.token_nll` of hidden (B, T, D), head (V, D) and targets (B, T): float32 (B, T).

    Spread over the ambient mesh as `sharded_cross_entropy` is.
    """
    local_nll = functools.partial(
        token_nll, vocab_size=vocab_size, soft_cap=soft_cap, chunk_tokens=chunk_tokens
    )
    mesh = ambient_mesh()
    if mesh is None:
        return local_nll(hidden, head, targets)
    tokens = PartitionSpec(*token_axes(mesh, length=hidden.shape[1]))
    return jax.shard_map(
        local_nll,
        mesh=mesh,
        in_specs=(tokens, PartitionSpec(), tokens),
        out_specs=tokens,
        axis_names=free_axes(mesh),
        check_vma=False,  # as above
    )(hidden, head, targets)


def token_axes(mesh: AbstractMesh, *, length: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Mesh axes over which tokens (B, T) go to the head: of the rows, and of T, if it divides by `tensor`."""
    free = free_axes(mesh)
    rows = tuple(axis for axis in ("data", "fsdp") if axis in free)
    return rows, ("tensor",) if "tensor" in free and length % mesh.shape["tensor"] == 0 else ()
