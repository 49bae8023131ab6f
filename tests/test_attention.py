"""Attention without a GPU: the reference and the chunked one, their memory and work, and what is refused."""

import logging

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from attention_contract import AttentionContract, Case, make_inputs
from samosa_kernels import Device, KeyRanges, attention, causal_ranges, training_problem
from samosa_kernels.attention import chunked
from samosa_kernels.attention.api import _say_once, resolve_implementation

CASES = (
    Case(2, 1, 2, 1),  # a single token
    Case(3, 7, 4, 2),  # less than a block
    Case(3, 53, 6, 2),  # blocks that do not divide T
    Case(2, 150, 3, 1),  # loops over blocks inside segments
    Case(2, 150, 2, 2, window=9),  # a window shorter than a block, in loops
    Case(3, 53, 4, 1, window=20),  # a window longer than a block
    Case(1, 20, 2, 2, window=64),  # a window longer than the row
    Case(2, 20, 2, 1, window=1),  # only itself
    Case(2, 21, 4, 2, S=50),  # queries against a cache
    Case(1, 50, 2, 1, S=21),
)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 queries, so that short rows already have many of them."""
    monkeypatch.setattr(chunked, "MAX_BLOCK", 16)
    monkeypatch.setattr(chunked, "MIN_BLOCK", 16)
    jax.clear_caches()


class TestReference(AttentionContract):
    impl = "reference"
    cases = CASES
    small = Case(2, 40, 2, 1)


@pytest.mark.usefixtures("small_blocks")
class TestChunked(AttentionContract):
    impl = "chunked"
    cases = CASES
    small = Case(2, 40, 2, 1)


def matmul_flops(jaxpr) -> int:
    """Multiplications and additions of the matrix products, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * int(np.prod([left[dim] for dim in contracted]))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(
            matmul_flops(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params)
        )
    return total


def gradient_of(length: int, window: int | None, impl: str):
    """A function of (q, k, v) giving their gradients, and abstract arguments for it: B1 N4 K2 H16."""

    def loss(q, k, v):
        return jnp.sum(attention(q, k, v, causal_ranges(1, length), window=window, impl=impl).out)

    abstract = [jax.ShapeDtypeStruct((1, length, heads, 16), jnp.float32) for heads in (4, 2, 2)]
    return jax.grad(loss, argnums=(0, 1, 2)), abstract


def work(length: int, window: int | None, impl: str) -> int:
    function, abstract = gradient_of(length, window, impl)
    return matmul_flops(jax.make_jaxpr(function)(*abstract).jaxpr)


def temp_bytes(length: int, window: int | None, impl: str) -> int:
    function, abstract = gradient_of(length, window, impl)
    memory = jax.jit(function).lower(*abstract).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def test_chunked_skips_what_no_query_sees():
    everything = 7 * 2 * 4 * 4096**2 * 16  # seven products with all T * S scores
    assert work(4096, None, "chunked") < 0.6 * everything
    assert (
        work(4096, 512, "chunked") < 0.17 * everything
    )  # (512 + 128) / 4096, and no more than a block too many
    assert work(8192, 512, "chunked") < 2.1 * work(4096, 512, "chunked")
    assert work(4096, None, "reference") > 0.8 * everything


def test_chunked_memory_grows_with_length_and_window(monkeypatch):
    monkeypatch.setattr(chunked, "MAX_SEGMENTS", 2)  # less to compile; memory hardly depends on it
    full = {length: temp_bytes(length, None, "chunked") for length in (2048, 8192)}
    assert full[8192] < 6 * full[2048]  # quadratic would be 16
    assert full[8192] < 0.2 * 4 * 4 * 8192**2  # of the float32 scores
    assert temp_bytes(8192, 256, "chunked") < 0.5 * full[8192]
    assert temp_bytes(2048, None, "reference") > 4 * 4 * 2048**2


def test_saved_output_spares_the_forward():
    def layer(q, k, v):
        return jnp.sum(jnp.sin(attention(q, k, v, causal_ranges(1, 32), window=None, impl="chunked").out))

    policy = jax.checkpoint_policies.save_only_these_names("attn_out", "attn_lse")
    saving, forgetting = jax.checkpoint(layer, policy=policy), jax.checkpoint(layer)
    q, k, v, *_ = make_inputs(1, 32, 2, 1, H=4)

    def products(function):
        return matmul_flops(jax.make_jaxpr(jax.grad(function))(q, k, v).jaxpr)

    assert products(saving) == products(layer)
    assert products(forgetting) > products(saving)


def on(platform: str, kind: str = "", **changes):
    device = Device(platform=platform, kind=kind or platform)
    return training_problem(device, dtype="bfloat16", head_dim=64, group=4, window=None)._replace(**changes)


def test_auto_says_once_what_it_chose(caplog):
    resolve_implementation.cache_clear()
    _say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="samosa_kernels.attention.api"):
        assert resolve_implementation("auto", on("cpu")) == "chunked"
        assert resolve_implementation("auto", on("cpu", dtype="float32")) == "chunked"
    assert [record.getMessage() for record in caplog.records] == [
        "attention: auto chose chunked on cpu: scores stay in cache, tiles above the diagonal are skipped"
    ]


def test_refusals_say_why():
    q, k, v, lo, hi, *_ = make_inputs(1, 8, 4, 2, H=4)
    ranges = KeyRanges(lo, hi)
    with pytest.raises(ValueError, match="impl is 'flash'; use auto or one of reference, chunked, "):
        attention(q, k, v, ranges, window=None, impl="flash")
    with pytest.raises(ValueError, match="impl=chunked cannot run: it is no Pallas kernel"):
        attention(q, k, v, ranges, window=None, impl="chunked", interpret=True)
    with pytest.raises(ValueError, match="not 'metal'"):
        resolve_implementation("auto", on("metal"))
    with pytest.raises(ValueError, match="N a multiple of K"):
        attention(q[:, :, :3], k, v, ranges, window=None)
    with pytest.raises(ValueError, match="got ranges"):
        attention(q, k, v, KeyRanges(lo[:, 1:], hi), window=None)
    with pytest.raises(ValueError, match="all float32 or all bfloat16"):
        attention(q, k.astype(jnp.bfloat16), v, ranges, window=None)
    with pytest.raises(ValueError, match="window is 0"):
        attention(q, k, v, ranges, window=0)
    with pytest.raises(ValueError, match=r"5 queries and 8 keys: .* pass ranges, and no window"):
        attention(q[:, :5], k, v, None, window=None)
    with pytest.raises(ValueError, match=r"row 0 query 7: \[0, 9\) is outside the keys 0..8"):
        attention(q, k, v, KeyRanges(lo, hi.at[0, 7].set(9)), window=None)
    with pytest.raises(ValueError, match="row 0: lo decreases from 2 at query 3 to 0 at query 4"):
        attention(q, k, v, KeyRanges(lo.at[0, 3].set(2), hi), window=None)


def test_padding_may_follow_a_document():
    q, k, v, lo, hi, *_ = make_inputs(1, 8, 4, 2, H=4)
    ranges = KeyRanges(lo.at[0, 3:].set(3).at[0, 6:].set(0), hi.at[0, 6:].set(0))
    assert not np.asarray(attention(q, k, v, ranges, window=None).out[0, 6:]).any()
