"""Plans: closed formulas against numbers worked out by hand, and against the compiler on real steps."""

import json
import math
from pathlib import Path

import pytest
import training_runs
from samosa_kernels import aot

from samosa_jax import plan as command
from samosa_jax.command_line import parse_config, split_options
from samosa_jax.config import CheckpointConfig, Config, SourceConfig
from samosa_jax.data.shards import ShardSet
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.mesh_sizes import dividing_rows
from samosa_jax.plan import PlanFlags
from samosa_jax.planning.devices import USABLE_SHARE, device_like, find_device
from samosa_jax.planning.fitting import MODEL_ERROR, choose, fit_every_policy, fits
from samosa_jax.planning.memory import MemoryModel
from samosa_jax.planning.pace import expected_mfu, predict_pace
from samosa_jax.planning.run_plan import make_plan, with_compiled_peak
from samosa_jax.planning.storage import plan_checkpoints, plan_data
from scripts import collective_budget
from scripts.calibrate_memory import CASES, predicted, read_case, read_golden

ROOT = Path(__file__).parents[1]
PRESETS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
REWRITE = "python -m scripts.calibrate_memory --write"


def preset(name: str, *settings: str) -> Config:
    return parse_config([f"--config={ROOT / 'configs' / f'{name}.yaml'}", *settings]).config


def model_of(config: Config, num_devices: int = 1) -> MemoryModel:
    return MemoryModel(config, num_devices=num_devices, compute_dtype="bfloat16")


# The tiny model of the tests: V 512, D 32, L 2, N 2, K 1, H 16, F 64; Muon for the matrices, else AdamW.
# Matrices: 2 x (32 x 32 + 2 x 32 x 16 + 32 x 32 + 2 x 32 x 64); embedding and head: 512 x 32 each.
MATRICES, TABLE = 2 * (1024 + 1024 + 1024 + 4096), 512 * 32


def tiny(**settings: object) -> Config:
    values = {**training_runs.TINY, **{key.replace("__", "."): value for key, value in settings.items()}}
    return parse_config([f"--{key}={value}" for key, value in values.items()]).config


def test_what_is_kept_on_one_device_is_what_was_worked_out_by_hand():
    memory = model_of(tiny()).at(device_rows=2, remat="none")
    values = MATRICES + 2 * TABLE
    assert memory.parameters == 4 * values
    assert memory.compute_copy == 2 * (values + MATRICES)  # whose layers are cut out of their stacks
    assert memory.optimizer - 4 * (MATRICES + 2 * 2 * TABLE) in range(64)  # one moment of Muon, two of AdamW
    assert memory.gradients >= 4 * values  # four microbatches are summed in float32
    assert memory.frozen == 0
    assert memory.batch == 7 * 4 * 256
    kept = memory.parameters + memory.compute_copy + memory.optimizer + memory.gradients
    assert memory.peak == kept + memory.activations + memory.logits + memory.batch


@pytest.mark.parametrize(
    ("remat", "values"),
    [
        # residuals 2 D; attention: D, queries and keys twice, values; out of it N H; feed-forward D and 2 F
        ("none", 2 * 32 + (32 + 2 * 48 + 16) + 32 + (32 + 128)),
        ("attention", 2 * 32 + 32 + (32 + 128)),
        ("mlp", 2 * 32 + (32 + 2 * 48 + 16) + 32),
        ("full", 32 + 32),
    ],
)
def test_each_policy_keeps_of_a_layer_what_was_worked_out_by_hand(remat, values: int):
    """The difference that two more layers make, far from what is there once."""
    shallow, deep = (
        model_of(tiny(model__num_layers=layers, train__batch_tokens=32 * 2048)).at(
            device_rows=2048, remat=remat
        )
        for layers in (40, 42)
    )
    statistics = 4 * 2 + 2 * 4 * (2 + 1)  # log-sum-exp; of the norms of queries and keys
    assert deep.activations - shallow.activations == 2 * 2048 * 32 * (2 * values + statistics)


