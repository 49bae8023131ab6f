"""GRPO's parts, built from a configuration: prompts, the model that answers them, a first look at both."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from samosa_jax.config import Config
from samosa_jax.data.batch import Batch
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.asking import seed_of
from samosa_jax.evals.generation_tasks import check_sandbox
from samosa_jax.model.params import Params
from samosa_jax.rl.completion_table import COLUMNS, shown_answers, table_rows
from samosa_jax.rl.graded_prompts import open_source
from samosa_jax.rl.held_out import make_held_out_evaluation, open_held_out
from samosa_jax.rl.judging import Judged, judge
from samosa_jax.rl.policy_loss import make_token_log_probs
from samosa_jax.rl.policy_stage import LogProbs, Policy, PolicyBatches
from samosa_jax.rl.preflight import OVERRULE, Preflight
from samosa_jax.rl.prompts import PromptSource
from samosa_jax.rl.rollout_store import RolloutStore
from samosa_jax.rl.rollouts import Sampler
from samosa_jax.rollout.buckets import platform_of
from samosa_jax.rollout.engine import Engine
from samosa_jax.stages import Machinery
from samosa_jax.toolbox import open_tools
from samosa_jax.training.checkpoint import list_steps
from samosa_jax.training.display import Display
from samosa_jax.training.metrics import Records
from samosa_jax.training.run_folder import RunFolder
from samosa_jax.training.step import put_batch

# An answer that ends or calls a tool rests until its block is over, and a CPU soon begins another one.
BLOCK_TOKENS = {"cpu": 4}


def open_prompts(config: Config) -> PromptSource:
    """Raises UserError for tasks that there are not, and for what cannot train on them here."""
    if jax.process_count() > 1:
        raise UserError(
            f"stage=grpo runs in one process, and there are {jax.process_count()}; use the devices of one "
            "machine"
        )
    if config.rl.reward.code:
        check_sandbox(insist=False)
    data_dir = Path(config.rl.data_dir) if config.rl.data_dir else None
    return open_source(config.rl.tasks, config.rl.curriculum, seed=config.seed, data_dir=data_dir)


def make_policy(
    config: Config,
    machinery: Machinery,
    tokenizer: Tokenizer,
    *,
    frozen: Params | None,
    begun_with: Params | None,
) -> Policy:
    """The model in training as rollouts use it, on the mesh of training; it has no parameters of its own.

    Args:
        frozen: what adapters are merged into.
        begun_with: the parameters that the run began with, where rl.kl_coef needs them.

    Raises UserError where tools or held-out prompts are missing.
    """
    rl = config.rl
    held_out = open_held_out(
        rl.tasks,
        prompts=rl.held_out.prompts,
        data_dir=Path(rl.data_dir) if rl.data_dir else None,
        flag="rl.data_dir",
    )
    engine = Engine(
        machinery.network,
        None,
        mesh=machinery.mesh,
        max_batch=min(rl.max_batch, rl.prompts * rl.samples),
        block_tokens=BLOCK_TOKENS.get(platform_of(machinery.mesh), 8),
        prefix_bytes=0,  # no prompt comes twice with the same parameters
    )
    registry = open_tools(rl.tools, search_in=rl.search_in, flag="rl.tools")

    def make_sampler(*, samples: int, temperature: float) -> Sampler:
        return Sampler(
            engine,
            tokenizer,
            registry,
            samples=samples,
            max_tokens=rl.max_tokens,
            temperature=temperature,
            thinks=rl.thinks,
        )

    def whole(params: Params) -> Params:
        return machinery.whole(params, frozen)

    measures_once = rl.kl_coef > 0 and rl.reference == "precomputed"
    return Policy(
        engine=engine,
        sampler=make_sampler(samples=rl.samples, temperature=rl.temperature),
        whole=whole,
        log_probs=make_log_probs(machinery, chunk_tokens=config.loss.chunk_tokens),
        reference=begun_with if measures_once else None,
        held_out=make_held_out_evaluation(
            held_out,
            make_sampler(samples=rl.held_out.samples, temperature=rl.held_out.temperature),
            engine,
            reward=rl.reward,
            ks=rl.held_out.ks,
            whole=whole,
        )
        if held_out
        else None,
    )


def make_log_probs(machinery: Machinery, *, chunk_tokens: int) -> LogProbs:
    """Of every target of a batch with as many rows as there are, a microbatch at a time."""
    of_rows = make_token_log_probs(machinery.network, chunk_tokens=chunk_tokens, mesh=machinery.mesh)

    def log_probs(params: Params, batch: Batch) -> np.ndarray:
        found = []
        for first in range(0, len(batch.tokens), machinery.rows_at_once):
            rows = Batch(*(array[first : first + machinery.rows_at_once] for array in batch))
            stacked = put_batch(rows, num_microbatches=1, mesh=machinery.mesh)
            found.append(jax.device_get(of_rows(params, jax.tree.map(lambda array: array[0], stacked))))
        return np.concatenate(found)

    return log_probs


def look_first(config: Config, policy: Policy, source: PromptSource, params: Params) -> Preflight:
    """What the model, as it is, answers to train prompts. Raises UserError where that holds no signal."""
    rl = config.rl
    prompted = source.prompts(0, rl.preflight_prompts)
    policy.engine.update(params)
    groups = policy.sampler.sample(
        prompted, seed_of_item=lambda item: seed_of(config.seed, "preflight", item)
    )
    policy.engine.release()
    preflight = Preflight.of(judge(prompted, groups, reward=rl.reward))
    problem = preflight.problem(max_tokens=rl.max_tokens)
    if problem is not None and not rl.ignore_preflight:
        raise UserError(
            f"{preflight.summary()}; there is nothing to learn from: {problem} "
            f"({OVERRULE} begins all the same)"
        )
    return preflight


def preflight_record(preflight: Preflight, config: Config) -> Mapping[str, Any]:
    """What is kept in the run's folder."""
    return {
        **dataclasses.asdict(preflight),
        "problem": preflight.problem(max_tokens=config.rl.max_tokens),
        "begun_with": config.init_from,
    }


