"""Times the training step of one model with one attention implementation, in the largest batch that fits.

    python -m scripts.gpu_check.train_step --out results.jsonl --model 124M --attention auto

The step is the project's own: network, loss, Muon with AdamW, all in one program. Tokens are random and
packed into documents of random length. MFU counts `samosa_jax.sizes.flops_per_token`, the causal half that
attention skips included, over the peak of the device's data sheet.
"""

import argparse
import dataclasses
import itertools
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from samosa_kernels.device import current_device, peak_flops

from samosa_jax.config import LossConfig, MeshConfig, ModelConfig, OptimizerConfig, ScheduleConfig
from samosa_jax.data.batch import Batch
from samosa_jax.data.packing import make_batch
from samosa_jax.model.gpt import Network
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.sizes import flops_per_token, parameter_counts
from samosa_jax.training.environment import device_memory_bytes
from samosa_jax.training.losses import make_pretrain_loss
from samosa_jax.training.optim import make_optimizer
from samosa_jax.training.state import abstract_state, create_state, state_shardings
from samosa_jax.training.step import make_train_step, put_batch
from scripts.gpu_check.records import Records

DTYPE = "bfloat16"
WARMUP_STEPS = 3


class Case(NamedTuple):
    """A model, and the batches to try it with."""

    model: ModelConfig
    rows: tuple[int, ...]  # of model.context_len tokens, the largest first
    document_tokens: int  # mean length of the documents that rows are packed with
    chunk_tokens: int  # tokens whose logits exist at a time
    steps: int  # timed ones


def _decoder(vocab_size: int, *, layers: int, heads: tuple[int, int, int], tied: bool) -> ModelConfig:
    """A plain decoder of 2048 tokens, ReLU squared, F = 4 D. heads: N, K and H."""
    num_heads, num_kv_heads, head_dim = heads
    return ModelConfig(
        vocab_size=vocab_size,
        context_len=2048,
        num_layers=layers,
        model_dim=num_heads * head_dim,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        mlp_dim=4 * num_heads * head_dim,
        tie_embeddings=tied,
    )


TINY = ModelConfig(
    vocab_size=256,
    context_len=128,
    num_layers=1,
    model_dim=64,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    mlp_dim=128,
)
CASES: dict[str, Case] = {
    "124M": Case(_decoder(50_304, layers=12, heads=(12, 12, 64), tied=True), (32, 16, 8, 4), 800, 8192, 20),
    "350M": Case(_decoder(50_304, layers=24, heads=(8, 8, 128), tied=True), (24, 16, 8, 4), 800, 8192, 20),
    "1.1B": Case(_decoder(32_768, layers=22, heads=(16, 4, 128), tied=False), (12, 8, 4, 2), 800, 8192, 20),
    "tiny": Case(TINY, (4, 2), 50, 256, 4),
}


class Step:
    """The training step of a case, described; nothing is allocated."""

    def __init__(self, case: Case, *, attention: str, mesh: jax.sharding.Mesh) -> None:
        model = dataclasses.replace(case.model, attention=attention)
        optimizer, schedule = OptimizerConfig(), ScheduleConfig(kind="constant", warmup_steps=2)
        self.mesh = mesh
        self.network = Network.build(model, compute_dtype=DTYPE)
        self.optimizer = make_optimizer(optimizer, schedule, num_steps=100, info=self.network.info)
        loss = make_pretrain_loss(self.network, z_loss=LossConfig().z_loss, chunk_tokens=case.chunk_tokens)
        self._step = make_train_step(
            loss,
            self.optimizer,
            learning_rate=lambda step: jnp.float32(optimizer.matrix.lr),
            shardings=state_shardings(self.network.info, self.optimizer, mesh=mesh),
        )

    def compile(self, batch: Batch) -> jax.stages.Compiled:
        """For batches of these shapes, in one microbatch; the devices of the mesh need not be here."""
        sharding = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        shapes = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct((1, *array.shape), array.dtype, sharding=sharding), batch
        )
        state = abstract_state(self.network, self.optimizer, mesh=self.mesh)
        return self._step.lower(state, shapes, None).compile()


def predicted_peak_bytes(program: jax.stages.Compiled) -> int | None:
    """Device memory of a program while it runs, its arguments with it; None if the compiler does not say."""
    plan: Any = program.memory_analysis()
    return None if plan is None else int(plan.peak_memory_in_bytes)


def documents_batch(case: Case, rows: int) -> Batch:
    """Random tokens, every one trained on; documents begin at random, one in `document_tokens` tokens."""
    random = np.random.default_rng(0)
    T = case.model.context_len
    tokens = random.integers(case.model.vocab_size, size=(rows, T + 1), dtype=np.int32)
    begins = random.random((rows, T)) < 1 / case.document_tokens
    return make_batch(tokens[:, :-1], tokens[:, 1:], begins, document_masking=True)


