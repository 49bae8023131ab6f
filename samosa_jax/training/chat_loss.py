"""The loss of conversations: next-token cross-entropy under the curriculum's weights, told apart by tag."""

from typing import Any

import jax
import jax.numpy as jnp

from samosa_jax.data.chat.pipeline import TAGS, ChatBatch
from samosa_jax.data.chat.template import Role
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.training.losses import LossFn, LossOutput, batch_cross_entropy


def make_chat_loss(network: Network, *, z_loss: float, chunk_tokens: int) -> LossFn:
    """A loss of (parameters, ChatBatch, frozen).

    metrics has `nll` and, for every tag, `loss_part_TAG`: what its tokens add to the weighted loss. The parts
    sum to `nll`.
    """

    def loss_fn(params: Params, batch: ChatBatch, frozen: Any = None) -> LossOutput:
        rows, roles = batch.rows, jnp.asarray(batch.roles)
        weights = jnp.asarray(rows.weights)
        loss = batch_cross_entropy(network, params, rows, z_loss=z_loss, chunk_tokens=chunk_tokens)
        metrics = {"nll": loss.nll}
        for tag, part in sums_by_tag(weights * loss.token_nll, roles).items():
            metrics[f"loss_part_{tag}"] = part
        if z_loss:
            metrics["z_loss"] = jax.lax.stop_gradient(loss.total) - loss.nll
        return LossOutput(sum=loss.total, weight=jnp.sum(weights, dtype=jnp.float32), metrics=metrics)

    return loss_fn


def sums_by_tag(values: jax.Array, roles: jax.Array) -> dict[str, jax.Array]:
    """Sums of values (B, T) over the tokens of each role, under the role's name in the configuration."""
    return {tag_name(role): jnp.sum(jnp.where(roles == role, values, 0.0)) for role in TAGS}


def tag_name(role: Role) -> str:
    return role.name.lower()
