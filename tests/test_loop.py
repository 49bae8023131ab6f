"""The loop on a real network and optimizer: order of events, waiting, bad steps, spikes, memory, stopping."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samosa_jax.config import MeshConfig, ModelConfig, OptimizerConfig, ScheduleConfig
from samosa_jax.data.batch import Batch
from samosa_jax.data.packing import make_batch
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.training import loop
from samosa_jax.training.checkpoint import Checkpointer, CheckpointRecord, list_steps
from samosa_jax.training.display import Progress
from samosa_jax.training.losses import make_pretrain_loss
from samosa_jax.training.metrics import JsonLines, read_json_lines
from samosa_jax.training.optim import make_optimizer
from samosa_jax.training.state import TrainState, create_state, state_shardings
from samosa_jax.training.step import make_train_step, put_batch
from samosa_jax.training.step_report import Speed, StepInput, StepReporter

VOCAB_SIZE, ROWS, CONTEXT_LEN = 64, 4, 16
NETWORK = Network.build(
    ModelConfig(
        vocab_size=VOCAB_SIZE,
        context_len=CONTEXT_LEN,
        num_layers=1,
        model_dim=16,
        num_heads=2,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=32,
    )
)
OPTIMIZER = make_optimizer(OptimizerConfig(), ScheduleConfig(warmup_steps=1), num_steps=50, info=NETWORK.info)


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def train_step(mesh: jax.sharding.Mesh):
    return make_train_step(
        make_pretrain_loss(NETWORK, z_loss=0.0, chunk_tokens=64),
        OPTIMIZER,
        learning_rate=lambda step: jnp.float32(0.1),
        shardings=state_shardings(NETWORK.info, OPTIMIZER, mesh=mesh),
    )


@pytest.fixture
def state(mesh: jax.sharding.Mesh) -> TrainState:
    return create_state(NETWORK, OPTIMIZER, mesh=mesh, seed=0)


def make_tokens(step: int) -> Batch:
    tokens = np.random.default_rng(step).integers(VOCAB_SIZE, size=(ROWS, CONTEXT_LEN + 1), dtype=np.int32)
    begins = np.zeros((ROWS, CONTEXT_LEN), bool)
    return make_batch(tokens[:, :-1], tokens[:, 1:], begins, document_masking=True)


@dataclass
class Recorder:
    """A display and a writer that remember, in order, what they were told."""

    events: list[tuple[str, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def progress(self, progress: Progress) -> None: ...

    def validation(self, step: int, name: str, value: float) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None: ...

    def say(self, message: str) -> None:
        self.said.append(message)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if "train/loss" in values:
            self.events.append(("read", step))

    def flush(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Run:
    """One call of the loop on the tiny network."""

    folder: Path
    mesh: jax.sharding.Mesh
    train_step: Any
    recorder: Recorder = field(default_factory=Recorder)
    make_tokens: Callable[[int], Batch] = make_tokens
    put: Callable[[Batch], Any] | None = None
    save_every: int = 0
    evaluate_every: int = 0
    max_bad_steps: int = 3

    def __call__(self, state: TrainState, *, num_steps: int, first_step: int = 0) -> loop.LoopResult:
        events = self.recorder.events
        drawn = first_step

        def next_batch(state: TrainState) -> StepInput:
            nonlocal drawn
            drawn += 1
            return StepInput(batch=self.make_tokens(drawn))

        def step(state: TrainState, batch: Any, frozen: Any):
            events.append(("dispatch", drawn))
            return self.train_step(state, batch, frozen)

        def evaluate(params: Any) -> Mapping[str, Any]:
            events.append(("evaluate", drawn))
            return {"val/bpb": 1.25, "definition": 1}

        def sample(params: Any, at: int) -> list[loop.Sample]:
            events.append(("sample", at))
            return [loop.Sample(prompt="a", text="b")]

        def make_record(at: int) -> CheckpointRecord:
            events.append(("save", at))
            return CheckpointRecord(
                step=at, config={}, tokenizer="", data={}, mesh={}, versions={}, seconds_trained=0.0
            )

        say = self.recorder.say
        self.folder.mkdir(exist_ok=True)
        metrics = JsonLines(self.folder / "metrics.jsonl", say=say)
        writers = [self.recorder, metrics]
        put = self.put or (lambda batch: put_batch(batch, num_microbatches=2, mesh=self.mesh))
        return loop.run(
            state,
            stage=loop.Stage(
                next_batch=next_batch,
                put_batch=put,
                train_step=step,
                evaluations=[loop.Evaluation(every_steps=self.evaluate_every, evaluate=evaluate)],
                samplers=[loop.Sampler(every_steps=0, sample=sample)],
            ),
            first_step=first_step,
            num_steps=num_steps,
            saving=loop.Saving(
                checkpointer=Checkpointer(
                    self.folder / "checkpoints", keep_last=2, milestone_steps=0, newest_good=0, say=say
                ),
                every_steps=self.save_every,
                make_record=make_record,
            ),
            reporter=StepReporter(
                num_steps=num_steps,
                speed=Speed(tokens_per_step=ROWS * CONTEXT_LEN, flops_per_token=10.0, peak_flops=1e9),
                writers=writers,
                display=self.recorder,
                dump_folder=self.folder / "bad_steps",
            ),
            journal=loop.Journal(
                writers=writers,
                evals=JsonLines(self.folder / "evals.jsonl", say=say),
                samples=JsonLines(self.folder / "samples.jsonl", say=say),
            ),
            display=self.recorder,
            max_bad_steps=self.max_bad_steps,
            group=ProcessGroup(),
        )

    @property
    def saved_steps(self) -> list[int]:
        return list_steps(self.folder / "checkpoints")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return list(read_json_lines(self.folder / "metrics.jsonl"))


@pytest.fixture
def run(tmp_path: Path, mesh: jax.sharding.Mesh, train_step: Any) -> Run:
    return Run(folder=tmp_path / "run", mesh=mesh, train_step=train_step)


def test_the_next_step_is_dispatched_before_the_last_is_read(run: Run, state: TrainState):
    run(state, num_steps=4)
    order = [event for event in run.recorder.events if event[0] in ("dispatch", "read")]
    assert order == [
        ("dispatch", 1),
        ("dispatch", 2),
        ("read", 1),
        ("dispatch", 3),
        ("read", 2),
        ("dispatch", 4),
        ("read", 3),
        ("read", 4),
    ]


def test_saved_first_and_evaluated_second(run: Run, state: TrainState):
    run.save_every = run.evaluate_every = 2
    result = run(state, num_steps=4)
    assert [event for event in run.recorder.events if event[0] not in ("dispatch", "read")] == [
        ("save", 2),
        ("evaluate", 2),
        ("save", 4),
        ("evaluate", 4),
        ("sample", 4),
    ]
    # A checkpoint is never ahead of the metrics: those of its step are on disk before it is begun.
    for step in (2, 4):
        assert run.recorder.events.index(("read", step)) < run.recorder.events.index(("save", step))
    assert run.saved_steps == [2, 4]
    assert (result.step, result.stopped_by) == (4, None)
    assert int(jax.device_get(result.state.step)) == 4


def test_what_is_due_at_the_step_gone_on_from_is_done_again_but_not_saved_again(run: Run, state: TrainState):
    run.save_every = run.evaluate_every = 2
    run(state, num_steps=4, first_step=2)
    assert run.recorder.events[0] == ("evaluate", 2)
    assert ("save", 2) not in run.recorder.events


def test_a_finished_run_only_looks_once_more(run: Run, state: TrainState):
    result = run(state, num_steps=4, first_step=4)
    assert run.recorder.events == [("evaluate", 4), ("sample", 4)]
    assert result.step == 4


def test_no_transfer_goes_unnoticed(run: Run, state: TrainState):
    """A batch that is not put on the devices by hand would be carried there by every step."""
    run.put = lambda batch: jax.tree.map(lambda array: array.reshape(2, ROWS // 2, -1), batch)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        run(state, num_steps=2)


def poisoned(steps: set[int]) -> Callable[[int], Batch]:
    def tokens(step: int) -> Batch:
        batch = make_tokens(step)
        return batch._replace(weights=batch.weights * np.nan) if step in steps else batch

    return tokens


def test_a_bad_step_is_skipped_counted_and_kept(run: Run, state: TrainState):
    run.make_tokens = poisoned({2, 3, 5})
    run(state, num_steps=6)
    assert [line["train/skipped"] for line in run.metrics[:6]] == [0, 1, 1, 0, 1, 0]
    assert run.metrics[1]["train/loss"] is None
    assert all(np.isfinite(line["train/loss"]) for line in (run.metrics[3], run.metrics[5]))
    with np.load(run.folder / "bad_steps" / "00000003.npz") as kept:
        assert int(kept["step"]) == 3
        np.testing.assert_array_equal(kept["tokens"], make_tokens(3).tokens)
        assert np.isnan(kept["weights"]).all()
    assert [path.name for path in sorted((run.folder / "bad_steps").iterdir())] == [
        "00000002.npz",
        "00000003.npz",
        "00000005.npz",
    ]
    assert "step 3 is not finite (loss nan" in run.recorder.said[2]
    assert "2 in a row; its batch is kept in" in run.recorder.said[2]


def test_too_many_bad_steps_in_a_row_stop_the_run_with_a_checkpoint(run: Run, state: TrainState):
    run.make_tokens = poisoned({3, 4, 5, 6, 7})
    with pytest.raises(UserError, match="4 non-finite steps in a row"):
        run(state, num_steps=20)
    (saved,) = run.saved_steps
    assert saved == 6  # one more was under way
    assert len([line for line in run.metrics if "train/loss" in line]) == saved


def test_a_slow_step_is_named_with_its_cause(run: Run, state: TrainState):
    def slow(step: int) -> Batch:
        if step == 20:
            time.sleep(0.6)
        return make_tokens(step)

    run.make_tokens = slow
    run(state, num_steps=22)
    spikes = [message for message in run.recorder.said if "times the usual" in message]
    assert len(spikes) == 1
    assert "for data" in spikes[0]
    assert spikes[0].startswith(("step 19", "step 20"))


def test_memory_that_runs_out_is_explained(run: Run, state: TrainState):
    def greedy(state: TrainState, batch: Any, frozen: Any):
        return jax.jit(lambda: jnp.zeros((1 << 50,)) + 1)()

    run.train_step = greedy
    with pytest.raises(UserError) as caught:
        run(state, num_steps=2)
    message = str(caught.value)
    for part in (
        "out of memory",
        "parameters 0.00 GiB",
        "optimizer",
        "train.device_batch_size",
        "model.remat",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    run: Run, state: TrainState, number: signal.Signals
):
    def tokens(step: int) -> Batch:
        if step == 3:
            os.kill(os.getpid(), number)
        return make_tokens(step)

    before = signal.getsignal(number)
    run.make_tokens = tokens
    result = run(state, num_steps=50)
    assert (result.step, result.stopped_by) == (3, number)
    assert run.saved_steps == [3]
    assert [line["step"] for line in run.metrics] == [1, 2, 3]
    assert signal.getsignal(number) is before


def test_rates_leave_out_compilation_and_evaluation(run: Run, state: TrainState):
    run.evaluate_every = 3
    run(state, num_steps=6)
    lines = [line for line in run.metrics if "train/loss" in line]
    assert "perf/tokens_per_sec" not in lines[0]
    for line in lines[1:]:
        assert line["perf/tokens_per_sec"] == pytest.approx(ROWS * CONTEXT_LEN / line["perf/step_ms"] * 1e3)
        assert line["perf/mfu"] == pytest.approx(line["perf/tokens_per_sec"] * 10.0 / 1e9)
        assert line["perf/peak_bytes"] > 1e6
