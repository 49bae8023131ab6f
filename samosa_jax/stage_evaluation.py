"""What a stage measures and samples while it trains, and what preferences are measured against."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from samosa_jax.config import Config
from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.data.chat.epoch_pipeline import open_items
from samosa_jax.data.chat.pipeline import validation_chat_batches
from samosa_jax.data.chat.preference_pipeline import PreferencePipeline, every_pair
from samosa_jax.data.chat.template import render
from samosa_jax.data.pipeline import validation_batches
from samosa_jax.data.shards import ShardSet
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.evals.bits_per_byte import make_bits_per_byte
from samosa_jax.evals.held_out import make_chat_evaluation, make_preference_evaluation
from samosa_jax.model.params import Params
from samosa_jax.parallel.rows import put_whole
from samosa_jax.rl.policy_stage import Policy
from samosa_jax.rollout.sample import make_sampler
from samosa_jax.stages import Machinery, make_loss
from samosa_jax.training import loop
from samosa_jax.training.display import Display
from samosa_jax.training.preference import make_reference_log_probs


def reference_log_probs(
    config: Config, machinery: Machinery, pipeline: PreferencePipeline, params: Params
) -> list[np.ndarray]:
    """What `PreferencePipeline.reference` holds: float32 (num_pairs, 2) of every source."""
    log_probs = make_reference_log_probs(
        machinery.network, chunk_tokens=config.loss.chunk_tokens, mesh=machinery.mesh
    )
    rows = config.train.device_rows * machinery.row_devices
    found = []
    for source in pipeline.sources:
        table = np.zeros((source.shards.num_documents // 2, 2), np.float32)
        for batch, numbers in every_pair(source.shards, batch_rows=rows, context_len=pipeline.context_len):
            values = jax.device_get(log_probs(params, put_whole(batch, machinery.mesh)))
            table[numbers[numbers >= 0]] = values[numbers >= 0]
        found.append(table)
    return found


def make_evaluations(
    config: Config,
    *,
    tokenizer: Tokenizer,
    machinery: Machinery,
    frozen: Params | None,
    begun_with: Params | None,
    policy: Policy | None,
    display: Display,
) -> list[loop.Evaluation]:
    """What the stage measures on what every source holds out.

    `begun_with` are the parameters that a run of DPO began with, its reference; `policy` answers prompts,
    where these are the data.
    """
    if config.content == "prompts":
        if policy is None or policy.held_out is None:
            return []
        return [loop.Evaluation(every_steps=config.eval.every_steps, evaluate=policy.held_out)]
    held_out = {
        source.path: open_items(source.path, config.content, split="val") for source in config.data.sources
    }
    for path in [path for path, shards in held_out.items() if shards.num_tokens < 2]:
        display.say(f"{path} has nothing held out for validation: it is not evaluated on")
        del held_out[path]
    if not held_out:
        return []
    make = {"text": _text_evaluation, "conversations": _chat_evaluation, "preferences": _pair_evaluation}
    by_source = make[config.content](config, tokenizer, machinery, held_out, begun_with)

    def evaluate(params: Params) -> Mapping[str, Any]:
        return by_source(machinery.whole(params, frozen))

    return [loop.Evaluation(every_steps=config.eval.every_steps, evaluate=evaluate)]


OfParams = Callable[[Params], Mapping[str, Any]]


def _text_evaluation(
    config: Config,
    tokenizer: Tokenizer,
    machinery: Machinery,
    held_out: Mapping[str, ShardSet],
    begun_with: Params | None,
) -> OfParams:
    """Validation bits per byte, over all sources and of each."""
    measure = make_bits_per_byte(
        machinery.network, chunk_tokens=config.loss.chunk_tokens, mesh=machinery.mesh
    )

    def evaluate(params: Params) -> Mapping[str, Any]:
        by_source = {
            path: measure(
                params,
                validation_batches(
                    shards,
                    batch_rows=config.train.device_rows * machinery.row_devices,
                    context_len=config.model.context_len,
                    token_bytes=tokenizer.token_bytes,
                    max_tokens=config.eval.max_tokens // len(held_out),
                    document_masking=config.data.document_masking,
                    process_index=machinery.row_share.index,
                    process_count=machinery.row_share.count,
                ),
            )
            for path, shards in held_out.items()
        }
        first, *others = by_source.values()
        total = sum(others, start=first)
        return {
            "val/bpb": total.value,
            **dataclasses.asdict(total),
            "by_source": {path: result.value for path, result in by_source.items()},
        }

    return evaluate


def _chat_evaluation(
    config: Config,
    tokenizer: Tokenizer,
    machinery: Machinery,
    held_out: Mapping[str, ShardSet],
    begun_with: Params | None,
) -> OfParams:
    """Loss on held-out conversations, over all sources together and of each."""
    measure = make_chat_evaluation(
        machinery.network, chunk_tokens=config.loss.chunk_tokens, mesh=machinery.mesh
    )
    batches = {
        path: list(
            validation_chat_batches(
                shards,
                batch_rows=config.train.device_rows * machinery.row_devices,
                context_len=config.model.context_len,
                max_tokens=config.eval.max_tokens // len(held_out),
            )
        )
        for path, shards in held_out.items()
    }

    def evaluate(params: Params) -> Mapping[str, Any]:
        together = measure(params, [batch for of_source in batches.values() for batch in of_source])
        by_source = {path: measure(params, of_source)["val/loss"] for path, of_source in batches.items()}
        return {**together, "by_source": by_source}

    return evaluate


def _pair_evaluation(
    config: Config,
    tokenizer: Tokenizer,
    machinery: Machinery,
    held_out: Mapping[str, ShardSet],
    begun_with: Params | None,
) -> OfParams:
    """Rewards and accuracy on held-out pairs, against the model that the run began with."""
    assert begun_with is not None  # Config asks for init_from
    rows = config.train.device_rows * machinery.row_devices
    log_probs = make_reference_log_probs(
        machinery.network, chunk_tokens=config.loss.chunk_tokens, mesh=machinery.mesh
    )
    batches = []
    for shards in held_out.values():
        for batch, _ in every_pair(shards, batch_rows=rows, context_len=config.model.context_len):
            reference = jax.device_get(log_probs(begun_with, put_whole(batch, machinery.mesh)))
            batches.append(batch._replace(reference=reference))
    precomputed = dataclasses.replace(config.dpo, reference="precomputed")
    loss_fn = make_loss(dataclasses.replace(config, dpo=precomputed), machinery.network)
    measure = make_preference_evaluation(loss_fn, mesh=machinery.mesh)
    return lambda params: measure(params, None, batches)


def make_samplers(
    config: Config, *, tokenizer: Tokenizer, machinery: Machinery, frozen: Params | None
) -> list[loop.Sampler]:
    """Continuations of sample.prompts, or answers to them once the model has learnt to chat."""
    if not config.sample.prompts or not config.sample.max_tokens:
        return []
    prompts = [encode_prompt(config, tokenizer, prompt) for prompt in config.sample.prompts]
    write = make_sampler(
        machinery.network,
        prompts=[ids for ids, _ in prompts],
        turn_starts=[start for _, start in prompts],
        end_ids=[tokenizer.bos_id, tokenizer.special_ids["<|assistant_end|>"]],
        max_tokens=config.sample.max_tokens,
        temperature=config.sample.temperature,
        top_k=config.sample.top_k,
        seed=config.seed,
        mesh=machinery.mesh,
    )

    def sample(params: Params, step: int) -> list[loop.Sample]:
        continuations = write(machinery.whole(params, frozen), step)
        texts = [tokenizer.decode(ids, show_specials=config.content != "text") for ids in continuations]
        return [
            loop.Sample(prompt=prompt, text=text)
            for prompt, text in zip(config.sample.prompts, texts, strict=True)
        ]

    return [loop.Sampler(every_steps=config.sample.every_steps, sample=sample)]


def encode_prompt(config: Config, tokenizer: Tokenizer, prompt: str) -> tuple[list[int], int]:
    """(tokens, where their last turn begins): text to go on with, or what a user says."""
    if config.content == "text":
        return [tokenizer.bos_id, *tokenizer.encode(prompt)], 0
    asked = Conversation(messages=(Message(role="user", text=prompt),))
    rendered = render(asked, tokenizer, for_answer=True)
    return rendered.tokens.tolist(), int(np.flatnonzero(rendered.begins_turn)[-1])
