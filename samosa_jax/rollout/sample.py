"""A few short texts from a model in training: no scheduler, one jitted call for all of them."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from samosa_jax.errors import UserError
from samosa_jax.model.cache import Cache
from samosa_jax.model.decoding import decode, lay_out, prefill
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import MESH_AXES


def choose_tokens(logits_BV: jax.Array, keys: jax.Array, *, temperature: float, top_k: int) -> jax.Array:
    """One token per row, int32 (B,), drawn from softmax(logits / temperature) over the top_k largest logits.

    `keys` holds one random key per row. Temperature 0 takes the largest logit; top_k 0 leaves all in. Of
    logits that tie with the last one kept, all stay.
    """
    if temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    if 0 < top_k < logits_BV.shape[-1]:
        last_kept = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < last_kept, -jnp.inf, logits_BV)
    draw = jax.vmap(jax.random.categorical)
    return draw(keys, logits_BV / temperature).astype(jnp.int32)


def generate(
    network: Network,
    params: Params,
    key: jax.Array,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    turn_starts_B: jax.Array,
    *,
    num_tokens: int,
    temperature: float,
    top_k: int,
) -> jax.Array:
    """Fills each row after its first lengths_B tokens with num_tokens more; returns tokens (B, T), int32.

    lengths_B is at most T - num_tokens.

    What is written belongs to the turn that begins at token turn_starts_B; all before it is one turn.
    A row's randomness depends on the key, its number and its position alone, so neither the mesh nor the
    rows beside it change what it says.
    """
    B, T = tokens_BT.shape
    rows = jnp.arange(B)
    position = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    starts = turn_starts_B[:, None]
    turn_position = jnp.where(position < starts, position, position - starts)
    width = T - num_tokens  # of the longest prompt
    weights = lay_out(network, params)
    begun = prefill(
        network,
        weights,
        tokens_BT[:, :width],
        lengths=lengths_B - 1,
        turn_position=turn_position[:, :width],
        capacity=T,
    )

    def step(i: jax.Array, state: tuple[jax.Array, Cache]) -> tuple[jax.Array, Cache]:
        tokens, cache = state
        at = lengths_B + i
        keys = jax.vmap(lambda row, where: jax.random.fold_in(jax.random.fold_in(key, row), where))(rows, at)
        logits, cache = decode(
            network, weights, cache, tokens[rows, at - 1], turn_position=turn_position[rows, at - 1]
        )
        chosen = choose_tokens(logits, keys, temperature=temperature, top_k=top_k)
        return tokens.at[rows, at].set(chosen), cache

    return jax.lax.fori_loop(0, num_tokens, step, (tokens_BT, begun))[0]


def make_sampler(
    network: Network,
    *,
    prompts: Sequence[Sequence[int]],
    end_ids: Sequence[int],
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    mesh: jax.sharding.Mesh,
    turn_starts: Sequence[int] | None = None,
) -> Callable[[Params, int], list[list[int]]]:
    """A function of (parameters, step) that continues every prompt by up to max_tokens tokens.

    The continuation, which alone is returned, ends before the first of end_ids. `turn_starts` says for each
    prompt at which of its tokens the last turn begins; None: at the first. The same seed, step and parameters
    give the same tokens.

    Raises:
        UserError: a prompt and its continuation do not fit into the context.
    """
    lengths = [len(prompt) for prompt in prompts]
    total = max(lengths) + max_tokens
    if total > network.config.context_len:
        raise UserError(
            f"sample.prompts has one of {max(lengths)} tokens, with sample.max_tokens {max_tokens} that is "
            f"{total}, more than model.context_len ({network.config.context_len}); shorten it or lower "
            "sample.max_tokens"
        )
    # Rows go over the data axes: the buffer has a multiple of them, the last rows empty.
    row_devices = mesh.shape[MESH_AXES[0]] * mesh.shape[MESH_AXES[1]]
    num_rows = -(-len(prompts) // row_devices) * row_devices
    tokens = np.full((num_rows, total), end_ids[0], np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    row_lengths = np.array(lengths + [1] * (num_rows - len(prompts)), np.int32)
    row_starts = np.zeros(num_rows, np.int32)
    row_starts[: len(prompts)] = 0 if turn_starts is None else turn_starts

    # Whole on every device: it is read on every host.
    @partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def run(params: Params, step: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return generate(
                network,
                params,
                jax.random.fold_in(jax.random.key(seed), step),
                jnp.asarray(tokens),
                jnp.asarray(row_lengths),
                jnp.asarray(row_starts),
                num_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
            )

    def sample(params: Params, step: int) -> list[list[int]]:
        filled = jax.device_get(run(params, jax.device_put(np.int32(step))))
        continuations = [
            filled[row, length : length + max_tokens].tolist() for row, length in enumerate(lengths)
        ]
        return [list(itertools.takewhile(lambda i: i not in end_ids, ids)) for ids in continuations]

    return sample
