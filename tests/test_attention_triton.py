"""The Triton kernels: interpreted against their definition, lowered for a GPU, their memory and work."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from attention_contract import AttentionContract, Case, make_inputs
from gpu_lowering import lower_for_gpu, use_paper_gpu
from jax.sharding import PartitionSpec
from samosa_kernels import Device, KeyRanges, attention, causal_ranges, training_problem
from samosa_kernels.attention import tiles, triton
from samosa_kernels.attention.ranges import MaskShape, effective_ranges
from samosa_kernels.tuning import TuningConfig, tuning_override

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")

QUERIES, KEYS = 16, 32  # tiles of different sides, so that exchanging them shows
KERNELS: tuple[str, ...] = ("triton_forward", "triton_dq", "triton_dkv")
PAPER_TILES: dict[str, TuningConfig] = dict.fromkeys(
    KERNELS, TuningConfig(queries=64, keys=64, stages=2, warps=4)
)


@pytest.fixture(scope="class")
def small_tiles():
    """Tiles so small that short rows already have many of them; compiled in less time, to slower code."""
    jax.clear_caches()
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    tuning = TuningConfig(queries=QUERIES, keys=KEYS, stages=1, warps=4)
    with tuning_override(dict.fromkeys(KERNELS, tuning)):
        yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.mark.usefixtures("small_tiles")
class TestTriton(AttentionContract):
    impl = "triton"
    interpret = True
    small = Case(2, 70, 4, 2)  # the last tiles of both sides are cut off
    cases = (
        small,
        small._replace(window=11),  # shorter than a tile of either side
        Case(2, 64, 2, 2, S=128),  # nothing cut off
        Case(2, 1, 4, 1, S=101),
    )
    head_dims = (64, 128)
    max_examples = 15

    @pytest.mark.parametrize("check_vma", [False])  # Pallas's interpreter knows no varying mesh axes
    def test_inside_shard_map(self, check_vma: bool):
        super().test_inside_shard_map(check_vma)

    def test_reads_nothing_it_skips(self):
        """NaN in what no query sees: a tile that is read, even if masked, would spread it by 0 * NaN."""
        B, T, *_ = self.small
        q, k, v, _, _, dout, dlse = self.inputs(self.small)
        position = jnp.arange(T)
        seen, sees = position < KEYS, (position >= QUERIES) & (position < 3 * QUERIES)
        k, v = (jnp.where(seen[:, None, None], x, jnp.nan) for x in (k, v))
        q, dout = (jnp.where(sees[:, None, None], x, jnp.nan) for x in (q, dout))
        dlse = jnp.where(sees[:, None], 1.0, jnp.zeros_like(dlse))
        hi = jnp.broadcast_to(jnp.where(sees, KEYS, 0).astype(jnp.int32), (B, T))
        out, lse, dq, dk, dv = self.run((q, k, v, jnp.zeros_like(hi), hi, dout, dlse))
        for x in (out, dq, dk, dv, lse[:, QUERIES : 3 * QUERIES]):
            assert np.isfinite(x).all()
        assert min(np.abs(x).max() for x in (out, dq, dk, dv)) > 0.1


def paper_problem(kind: str, *, head_dim: int = 64):
    device = Device(platform="gpu", kind=kind)
    return training_problem(device, dtype="bfloat16", head_dim=head_dim, group=4, window=None)


def test_refusals_say_why():
    q, k, v, lo, hi, *_ = make_inputs(1, 8, 4, 2, H=64)
    with pytest.raises(
        ValueError, match=r"^attention impl=triton cannot run: Triton needs an NVIDIA GPU, not cpu"
    ):
        attention(q, k, v, KeyRanges(lo, hi), window=None, impl="triton")
    assert triton.refusal(paper_problem("NVIDIA H100 80GB HBM3")) is None
    assert triton.refusal(paper_problem("NVIDIA A100-SXM4-40GB")) is None
    for old in ("Tesla V100-SXM2-16GB", "NVIDIA GeForce RTX 2080 Ti"):
        assert "Ampere" in str(triton.refusal(paper_problem(old)))
    for young in ("NVIDIA RTX 2000 Ada Generation", "NVIDIA GeForce RTX 2050"):
        assert triton.refusal(paper_problem(young)) is None
    assert "NVIDIA" in str(triton.refusal(paper_problem("AMD Instinct MI300X")))
    assert "not 96" in str(triton.refusal(paper_problem("NVIDIA H100 80GB HBM3", head_dim=96)))
    reasons = [triton.refusal(paper_problem(kind)) for kind in ("Tesla T4", "AMD Instinct MI300X")]
    assert not any("\n" in str(reason) for reason in reasons)


def gradient(q, k, v):
    """Gradients of attention by Triton, with every query before its keys' end if there are more keys."""
    T, S = q.shape[1], k.shape[1]
    ranges = causal_ranges(q.shape[0], T)
    ranges = ranges._replace(hi=ranges.hi + (S - T))

    def loss(q, k, v):
        out, lse = attention(q, k, v, ranges, window=None, impl="triton")
        return out.astype(jnp.float32).sum() + lse.sum()

    return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)