def open_rollouts(
    config: Config,
    machinery: Machinery,
    policy: Policy,
    source: PromptSource,
    run_folder: RunFolder,
    *,
    first_step: int,
    state: Mapping[str, Any] | None,
    samples: Records,
    display: Display,
) -> PolicyBatches:
    """Raises UserError where a checkpoint goes on with a rollout that is not there."""
    lasts = config.rl.steps_per_rollout

    def steps_needed() -> list[int]:
        return [step - step % lasts for step in list_steps(run_folder.checkpoints) if step % lasts]

    return PolicyBatches(
        config.rl,
        policy,
        source,
        RolloutStore(run_folder.rollouts, steps_needed=steps_needed),
        seed=config.seed,
        rows=config.batch_rows,
        context_len=config.model.context_len,
        first_step=first_step,
        state=state,
        on_rollout=make_table(config.rl.show_every_steps, lasts=lasts, samples=samples, display=display),
        say=display.say,
    )


def make_table(
    every_steps: int, *, lasts: int, samples: Records, display: Display
) -> Callable[[int, Judged, np.ndarray], None]:
    """Writes some answers of a rollout down and shows them, of the first one in every so many steps.

    lasts: steps of a rollout. What is written at a step was sampled when so many were done, as in `loop`.
    """

    def show(step: int, judged: Judged, advantages: np.ndarray) -> None:
        if not every_steps or step % every_steps >= lasts:
            return
        records = shown_answers(judged, advantages)
        for record in records:
            samples.append({"step": step, **record})
        title = f"step {step:05d}  {records[0]['prompt']}  (expected: {records[0]['expected']})"
        display.table(title, COLUMNS, table_rows(records))

    return show
