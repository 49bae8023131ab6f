"""Decode attention: each implementation against float64 NumPy, what it reads and holds, what is refused."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu_lowering import lower_for_gpu
from jax.sharding import AxisType, PartitionSpec
from samosa_kernels import Device
from samosa_kernels.attention.decode import (
    DecodeProblem,
    _say_once,
    decode_attention,
    resolve_decode,
)
from samosa_kernels.attention.decode_triton import TARGET_PROGRAMS, num_splits
from samosa_kernels.tuning import TuningConfig, tuning_override

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")

IMPLEMENTATIONS = ("reference", "xla", "triton")
TOLERANCES = {"float32": 2e-6, "bfloat16": 2e-2}


@pytest.fixture(autouse=True)
def small_tiles():
    with tuning_override({"triton_decode": TuningConfig(queries=16, keys=32, stages=2, warps=4)}):
        yield


def make_inputs(N: int, K: int, *, S: int = 203, H: int = 16, dtype: str = "float32"):
    """Rows that see all keys, the first, some, one and none; what they do not see is filled with 1000."""
    rng = np.random.default_rng(0)
    lo, hi = np.array([0, 0, 37, 150, 60]), np.array([S, 5, 130, 151, 60])
    B = len(lo)
    q, k, v = (
        jnp.asarray(rng.normal(size=shape), dtype) for shape in ((B, N, H), (B, K, S, H), (B, K, S, H))
    )
    key = np.arange(S)
    seen = ((key >= lo[:, None]) & (key < hi[:, None]))[:, None, :, None]
    k, v = (jnp.where(seen, x, 1000.0) for x in (k, v))
    return q, k, v, jnp.asarray(lo, jnp.int32), jnp.asarray(hi, jnp.int32)


def oracle(q, k, v, lo, hi) -> np.ndarray:
    """Row by row and head by head, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    B, N, H = q.shape
    group = N // k.shape[1]
    out = np.zeros((B, N, H))
    for b in range(B):
        for n in range(N):
            here = slice(int(lo[b]), int(hi[b]))
            scores = k[b, n // group, here] @ q[b, n] / np.sqrt(H)
            if scores.size:
                weights = np.exp(scores - scores.max())
                out[b, n] = weights @ v[b, n // group, here] / weights.sum()
    return out


def decode(q, k, v, lo, hi, *, impl: str):
    function = functools.partial(decode_attention, impl=impl, interpret=impl == "triton")
    return jax.jit(function)(q, k, v, lo, hi)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("N", "K"), [(2, 2), (6, 2), (4, 1), (20, 1)])
def test_values(impl: str, N: int, K: int):
    inputs = make_inputs(N, K)
    expected = oracle(*inputs)
    np.testing.assert_allclose(decode(*inputs, impl=impl), expected, atol=TOLERANCES["float32"])
    q, k, v, lo, hi = inputs
    assert not expected[4].any()
    everything = oracle(q, k, v, jnp.zeros_like(lo), jnp.full_like(hi, k.shape[2]))
    assert np.abs(everything - expected)[1:].max() > 1  # the ranges matter to this comparison


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("H", "S"), [(64, 128), (128, 151)])
def test_every_dtype_and_head_width(impl: str, dtype: str, H: int, S: int):
    q, k, v, lo, hi = make_inputs(6, 2, S=S, H=H, dtype=dtype)
    lo, hi = jnp.minimum(lo, S), jnp.minimum(hi, S)
    out = decode(q, k, v, lo, hi, impl=impl)
    assert out.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(out, np.float64), oracle(q, k, v, lo, hi), atol=TOLERANCES[dtype], rtol=1e-2
    )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_bounds_are_clipped_and_may_cross(impl: str):
    q, k, v, *_ = make_inputs(4, 2, S=50)
    lo, hi = jnp.array([-7, 40, 30, 70, 0]), jnp.array([9, 90, 20, 80, 0])
    expected = oracle(q, k, v, jnp.clip(lo, 0, 50), jnp.clip(hi, 0, 50))
    np.testing.assert_allclose(decode(q, k, v, lo, hi, impl=impl), expected, atol=2e-5, rtol=1e-5)
    assert [bool(row.any()) for row in expected] == [True, True, False, False, False]


def test_triton_reads_nothing_outside_the_range():
    q, k, v, lo, hi = make_inputs(4, 2)
    key = jnp.arange(k.shape[2])
    seen = ((key >= lo[:, None]) & (key < hi[:, None]))[:, None, :, None]
    k, v = (jnp.where(seen, x, jnp.nan) for x in (k, v))
    assert np.isfinite(decode(q, k, v, lo, hi, impl="triton")).all()
    assert not np.isfinite(decode(q, k, v, lo, hi, impl="xla")).all()  # which reads it, as documented


def test_splits_fill_the_device_but_no_more():
    assert num_splits(1, 1000) == TARGET_PROGRAMS
    assert num_splits(4, 10) == 10  # no split without a tile
    assert num_splits(64 * 4, 1000) == 2
    assert num_splits(10_000, 1000) == 1


def abstract_inputs(B: int, N: int, K: int, S: int, H: int, dtype: str = "float32"):
    shapes = ((B, N, H), (B, K, S, H), (B, K, S, H))
    bound = jax.ShapeDtypeStruct((B,), jnp.int32)
    return [*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes), bound, bound]


