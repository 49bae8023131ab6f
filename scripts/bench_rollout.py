"""Times rollouts of GRPO against the engine alone, in turn, and prints the ratios.

    python scripts/bench_rollout.py runs/sums [--task sums] [--batch 64] [--rounds 8]

Both have as many places in the batch. "engine, decoding" writes answers that all begin and end together, its
clock starting when their prompts are read: what `samosa bench-decode` measures. "engine, the same prompts"
reads the rollout's prompts and writes as many answers to each, all of the rollout's mean length, waiting for
places as these do. Of a rollout everything counts: answers end when they like, the calculator is called, each
answer is read back into messages.
Tokens are those that answers grow by: drawn ones, and the results of tools, which take a step like any other.
CPU seconds, of all threads, say more than seconds on a machine that others use as well.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from samosa_jax.config import CurriculumConfig, MeshConfig, TaskConfig
from samosa_jax.errors import UserError
from samosa_jax.evals.asking import seed_of
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.reinforcement import BLOCK_TOKENS
from samosa_jax.rl.graded_prompts import open_source
from samosa_jax.rl.prompts import Prompted
from samosa_jax.rl.rollouts import Answered, Sampler
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.request import Prompt, Sampling
from samosa_jax.tasks.tool_schemas import CALCULATOR
from samosa_jax.toolbox import open_tools
from samosa_jax.trained import open_trained

PROMPT_TOKENS = 20
NEW_TOKENS = 40
WARM_UPS = 2
Result = TypeVar("Result")


class Speed(NamedTuple):
    """Tokens a second, and a second of CPU time."""

    tokens: float
    tokens_cpu: float


def main() -> None:
    flags = parse_flags()
    trained = open_trained(flags.run)
    params = trained.params
    mesh = make_mesh(MeshConfig(data=1), devices=jax.devices()[:1])

    def make_engine(block_tokens: int) -> Engine:
        return Engine(
            trained.network,
            params,
            mesh=mesh,
            max_batch=flags.batch,
            block_tokens=block_tokens,
            prefix_bytes=0,
        )

    sampler = Sampler(
        make_engine(BLOCK_TOKENS.get(mesh.devices.flat[0].platform, 8)),
        trained.tokenizer,
        open_tools((CALCULATOR,), search_in=""),
        samples=flags.samples,
        max_tokens=64,
        temperature=1.0,
        thinks=False,
    )
    task = TaskConfig(name=flags.task)
    source = open_source((task,), CurriculumConfig(), seed=0, data_dir=flags.data_dir)
    alone = make_engine(8)
    rounds: list[tuple[Speed, Speed, Speed]] = []
    for number in range(WARM_UPS + flags.rounds):
        answers, rollout = time_rollout(sampler, source.prompts(number, flags.prompts))
        same = time_same_prompts(alone, answers, samples=flags.samples)
        rounds.append((rollout, time_decoding(alone, flags.batch, seed=number), same))
    rollout, decoding, same = (median(speeds) for speeds in zip(*rounds[WARM_UPS:], strict=True))
    print(f"{trained.name}, {flags.prompts} x {flags.samples} answers, batch {flags.batch}")
    print(f"{'tokens per':32}{'second':>10}{'CPU second':>12}")
    for name, speed in (
        ("engine, decoding", decoding),
        ("engine, the same prompts", same),
        ("rollout", rollout),
    ):
        print(f"{name:32}{speed.tokens:10,.0f}{speed.tokens_cpu:12,.0f}")
    for name, speed in (("decoding", decoding), ("the same prompts", same)):
        ratio, ratio_cpu = rollout.tokens / speed.tokens, rollout.tokens_cpu / speed.tokens_cpu
        print(f"{'rollout / ' + name:32}{ratio:10.2f}{ratio_cpu:12.2f}")


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a trained model that calls the calculator")
    parser.add_argument("--task", default="sums")
    parser.add_argument("--data_dir", type=Path, help="of a task that reads files")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64, help="answers written at once")
    parser.add_argument("--rounds", type=int, default=8)
    return parser.parse_args()


def time_rollout(sampler: Sampler, prompted: Sequence[Prompted]) -> tuple[list[Answered], Speed]:
    def sample() -> list[list[Answered]]:
        return sampler.sample(prompted, seed_of_item=lambda item: seed_of(0, item))

    groups, seconds, cpu_seconds = timed(sample)
    answers = [answer for group in groups for answer in group]
    grown = sum(len(answer.tokens) for answer in answers)
    return answers, Speed(grown / seconds, grown / cpu_seconds)


def time_same_prompts(engine: Engine, answers: list[Answered], *, samples: int) -> Speed:
    length = round(statistics.mean(len(answer.tokens) for answer in answers))
    sampling = Sampling(temperature=1.0, max_tokens=length)
    said = engine.num_generated

    def write() -> None:
        prompts = [answer.prompt for answer in answers[::samples]]
        generations = [engine.submit(p, sampling, end_ids=(), num_samples=samples) for p in prompts]
        engine.generate(generation for group in generations for generation in group)

    _, seconds, cpu_seconds = timed(write)
    drawn = engine.num_generated - said
    return Speed(drawn / seconds, drawn / cpu_seconds)


def time_decoding(engine: Engine, batch: int, *, seed: int) -> Speed:
    """Every row writes NEW_TOKENS; those of the first block, which come with the prompts, do not count."""
    size = (batch, PROMPT_TOKENS)
    prompts = np.random.default_rng(seed).integers(0, engine.network.config.vocab_size, size)
    sampling = Sampling(temperature=1.0, max_tokens=NEW_TOKENS)
    answers = [
        answer
        for prompt in prompts
        for answer in engine.submit(Prompt.of_tokens(prompt.tolist()), sampling, end_ids=())
    ]
    while not all(answer.tokens for answer in answers):
        engine.step()
    said = engine.num_generated
    _, seconds, cpu_seconds = timed(lambda: engine.generate(answers))
    drawn = engine.num_generated - said
    return Speed(drawn / seconds, drawn / cpu_seconds)


def timed(function: Callable[[], Result]) -> tuple[Result, float, float]:
    """With seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def median(speeds: Sequence[Speed]) -> Speed:
    return Speed(*(statistics.median(column) for column in zip(*speeds, strict=True)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"bench_rollout: {error}")
