"""Products in float8: how far from exact, zeros and infinities, and that training takes no harm."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_runs
from samosa_kernels import Device, aot
from samosa_kernels.device import computes_float8
from samosa_kernels.float8 import GRADIENTS, VALUES, float8_product, round_to_float8

from samosa_jax.command_line import parse_config
from samosa_jax.compiled_step import compile_step
from samosa_jax.config import Config
from samosa_jax.errors import ConfigError
from samosa_jax.mesh_sizes import check_mesh
from samosa_jax.model.gpt import Network
from samosa_jax.parallel.collectives import by_kind, read_collectives
from samosa_jax.planning.devices import find_device
from samosa_jax.planning.run_plan import make_plan
from samosa_jax.stages import build, synthetic_batch
from samosa_jax.training.state import create_state

needs_compiler = pytest.mark.skipif(aot.why_not() is not None, reason=aot.why_not() or "")
# Rounding to p bits behind the leading one is off by 2^-(p + 1) at most; the root of its mean square, over
# numbers of all sizes, is about 0.4 of that. An output sums up independent errors of both operands.
VALUE_ERROR, GRADIENT_ERROR = 2**-4, 2**-3


def normal(seed: int, *shape: int, std: float = 1.0, dtype: str = "float32") -> jax.Array:
    return (std * jax.random.normal(jax.random.key(seed), shape)).astype(dtype)


def distance(found: jax.Array, exact: jax.Array) -> float:
    """Of all numbers together, as a share of the exact ones."""
    difference = found.astype(jnp.float32) - exact.astype(jnp.float32)
    return float(jnp.linalg.norm(difference) / jnp.linalg.norm(exact.astype(jnp.float32)))


@pytest.mark.parametrize(("dtype", "largest_error"), [(VALUES, VALUE_ERROR), (GRADIENTS, GRADIENT_ERROR)])
@pytest.mark.parametrize("std", [1e-12, 1.0, 1e6])
def test_a_number_is_rounded_as_the_format_has_it(dtype, largest_error: float, std: float):
    x = normal(0, 64, 64, std=std)
    rounded = round_to_float8(x, dtype)
    mantissa, _ = np.frexp(float(rounded.scale))
    assert mantissa == 0.5  # a power of two
    limit = float(jnp.finfo(dtype).max)
    assert limit / 2 <= float(jnp.abs(rounded.values.astype(jnp.float32)).max()) <= limit
    found = rounded.values.astype(jnp.float32) * rounded.scale
    large = jnp.abs(x) > jnp.abs(x).max() / 1000  # below lie the numbers that the format spaces evenly
    assert float(jnp.max(jnp.where(large, jnp.abs(found / x - 1), 0))) <= largest_error


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_and_both_gradients_are_as_near_as_their_formats_allow(dtype: str):
    x, weight = normal(1, 256, 128, dtype=dtype), normal(2, 128, 64, std=0.02, dtype=dtype)
    gradient = normal(3, 256, 64, std=1e-6, dtype=dtype)

    def all_three(product, cast):
        out, pull_back = jax.vjp(product, x.astype(cast), weight.astype(cast))
        return (out, *pull_back(gradient.astype(cast)))

    exact = all_three(jnp.matmul, "float32")
    for found, plain, right, bound in zip(
        all_three(float8_product, dtype),
        all_three(jnp.matmul, "bfloat16"),
        exact,
        (VALUE_ERROR, GRADIENT_ERROR, GRADIENT_ERROR),
        strict=True,
    ):
        assert found.dtype == jnp.dtype(dtype)
        assert 0.4 * bound < distance(found, right) < bound
        assert distance(plain, right) < 0.1 * bound


def test_gradients_far_below_one_keep_their_size():
    """Without a scale of its own, a gradient of 1e-9 would be zero in either format."""
    x, weight, gradient = normal(1, 32, 16), normal(2, 16, 16), normal(3, 32, 16, std=1e-9)
    _, pull_back = jax.vjp(float8_product, x, weight)
    assert distance(pull_back(gradient)[1], x.T @ gradient) < GRADIENT_ERROR
    assert not gradient.astype(GRADIENTS).any()


def test_zeros_stay_zeros():
    out, pull_back = jax.vjp(float8_product, jnp.zeros((32, 16)), normal(0, 16, 16))
    for found in (out, *pull_back(jnp.zeros((32, 16)))):
        assert not found.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(bad: float):
    x, weight, gradient = normal(1, 32, 16), normal(2, 16, 16), normal(3, 32, 16)
    assert not jnp.isfinite(float8_product(x.at[3, 4].set(bad), weight)).all()
    assert not jnp.isfinite(float8_product(x, weight.at[3, 4].set(bad))).all()
    _, pull_back = jax.vjp(float8_product, x, weight)
    for found in pull_back(gradient.at[3, 4].set(bad)):
        assert not jnp.isfinite(found).all()


def tiny(**settings: object) -> Config:
    values = {**training_runs.TINY, **{key.replace("__", "."): value for key, value in settings.items()}}
    return parse_config([f"--{key}={value}" for key, value in values.items()]).config


FLOAT8 = {"train__matmul_dtype": "float8"}


def losses(config: Config, *, num_devices: int, num_steps: int) -> list[float]:
    """Of steps on one batch over and over."""
    machinery = build(config, devices=jax.devices()[:num_devices])
    state = create_state(machinery.trained, machinery.optimizer, mesh=machinery.mesh, seed=0)
    batch = machinery.put(synthetic_batch(config))
    found = []
    for _ in range(num_steps):
        state, report = machinery.train_step(state, batch, None)
        assert not int(report.skipped)
        found.append(float(report.loss))
    return found


@functools.cache
def learned(matmul_dtype: str) -> list[float]:
    config = tiny(train__matmul_dtype=matmul_dtype, train__num_steps=120, schedule__warmup_steps=0)
    return losses(config, num_devices=1, num_steps=120)


def test_a_tiny_model_learns_in_float8_what_it_learns_in_float32():
    exact, rounded = learned("compute"), learned("float8")
    assert rounded[-1] < 0.05 * rounded[0]
    assert 1e-4 < max(abs(a - b) for a, b in zip(exact, rounded, strict=True)) < 0.02


@pytest.mark.parametrize(
    "settings", [{"model__remat": remat} for remat in ("attention", "mlp", "full")], ids=str
)
def test_what_is_recomputed_changes_nothing(settings: dict[str, str]):
    step = functools.partial(losses, num_devices=1, num_steps=2)
    assert step(tiny(**FLOAT8, **settings)) == pytest.approx(step(tiny(**FLOAT8)), abs=2e-4)


def test_replicas_scale_what_they_hold_and_agree_to_the_rounding():
    """Eight replicas, each with scales of its own rows, against one device with all of them in one tensor."""
    one, eight = (
        losses(
            tiny(**FLOAT8, train__batch_tokens=8 * 128, train__device_batch_size=rows),
            num_devices=count,
            num_steps=3,
        )
        for count, rows in ((1, 8), (8, 1))
    )
    assert one == pytest.approx(eight, abs=2e-2)


def test_only_training_is_in_float8():
    machinery = build(tiny(**FLOAT8, model__init="gpt2", model__init_std=0.1), devices=jax.devices()[:1])
    assert machinery.network.matmul_dtype == "compute"
    trained = Network.build(machinery.network.config, matmul_dtype="float8")
    assert trained != machinery.network
    params = trained.init(jax.random.key(0))
    batch = synthetic_batch(tiny())
    arrays = {name: getattr(batch, name) for name in ("k_lo", "k_hi", "position", "turn_position")}
    plain = machinery.network.hidden(params, batch.tokens, **arrays)
    assert 1e-3 < distance(trained.hidden(params, batch.tokens, **arrays), plain) < 0.2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model__mlp_dim": 72}, "model.mlp_dim is 72"),
        ({"model__head_dim": 12}, "model.num_heads x head_dim is 24"),
        ({"stage": "dpo", "init_from": "runs/base"}, "stage=dpo"),
        ({"lora__rank": 4, "init_from": "runs/base"}, "lora.rank=4"),
    ],
)
def test_what_float8_is_not_for_is_refused(settings: dict[str, object], words: str):
    tiny(**settings)
    with pytest.raises(ConfigError, match=re.escape(words)):
        tiny(**FLOAT8, **settings)


@pytest.mark.parametrize("axis", ["fsdp", "tensor"])
def test_tensors_in_parts_are_refused(axis: str):
    sizes = {f"mesh__{axis}": 2, "train__batch_tokens": 1024, "model__num_kv_heads": 2}
    check_mesh(tiny(**sizes), 2)
    with pytest.raises(ConfigError, match=f"{axis}=2"):
        check_mesh(tiny(**FLOAT8, **sizes), 2)


def test_a_device_without_float8_units_is_refused():
    kinds = {"NVIDIA H100 80GB HBM3": True, "NVIDIA GeForce RTX 4090": True, "NVIDIA A100-SXM4-80GB": False}
    kinds |= {"NVIDIA H20": True, "NVIDIA GeForce RTX 3090": False, "NVIDIA B200": True, "NVIDIA L4": True}
    assert {kind: computes_float8(Device("gpu", kind)) for kind in kinds} == kinds
    assert not computes_float8(Device("tpu", "TPU v5p"))
    plan = functools.partial(make_plan, num_devices=1)
    plan(tiny(), device=find_device("a100"))
    with pytest.raises(ConfigError, match=r"A100.*train\.matmul_dtype=compute"):
        plan(tiny(**FLOAT8), device=find_device("a100"))


def test_a_plan_expects_more_of_the_bfloat16_peak():
    plain, float8 = (
        make_plan(tiny(**more), device=find_device("h100"), num_devices=1) for more in ({}, FLOAT8)
    )
    assert plain.pace is not None
    assert float8.pace is not None
    assert float8.pace.mfu == pytest.approx(1.17 * plain.pace.mfu)
    assert "float8" in float8.pace.source


SMALL = {
    "model__head_dim": 64,
    "model__model_dim": 128,
    "model__mlp_dim": 256,
    "train__batch_tokens": 4 * 32,
    "train__device_batch_size": 1,
}


def outputs(program: str, target: str) -> int:
    """Numbers that calls of a library's products write, however XLA joined them."""
    shapes = re.findall(rf'= \(\w+\[([\d,]+)\].*custom_call_target="{re.escape(target)}"', program)
    return sum(math.prod(int(size) for size in shape.split(",")) for shape in shapes)


@needs_compiler
@pytest.mark.parametrize("remat", ["none", "mlp"])
def test_every_product_of_the_layers_goes_to_the_float8_units_of_an_h100(remat: str):
    """Two replicas, two microbatches: cuBLAS writes queries, keys, values, output, up and down of two layers
    in float8 products, once forward and twice backward; and nothing more is sent than without.
    """
    sizes = {**SMALL, "model__remat": remat}
    float8, plain = (
        compile_step(tiny(**sizes, **more), device="h100", num_devices=2).executable.as_text() or ""
        for more in (FLOAT8, {})
    )
    T, D, NH, KH, F = 32, 128, 128, 64, 256
    forward = T * (NH + 2 * KH + D + F + D)
    backward = T * (3 * D + NH + D + F) + D * (NH + 2 * KH) + NH * D + 2 * D * F
    repeated = T * F if remat == "mlp" else 0
    assert outputs(float8, "__cublas$lt$matmul$f8") == 2 * (forward + repeated + backward)
    assert "f8e5m2" in float8
    assert "f8e4m3fn" in float8
    assert not re.search(r"f8e\dm\d", plain)
    assert by_kind(read_collectives(float8)) == by_kind(read_collectives(plain))
