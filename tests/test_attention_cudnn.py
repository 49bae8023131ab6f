"""What is asked of cuDNN, shown where there is none: the same call through XLA, and the traced program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_contract import make_inputs, oracle
from jax.sharding import PartitionSpec
from samosa_kernels import Device, causal_ranges, training_problem
from samosa_kernels.attention import MaskShape
from samosa_kernels.attention.cudnn import attention_cudnn, refusal
from samosa_kernels.attention.ranges import effective_ranges

B, T, N, K, H = 2, 40, 4, 2, 8


def plain_mask(window: int | None) -> MaskShape:
    return MaskShape(causal=True, window=window, plain=True)


def through_xla(q, k, v, *, window: int | None):
    mask = plain_mask(window)
    ranges = effective_ranges(causal_ranges(*q.shape[:2]), mask, q.shape[1])
    return attention_cudnn(q, k, v, ranges, mask=mask, backend="xla")


@functools.partial(jax.jit, static_argnames="window")
def run(q, k, v, dout, dlse, *, window: int | None):
    (out, lse), pull = jax.vjp(functools.partial(through_xla, window=window), q, k, v)
    return out, lse, *pull((dout, dlse))


def inputs(dtype: str = "float32"):
    q, k, v, _, _, dout, dlse = make_inputs(B, T, N, K, H, dtype=dtype)
    return q, k, v, dout, jnp.where(dlse == 0, 1.0, dlse)  # no padding here: every query sees a key


@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize(("dtype", "atol", "rtol"), [("float32", 2e-5, 2e-5), ("bfloat16", 0.08, 0.03)])
def test_values_and_gradients_of_both_outputs(window, dtype, atol, rtol):
    q, k, v, dout, dlse = inputs(dtype)
    expected = oracle(q, k, v, *causal_ranges(B, T), window, dout, dlse)
    found = run(q, k, v, dout, dlse, window=window)
    assert [x.dtype.name for x in found] == [dtype, "float32", dtype, dtype, dtype]
    for name, ours, theirs in zip(("out", "lse", "dq", "dk", "dv"), found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, atol=atol, rtol=rtol, err_msg=name)
    if window is not None:
        without_window = oracle(q, k, v, *causal_ranges(B, T), None, dout, dlse)
        assert np.abs(without_window[0] - expected[0]).max() > 0.1
    without_dlse = oracle(q, k, v, *causal_ranges(B, T), window, dout, np.zeros_like(dlse))
    assert all(np.abs(without_dlse[i] - expected[i]).max() > 0.1 for i in (2, 3))


def test_a_log_sum_exp_that_nobody_differentiates_costs_nothing():
    q, k, v, *_ = inputs()

    def of_out(q, k, v):
        return jnp.sum(through_xla(q, k, v, window=None)[0])

    def of_both(q, k, v):
        return sum(jnp.sum(output) for output in through_xla(q, k, v, window=None))

    def only_lse(q, k, v):
        return jnp.sum(through_xla(q, k, v, window=None)[1])

    def products(function) -> int:
        return str(jax.make_jaxpr(jax.grad(function, argnums=(0, 1, 2)))(q, k, v)).count("dot_general[")

    assert products(of_out) == 6  # two forward, four backward: the scores are kept
    assert products(of_both) > 6
    ones = jnp.ones(q.shape[:-1])
    expected = oracle(q, k, v, *causal_ranges(B, T), None, jnp.zeros_like(q), ones)
    for ours, theirs in zip(jax.grad(only_lse, argnums=(0, 1, 2))(q, k, v), expected[2:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_shard_map(check_vma):
    arrays = inputs()
    rows = PartitionSpec("data")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.shard_map(
        functools.partial(run, window=9), mesh=mesh, in_specs=rows, out_specs=rows, check_vma=check_vma
    )
    q, k, v, dout, dlse = arrays
    expected = oracle(q, k, v, *causal_ranges(B, T), 9, dout, dlse)
    for ours, theirs in zip(sharded(*arrays), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=2e-5)


@pytest.fixture
def cudnn_on_paper(monkeypatch):
    """JAX asks for cuDNN's version while it traces, and for the GPU only later."""
    fused_attention = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused_attention, "check_cudnn_version", lambda: 91000)


def on_cudnn(q, k, v, *, window: int | None = None):
    ranges = causal_ranges(*q.shape[:2])
    return attention_cudnn(q, k, v, ranges, mask=plain_mask(window))


def abstract_inputs():
    return [jax.ShapeDtypeStruct((2, 48, heads, 64), jnp.bfloat16) for heads in (8, 2, 2)]


def loss(q, k, v, *, window: int | None = None):
    return jnp.sum(jnp.sin(on_cudnn(q, k, v, window=window)[0].astype(jnp.float32)))


@pytest.mark.usefixtures("cudnn_on_paper")
@pytest.mark.parametrize(("window", "length"), [(None, "None"), (16, "16")])
def test_cudnn_is_asked_for_causal_attention_and_its_window(window, length):
    gradient = jax.grad(functools.partial(loss, window=window), argnums=(0, 1, 2))
    program = str(jax.make_jaxpr(gradient)(*abstract_inputs()))
    for half in ("fwd", "bwd"):
        assert program.count(f"dot_product_attention_{half}_wrapper[") == 1
    assert program.count("mask_type=MaskType.CAUSAL") == 2
    assert program.count(f"sliding_window_length={length}\n") == 2


@pytest.mark.usefixtures("cudnn_on_paper")
def test_saved_output_spares_the_forward():
    def forwards(function) -> int:
        program = jax.make_jaxpr(jax.grad(function, argnums=(0, 1, 2)))(*abstract_inputs())
        return str(program).count("dot_product_attention_fwd_wrapper[")

    policy = jax.checkpoint_policies.save_only_these_names("attn_out", "attn_lse")
    assert forwards(jax.checkpoint(loss, policy=policy)) == 1
    assert forwards(jax.checkpoint(loss)) == 2


GPU = Device(platform="gpu", kind="NVIDIA H100 80GB HBM3")
PROBLEM = training_problem(GPU, dtype="bfloat16", head_dim=64, group=4, window=None)._replace(
    mask=plain_mask(None)
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": Device(platform="cpu", kind="cpu")}, "runs on NVIDIA GPUs, not on cpu"),
        ({"device": Device(platform="gpu", kind="AMD Instinct MI300X")}, "not on AMD Instinct MI300X"),
        ({"dtype": "float32"}, "needs bfloat16, not float32"),
        ({"head_dim": 192}, "at most 128 that 8 divides, not 192"),
        ({"head_dim": 60}, "at most 128 that 8 divides, not 60"),
        ({"mask": plain_mask(None)._replace(causal=False)}, "as many keys as queries"),
        ({"mask": plain_mask(None)._replace(plain=False)}, "knows no documents or padding: pass ranges=None"),
        ({"interpret": True}, "nothing to interpret"),
    ],
    ids=str,
)
def test_refusals_say_why(change, reason):
    found = refusal(PROBLEM._replace(**change))
    assert found is not None
    assert reason in found


@pytest.mark.parametrize("change", [{}, {"head_dim": 128}, {"group": 1}, {"mask": plain_mask(1024)}], ids=str)
def test_what_it_takes(change):
    assert refusal(PROBLEM._replace(**change)) is None