def test_replicas_share_what_the_optimizer_keeps_and_not_what_is_computed_with():
    config = tiny(train__batch_tokens=32 * 16)
    alone, eight = (model_of(config, count).at(device_rows=2, remat="none") for count in (1, 8))
    assert eight.parameters == alone.parameters // 8
    assert eight.compute_copy == alone.compute_copy
    assert eight.gradients <= alone.gradients


def test_tensor_parallel_devices_share_heads_and_width():
    split = model_of(tiny(mesh__tensor=2, model__num_kv_heads=2), 2).at(device_rows=2, remat="none")
    whole = model_of(tiny(model__num_kv_heads=2), 1).at(device_rows=2, remat="none")
    assert split.compute_copy == whole.compute_copy // 2
    assert split.activations < whole.activations


def test_adapters_read_frozen_parameters_and_train_few():
    lora = tiny(stage="sft", lora__rank=2, init_from="runs/base")
    plain = model_of(tiny()).at(device_rows=2, remat="none")
    memory = model_of(lora).at(device_rows=2, remat="none")
    assert memory.frozen > 0
    assert memory.parameters < plain.parameters / 4
    frozen = tiny(stage="dpo", init_from="runs/sft", dpo__reference="frozen")
    assert model_of(frozen).at(device_rows=2, remat="none").frozen == plain.compute_copy - 2 * MATRICES


@pytest.mark.parametrize(
    "case", read_golden(), ids=lambda case: "-".join([case["preset"], *case["settings"]])
)
def test_the_closed_model_is_within_its_error_of_the_compiler(case):
    config = read_case(case["preset"], tuple(case["settings"]))
    peak = predicted(config, case["devices"]).peak
    assert peak == pytest.approx(case["peak_bytes"], rel=MODEL_ERROR), REWRITE


@pytest.mark.parametrize("name", collective_budget.presets())
def test_the_closed_model_is_within_half_of_that_for_every_preset_on_eight_devices(name: str):
    peak = predicted(collective_budget.read_preset(name), 8).peak
    golden = collective_budget.read_golden()[name]["peak_bytes"]
    assert peak == pytest.approx(golden, rel=MODEL_ERROR / 2)


def test_every_case_of_the_calibration_is_in_the_golden_file():
    kept = [(case["preset"], case["devices"], tuple(case["settings"])) for case in read_golden()]
    assert kept == list(CASES), REWRITE


@pytest.mark.skipif(aot.why_not() is not None, reason=aot.why_not() or "")
def test_the_command_asks_the_compiler_and_writes_every_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "plan.json"
    arguments = [f"--config={ROOT / 'configs/nanolm_10m.yaml'}", "--count=1", f"--json={file}"]
    command.main([*arguments, "--model.num_layers=2", "--cost-per-hour", "3"])
    shown = capsys.readouterr()
    assert "the sum by the compiler" in shown.out
    assert "compiling the train step for 1 x NVIDIA H100" in shown.err
    written = json.loads(file.read_text())
    assert written["memory_source"] == "compiler"
    assert written["fits"]
    assert written["pace"]["cost"] > 0
    closed = make_plan(
        parse_config([arguments[0], "--model.num_layers=2"]).config,
        device=find_device("h100"),
        num_devices=1,
    )
    assert closed.memory is not None
    assert written["memory"]["peak"] == pytest.approx(closed.memory.peak, rel=0.15)  # with 2 layers of 6
    assert written["memory"]["peak"] != closed.memory.peak


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_planned(name: str):
    config = preset(name)
    if config.train.horizon == "epochs":
        pytest.skip("as long as its data")
    num_devices = 8 if name == "samosa_d32" else 1  # one H100 cannot hold it
    for device in ("h100", "cpu"):
        plan = make_plan(config, device=find_device(device), num_devices=num_devices)
        assert plan.fits
        assert plan.chosen is not None
        assert plan.tokens == config.train.num_steps * config.train.batch_tokens
        assert command.plan_sections(plan)


