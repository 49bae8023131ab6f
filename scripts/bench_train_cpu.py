"""Times the training step on synthetic tokens: speed, share of the matmul peak, memory, time by part.

    python scripts/bench_train_cpu.py [--config configs/bench_cpu.yaml] [--steps 10] [--json result.json]
    python scripts/bench_train_cpu.py --peer "python other_benchmark.py"

The peak is that of a float32 product of 2048 x 2048 matrices, measured between the steps. On a machine that
others use as well, trust the numbers in CPU seconds (of all threads of this process) and the ratio to a
peer: a step of seconds and a product of milliseconds are not held up alike.
`--peer` runs another program in turn with our steps, `--rounds` times; it must print a line
`tokens_per_sec N`. The JSON goes to stdout's last line, or into a file.
"""

import argparse
import dataclasses
import functools
import json
import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from samosa_jax.command_line import parse_config
from samosa_jax.config import Config, MeshConfig
from samosa_jax.data.batch import Batch
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.sizes import flops_per_token, parameter_counts
from samosa_jax.training.losses import make_pretrain_loss
from samosa_jax.training.optim import make_optimizer
from samosa_jax.training.state import TrainState, create_state, state_shardings
from samosa_jax.training.step import accumulate, make_train_step, put_batch

PEAK_SIZE = 2048
GB = 1e9


class Run(NamedTuple):
    """What running something once took."""

    seconds: float
    cpu_seconds: float  # of all threads


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Repeated runs of one thing."""

    runs: list[Run]

    @property
    def best(self) -> float:
        return min(run.seconds for run in self.runs)

    @property
    def median(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def median_cpu(self) -> float:
        return statistics.median(run.cpu_seconds for run in self.runs)


def synthetic_batch(config: Config) -> Batch:
    """Uniformly random tokens, each row one document, every prediction supervised."""
    shape = (config.batch_rows, config.model.context_len)
    tokens = np.random.default_rng(0).integers(
        0, config.model.vocab_size, (shape[0], shape[1] + 1), dtype=np.int32
    )
    position = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        weights=np.ones(shape, np.float32),
        k_lo=np.zeros(shape, np.int32),
        k_hi=position + 1,
        position=position,
        turn_position=position,
    )


def timed(function: Callable[[], Any]) -> tuple[Run, Any]:
    """How long `function` took until all its arrays were there, and what it returned."""
    started, cpu_started = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function())
    return Run(time.perf_counter() - started, time.process_time() - cpu_started), result


class Bench:
    """The step of a configuration and its parts, compiled and warm."""

    def __init__(self, config: Config) -> None:
        self.config = config
        mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
        dtype = "float32" if config.train.compute_dtype == "auto" else config.train.compute_dtype
        network = Network.build(config.model, compute_dtype=dtype)
        self.optimizer = make_optimizer(
            config.optimizer, config.schedule, num_steps=config.train.num_steps, info=network.info
        )
        loss_fn = make_pretrain_loss(
            network, z_loss=config.loss.z_loss, chunk_tokens=config.loss.chunk_tokens
        )
        self.state: TrainState = create_state(network, self.optimizer, mesh=mesh, seed=0)
        microbatches = max(1, config.batch_rows // config.train.device_rows)
        self.batch = put_batch(synthetic_batch(config), num_microbatches=microbatches, mesh=mesh)
        step = make_train_step(
            loss_fn,
            self.optimizer,
            learning_rate=lambda step: jnp.float32(config.optimizer.matrix.lr),
            shardings=state_shardings(network.info, self.optimizer, mesh=mesh),
        )
        started = time.perf_counter()
        self.program = step.lower(self.state, self.batch, None).compile()
        self.compile_seconds = time.perf_counter() - started
        self.gradient = jax.jit(lambda params, batch: accumulate(loss_fn, params, batch, None))
        self.forward = jax.jit(
            lambda params, batch: loss_fn(params, jax.tree.map(lambda array: array[0], batch), None)
        )
        self.update = jax.jit(self._update, donate_argnums=(0, 1))
        matrix = jax.random.normal(jax.random.key(0), (PEAK_SIZE, PEAK_SIZE))
        product = jax.jit(jnp.matmul)
        self.multiply = lambda: product(matrix, matrix)
        jax.block_until_ready(self.multiply())

    def _update(self, params: Any, opt_state: Any, grads: Any) -> Any:
        updates, opt_state = optax.with_extra_args_support(self.optimizer).update(
            grads, opt_state, params, step=jnp.int32(0), grad_norm=optax.tree.norm(grads)
        )
        return optax.apply_updates(params, updates), opt_state

    def step(self) -> Run:
        """One step of training."""
        run, (self.state, metrics) = timed(lambda: self.program(self.state, self.batch, None))
        if not np.isfinite(float(metrics.loss)):
            raise UserError("the benchmark's loss is not finite: its timings would mean nothing")
        return run

    def parts(self, repeats: int) -> dict[str, Timings]:
        """The step taken apart. Uses the state up."""
        params, opt_state = self.state.params, self.state.opt_state
        _, grads = jax.block_until_ready(self.gradient(params, self.batch))
        jax.block_until_ready(self.forward(params, self.batch))
        forward = [timed(lambda: self.forward(params, self.batch))[0] for _ in range(repeats)]
        both = [timed(lambda: self.gradient(params, self.batch)[1])[0] for _ in range(repeats)]
        update = []
        for _ in range(repeats + 1):  # the first compiles
            run, (params, opt_state) = timed(functools.partial(self.update, params, opt_state, grads))
            update.append(run)
        return {
            "forward of one microbatch": Timings(runs=forward),
            "forward and backward": Timings(runs=both),
            "optimizer": Timings(runs=update[1:]),
        }

    def memory_bytes(self) -> int:
        """What the compiled step needs at most, by the compiler's own plan."""
        plan = self.program.memory_analysis()
        if plan is None:
            raise UserError("this backend does not say how much memory a program needs")
        return (
            plan.argument_size_in_bytes
            + plan.output_size_in_bytes
            + plan.temp_size_in_bytes
            - plan.alias_size_in_bytes
        )


