"""Direct preference optimisation (DPO, Rafailov et al. 2023, arXiv:2305.18290) on packed pairs of answers.

The loss of a pair is -log sigmoid(beta * delta), with

    delta = (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected))

the margin by which the policy pi prefers the chosen answer more than its reference does, the model it started
from. Sums are over pairs here, where other losses sum over tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from samosa_jax.data.chat.preference_batch import PreferenceBatch
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.training.losses import LossFn, LossOutput, batch_token_nll

DpoLoss = Literal["sigmoid", "ipo"]
Reference = Literal["frozen", "precomputed"]


def make_dpo_loss(
    network: Network,
    *,
    beta: float,
    label_smoothing: float,
    loss_type: DpoLoss,
    length_normalized: bool,
    chunk_tokens: int,
    reference: Reference,
) -> LossFn:
    """A loss of (parameters, PreferenceBatch, frozen); see `pair_loss` for beta and the next two.

    `length_normalized` divides the log-probabilities of an answer by its tokens before they are compared. The
    reference is the network with the parameters `frozen`, or what the batch holds, "precomputed".

    The sums count every pair once. Metrics are named and defined as in TRL: `rewards/chosen` and
    `rewards/rejected`, beta * (log pi - log ref) of whole answers, never normalised; `rewards/margins`, their
    difference; `rewards/accuracies`, pairs in which it is positive; `logps/chosen` and `logps/rejected`.
    """

    def loss_fn(params: Params, batch: PreferenceBatch, frozen: Any) -> LossOutput:
        exists = jnp.asarray(batch.pairs) > 0
        policy = sequence_log_probs(network, params, batch, chunk_tokens=chunk_tokens)
        if reference == "precomputed":
            if batch.reference is None:
                raise ValueError("the batch has no reference log-probabilities; expected them precomputed")
            started_from = jnp.asarray(batch.reference)
        else:
            started_from = sequence_log_probs(network, frozen, batch, chunk_tokens=chunk_tokens)
        # Selected before anything is computed from it: NaN of a missing pair would spread through gradients.
        log_ratios = jnp.where(exists[..., None], policy - jax.lax.stop_gradient(started_from), 0.0)
        compared = log_ratios / answer_lengths(batch) if length_normalized else log_ratios
        losses = pair_loss(
            compared[..., 0] - compared[..., 1],
            beta=beta,
            label_smoothing=label_smoothing,
            loss_type=loss_type,
        )
        rewards = beta * log_ratios
        margins = rewards[..., 0] - rewards[..., 1]
        sums = {
            "rewards/chosen": rewards[..., 0],
            "rewards/rejected": rewards[..., 1],
            "rewards/margins": margins,
            "rewards/accuracies": margins > 0,
            "logps/chosen": policy[..., 0],
            "logps/rejected": policy[..., 1],
        }

        def total(values: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(exists, values, 0), dtype=jnp.float32)

        return LossOutput(
            sum=total(losses),
            weight=total(exists),
            metrics={name: jax.lax.stop_gradient(total(values)) for name, values in sums.items()},
        )

    return loss_fn


def pair_loss(delta: jax.Array, *, beta: float, label_smoothing: float, loss_type: DpoLoss) -> jax.Array:
    """The loss of pairs of which the policy prefers the chosen answer by delta more than the reference does.

    `sigmoid` is DPO; label_smoothing, the share of pairs whose labels are believed to be swapped, makes it
    conservative (https://ericmitchell.ai/cdpo.pdf). `ipo` (Azar et al. 2023, arXiv:2310.12036) draws delta to
    1 / (2 beta) instead of ever further up, and knows no label_smoothing; TRL's is that of length-normalised
    log-probabilities.
    """
    if loss_type == "ipo":
        return jnp.square(delta - 1 / (2 * beta))
    right, wrong = jax.nn.log_sigmoid(beta * delta), jax.nn.log_sigmoid(-beta * delta)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def make_reference_log_probs(
    network: Network, *, chunk_tokens: int, mesh: jax.sharding.Mesh
) -> Callable[[Params, PreferenceBatch], jax.Array]:
    """A jitted function of (parameters, batch) that makes `PreferenceBatch.reference`; 0 without a pair."""

    # Whole on every device: it is read on every host.
    @partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def reference_log_probs(params: Params, batch: PreferenceBatch) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return sequence_log_probs(network, params, batch, chunk_tokens=chunk_tokens)

    return reference_log_probs


def sequence_log_probs(
    network: Network, params: Params, batch: PreferenceBatch, *, chunk_tokens: int
) -> jax.Array:
    """Log-probabilities of the answers, chosen and rejected, in sum over their tokens: float32 (B, P, 2)."""
    nll = batch_token_nll(network, params, batch.batch, chunk_tokens=chunk_tokens)
    return -sum_by_answer(nll, batch)


def answer_lengths(batch: PreferenceBatch) -> jax.Array:
    """Tokens that count of every answer, at least 1: float32 (B, P, 2)."""
    return jnp.maximum(sum_by_answer(jnp.ones(batch.sequence.shape, jnp.float32), batch), 1.0)


def sum_by_answer(values: jax.Array, batch: PreferenceBatch) -> jax.Array:
    """Sums (B, P, 2) of float32 values (B, T) over the tokens that count of every answer.

    By masked sums: a matrix product would round to fewer bits on GPUs, and a scatter add in any order.
    """
    num_pairs = batch.pairs.shape[1]
    counts = jnp.asarray(batch.batch.weights) > 0
    # What does not count may be anything, even infinite.
    belongs = counts[:, None, :] & (
        jnp.asarray(batch.sequence)[:, None, :] == jnp.arange(2 * num_pairs)[:, None]
    )
    return jnp.sum(jnp.where(belongs, values[:, None, :], 0.0), axis=-1).reshape(-1, num_pairs, 2)