def abstract_inputs(T: int, S: int, *, N: int = 8, K: int = 2, H: int = 64, dtype: str = "bfloat16"):
    return [jax.ShapeDtypeStruct((1, *shape, H), dtype) for shape in ((T, N), (S, K), (S, K))]


@pytest.mark.parametrize(
    ("T", "S", "H", "dtype"),
    [
        (1024, 1024, 64, "bfloat16"),
        (1000, 1000, 128, "bfloat16"),
        (1, 1000, 64, "float32"),
    ],
)
def test_lowers_for_a_gpu(T: int, S: int, H: int, dtype: str):
    with tuning_override(PAPER_TILES):
        text = lower_for_gpu(gradient, *abstract_inputs(T, S, H=H, dtype=dtype))
    assert text.count("__gpu$xla.gpu.triton") == 3
    for name in ("attention_forward", "attention_dq", "attention_dkv"):
        assert f'name = "{name}"' in text


def test_lowers_inside_shard_map_that_checks_varying_axes():
    def on_each_device(q, k, v):
        spec = PartitionSpec("paper")
        return jax.shard_map(gradient, in_specs=spec, out_specs=spec, check_vma=True)(q, k, v)

    with tuning_override(PAPER_TILES):
        text = lower_for_gpu(on_each_device, *abstract_inputs(256, 256))
    assert text.count("__gpu$xla.gpu.triton") == 3


def equations_of(jaxpr):
    """(equation, whether it is in a kernel), all the way down."""
    for equation in jaxpr.eqns:
        yield equation, False
        in_kernel = equation.primitive.name == "pallas_call"
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            for found, below in equations_of(inner):
                yield found, below or in_kernel


def trace_gradient(T: int):
    with use_paper_gpu(), tuning_override(PAPER_TILES):
        return jax.make_jaxpr(gradient)(*abstract_inputs(T, T)).jaxpr


def test_memory_is_linear_and_without_copies_per_query_head():
    def largest(T: int) -> int:
        return max(
            variable.aval.size
            for equation, in_kernel in equations_of(trace_gradient(T))
            if not in_kernel
            for variable in equation.outvars
        )

    assert largest(8192) == 4 * largest(2048) < 8 * 8192**2 / 16
    outputs = {
        str(equation.params["name"]): [variable.aval.shape for variable in equation.outvars]
        for equation, _ in equations_of(trace_gradient(512))
        if equation.primitive.name == "pallas_call"
    }
    assert outputs == {
        "attention_forward": [(1, 512, 8, 64), (1, 8, 512)],
        "attention_dq": [(1, 512, 8, 64)],
        "attention_dkv": [(1, 512, 2, 64), (1, 512, 2, 64)],
    }


def test_products_accumulate_in_float32_and_never_round_to_tf32():
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    products = [
        equation
        for equation, in_kernel in equations_of(trace_gradient(512))
        if in_kernel and equation.primitive.name == "dot_general"
    ]
    assert len(products) == 3 * (2 + 3 + 4)  # masked, whole and masked again
    assert all(equation.params["precision"] == highest for equation in products)
    assert all(equation.outvars[0].aval.dtype == jnp.float32 for equation in products)


@functools.partial(jax.jit, static_argnums=1)
def visits(ranges: KeyRanges, window: int | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tiles of 64 x 64 scores that the kernels visit along keys, along queries, and without a mask."""
    T = ranges.lo.shape[1]
    effective = effective_ranges(ranges, MaskShape(causal=True, window=window, plain=False), T)
    along_keys = tiles.key_tiles(effective, queries=64, keys=64, num_keys=T)
    along_queries = tiles.query_tiles(effective, queries=64, keys=64, num_keys=T)
    return (
        (along_keys.last - along_keys.first).sum(),
        (along_queries.last - along_queries.first).sum(),
        (along_keys.last_full - along_keys.first_full).sum(),
    )


def test_visits_only_tiles_that_are_seen():
    full = visits(causal_ranges(1, 4096), None)
    assert full == (64 * 65 // 2, 64 * 65 // 2, 64 * 63 // 2)  # only the diagonal is masked
    window = {T: visits(causal_ranges(1, T), 256) for T in (4096, 8192)}
    assert window[4096][0] == window[4096][1] <= 64 * 5
    assert window[8192][0] <= 2 * window[4096][0] + 10
    assert window[4096][2] == window[4096][0] - 64 - 60  # the diagonal and the left edge
    causal = causal_ranges(1, 4096)
    documents = causal._replace(lo=causal.hi // 512 * 512)
    assert visits(documents, None)[0] <= 8 * (
        9 * 10 // 2
    )  # eight of 512, each at most a tile of one row more