def test_xla_copies_no_cache():
    """Neither repeated for the heads of a group nor transposed: its memory is that of the scores."""

    def repeated(q, k, v, lo, hi):
        k, v = (jnp.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
        return decode_attention(q, k, v, lo, hi, impl="xla")

    def direct(q, k, v, lo, hi):
        return decode_attention(q, k, v, lo, hi, impl="xla")

    def temp_bytes(function) -> int:
        memory = jax.jit(function).lower(*abstract_inputs(4, 6, 2, 1024, 64)).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    scores, cache = 4 * 4 * 6 * 1024, 4 * 4 * 2 * 1024 * 64
    assert temp_bytes(direct) < 3 * scores < cache / 4
    assert temp_bytes(repeated) > 3 * cache


@pytest.mark.parametrize(
    ("S", "H", "dtype"), [(1024, 64, "bfloat16"), (1001, 128, "bfloat16"), (77, 64, "float32")]
)
def test_lowers_for_a_gpu(S: int, H: int, dtype: str):
    text = lower_for_gpu(decode_attention, *abstract_inputs(2, 6, 2, S, H, dtype))
    assert text.count("__gpu$xla.gpu.triton") == 1  # what auto chooses there
    assert 'name = "decode_attention"' in text
    group_expanded = f"2x6x{S}x{H}x"
    assert group_expanded not in text


def test_inside_shard_map_that_checks_varying_axes():
    rows = PartitionSpec("data")
    q, k, v, lo, hi = (x[:4] for x in make_inputs(4, 2))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.shard_map(decode_attention, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=True)
    np.testing.assert_allclose(sharded(q, k, v, lo, hi), oracle(q, k, v, lo, hi), atol=2e-6)

    def on_each_gpu(*inputs):
        spec = PartitionSpec("paper")
        return jax.shard_map(decode_attention, in_specs=spec, out_specs=spec, check_vma=True)(*inputs)

    text = lower_for_gpu(on_each_gpu, *abstract_inputs(2, 6, 2, 256, 64))
    assert text.count("__gpu$xla.gpu.triton") == 1


@pytest.mark.parametrize("impl", ["reference", "xla"])
def test_gradients(impl: str):
    q, k, v, lo, hi = make_inputs(4, 2)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def value(q) -> float:
        return float(np.sum(oracle(q, k, v, lo, hi) * np.asarray(direction, np.float64)))

    gradient = jax.grad(lambda q: jnp.sum(decode_attention(q, k, v, lo, hi, impl=impl) * direction))(q)
    assert not np.asarray(gradient[4]).any()
    step = 1e-5 * np.random.default_rng(2).normal(size=q.shape)
    q64 = np.asarray(q, np.float64)
    slope = (value(q64 + step) - value(q64 - step)) / 2
    np.testing.assert_allclose(np.sum(np.asarray(gradient, np.float64) * step), slope, rtol=1e-3)


def test_triton_says_that_it_has_no_gradient():
    q, k, v, lo, hi = make_inputs(4, 2)

    def loss(q):
        return decode_attention(q, k, v, lo, hi, impl="triton", interpret=True).sum()

    with pytest.raises(NotImplementedError, match="impl=triton has no gradient"):
        jax.grad(loss)(q)


def on(platform: str, kind: str = "", **changes) -> DecodeProblem:
    device = Device(platform=platform, kind=kind or platform)
    return DecodeProblem(device=device, dtype="bfloat16", head_dim=64, interpret=False)._replace(**changes)


def test_auto_says_once_what_it_chose(caplog):
    resolve_decode.cache_clear()
    _say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="samosa_kernels.attention.decode"):
        assert resolve_decode("auto", on("cpu")) == "xla"
        assert resolve_decode("auto", on("cpu", dtype="float32")) == "xla"
        assert resolve_decode("auto", on("gpu", "NVIDIA H100 80GB HBM3")) == "triton"
        assert resolve_decode("auto", on("gpu", "Tesla T4")) == "xla"
        assert resolve_decode("auto", on("gpu", "NVIDIA H100 80GB HBM3", head_dim=80)) == "xla"
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        "decode_attention: auto chose xla on cpu: two matrix products that read the cache as it lies"
    )
    assert len(lines) == len(set(lines)) == 4


def test_refusals_say_why():
    q, k, v, lo, hi = make_inputs(4, 2)
    with pytest.raises(ValueError, match="impl is 'flash'; use auto or one of reference, xla, triton"):
        decode_attention(q, k, v, lo, hi, impl="flash")
    with pytest.raises(ValueError, match="impl=triton cannot run: Triton needs an NVIDIA GPU, not cpu"):
        decode_attention(q, k, v, lo, hi, impl="triton")
    with pytest.raises(ValueError, match="impl=xla cannot run: it is no Pallas kernel"):
        decode_attention(q, k, v, lo, hi, impl="xla", interpret=True)
    with pytest.raises(ValueError, match=r"found none for .*metal"):
        resolve_decode("auto", on("metal"))
    with pytest.raises(ValueError, match="N a multiple of K"):
        decode_attention(q[:, :3], k, v, lo, hi)
    with pytest.raises(ValueError, match=r"expected \(B, N, H\), \(B, K, S, H\)"):
        decode_attention(q[:, None], k, v, lo, hi)
    with pytest.raises(ValueError, match=r"bounds \(4,\), \(5,\); expected twice \(5,\)"):
        decode_attention(q, k, v, lo[1:], hi)
    with pytest.raises(ValueError, match="all float32 or all bfloat16"):
        decode_attention(q, k.astype(jnp.bfloat16), v, lo, hi)