def choose_rows(ladder: tuple[int, ...], *, tried: int, peak: int, empty: int, limit: int) -> int | None:
    """The most rows of the ladder, below `tried`, that should fit into `limit` bytes; None if none does.

    `peak` bytes are predicted for `tried` rows; what exceeds the `empty` bytes of the state grows with them.
    """
    per_row = (peak - empty) / tried
    return next((rows for rows in ladder if rows < tried and empty + rows * per_row <= limit), None)


def compile_largest(
    step: Step, case: Case, *, limit: int | None
) -> tuple[jax.stages.Compiled, dict[str, Any]]:
    """The program for the most rows whose predicted peak fits, and what was tried; else MemoryError."""
    state = abstract_state(step.network, step.optimizer, mesh=step.mesh)
    empty = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    rows: int | None = case.rows[0]
    tried: list[dict[str, Any]] = []
    while rows is not None:
        begun = time.perf_counter()
        program = step.compile(documents_batch(case, rows))
        seconds, peak = time.perf_counter() - begun, predicted_peak_bytes(program)
        tried.append({"rows": rows, "predicted_peak_bytes": peak, "compile_seconds": seconds})
        if peak is None or limit is None or peak <= limit:
            return program, {"rows": rows, "tried": tried}
        rows = choose_rows(case.rows, tried=rows, peak=peak, empty=empty, limit=limit)
    raise MemoryError(f"no batch of the ladder {case.rows} fits into {limit:,} bytes; predicted: {tried}")


def time_steps(
    step: Step, program: jax.stages.Compiled, batch: Any, *, steps: int
) -> tuple[list[float], list[float]]:
    """Milliseconds and losses of `steps` steps after the warm-up, dispatched one ahead as in training."""
    state = create_state(step.network, step.optimizer, mesh=step.mesh, seed=0)
    marks: list[float] = []
    losses: list[float] = []
    pending = None
    for _ in range(WARMUP_STEPS + steps + 1):
        state, metrics = program(state, batch, None)
        if pending is not None:
            losses.append(float(pending.loss))
            marks.append(time.perf_counter())
        pending = metrics
    jax.block_until_ready(state)
    milliseconds = [1e3 * (after - before) for before, after in itertools.pairwise(marks)]
    return milliseconds[-steps:], losses


def measure(name: str, attention: str, *, chunk_tokens: int | None) -> dict[str, Any]:
    """Everything the report shows of one case. Raises what compiling or running raises."""
    case = CASES[name]
    if chunk_tokens is not None:
        case = case._replace(chunk_tokens=chunk_tokens)
    model = case.model
    device = current_device()
    step = Step(case, attention=attention, mesh=make_mesh(MeshConfig(), devices=jax.devices()[:1]))
    limit = device_memory_bytes()
    program, chosen = compile_largest(step, case, limit=limit)
    batch = put_batch(documents_batch(case, chosen["rows"]), num_microbatches=1, mesh=step.mesh)
    milliseconds, losses = time_steps(step, program, batch, steps=case.steps)
    tokens = chosen["rows"] * model.context_len
    tokens_per_second = tokens * len(milliseconds) / (sum(milliseconds) / 1e3)
    peak = peak_flops(device, DTYPE)
    stats = jax.devices()[0].memory_stats() or {}
    compiled = chosen["tried"][-1]
    return {
        "model": name,
        "parameters": parameter_counts(model).total,
        "attention": attention,
        "rows": chosen["rows"],
        "context_len": model.context_len,
        "chunk_tokens": case.chunk_tokens,
        "tokens_per_second": tokens_per_second,
        "mfu": None if peak is None else tokens_per_second * flops_per_token(model) / peak,
        "step_ms": statistics.median(milliseconds),
        "step_ms_all": milliseconds,
        "losses": losses,
        "compile_seconds": compiled["compile_seconds"],
        "predicted_peak_bytes": compiled["predicted_peak_bytes"],
        "actual_peak_bytes": stats.get("peak_bytes_in_use"),
        "memory_limit_bytes": limit,
        "tried": chosen["tried"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a file to add one JSON line to")
    parser.add_argument("--model", choices=CASES, required=True)
    parser.add_argument("--attention", required=True)
    parser.add_argument("--chunk-tokens", type=int, help="tokens whose logits exist at a time")
    arguments = parser.parse_args()
    Records(arguments.out).add(
        **measure(arguments.model, arguments.attention, chunk_tokens=arguments.chunk_tokens)
    )


if __name__ == "__main__":
    main()
