"""Ranges and cross-checks of the configuration, the mesh check, and the presets against golden files.

`python tests/test_config.py` writes the golden files anew; look at their diff before you keep them.
"""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from samosa_jax.command_line import load_config, parse_config
from samosa_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    GroupConfig,
    LogConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    SampleConfig,
    ScheduleConfig,
    SourceConfig,
    TrainConfig,
    to_dict,
)
from samosa_jax.errors import ConfigError
from samosa_jax.mesh_sizes import check_mesh, resolve_mesh
from samosa_jax.sizes import parameter_counts

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GOLDEN = ("nanolm_10m", "novamind_256m", "samosa_d24")


STAGES = sorted((ROOT / "configs" / "stages").glob("*.yaml"))
MIXTURES = sorted((ROOT / "configs" / "mixtures").glob("*.yaml"))


@pytest.mark.parametrize("overlay", [*STAGES, *MIXTURES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_overlays_go_on_top_of_a_model(overlay: Path) -> None:
    base = ROOT / "configs" / "wikinews.yaml"
    line = [f"--config={base}", f"--config={overlay}", "--init_from=runs/base"]
    windows = ["--model.window_pattern=SSSL"] if overlay.stem == "extend_16k" else []
    config = parse_config([*line, *windows, "--rl.tasks=sums"]).config
    assert config.model.num_layers == 4
    assert config != load_config(base)
    if overlay in MIXTURES:
        assert len(config.data.sources) >= 5
    elif overlay.stem != "lora":
        goes_on = overlay.stem in ("continue", "extend_16k")
        assert config.stage == ("pretrain" if goes_on else overlay.stem)
        names = {"midtrain": "mid", "continue": "continued"}
        assert config.name == names.get(overlay.stem, overlay.stem)


def golden_path(name: str) -> Path:
    return ROOT / "tests" / "golden" / f"config_{name}.json"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ModelConfig(vocab_size=0), "model.vocab_size is 0; it must be at least 1"),
        (lambda: ModelConfig(num_heads=6, num_kv_heads=4), "not a multiple of model.num_kv_heads"),
        (lambda: ModelConfig(head_dim=33), "needs a multiple of 2"),
        (lambda: ModelConfig(head_dim=66, position="hirope"), "needs a multiple of 4"),
        (lambda: ModelConfig(window_pattern="SXL"), "use the letters S and L"),
        (lambda: ModelConfig(window_pattern=""), "use the letters S and L"),
        (lambda: ModelConfig(window=2_000, window_pattern="S"), "must lie in 1..model.context_len (1024)"),
        (lambda: ModelConfig(window=128), "has no sliding layer"),
        (lambda: ModelConfig(soft_cap=0.0), "model.soft_cap is 0.0"),
        (lambda: ModelConfig(qk_norm=False, qk_gain=1.2), "model.qk_norm is off"),
        (lambda: ModelConfig(qk_norm=False, qk_norm_scale=True), "model.qk_norm is off"),
        (lambda: ModelConfig(rope_base=0.0), "model.rope_base is 0.0; it must be positive"),
        (lambda: ModelConfig(norm_eps=math.nan), "model.norm_eps is nan"),
        (lambda: ModelConfig(model_dim=16, smear=True), "model.smear needs model.model_dim of at least 24"),
        (lambda: ModelConfig(depth=4), "depth is the number of layers"),
        (lambda: ModelConfig(unroll_layers=False, window_pattern="SL"), "layers that are all alike"),
        (lambda: SourceConfig(path="a", weight=0.0), "data.sources weight of a is 0.0"),
        (lambda: SourceConfig(path="a", weight=math.inf), "data.sources weight of a is inf"),
        (lambda: SourceConfig(path=""), "data.sources has an empty path"),
        (lambda: DataConfig(sources=(SourceConfig(path="a"),) * 2), "data.sources names a more than once"),
        (lambda: DataConfig(num_threads=0), "data.num_threads is 0"),
        (lambda: OptimizerConfig(embedding=GroupConfig(kind="muon")), "optimizer.embedding.kind is muon"),
        (lambda: OptimizerConfig(head=GroupConfig(lr=-1.0)), "optimizer.head.lr is -1.0"),
        (lambda: OptimizerConfig(head=GroupConfig(lr=math.nan)), "optimizer.head.lr is nan"),
        (lambda: OptimizerConfig(matrix=GroupConfig(beta1=1.0)), "optimizer.matrix.beta1 is 1.0"),
        (lambda: OptimizerConfig(matrix=GroupConfig(eps=0.0)), "optimizer.matrix.eps is 0.0"),
        (lambda: OptimizerConfig(clip_norm=0.0), "optimizer.clip_norm is 0.0"),
        (lambda: OptimizerConfig(newton_schulz_steps=0), "optimizer.newton_schulz_steps is 0"),
        (lambda: ScheduleConfig(warmup_steps=-1), "schedule.warmup_steps is -1"),
        (lambda: ScheduleConfig(decay_frac=1.5), "schedule.decay_frac is 1.5"),
        (lambda: ScheduleConfig(final_frac=-0.5), "schedule.final_frac is -0.5"),
        (lambda: LossConfig(z_loss=-1.0), "loss.z_loss is -1.0"),
        (lambda: LossConfig(chunk_tokens=0), "loss.chunk_tokens is 0"),
        (lambda: MeshConfig(data=-1, fsdp=-1), "at most one may be -1"),
        (lambda: MeshConfig(tensor=0), "each must be at least 1"),
        (lambda: TrainConfig(num_steps=0), "train.num_steps is 0"),
        (lambda: TrainConfig(horizon="tokens"), "needs train.horizon_value above 0"),
        (lambda: EvalConfig(every_steps=-1), "eval.every_steps is -1"),
        (lambda: SampleConfig(temperature=-0.1), "sample.temperature is -0.1"),
        (lambda: CheckpointConfig(keep_last=0), "checkpoint.keep_last is 0"),
        (lambda: CheckpointConfig(every_steps=-1), "checkpoint.every_steps is -1"),
        (lambda: LogConfig(every_steps=0), "log.every_steps is 0"),
        (lambda: LogConfig(cost_per_hour=-2.0), "log.cost_per_hour is -2.0"),
        (lambda: Config(name="a/b"), "name is 'a/b'"),
        (lambda: Config(seed=-1), "seed is -1; it must be at least 0"),
        (lambda: Config(train=TrainConfig(batch_tokens=1_000)), "not a multiple of model.context_len (1024)"),
        (lambda: Config(train=TrainConfig(num_steps=20)), "schedule.warmup_steps is 20, but the run has 20"),
        (
            lambda: Config(
                schedule=ScheduleConfig(warmup_steps=60, decay_frac=0.5), train=TrainConfig(num_steps=100)
            ),
            "overlap in a run of 100 steps",
        ),
    ],
)
def test_impossible_values_are_named(make, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_smallest_possible_values_pass() -> None:
    """The boundary of what the cases above forbid."""
    model = ModelConfig(window=1_024, window_pattern="SL", model_dim=24, smear=True, qk_norm=False)
    assert model.layer_windows[:2] == (1_024, None)
    schedule = ScheduleConfig(warmup_steps=60, decay_frac=0.4)
    config = Config(model=model, schedule=schedule, train=TrainConfig(num_steps=100))
    assert config.batch_rows == 16


@pytest.mark.parametrize(
    ("mesh", "devices", "sizes"),
    [
        (MeshConfig(), 8, (8, 1, 1)),
        (MeshConfig(data=2, fsdp=-1, tensor=2), 8, (2, 2, 2)),
        (MeshConfig(data=2, fsdp=4), 8, (2, 4, 1)),
    ],
)
def test_a_mesh_fills_the_devices(mesh: MeshConfig, devices: int, sizes: tuple[int, int, int]) -> None:
    assert dataclasses.astuple(resolve_mesh(mesh, devices)) == sizes


TRAIN_48_ROWS = TrainConfig(batch_tokens=48 * 1024, device_batch_size=1)


@pytest.mark.parametrize(
    ("config", "devices", "says"),
    [
        (Config(mesh=MeshConfig(data=3)), 8, "which is 3 devices, but there are 8"),
        (Config(mesh=MeshConfig(tensor=3)), 8, "3 does not divide the 8 devices"),
        (Config(), 8, "16 rows of 1024 tokens per step, not a multiple of train.device_batch_size (16) x 8"),
        (Config(), 8, "train.device_batch_size=2 fits"),
        (Config(), 3, "make the rows a multiple of 3"),
        (Config(mesh=MeshConfig(tensor=4)), 4, "mesh.tensor is 4 and does not divide model.num_heads (6)"),
        (
            Config(model=ModelConfig(num_heads=8, num_kv_heads=2), mesh=MeshConfig(tensor=4)),
            4,
            "does not divide model.num_kv_heads (2)",
        ),
        (
            Config(model=ModelConfig(mlp_dim=1_537), mesh=MeshConfig(tensor=2)),
            2,
            "does not divide model.mlp_dim (1537)",
        ),
        (
            Config(model=ModelConfig(vocab_size=100, mlp_dim=1_536), mesh=MeshConfig(tensor=6)),
            6,
            "mesh.tensor is 6 and does not divide model.vocab_size, padded to a multiple of 64 (128)",
        ),
        (
            Config(model=ModelConfig(model_dim=128), mesh=MeshConfig(fsdp=3), train=TRAIN_48_ROWS),
            3,
            "mesh.fsdp is 3 and does not divide model.model_dim (128)",
        ),
        (
            Config(
                model=ModelConfig(vocab_size=100, model_dim=384, tie_embeddings=False),
                mesh=MeshConfig(fsdp=3),
                train=TRAIN_48_ROWS,
            ),
            3,
            "mesh.fsdp is 3 and does not divide model.vocab_size, padded to a multiple of 64 (128)",
        ),
    ],
)
def test_an_impossible_mesh_is_named(config: Config, devices: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_mesh(config, devices)
    assert says in str(caught.value)


def test_what_the_mesh_error_suggests_works() -> None:
    check_mesh(Config(train=TrainConfig(device_batch_size=2)), 8)
    check_mesh(Config(mesh=MeshConfig(tensor=2)), 2)


def test_one_key_head_serves_the_query_heads_of_every_device() -> None:
    """As `parallel.sharding` has it: a dimension of size one is not split."""
    check_mesh(Config(model=ModelConfig(num_heads=8, num_kv_heads=1), mesh=MeshConfig(tensor=4)), 4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_preset_says_what_it_is(path: Path) -> None:
    """Name, true parameter count and command stand at the top, and the batch divides on one device."""
    config = load_config(path)
    assert config.name == path.stem
    head = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    stated = re.search(r"(\d[\d ]+) parameters", head)
    if stated:
        assert int(stated.group(1).replace(" ", "")) == parameter_counts(config.model).total
    assert f"configs/{path.name}" in head or "make quickstart" in head
    check_mesh(config, 1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nanolm_10m", 10_358_016),
        ("matilda_114m", 114_150_144),
        ("matilda_152m", 151_908_096),
        ("matilda_363m", 362_927_040),
        ("novamind_256m", 251_446_272),
        ("llm_d20_561m", 560_988_160),
        ("samosa_d24", 1_384_122_122),
        ("samosa_d32", 2_818_575_450),
        ("bench_cpu", 73_531_646),
    ],
)
def test_presets_have_the_size_of_their_ancestors(name: str, parameters: int) -> None:
    path = ROOT / "configs" / f"{name}.yaml"
    assert parameter_counts(load_config(path).model).total == parameters
    assert f"{parameters:,} parameters".replace(",", " ") in path.read_text()


@pytest.mark.parametrize("name", ["llm_d20_561m", "samosa_d24", "samosa_d32"])
def test_large_presets_divide_over_eight_devices(name: str) -> None:
    check_mesh(load_config(ROOT / "configs" / f"{name}.yaml"), 8)


@pytest.mark.parametrize("name", GOLDEN)
def test_resolved_presets_match_golden(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert to_dict(config) == json.loads(golden_path(name).read_text())


def test_to_dict_holds_plain_values_only() -> None:
    config = Config(data=DataConfig(sources=(SourceConfig(path="a"),)))
    plain = to_dict(config)
    assert plain == json.loads(json.dumps(plain))
    with pytest.raises(TypeError):
        to_dict("text")


if __name__ == "__main__":
    for golden in GOLDEN:
        resolved = to_dict(load_config(ROOT / "configs" / f"{golden}.yaml"))
        golden_path(golden).write_text(json.dumps(resolved, indent=1) + "\n")