def test_devices_are_found_by_name_and_by_kind():
    h100 = find_device("h100")
    assert device_like("NVIDIA H100 80GB HBM3") is h100
    assert device_like("cpu") is None
    assert h100.usable_bytes == int(USABLE_SHARE * 84_929_347_584)
    assert h100.peak_flops == 989e12
    with pytest.raises(UserError, match="there are h100, h200, a100, rtx4090, cpu"):
        find_device("b200")


def test_more_memory_takes_more_rows_and_less_recomputing():
    config = preset("samosa_d24")
    model = model_of(config, 8)
    rows = dividing_rows(config, 8)
    assert rows == [64, 32, 16, 8, 4, 2, 1]
    chosen = []
    for device in ("rtx4090", "h100", "h200"):
        usable = find_device(device).usable_bytes
        assert usable is not None
        fitted = fit_every_policy(model, rows=rows, usable_bytes=usable)
        for fit in fitted:
            assert fit.memory is None or fits(fit.memory, usable)
        best = choose(fitted, context_len=2048)
        assert best is not None
        assert best.device_rows is not None
        chosen.append((fitted[0].device_rows, best.remat))
    assert chosen[0] < chosen[1] < chosen[2] or chosen[0][0] is None
    assert chosen[1][1] == chosen[2][1] == "none"
    nothing = fit_every_policy(model, rows=rows, usable_bytes=2**30)
    assert choose(nothing, context_len=2048) is None


def test_a_plan_that_does_not_fit_says_what_does(capsys: pytest.CaptureFixture[str]):
    arguments = [f"--config={ROOT / 'configs/samosa_d24.yaml'}", "--memory=model"]
    command.main([*arguments, "--train.device_batch_size=64"])
    shown = capsys.readouterr().out
    assert "this does not fit: set train.device_batch_size=16 and model.remat=none" in shown
    command.main([*arguments, "--train.device_batch_size=auto"])
    assert "device_batch_size 16, remat none" in capsys.readouterr().out


def test_the_compilers_word_replaces_the_sum():
    plan = make_plan(preset("nanolm_10m"), device=find_device("h100"), num_devices=1)
    told = with_compiled_peak(plan, 5 * 2**30)
    assert told.memory is not None
    assert told.memory.peak == 5 * 2**30
    assert told.memory_source == "compiler"


def test_mfu_goes_through_its_sources_and_falls_for_small_models():
    for size, share in ((124e6, 0.38), (350e6, 0.45), (1.1e9, 0.52), (2.5e9, 0.54), (9e9, 0.54)):
        assert expected_mfu(size) == pytest.approx(share)
    assert expected_mfu(math.sqrt(124e6 * 350e6)) == pytest.approx((0.38 + 0.45) / 2)
    assert expected_mfu(31e6) == pytest.approx(0.19)


def test_time_cost_and_traffic_are_what_was_worked_out_by_hand():
    device = find_device("h100")
    pace = predict_pace(
        device=device,
        num_devices=8,
        mfu=0.5,
        matmul_dtype="compute",
        scaling_parameters=10**9,
        flops_per_token=6 * 10**9,
        batch_tokens=2**20,
        num_steps=1000,
        num_values=10**9,
        itemsize=2,
        cost_per_hour=24.0,
    )
    assert pace is not None
    computing = 2**20 / 8 * 6e9 / (0.5 * 989e12)
    sending = 7 / 8 * 6e9 / (0.8 * 450e9)  # 2 bytes gathered, 4 scattered
    assert pace.step_seconds == pytest.approx(computing + sending)
    assert pace.seconds == pytest.approx(1000 * (computing + sending))
    assert pace.cost == pytest.approx(24 * pace.seconds / 3600)
    assert [traffic.num_devices for traffic in pace.scaling] == [1, 2, 4, 8]
    assert pace.scaling[0].efficiency == 1
    assert pace.scaling[-1].sent_bytes == pytest.approx(7 / 8 * 6e9)
    assert pace.scaling[-1].efficiency == pytest.approx(computing / (computing + sending))


