"""The batches of GRPO: every few steps the model answers prompts, and learns from how its answers compare.

A rollout lasts for minibatches x epochs steps. What is written depends on the parameters, the seed and the
number of the rollout alone, so that one that a kill has cut short is simply written again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from samosa_jax.config import RlConfig
from samosa_jax.data.batch import Batch
from samosa_jax.data.packing import seeded_permutation
from samosa_jax.evals.asking import seed_of
from samosa_jax.model.params import Params
from samosa_jax.rl.advantages import group_advantages, token_weights, treat_truncated
from samosa_jax.rl.judging import Judged, judge
from samosa_jax.rl.policy_batches import Layout, PolicyTokens, make_policy_batch
from samosa_jax.rl.policy_loss import PolicyBatch
from samosa_jax.rl.prompts import PromptSource
from samosa_jax.rl.rollout_store import Rollout, RolloutStore, StoredRollout, stored_as_json
from samosa_jax.rl.rollouts import Sampler
from samosa_jax.rollout.engine import Engine
from samosa_jax.training.state import TrainState
from samosa_jax.training.step_report import StepInput

LogProbs = Callable[[Params, Batch], np.ndarray]  # of every target: float32 (rows, T)
OnRollout = Callable[[int, Judged, np.ndarray], None]  # steps done before, and the advantages (P, R)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The model in training, as rollouts use it.

    Attributes:
        whole: the network's parameters, of what is trained.
        log_probs: of every target of a batch, see `policy_loss.make_token_log_probs`.
        reference: parameters to measure the distance from, if they are needed once for a rollout.
        held_out: how it does on prompts that it does not learn from, a record for evals.jsonl.
    """

    engine: Engine
    sampler: Sampler
    whole: Callable[[Params], Params]
    log_probs: LogProbs
    reference: Params | None
    held_out: Callable[[Params], Mapping[str, Any]] | None = None


