"""What every preset for GPUs sends between eight H100s, and the memory it needs: held against limits.

The golden file has the numbers of every preset, each from compiling its real train step; that all of them
keep the limits, and that they are those of the presets as they are now, is looked up here. Two small steps
are compiled here and now, where the compiler for GPUs is (the `aot` extra): one preset, and a shallow
relative of samosa_d24 whose layers do not divide over the devices. To compile every preset again (about ten
minutes of two cores) and write the golden file:

    python -m scripts.collective_budget --write
"""

import pytest
from samosa_kernels import aot

from samosa_jax.parallel.scaling import zero1_bytes
from scripts.collective_budget import (
    ROOT,
    complaints,
    fingerprint,
    measure,
    presets,
    read_golden,
    read_preset,
    table,
)

REWRITE = "python -m scripts.collective_budget --write"
needs_compiler = pytest.mark.skipif(aot.why_not() is not None, reason=aot.why_not() or "")
SHALLOW = (  # features and batch of samosa_d24; three layers, of four shapes of weights
    *("--model.depth=null", "--model.num_layers=3", "--model.model_dim=256", "--model.num_heads=2"),
    *("--model.num_kv_heads=2", "--model.head_dim=128", "--model.mlp_dim=1024", "--model.vocab_size=4096"),
    *("--train.horizon=steps", "--train.num_steps=200", "--train.batch_tokens=65536"),
    "--train.device_batch_size=2",
)


def test_golden_file_has_every_preset_as_it_is():
    golden = read_golden()
    assert sorted(golden) == presets(), REWRITE
    for name, budget in golden.items():
        assert budget["made_of"] == fingerprint(read_preset(name)), f"{name} has changed: {REWRITE} {name}"


@pytest.mark.parametrize("name", presets())
def test_every_preset_keeps_the_limits(name):
    budget = read_golden()[name]
    assert not complaints(name, budget)
    assert budget["sent_bytes"] >= 0.999 * budget["zero1_bytes"]  # below it something is not counted


def test_each_limit_can_be_broken():
    budget = read_golden()["samosa_d24"]
    all_gather = {**budget["collectives"]["all-gather"], "in_loop": 2}
    for change, words in (
        ({"sent_bytes": 2 * budget["zero1_bytes"]}, "2.000 times the minimum"),
        ({"peak_bytes": 80 * 2**30}, "80.0 GiB of 72"),
        ({"collectives": {"all-gather": all_gather}}, "2 all-gather inside a loop"),
    ):
        (complaint,) = complaints("samosa_d24", {**budget, **change})
        assert words in complaint


def test_the_documentation_shows_the_golden_numbers():
    text = (ROOT / "docs" / "parallelism.md").read_text(encoding="utf-8")
    assert "\n".join(table(read_golden())) in text, "python -m scripts.collective_budget --table"


@needs_compiler
def test_a_preset_compiles_to_its_golden_numbers():
    expected, found = read_golden()["nanolm_10m"], measure(read_preset("nanolm_10m"))
    assert not complaints("nanolm_10m", found)
    for exact in ("made_of", "num_params", "sent_bytes", "mesh"):
        assert found[exact] == expected[exact], (exact, REWRITE)
    if found["jax"] == expected["jax"]:  # another compiler joins other collectives and plans other buffers
        assert found["collectives"] == expected["collectives"], REWRITE
        assert found["peak_bytes"] == pytest.approx(expected["peak_bytes"], rel=0.02), REWRITE


@needs_compiler
def test_layers_that_do_not_divide_cost_muon_two_exchanges_and_no_more():
    config = read_preset("samosa_d24", *SHALLOW)
    assert config.model.num_layers % 8
    budget = measure(config)
    assert not [line for line in complaints("shallow", budget) if "loop" in line]
    sent = {kind: traffic["wire_bytes"] for kind, traffic in budget["collectives"].items()}
    gathered_and_scattered = zero1_bytes(budget["num_params"], replicas=8)
    assert sent["all-gather"] + sent["reduce-scatter"] == pytest.approx(gathered_and_scattered, rel=1e-3)
    # 12 matrices of 256 x 256 and 6 of 256 x 1024, padded to 16 and 8, dealt out and back in float32.
    dealt_out = 4 * (16 * 256**2 + 8 * 256 * 1024) / 8
    assert sent["all-to-all"] == pytest.approx(2 * dealt_out * 7 / 8, rel=1e-3)
    assert not sent.keys() - {"all-gather", "reduce-scatter", "all-to-all", "all-reduce"}
    assert sent["all-reduce"] < 1e5  # scalars and what is as small
