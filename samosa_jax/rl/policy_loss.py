"""The loss of GRPO and its kin on answers that the policy has sampled.

Of a token with advantage A and the ratio r = pi(token) / old(token) of policy to the one that sampled, it is

    -min(r A, clip(r, 1 - low, 1 + high) A) + kl_coef * k3,    k3 = ref / pi - log(ref / pi) - 1

(PPO, arXiv:1707.06347; GRPO, arXiv:2402.03300; bounds apart as in DAPO, arXiv:2503.14476). k3 estimates the
divergence of the policy from its reference without bias where tokens come from the policy itself
(http://joschu.net/blog/kl-approx.html). Log-probabilities are those of temperature 1, without filters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samosa_jax.data.batch import Batch
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.training.losses import LossFn, LossOutput, batch_token_nll
from samosa_jax.training.preference import Reference

MAX_LOG_RATIO = 20.0  # beyond, a ratio is a mistake: it counts as e^20 and has no slope


class PolicyBatch(NamedTuple):
    """Rows of prompts with their sampled answers, all arrays (B, T). A pytree for JAX.

    Log-probabilities are of `batch.targets`. Nothing is read where `batch.weights` is 0: prompts, forced
    tokens, what tools returned, answers that do not count, padding.
    """

    batch: Batch  # weights: `advantages.token_weights` of the answer a target belongs to
    advantages: np.ndarray  # float32
    sampler: np.ndarray  # float32, log-probabilities as the engine gave them
    old: np.ndarray | None = None  # float32, what ratios are to; None: the policy as it is, so that all are 1
    reference: np.ndarray | None = None  # float32, of the model that the run began with; None: see the loss


def make_policy_loss(
    network: Network,
    *,
    clip_low: float | None,
    clip_high: float | None,
    kl_coef: float,
    reference: Reference,
    chunk_tokens: int,
) -> LossFn:
    """A loss of (parameters, PolicyBatch, frozen).

    None leaves that side of the ratio unbounded. With kl_coef above 0 the reference is the network with the
    parameters `frozen`, or what the batch holds, "precomputed".

    The weight is the number of tokens that count; metrics are plain sums over them, each token once:
    `rl/entropy`, an estimate, -log pi of what was sampled; `rl/ratio`; `rl/clip_low` and `rl/clip_high`,
    tokens that a bound leaves without a slope; `rl/approx_kl`, k3 of the old policy against this one;
    `rl/logprob_gap`, |log pi - the sampler's|, which is 0 up to rounding before the first update of a
    rollout; `rl/kl`, k3 of the reference, where kl_coef is above 0.
    """

    def loss_fn(params: Params, batch: PolicyBatch, frozen: Any = None) -> LossOutput:
        weights = jnp.asarray(batch.batch.weights)
        counts = weights > 0

        def counted(values: jax.Array | np.ndarray) -> jax.Array:
            # Selected before anything is computed from it: NaN of another token would spread.
            return jnp.where(counts, jnp.asarray(values), 0.0)

        def log_probs_of(params: Params) -> jax.Array:
            return counted(-batch_token_nll(network, params, batch.batch, chunk_tokens=chunk_tokens))

        log_probs = log_probs_of(params)
        fixed = jax.lax.stop_gradient(log_probs)
        old = fixed if batch.old is None else counted(batch.old)
        log_ratio = bounded_log_ratio(log_probs - old)
        ratio, advantages = jnp.exp(log_ratio), counted(batch.advantages)
        losses = -clipped_gain(ratio, advantages, low=clip_low, high=clip_high)
        sums = {
            "rl/entropy": -log_probs,
            "rl/ratio": ratio,
            "rl/clip_low": is_clipped_low(ratio, advantages, clip_low),
            "rl/clip_high": is_clipped_high(ratio, advantages, clip_high),
            "rl/approx_kl": k3(-log_ratio),  # samples are the old policy's: the roles of the two swap
            "rl/logprob_gap": jnp.abs(fixed - counted(batch.sampler)),
        }
        if kl_coef:
            if reference == "frozen":
                began_with = jax.lax.stop_gradient(log_probs_of(frozen))
            elif batch.reference is None:
                raise ValueError("the batch has no reference log-probabilities; expected them precomputed")
            else:
                began_with = counted(batch.reference)
            sums["rl/kl"] = k3(bounded_log_ratio(log_probs - began_with))
            losses = losses + kl_coef * sums["rl/kl"]

        def total(values: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(counts, values, 0), dtype=jnp.float32)

        return LossOutput(
            sum=total(weights * losses),
            weight=total(counts),
            metrics={name: jax.lax.stop_gradient(total(values)) for name, values in sums.items()},
        )

    return loss_fn


def skip_empty(loss_fn: LossFn) -> LossFn:
    """The same loss, which takes no time where nothing counts.

    Rows are filled from the first on: of a step with room to spare, the last microbatches are padding.
    """

    def loss_or_nothing(params: Params, batch: PolicyBatch, frozen: Any = None) -> LossOutput:
        def compute() -> LossOutput:
            return loss_fn(params, batch, frozen)

        def nothing() -> LossOutput:
            return jax.tree.map(lambda value: jnp.zeros(value.shape, value.dtype), jax.eval_shape(compute))

        return jax.lax.cond(jnp.any(jnp.asarray(batch.batch.weights) > 0), compute, nothing)

    return loss_or_nothing


def make_token_log_probs(
    network: Network, *, chunk_tokens: int, mesh: jax.sharding.Mesh
) -> Callable[[Params, Batch], jax.Array]:
    """A jitted function of (parameters, batch) that makes `PolicyBatch.old` or `reference`.

    0 where the batch has weight 0.
    """

    @jax.jit
    def log_probs_of_batch(params: Params, batch: Batch) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            log_probs = -batch_token_nll(network, params, batch, chunk_tokens=chunk_tokens)
        return jnp.where(jnp.asarray(batch.weights) > 0, log_probs, 0.0)

    return log_probs_of_batch


def bounded_log_ratio(log_ratio: jax.Array) -> jax.Array:
    return jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def clipped_gain(
    ratio: jax.Array, advantages: jax.Array, *, low: float | None, high: float | None
) -> jax.Array:
    """The smaller of ratio * advantage and the same with the ratio within 1 - low and 1 + high."""
    gain = ratio * advantages
    if low is None and high is None:
        return gain
    bounded = jnp.clip(ratio, None if low is None else 1 - low, None if high is None else 1 + high)
    return jnp.minimum(gain, bounded * advantages)


def is_clipped_low(ratio: jax.Array, advantages: jax.Array, low: float | None) -> jax.Array:
    """A worse answer's token that has become rarer by more than `low` already."""
    return jnp.zeros_like(ratio, bool) if low is None else (ratio < 1 - low) & (advantages < 0)


def is_clipped_high(ratio: jax.Array, advantages: jax.Array, high: float | None) -> jax.Array:
    """A better answer's token that has become likelier by more than `high` already."""
    return jnp.zeros_like(ratio, bool) if high is None else (ratio > 1 + high) & (advantages > 0)


def k3(log_ratio: jax.Array) -> jax.Array:
    """exp(-x) + x - 1 of x = log pi - log ref: never negative, 0 where they agree.

    Its mean over samples of pi is KL(pi || ref).
    """
    return jnp.expm1(-log_ratio) + log_ratio