class PolicyBatches:
    """Gives `training.loop` its batches, in order, from a step on."""

    def __init__(
        self,
        config: RlConfig,
        policy: Policy,
        source: PromptSource,
        store: RolloutStore,
        *,
        seed: int,
        rows: int,
        context_len: int,
        first_step: int,
        state: Mapping[str, Any] | None,
        on_rollout: OnRollout,
        say: Callable[[str], None],
    ) -> None:
        """state: what `data_state` gave at first_step; None: a new run. rows, context_len: as in `Layout`.

        Raises UserError, as `RolloutStore.read`.
        """
        self._config = config
        self._policy = policy
        self._source = source
        self._store = store
        self._seed = seed
        self._rows = rows
        self._context_len = context_len
        self._step = first_step
        self._on_rollout = on_rollout
        self._say = say
        self._rollout: Rollout | None = None
        self._stored: StoredRollout | None = None
        self._num_tokens = 0
        self._most_rows = rows
        if state is not None:
            source.restore(state["prompts"])
            self._num_tokens = state["tokens"]
            if state["rollout"] is not None:
                self._stored = StoredRollout(**state["rollout"])
                self._rollout = store.read(self._stored)

    def data_state(self, step: int) -> dict[str, Any]:
        """What a checkpoint at this step, the one that was given out last, keeps."""
        is_between = step % self._config.steps_per_rollout > 0
        return {
            "prompts": self._source.state(),
            "tokens": self._num_tokens,
            "rollout": stored_as_json(self._stored) if is_between else None,
        }

    def next_batch(self, state: TrainState) -> StepInput:
        """The next step's, with a rollout by the parameters of `state` where one is due."""
        number, place = divmod(self._step, self._config.steps_per_rollout)
        metrics = {"perf/rollout_ms": 0.0, "perf/reward_ms": 0.0}
        if place == 0:
            self._rollout, measured = self._roll_out(state.params, number)
            metrics |= measured
            if self._config.steps_per_rollout > 1:
                before = () if self._stored is None else (self._stored.step,)
                self._stored = self._store.write(self._step, self._rollout)
                # A checkpoint that is still being written may need the one before.
                self._store.remove_others(self._step, *before)
        assert self._rollout is not None  # data_state keeps it between minibatches
        batch, num_tokens = self._minibatch(self._rollout, number, place)
        self._step += 1
        self._num_tokens += num_tokens
        return StepInput(
            batch=batch,
            metrics=metrics,
            num_tokens=num_tokens,
            total_tokens=self._num_tokens,
            making_seconds=(metrics["perf/rollout_ms"] + metrics["perf/reward_ms"]) / 1e3,
        )

    def close(self) -> None:
        """Nothing is read ahead."""

    def _roll_out(self, trained: Params, number: int) -> tuple[Rollout, dict[str, float]]:
        config, policy = self._config, self._policy
        params = jax.block_until_ready(policy.whole(trained))
        begun = time.perf_counter()
        prompted = self._source.prompts(number, config.prompts)
        policy.engine.update(params)
        groups = policy.sampler.sample(
            prompted, seed_of_item=lambda item: seed_of(self._seed, "rollout", number, item)
        )
        policy.engine.release()
        written = time.perf_counter()
        judged = judge(prompted, groups, reward=config.reward)
        self._source.record(number, prompted, judged.pass_rates)
        rewards, counts = treat_truncated(
            judged.totals,
            judged.truncated,
            judged.num_tokens,
            policy=config.truncated,
            max_tokens=config.max_tokens,
            soft_penalty_tokens=config.soft_penalty_tokens,
        )
        compared = group_advantages(rewards, counts, kind=config.advantage)
        self._on_rollout(self._step, judged, compared.values)
        rewarded = time.perf_counter()
        tokens = PolicyTokens.of([answer for group in groups for answer in group])
        rollout = Rollout(
            tokens=tokens,
            advantages=compared.values,
            counts=counts & (judged.num_tokens > 0),
            old=self._old(tokens, params),
            reference=None if policy.reference is None else self._log_probs(tokens, policy.reference),
        )
        measured = {
            **judged.metrics(),
            **self._source.metrics(),
            "rl/zero_variance_frac": compared.zero_variance_share,
            "perf/rollout_ms": (written - begun) * 1e3,
            "perf/reward_ms": (rewarded - written) * 1e3,
            "perf/rollout_tokens_per_sec": float(judged.num_tokens.sum()) / (written - begun),
        }
        return rollout, measured

    def _old(self, tokens: PolicyTokens, params: Params) -> np.ndarray | None:
        match self._config.old_log_probs:
            case "sampler":
                return tokens.logprobs
            case "first_pass":
                return self._log_probs(tokens, params)
            case "current":
                return None

    def _log_probs(self, tokens: PolicyTokens, params: Params) -> np.ndarray:
        """Of every sampled token under these parameters, float32 (N,)."""
        found = np.zeros(tokens.tokens.shape, np.float32)
        layout = self._layout(tokens, np.flatnonzero(tokens.num_sampled))
        values = self._policy.log_probs(params, layout.batch(tokens, weights=tokens.sampled))
        layout.collect(values, into=found)
        return found

    def _minibatch(self, rollout: Rollout, number: int, place: int) -> tuple[PolicyBatch, int]:
        """(rows, tokens in them) of one step: the answers to its share of the prompts."""
        epoch, part = divmod(place, self._config.minibatches)
        num_prompts, num_samples = rollout.counts.shape
        order = seeded_permutation(num_prompts, key=(self._seed, number, epoch))
        size = num_prompts // self._config.minibatches
        groups = np.sort(order[part * size : (part + 1) * size])
        per_answer = rollout.tokens.num_sampled.reshape(num_prompts, num_samples)
        weights = np.zeros(rollout.counts.shape)
        weights[groups] = token_weights(
            per_answer[groups],
            rollout.counts[groups],
            normalization=self._config.normalization,
            max_tokens=self._config.max_tokens,
        )
        layout = self._layout(rollout.tokens, np.flatnonzero(weights))
        batch = make_policy_batch(
            rollout.tokens,
            layout,
            weights=weights.ravel(),
            advantages=rollout.advantages.ravel(),
            old=rollout.old,
            reference=rollout.reference,
        )
        return batch, layout.num_tokens

    def _layout(self, tokens: PolicyTokens, chosen: np.ndarray) -> Layout:
        layout = Layout.of(tokens.bounds, chosen, rows=self._rows, context_len=self._context_len)
        if len(layout.index) > self._most_rows:
            self._most_rows = len(layout.index)
            self._say(
                f"the answers of a step need {self._most_rows} rows of {self._context_len} tokens, "
                f"train.batch_tokens is {self._rows} of them: such a step takes "
                f"{self._most_rows // self._rows} times as many, by a program of its own"
            )
        return layout
