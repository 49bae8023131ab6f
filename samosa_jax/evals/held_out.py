"""How well a model does on conversations and preference pairs it has not seen."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from samosa_jax.data.chat.pipeline import TAGS, ChatBatch
from samosa_jax.data.chat.preference_batch import PreferenceBatch
from samosa_jax.data.chat.role_bytes import SPOKEN
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.rows import put_whole
from samosa_jax.training.chat_loss import sums_by_tag, tag_name
from samosa_jax.training.losses import LossFn, batch_cross_entropy


def make_chat_evaluation(
    network: Network, *, chunk_tokens: int, mesh: jax.sharding.Mesh
) -> Callable[[Params, Iterable[ChatBatch]], dict[str, float]]:
    """A function of (parameters, batches of weight 0 or 1) -> metrics in nats per token.

    `val/loss` is over what the assistant writes (answers, thoughts and tool calls), `val/loss_TAG` over the
    tokens of one tag; tags without tokens are left out.
    """

    @jax.jit
    def sums(params: Params, batch: ChatBatch) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            weights = jnp.asarray(batch.rows.weights)
            loss = batch_cross_entropy(network, params, batch.rows, z_loss=0.0, chunk_tokens=chunk_tokens)
            roles = jnp.asarray(batch.roles)
            return sums_by_tag(loss.token_nll, roles), sums_by_tag(weights, roles)

    def evaluate(params: Params, batches: Iterable[ChatBatch]) -> dict[str, float]:
        parts = jax.device_get([sums(params, put_whole(batch, mesh)) for batch in batches])
        nats = {tag_name(role): sum(float(part[0][tag_name(role)]) for part in parts) for role in TAGS}
        counts = {tag_name(role): sum(float(part[1][tag_name(role)]) for part in parts) for role in TAGS}
        spoken = [tag_name(role) for role in SPOKEN]
        num_spoken = sum(counts[tag] for tag in spoken)
        if not num_spoken:
            raise UserError(
                "the validation conversations hold no word of the assistant; prepare more of them"
            )
        metrics = {f"val/loss_{tag}": nats[tag] / counts[tag] for tag in nats if counts[tag]}
        return {"val/loss": sum(nats[tag] for tag in spoken) / num_spoken, **metrics}

    return evaluate


def make_preference_evaluation(
    loss_fn: LossFn, *, mesh: jax.sharding.Mesh
) -> Callable[[Params, Any, Iterable[PreferenceBatch]], dict[str, float]]:
    """A function of (parameters, frozen, batches) -> `val/loss` and `val/rewards/...`, means over pairs."""

    @jax.jit
    def sums(params: Params, frozen: Any, batch: PreferenceBatch) -> dict[str, jax.Array]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            output = loss_fn(params, batch, frozen)
            return {"loss": output.sum, "weight": output.weight, **output.metrics}

    def evaluate(params: Params, frozen: Any, batches: Iterable[PreferenceBatch]) -> dict[str, float]:
        parts = jax.device_get([sums(params, frozen, put_whole(batch, mesh)) for batch in batches])
        totals: Mapping[str, float] = {
            name: sum(float(part[name]) for part in parts) for name in (parts[0] if parts else {})
        }
        weight = totals.get("weight", 0.0)
        if not weight:
            raise UserError("no validation pair fits a row; raise model.context_len, or prepare more of them")
        return {f"val/{name}": total / weight for name, total in totals.items() if name != "weight"}

    return evaluate
