"""Programs compiled for H100s that are not here: the assembler's word on kernels, memory, collectives."""

import functools
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from samosa_kernels import aot, attention, causal_ranges, current_device, softmax_cross_entropy
from samosa_kernels.attention import chunked
from samosa_kernels.tuning import TuningConfig
from samosa_kernels.tuning.search import Trial, best_guess, candidates, compile_trial, fault_of
from samosa_kernels.tuning.table import HOPPER_SHARED_BYTES, load_table

REASON = aot.why_not()
needs_compiler = pytest.mark.skipif(REASON is not None, reason=str(REASON))

# What compiles does not depend on the length: a kernel with the same tiles is compiled once.
TUNED = sorted({(e.kernel, e.tuning, e.head_dim, e.dtype) for e in load_table("h100")}, key=str)
COLLECTIVE = re.compile(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


@pytest.fixture(scope="module", autouse=True)
def optimised() -> Iterator[None]:
    """What is looked at here is the compiler's own work, which other tests do without."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def h100() -> jax.sharding.Mesh:
    return aot.topology("h100")


def bfloat16(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def test_the_missing_packages_are_named_with_what_installs_them(monkeypatch):
    versions = {"jax-cuda12-plugin": "0.1.0", "jax-cuda13-plugin": "0.1.0"}
    monkeypatch.setattr(aot, "_version", versions.get)
    said = aot.why_not()
    assert said is not None
    assert "\n" not in said
    assert f"-plugin is 0.1.0 beside jax {jax.__version__}" in said
    assert re.search(r"jax-cuda1[23]-pjrt is missing", said)
    assert re.search(rf"pip install 'jax\[cuda1[23]-local\]=={re.escape(jax.__version__)}' nvidia-", said)
    with pytest.raises(RuntimeError, match="pip install"):
        aot.topology("h100")


def test_an_unknown_device_is_refused():
    there_are = "no description of device 'b200'; there are a100, h100, h200, rtx4090"
    with pytest.raises(ValueError, match=there_are):
        aot.topology("b200")


@needs_compiler
@pytest.mark.parametrize(
    ("device", "kind", "is_hopper"),
    [("h100", "H100", True), ("h200", "H200", True), ("a100", "A100", False), ("rtx4090", "RTX 4090", False)],
)
def test_a_described_device_is_the_current_one_of_its_mesh(device: str, kind: str, is_hopper: bool):
    mesh = aot.topology(device, 2)
    assert mesh.size == 2
    with jax.set_mesh(mesh):
        assert current_device().is_hopper == is_hopper
        assert kind in current_device().kind
    assert compile_on(mesh)


def compile_on(mesh: jax.sharding.Mesh) -> tuple[aot.PtxasReport, ...]:
    """What the assembler says of a fused elementwise kernel."""
    return aot.compile_for(lambda x: jnp.exp(x) * x + 1, bfloat16(64, 128), mesh=mesh).ptxas


@needs_compiler
@pytest.mark.parametrize(
    ("kernel", "tuning", "head_dim", "dtype"),
    TUNED,
    ids=lambda x: "-".join(map(str, vars(x).values())) if isinstance(x, TuningConfig) else str(x),
)
def test_every_tuned_kernel_keeps_its_values_in_registers(
    kernel: str, tuning: TuningConfig, head_dim: int, dtype: str, h100: jax.sharding.Mesh
):
    trial = compile_trial(kernel, tuning, head_dim=head_dim, length=4096, dtype=dtype, mesh=h100)
    assert trial.fault is None
    report = trial.report
    assert report is not None
    assert (report.spill_store_bytes, report.spill_load_bytes, report.warnings) == (0, 0, ())
    assert 0 < report.registers <= 255
    estimate = tuning.shared_bytes(kernel, head_dim=head_dim, dtype=dtype)
    if kernel.startswith("hopper"):
        assert estimate <= report.shared_bytes <= estimate + 4096
    assert 0 < report.shared_bytes <= HOPPER_SHARED_BYTES


@needs_compiler
def test_tiles_that_are_too_large_for_the_registers_are_caught(h100: jax.sharding.Mesh):
    large = TuningConfig(queries=128, keys=128, stages=2, warps=4)
    trial = compile_trial("triton_forward", large, head_dim=128, length=4096, dtype="bfloat16", mesh=h100)
    assert trial.report is not None
    assert trial.report.spill_store_bytes > 100
    assert trial.fault is not None
    assert "spills" in trial.fault


@needs_compiler
def test_tiles_that_are_too_large_for_shared_memory_are_caught(h100: jax.sharding.Mesh):
    large = TuningConfig(queries=128, keys=128, stages=4, warps=8)
    assert large.shared_bytes("hopper_forward", head_dim=128, dtype="bfloat16") > HOPPER_SHARED_BYTES
    assert large not in candidates("hopper_forward", head_dim=128, dtype="bfloat16")
    trial = compile_trial("hopper_forward", large, head_dim=128, length=4096, dtype="bfloat16", mesh=h100)
    assert trial.report is None
    assert trial.fault is not None
    assert "shared memory" in trial.fault


def report_with(**changes) -> aot.PtxasReport:
    clean = aot.PtxasReport("attention_forward", 168, 0, 0, 1000, ())
    return clean._replace(**changes)


def test_what_is_a_fault_and_which_of_the_rest_is_guessed():
    serialized = "(C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ..."
    assert fault_of(report_with()) is None
    assert fault_of(report_with(spill_load_bytes=4)) == "spills 0 bytes"
    assert fault_of(report_with(warnings=(serialized,))) == "wgmma products are serialized"
    assert "shared memory" in str(fault_of(report_with(shared_bytes=HOPPER_SHARED_BYTES + 1)))

    def trial(queries: int, keys: int, fault: str | None) -> Trial:
        return Trial(TuningConfig(queries=queries, keys=keys, stages=2, warps=8), report_with(), fault)

    trials = [trial(64, 64, None), trial(64, 128, None), trial(128, 64, None), trial(128, 128, "spills")]
    assert best_guess("triton_forward", trials) == trials[2]
    assert best_guess("triton_dkv", trials) == trials[1]
    assert best_guess("triton_dkv", trials[3:]) is None


def test_what_the_assembler_says_is_read():
    said = """ptxas info    : (C7512) Loss: wgmma.mma_async instructions are serialized \
due to insufficient register resources for the function 'two'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'one' for 'sm_90a'
ptxas info    : Function properties for one
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 106 registers, used 1 barriers
ptxas info    : Compiling entry function 'two' for 'sm_90a'
ptxas info    : Function properties for two
    648 bytes stack frame, 2692 bytes spill stores, 2508 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 648 bytes cumulative stack size, 1 bytes smem
"""
    one, two = aot._parse_ptxas(said)
    assert one == aot.PtxasReport("one", 106, 0, 0, 0, ())
    assert two[:5] == ("two", 168, 2692, 2508, 1)
    assert two.serialized
    assert not one.serialized
    with pytest.raises(RuntimeError, match="not understood"):
        aot._parse_ptxas("ptxas info    : Compiling entry function 'x' for 'sm_90a'\n")


@needs_compiler
def test_a_kernel_compiled_again_is_reported_again(
    h100: jax.sharding.Mesh, capfd: pytest.CaptureFixture[str]
):
    tuning = TuningConfig(queries=128, keys=64, stages=2, warps=8)
    trials = [
        compile_trial("hopper_forward", tuning, head_dim=64, length=length, dtype="bfloat16", mesh=h100)
        for length in (2048, 2048)
    ]
    assert trials[0].report == trials[1].report
    assert trials[0].report is not None
    assert "ptxas" not in capfd.readouterr().out


@needs_compiler
@pytest.mark.parametrize("impl", ["hopper", "triton"])
def test_memory_grows_with_the_length_which_nothing_need_divide(impl: str, h100: jax.sharding.Mesh):
    def peak_bytes(length: int) -> int:
        def loss(q, k, v):
            ranges = causal_ranges(1, length)
            return attention(q, k, v, ranges, window=None, impl=impl).out.astype(jnp.float32).sum()

        q, kv = bfloat16(1, length, 4, 64), bfloat16(1, length, 2, 64)
        compilation = aot.compile_for(jax.grad(loss, argnums=(0, 1, 2)), q, kv, kv, mesh=h100)
        assert len([report for report in compilation.ptxas if "attention" in report.name]) == 3
        return compilation.peak_bytes

    short, long = 1333, 5332
    all_scores = 4 * 4 * long**2
    assert peak_bytes(long) < min(4.5 * peak_bytes(short), all_scores / 8)


def attention_on_eight(shard_mapped: bool) -> str:
    mesh = aot.topology("h100", 8)
    rows = PartitionSpec("data")

    def attend(q, k, v):
        return attention(q, k, v, causal_ranges(*q.shape[:2]), window=None, impl="chunked").out

    if shard_mapped:
        attend = jax.shard_map(attend, mesh=mesh, in_specs=(rows, rows, rows), out_specs=rows)

    def loss(q, k, v):
        return jax.lax.with_sharding_constraint(attend(q, k, v), NamedSharding(mesh, rows))

    arguments = [
        jax.ShapeDtypeStruct((16, 512, heads, 64), jnp.bfloat16, sharding=NamedSharding(mesh, rows))
        for heads in (4, 2, 2)
    ]
    return aot.compile_for(loss, *arguments, mesh=mesh).executable.as_text() or ""


@needs_compiler
def test_attention_inside_shard_map_needs_no_communication_and_outside_it_does(monkeypatch):
    # A row at a time: what automatic sharding gathers is what a loop runs over.
    monkeypatch.setattr(chunked, "ACCELERATOR_SCORE_BYTES", 2**20)
    assert not COLLECTIVE.findall(attention_on_eight(shard_mapped=True))
    assert COLLECTIVE.findall(attention_on_eight(shard_mapped=False))


@needs_compiler
def test_cross_entropy_never_holds_all_logits(h100: jax.sharding.Mesh):
    tokens, D, V, chunk = 32768, 1536, 65536, 8192

    def loss(hidden, head, targets, weights, *, chunk_tokens):
        return softmax_cross_entropy(
            hidden,
            head,
            targets,
            weights,
            vocab_size=V,
            soft_cap=None,
            z_loss=0.0,
            chunk_tokens=chunk_tokens,
        ).total

    def peak_bytes(chunk_tokens: int) -> int:
        gradient = jax.grad(functools.partial(loss, chunk_tokens=chunk_tokens), argnums=(0, 1))
        vectors = (jax.ShapeDtypeStruct((tokens,), dtype) for dtype in (jnp.int32, jnp.float32))
        arguments = (bfloat16(tokens, D), bfloat16(V, D), *vectors)
        return aot.compile_for(gradient, *arguments, mesh=h100).peak_bytes

    all_logits = 4 * tokens * V
    of_a_chunk = (4 + 2) * chunk * V  # logits in float32 and their gradient in bfloat16
    in_and_out = 2 * (tokens + V) * D
    assert peak_bytes(chunk) < of_a_chunk + 4 * V * D + 3 * in_and_out  # given, returned and one copy
    assert peak_bytes(tokens) > all_logits
