"""The Hopper kernels: interpreted against their definition, without races, lowered for an H100."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from attention_contract import AttentionContract, Case, make_inputs, oracle, run
from gpu_lowering import lower_for_gpu
from jax.core import eval_jaxpr
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import PartitionSpec
from samosa_kernels import Device, KeyRanges, attention, causal_ranges, training_problem
from samosa_kernels.attention import hopper
from samosa_kernels.attention.hopper_dkv import hopper_dkv
from samosa_kernels.attention.hopper_forward import hopper_forward
from samosa_kernels.attention.hopper_ops import MAX_REGISTERS, PRODUCER_REGISTERS, HopperOps
from samosa_kernels.tuning import TuningConfig, tuning_override

# The smallest that two consumer warpgroups can have: short rows then have several tiles on both sides.
HELD_QUERIES = TuningConfig(queries=128, keys=64, stages=2, warps=8)
SMALL_TILES = {
    "hopper_forward": HELD_QUERIES,
    "hopper_dq": HELD_QUERIES,
    "hopper_dkv": TuningConfig(queries=64, keys=128, stages=2, warps=8),
}


def _evaluate(jaxpr: Any, consts: Any, *args: Any) -> None:
    eval_jaxpr(jaxpr, consts, *args)


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch):
    """jax 0.10 compiles the code of the interpreter's threads for each block anew: here once, as jax 0.11."""
    if jax.__version_info__ < (0, 11):
        threads = importlib.import_module("jax._src.pallas.mosaic.interpret.thread_map")

        def run(jaxpr: Any, consts: Any, *args: Any) -> None:
            jitted = jax.jit(_evaluate, static_argnums=0)
            jitted.trace(jaxpr, consts, *args).lower().compile()(consts, *args)

        monkeypatch.setattr(threads, "_run_jaxpr", run)


@pytest.fixture
def no_races(interpreter: None, capsys: pytest.CaptureFixture[str]):
    """The interpreter says on standard output which races it finds."""
    yield
    assert "RACE" not in capsys.readouterr().out


@pytest.fixture(scope="class")
def small_tiles():
    """In code that is compiled fast, not fast code."""
    jax.clear_caches()
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with tuning_override(SMALL_TILES):
        yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.mark.usefixtures("small_tiles", "no_races")
class TestHopper(AttentionContract):
    impl = "hopper"
    interpret = True
    small = Case(2, 140, 1, 1)  # rings are filled more than once, the last tiles of both sides are cut off
    cases = (
        small,
        Case(1, 256, 2, 1),  # tiles that are seen whole
        Case(1, 330, 1, 1, window=20),  # tiles that are skipped
        Case(1, 70, 4, 2, S=200),
        Case(1, 1, 1, 1),
    )
    dtypes = ("bfloat16",)
    head_dims = (64, 128)
    max_examples = 2  # of seconds each

    @pytest.mark.parametrize("check_vma", [True])  # the stricter one
    def test_inside_shard_map(self, check_vma: bool):
        """On one device: the interpreter's calls back to Python are ordered, which JAX allows on no more."""
        B, T, N, K, *_ = self.small
        inputs = self.inputs(Case(B, T, N, K))
        axis_types = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((1,), ("data",), axis_types=axis_types, devices=jax.devices()[:1])
        rows = PartitionSpec("data")
        sharded = jax.shard_map(
            functools.partial(run, window=None, impl=self.impl, interpret=True),
            mesh=mesh,
            in_specs=rows,
            out_specs=rows,
            check_vma=check_vma,
        )
        q, k, v, lo, hi, dout, dlse = inputs
        self.assert_close(sharded(*inputs), oracle(q, k, v, lo, hi, None, dout, dlse))


def forward_of_one_tile() -> None:
    q, k, v, lo, hi, *_ = make_inputs(1, 64, 1, 1, 64, dtype="bfloat16")
    jax.block_until_ready(hopper_forward(q, k, v, KeyRanges(lo, hi), tuning=HELD_QUERIES, interpret=True))