def newton_schulz_flops(config: Config) -> int:
    """FLOPs of Muon per step as the plain iteration has them: 2 m^2 (2 n + m) per matrix and iteration."""
    model, total = config.model, 0
    if config.optimizer.matrix.kind != "muon":
        return 0
    query = model.num_heads * model.head_dim
    key = model.num_kv_heads * model.head_dim
    inner = [model.mlp_dim] * (3 if model.mlp == "swiglu" else 2)
    for size in (query, key, key, query, *inner):
        m, n = sorted((model.model_dim, size))
        total += 2 * m * m * (2 * n + m)
    return total * model.num_layers * config.optimizer.newton_schulz_steps


def run_peer(command: str) -> float:
    """Tokens per second that another benchmark prints.

    Raises:
        UserError: it fails, or prints no line `tokens_per_sec N`.
    """
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    found = re.findall(r"^tokens_per_sec[ :=]+([0-9.]+)", done.stdout, flags=re.MULTILINE)
    if done.returncode or not found:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
        raise UserError(
            f"--peer {command!r} exited with {done.returncode}, expected 0 and a line `tokens_per_sec N`; "
            f"it said: {said[0]}"
        )
    return float(found[-1])


def measure(config: Config, *, steps: int, rounds: int, peer: str | None) -> dict[str, Any]:
    """Everything the table and the JSON show."""
    bench = Bench(config)
    bench.step()
    step_runs: list[Run] = []
    peak_runs: list[Run] = []
    ratios: list[float] = []
    peer_speeds: list[float] = []
    tokens = config.train.batch_tokens
    for _ in range(rounds if peer else 1):
        ours = []
        for _ in range(steps):
            ours.append(bench.step())
            jax.block_until_ready(bench.multiply())  # not counted: the step has left the caches to others
            peak_runs += [timed(bench.multiply)[0] for _ in range(3)]
        step_runs += ours
        if peer:
            peer_speeds.append(run_peer(peer))
            ratios.append(tokens / Timings(runs=ours).median / peer_speeds[-1])
    # Read before the parts, which hold gradients beside the state and would be counted in.
    rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    memory_bytes = bench.memory_bytes()
    step, peak = Timings(runs=step_runs), Timings(runs=peak_runs)
    parts = {"step": step, **bench.parts(max(2, steps // 3))}
    model_flops = flops_per_token(config.model) * tokens
    muon_flops = newton_schulz_flops(config)
    all_flops = model_flops + muon_flops
    product_flops = 2 * PEAK_SIZE**3
    result: dict[str, Any] = {
        "parameters": sum(dataclasses.asdict(parameter_counts(config.model)).values()),
        "tokens_per_step": tokens,
        "steps": len(step_runs),
        "tokens_per_sec_median": tokens / step.median,
        "tokens_per_sec_best": tokens / step.best,
        "compile_seconds": bench.compile_seconds,
        "model_gflops_per_sec": model_flops / step.median / 1e9,
        "gflops_per_sec_with_newton_schulz": all_flops / step.median / 1e9,
        "newton_schulz_share_of_flops": muon_flops / all_flops,
        "matmul_peak_gflops_per_sec": product_flops / peak.median / 1e9,
        "matmul_peak_gflops_per_sec_best": product_flops / peak.best / 1e9,
        "share_of_peak": all_flops / step.median / (product_flops / peak.median),
        "share_of_peak_by_cpu_seconds": all_flops / step.median_cpu / (product_flops / peak.median_cpu),
        "program_bytes": memory_bytes,
        "peak_rss_bytes": rss_bytes,
        "seconds": {name: part.median for name, part in parts.items()},
        "cpu_seconds": {name: part.median_cpu for name, part in parts.items()},
        "load_average": os.getloadavg()[0],
        "jax": jax.__version__,
        "cpus": os.cpu_count(),
    }
    if peer:
        result |= {"peer_tokens_per_sec": peer_speeds, "ratio_to_peer": statistics.median(ratios)}
    return result


def table(result: dict[str, Any]) -> str:
    rows = [
        ("tokens/s, median of steps", f"{result['tokens_per_sec_median']:,.0f}"),
        ("tokens/s, best step", f"{result['tokens_per_sec_best']:,.0f}"),
        ("GFLOP/s, model", f"{result['model_gflops_per_sec']:.0f}"),
        ("GFLOP/s with Newton-Schulz", f"{result['gflops_per_sec_with_newton_schulz']:.0f}"),
        ("matmul peak, GFLOP/s (median)", f"{result['matmul_peak_gflops_per_sec']:.0f}"),
        ("share of peak", f"{result['share_of_peak']:.1%}"),
        ("share of peak, by CPU seconds", f"{result['share_of_peak_by_cpu_seconds']:.1%}"),
        ("memory of the program, GB", f"{result['program_bytes'] / GB:.2f}"),
        ("peak RSS of the process, GB", f"{result['peak_rss_bytes'] / GB:.2f}"),
        ("compilation, s", f"{result['compile_seconds']:.1f}"),
        *((f"{name}, s", f"{seconds:.2f}") for name, seconds in result["seconds"].items()),
        *((f"{name}, CPU s", f"{seconds:.2f}") for name, seconds in result["cpu_seconds"].items()),
        ("load average", f"{result['load_average']:.1f}"),
    ]
    if "ratio_to_peer" in result:
        rows.append(("ratio to peer, median", f"{result['ratio_to_peer']:.2f}"))
    return "\n".join(f"{name:<36}{value:>12}" for name, value in rows)


def main() -> int:
    default = Path(__file__).parents[1] / "configs" / "bench_cpu.yaml"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default=str(default), help="a configuration file; its data is not read")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (in each round)")
    parser.add_argument("--peer", help="another benchmark to run in turn; prints `tokens_per_sec N`")
    parser.add_argument("--rounds", type=int, default=3, help="turns with the peer")
    parser.add_argument("--json", type=Path, help="write the numbers here instead of on the last line")
    arguments = parser.parse_args()
    try:
        config = parse_config(["--config", arguments.config]).config
        jax.config.update("jax_enable_compilation_cache", False)  # compile times are of a first start
        result = measure(config, steps=arguments.steps, rounds=arguments.rounds, peer=arguments.peer)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(result))
    if arguments.json is None:
        print(json.dumps(result))
    else:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
