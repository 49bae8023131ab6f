"""What the engine runs on the device, each as one compiled program for every set of shapes."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from samosa_kernels import current_device

from samosa_jax.model import cache as cache_ops
from samosa_jax.model import decoding
from samosa_jax.model.cache import Cache
from samosa_jax.model.decoding import Weights
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.rollout.request import MAX_TOP_LOGPROBS
from samosa_jax.rollout.sampling import Rules, argmax, draw, log_probs, penalize


class Rows(NamedTuple):
    """What a block of tokens begins with: one entry per row of the cache, from the host. All (B, ...)."""

    pending: Any  # int32, the last token said, not read yet
    lengths: Any  # int32, tokens read before it
    turn_position: Any  # int32, of the pending token
    remaining: Any  # int32, tokens it may still say; 0 where the row rests
    stop_ids: Any  # int32 (B, X), tokens after which it says no more; -1 for none
    key: Any  # uint32 (B, 2), of its random numbers
    num_drawn: Any  # int32, tokens drawn so far
    forced: Any  # int32 (B, X), what it says at each step instead of drawing; -1 where it draws
    rules: Rules


class Tables(NamedTuple):
    """What penalties look up. Both (B, V)."""

    said: Any  # int16, how often each token stands in the answer
    in_prompt: Any  # bool


class Block(NamedTuple):
    """What a block of X steps drew. -1 stands for a token of a row that rests, or was forced to one."""

    tokens: jax.Array  # int32 (X, B)
    logprobs: jax.Array  # float32 (X, B)
    top_ids: jax.Array  # int32 (X, B, 20 or 0), likeliest first
    top_logprobs: jax.Array  # float32 (X, B, 20 or 0)


class Programs:
    """The jitted functions of one network on one mesh. Caches that are given to be changed are donated."""

    def __init__(self, network: Network, mesh: jax.sharding.Mesh) -> None:
        def jit(function: Any, **options: Any) -> Any:
            compiled = jax.jit(function, **options)

            @functools.wraps(compiled)
            def on_mesh(*args: Any, **kwargs: Any) -> Any:
                with jax.set_mesh(mesh):
                    return compiled(*args, **kwargs)

            return on_mesh

        config = network.config
        dtype = jnp.dtype(network.compute_dtype)
        self._lay_out = jit(functools.partial(decoding.lay_out, network))
        self._empty = jit(
            functools.partial(cache_ops.empty_cache, config, dtype=dtype),
            static_argnames=("num_rows", "capacity"),
        )
        self._prefill = jit(functools.partial(decoding.prefill, network), static_argnames="capacity")
        self._extend = jit(functools.partial(decoding.extend, network))
        self._rewind = jit(functools.partial(decoding.rewind, network))
        self._resize = jit(
            lambda cache, capacity: cache_ops.resize(cache, config, capacity), static_argnums=1
        )
        self._take = jit(cache_ops.take_rows)
        self._place = jit(cache_ops.place_row, donate_argnums=0)
        self._decode = jit(
            functools.partial(decode_block, network),
            donate_argnums=1,
            static_argnames=("num_steps", "filters"),
        )

    def lay_out(self, params: Params) -> Weights:
        return self._lay_out(params)

    def empty(self, num_rows: int, capacity: int) -> Cache:
        return self._empty(num_rows=num_rows, capacity=capacity)

    def prefill(
        self, weights: Weights, tokens: Any, *, lengths: Any, turn_position: Any, capacity: int
    ) -> Cache:
        return self._prefill(weights, tokens, lengths=lengths, turn_position=turn_position, capacity=capacity)

    def extend(
        self, weights: Weights, cache: Cache, tokens: Any, *, counts: Any, turn_position: Any
    ) -> Cache:
        """The cache that is given stays as it was."""
        return self._extend(weights, cache, tokens, counts=counts, turn_position=turn_position)

    def rewind(self, weights: Weights, cache: Cache, *, lengths: Any, last_tokens: Any) -> Cache:
        return self._rewind(weights, cache, lengths=lengths, last_tokens=last_tokens)

    def resize(self, cache: Cache, capacity: int) -> Cache:
        return cache if capacity == cache.capacity else self._resize(cache, capacity)

    def take(self, cache: Cache, rows: Any) -> Cache:
        return self._take(cache, rows)

    def place(self, cache: Cache, single: Cache, rows: Sequence[int]) -> Cache:
        """A cache of one row in the place of all of `rows`."""
        padded = np.zeros(cache.num_rows, np.int32)
        padded[: len(rows)] = rows
        return self._place(cache, single, rows=padded, count=np.int32(len(rows)))

    def decode(
        self,
        weights: Weights,
        cache: Cache,
        rows: Rows,
        tables: Tables | None,
        *,
        num_steps: int,
        filters: bool,
    ) -> tuple[Block, Cache]:
        return self._decode(weights, cache, rows, tables, num_steps=num_steps, filters=filters)


def decode_block(
    network: Network,
    weights: Weights,
    cache: Cache,
    rows: Rows,
    tables: Tables | None,
    *,
    num_steps: int,
    filters: bool,
) -> tuple[Block, Cache]:
    """num_steps tokens of every row, fewer where it stops.

    A fixed number of steps, because a loop that asks the device whether to go on waits for the answer. With
    `tables`, which know what is forced, rows are penalised, and the likeliest tokens of every step reported.
    """
    B = rows.pending.shape[0]
    keys = jax.vmap(jax.random.wrap_key_data)(rows.key)
    num_top = 0 if tables is None else MAX_TOP_LOGPROBS
    block = Block(
        tokens=jnp.zeros((num_steps, B), jnp.int32),
        logprobs=jnp.zeros((num_steps, B), jnp.float32),
        top_ids=jnp.zeros((num_steps, B, num_top), jnp.int32),
        top_logprobs=jnp.zeros((num_steps, B, num_top), jnp.float32),
    )

    def step(i: jax.Array, state: tuple[Rows, Tables | None, Cache, Block]) -> Any:
        rows, tables, cache, block = state
        active = rows.remaining > 0
        forced = rows.forced[:, i]
        draws = active & (forced < 0)
        logits, cache = decoding.decode(
            network, weights, cache, rows.pending, turn_position=rows.turn_position, active=active
        )
        uniform = jax.vmap(lambda key, n: jax.random.uniform(jax.random.fold_in(key, n)))(
            keys, rows.num_drawn
        )
        if tables is None:
            tokens = draw(logits, uniform, rows.rules, filters=filters)
        else:
            penalized = penalize(logits, rows.rules, said_BV=tables.said, in_prompt_BV=tables.in_prompt)
            tokens = draw(penalized, uniform, rows.rules, filters=filters)
            said = tables.said.at[jnp.arange(B), tokens].add(draws.astype(tables.said.dtype))
            tables = tables._replace(said=said)
            ids, values = top_logprobs(logits)
            block = block._replace(
                top_ids=block.top_ids.at[i].set(ids), top_logprobs=block.top_logprobs.at[i].set(values)
            )
        block = block._replace(
            tokens=block.tokens.at[i].set(jnp.where(draws, tokens, -1)),
            logprobs=block.logprobs.at[i].set(log_probs(logits, tokens)),
        )
        stops = draws & (tokens[:, None] == rows.stop_ids).any(axis=-1)
        rows = rows._replace(
            pending=jnp.where(draws, tokens, jnp.where(active, forced, rows.pending)),
            turn_position=rows.turn_position + active,
            remaining=jnp.where(active & ~stops, rows.remaining - draws, 0),
            num_drawn=rows.num_drawn + draws,
        )
        return rows, tables, cache, block

    cache = cache._replace(lengths=rows.lengths)
    _, _, cache, block = lax.fori_loop(0, num_steps, step, (rows, tables, cache, block))
    return block, cache


def top_logprobs(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The likeliest tokens (B, 20) of every row and their log-probabilities, likeliest first."""
    logprobs = jax.nn.log_softmax(logits_BV, axis=-1)
    if current_device().platform != "cpu":
        values, ids = lax.top_k(logprobs, MAX_TOP_LOGPROBS)
        return ids.astype(jnp.int32), values
    # XLA for CPU sorts the whole vocabulary for top_k, which takes a hundred times as long.
    rows = jnp.arange(len(logprobs))

    def take_one(left: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        ids = argmax(left)
        return left.at[rows, ids].set(-jnp.inf), (ids, left[rows, ids])

    _, (ids, values) = lax.scan(take_one, logprobs, None, length=MAX_TOP_LOGPROBS)
    return ids.T, values.T