def test_checkpoints_are_counted_as_training_keeps_them():
    config = CheckpointConfig(every_steps=250, keep_last=2, milestone_steps=500)
    kept = plan_checkpoints(config, state_bytes=10, num_steps=1100)
    assert kept.num_kept == 3  # 500, 1000 and 1100
    assert kept.peak_bytes == 40
    assert plan_checkpoints(CheckpointConfig(every_steps=0), state_bytes=10, num_steps=9).num_kept == 1


def test_epochs_of_the_sources_are_counted(tmp_path: Path):
    folder = training_runs.write_dataset(tmp_path)
    available = ShardSet.open(folder, split="train").num_tokens
    sources = (SourceConfig(path=str(folder)),)
    data = plan_data(sources, tokens=100_000, vocab_size=512, by_epoch=False)
    assert data.shard_bytes == 200_000
    (need,) = data.sources
    assert need.tokens == available
    assert need.epochs == pytest.approx(100_000 / available)
    assert plan_data((), tokens=10, vocab_size=70_000, by_epoch=False).shard_bytes == 40
    missing = (SourceConfig(path=str(tmp_path / "none")),)
    with pytest.raises(UserError):
        plan_data(missing, tokens=10, vocab_size=512, by_epoch=False)


def test_weights_are_shares_of_text_and_repetitions_of_conversations(tmp_path: Path):
    large, small, tokenizer = (
        training_runs.write_dataset(tmp_path),
        tmp_path / "small",
        tmp_path / "tokenizer",
    )
    training_runs.write_shards(
        small,
        Tokenizer.load(tokenizer),
        tokenizer_folder=tokenizer,
        texts=[training_runs.make_text(seed) for seed in range(100)],
    )
    sources = (SourceConfig(path=str(large)), SourceConfig(path=str(small), weight=3.0))
    counts = [ShardSet.open(folder, split="train").num_tokens for folder in (large, small)]
    assert counts[0] > 2 * counts[1]
    text = plan_data(sources, tokens=10_000, vocab_size=512, by_epoch=False).sources
    assert [need.epochs * need.tokens for need in text] == pytest.approx([2_500, 7_500])
    chat = plan_data(sources, tokens=10_000, vocab_size=512, by_epoch=True).sources
    assert chat[1].epochs == pytest.approx(3 * chat[0].epochs)
    assert sum(need.epochs * need.tokens for need in chat) == pytest.approx(10_000)


def test_the_cache_of_a_layer_with_a_window_is_a_ring():
    extended = preset("samosa_d24", f"--config={ROOT / 'configs/stages/extend_16k.yaml'}")
    plan = make_plan(extended, device=find_device("h100"), num_devices=8)
    # 6 layers keep 16 384 tokens, 18 keep 1 024; keys and values of 12 heads of 128, in two bytes each.
    kept = (6 * 16_384 + 18 * 1_024) * 2 * 12 * 128 * 2
    assert plan.cache_bytes == pytest.approx(kept, rel=1e-4)


def test_own_flags_are_told_from_those_of_the_configuration():
    argv = ["--device", "h200", "--model.depth=4", "--count=2", "--cost-per-hour", "3", "--json=x"]
    own, others = split_options(argv, PlanFlags)
    assert own == ["--device", "h200", "--count=2", "--json=x"]
    assert others == ["--model.depth=4", "--cost-per-hour", "3"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--device=b200"], "--device is 'b200'; expected one of h100"),
        (["--count=0"], "--count is 0"),
        (["--count=3"], "do not divide over 3 devices"),
        (["--mesh.data=16"], "which is 16 devices, but there are 8"),
        (["--mfu=45"], "it is a share"),
        (["--devise=h100"], "--devise is no flag"),
        (["--device=cpu", "--count=1", "--memory=compiler"], "--memory is compiler, but no program"),
        (["--train.device_batch_size=5"], "not a multiple of train.device_batch_size"),
        (["--json=/"], "--json is /, a folder"),
        (["--memory=model", "--json=/dev/null/x.json"], "--json: /dev/null/x.json cannot be written"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], complaint: str):
    config = f"--config={ROOT / 'configs/samosa_d24.yaml'}"
    with pytest.raises(UserError, match=complaint) as refused:
        command.main([config, *arguments])
    assert "\n" not in str(refused.value)
