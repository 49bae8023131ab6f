"""What each remat policy computes again on a GPU: its own products, and never the attention kernel."""

import functools
import re

import pytest
from samosa_kernels import aot

from samosa_jax.command_line import parse_config
from samosa_jax.compiled_step import abstract_arguments
from samosa_jax.stages import build

pytestmark = pytest.mark.skipif(aot.why_not() is not None, reason=aot.why_not() or "")
NUM_LAYERS = 2


@functools.cache
def program(remat: str) -> str:
    """The step for one H100 as JAX hands it to XLA, which then drops what nothing uses."""
    sizes = (
        "num_heads=2 num_kv_heads=2 head_dim=128 model_dim=256 mlp_dim=1024 context_len=512 vocab_size=512"
    )
    config = parse_config(
        [
            f"--model.remat={remat}",
            f"--model.num_layers={NUM_LAYERS}",
            *(f"--model.{size}" for size in sizes.split()),
            *("--train.batch_tokens=1024", "--train.device_batch_size=2"),
        ]
    ).config
    machinery = build(config, devices=list(aot.topology("h100").devices.flat))
    traced = machinery.train_step.trace(*abstract_arguments(config, machinery))
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def kernels_in_use(text: str, name: str) -> int:
    """Calls of a kernel whose results something reads: these calls have no side effect."""
    calls = re.findall(rf"^\s*(%\w+)\S* = stablehlo.custom_call @.*{name}.*$", text, re.MULTILINE)
    return sum(len(re.findall(rf"{call}\b", text)) > 1 for call in calls)


@pytest.mark.parametrize("remat", ["none", "attention", "mlp", "full"])
def test_attention_is_never_computed_twice(remat):
    text = program(remat)
    assert kernels_in_use(text, "attention_forward") == NUM_LAYERS
    assert kernels_in_use(text, "attention_dq") == NUM_LAYERS
    if remat in ("attention", "full"):  # what the count leaves out is there: calls whose results go nowhere
        assert len(re.findall(r"custom_call @.*attention_forward", text)) > NUM_LAYERS


def test_each_policy_repeats_its_own_products():
    products = {
        remat: program(remat).count("stablehlo.dot_general") for remat in ("none", "attention", "mlp")
    }
    # Queries, keys and values; the first of two products of the feed-forward, whose second is its result.
    assert products["attention"] - products["none"] == 3 * NUM_LAYERS
    assert products["mlp"] - products["none"] == NUM_LAYERS
    full = program("full").count("stablehlo.dot_general") - products["none"]
    assert full > 4 * NUM_LAYERS