def has_race(compute: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> bool:
    """The interpreter prints what it finds; that of jax 0.12 raises it."""
    try:
        compute()
    except jax.errors.JaxRuntimeError as error:
        return "RACE DETECTED" in str(error)
    return "RACE" in capsys.readouterr().out


def test_a_race_is_found(interpreter, monkeypatch, capsys):
    assert not has_race(forward_of_one_tile, capsys)
    monkeypatch.setattr(plgpu, "barrier_wait", lambda barrier: None)  # for what is being copied
    assert has_race(forward_of_one_tile, capsys)


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="jax 0.10 knows no fences")
def test_a_missing_fence_is_found(interpreter, monkeypatch, capsys):
    q, k, v, lo, hi, dout, _ = make_inputs(1, 192, 1, 1, 64, dtype="bfloat16")
    lse = delta = jnp.zeros((1, 1, 192))

    def gradients():
        operands = (q, k, v, KeyRanges(lo, hi), dout, lse, delta)
        jax.block_until_ready(hopper_dkv(*operands, tuning=SMALL_TILES["hopper_dkv"], interpret=True))

    assert not has_race(gradients, capsys)

    def release(self, barrier, *, loaded=False):
        plgpu.barrier_arrive(barrier)

    monkeypatch.setattr(HopperOps, "release", release)
    assert has_race(gradients, capsys)


@pytest.mark.parametrize("consumers", MAX_REGISTERS)
def test_all_warpgroups_get_their_registers(consumers: int):
    """More than the block was launched with, and the last warpgroup to ask would wait for ever."""
    warpgroups = consumers + 1
    launched = 65536 // (128 * warpgroups) // 8 * 8  # of each thread: a multiple of 8
    asked = [*[MAX_REGISTERS[consumers]] * consumers, PRODUCER_REGISTERS]
    assert sum(asked) <= launched * warpgroups
    assert all(registers % 8 == 0 and 24 <= registers <= 256 for registers in asked)


def gradient(q, k, v):
    """Gradients of attention by the Hopper kernels; with more keys than queries, the queries are the last."""
    T, S = q.shape[1], k.shape[1]
    ranges = causal_ranges(q.shape[0], T)
    ranges = ranges._replace(hi=ranges.hi + (S - T))

    def loss(q, k, v):
        out, lse = attention(q, k, v, ranges, window=None, impl="hopper")
        return out.astype(jnp.float32).sum() + lse.sum()

    return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)


def abstract_inputs(T: int, S: int, H: int):
    return [jax.ShapeDtypeStruct((1, *shape, H), jnp.bfloat16) for shape in ((T, 8), (S, 2), (S, 2))]


@pytest.mark.parametrize(("T", "S", "H"), [(1000, 1000, 64), (1, 1000, 128)])
def test_lowers_for_a_hopper_gpu(T: int, S: int, H: int):
    text = lower_for_gpu(gradient, *abstract_inputs(T, S, H))
    assert text.count("@mosaic_gpu_v2(") == 3
    for name in ("attention_forward", "attention_dq", "attention_dkv"):
        assert name in text


def test_lowers_inside_shard_map_that_checks_varying_axes():
    def on_each_device(q, k, v):
        spec = PartitionSpec("paper")
        return jax.shard_map(gradient, in_specs=spec, out_specs=spec, check_vma=True)(q, k, v)

    assert lower_for_gpu(on_each_device, *abstract_inputs(256, 256, 64)).count("@mosaic_gpu_v2(") == 3


def test_refusals_say_why():
    q, k, v, lo, hi, *_ = make_inputs(1, 8, 4, 2, H=64, dtype="bfloat16")
    with pytest.raises(
        ValueError,
        match=r"^attention impl=hopper cannot run: it needs a Hopper GPU \(H100, H200\), and this is cpu$",
    ):
        attention(q, k, v, KeyRanges(lo, hi), window=None, impl="hopper")

    def refusal(kind: str, **changes):
        device = Device(platform="gpu", kind=kind)
        problem = training_problem(device, dtype="bfloat16", head_dim=64, group=4, window=None)
        return hopper.refusal(problem._replace(**changes))

    assert refusal("NVIDIA H100 80GB HBM3") is None
    assert refusal("NVIDIA A100-SXM4-40GB", interpret=True) is None
    assert str(refusal("NVIDIA A100-SXM4-40GB")).endswith("this is NVIDIA A100-SXM4-40GB")
    assert refusal("NVIDIA H200", head_dim=96) == "it needs a head width of 64 or 128, not 96"
    assert refusal("NVIDIA H200", dtype="float32") == "its products take bfloat16, not float32"
