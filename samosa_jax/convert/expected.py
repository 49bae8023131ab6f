"""What an export has to answer: the questions, and the answers of the model that was trained."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from samosa_jax.config import MeshConfig
from samosa_jax.convert.battery import CHATS, TEXTS, random_texts
from samosa_jax.convert.closeness import row_tokens
from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.layout import Layout
from samosa_jax.convert.questions import Answers, Questions, RenderedChat, tensor_digest
from samosa_jax.data.chat.conversation import Conversation, parse_conversation, parse_prompt
from samosa_jax.data.chat.template import render, render_text
from samosa_jax.data.imported_tokenizer import ImportedTokenizer
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.request import Prompt, Sampling

NUM_NEW = 64  # tokens that are written greedily
NUM_RANDOM_TEXTS = 200
ROW_TOKENS = 128  # of which logits are compared; more where a window is longer
OPENING = "Once upon a time, there was"  # of a text without turns


def ask(model: ExportedModel, *, seed: int = 0, num_new: int = NUM_NEW) -> Questions:
    """The questions for a model of this vocabulary and context; without `num_new`, none of greedy text."""
    config, tokenizer = model.network.config, model.tokenizer
    length = row_tokens(config, least=ROW_TOKENS)
    draw = np.random.default_rng(seed)
    chats = np.concatenate([_rendered(chat, model)[1] for chat in CHATS])
    text = [tokenizer.bos_id, *tokenizer.encode(" ".join(TEXTS))]
    rows = np.stack(
        [np.resize(chats, length), np.resize(text, length), draw.integers(0, tokenizer.vocab_size, length)]
    )
    opening = [tokenizer.bos_id, *tokenizer.encode(OPENING)]
    greeting = _rendered(CHATS[0], model)[1]
    room = max(1, config.context_len // 2)
    openings = (opening, greeting) if num_new else ()
    prompts = [[int(token) for token in prompt[:room]] for prompt in openings]
    return Questions(
        rows=rows.astype(np.int32),
        prompts=prompts,
        num_new=[min(num_new, config.context_len - len(prompt)) for prompt in prompts],
        texts=[*TEXTS, *random_texts(NUM_RANDOM_TEXTS, seed=seed)],
        chats=list(CHATS),
    )


def expected_answers(model: ExportedModel, layout: Layout, questions: Questions) -> Answers:
    """What the trained model answers, in float32 on the device that its parameters are on."""
    return Answers(
        tensors=tensor_digests(model, layout),
        logits=logits(model, questions.rows),
        continuations=_continue(model, questions),
        ids=[model.tokenizer.encode(text) for text in questions.texts],
        chats=[RenderedChat(text, ids) for text, ids in (_rendered(chat, model) for chat in questions.chats)],
    )


def logits(model: ExportedModel, tokens: np.ndarray) -> np.ndarray:
    """Logits after the tokens (R, T) of whole texts, float32 (R, T, vocab_size)."""
    turn_position = turn_positions(tokens, model.tokenizer.special_ids)
    position = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    with jax.set_mesh(_mesh_of(model)):  # which says what kind of device attention is for
        return np.asarray(_forward(model.network, model.params, tokens, position, turn_position))


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    network: Network, params: Params, tokens: jax.Array, position: jax.Array, turn_position: jax.Array
) -> jax.Array:
    return network.logits(
        params,
        tokens,
        k_lo=jnp.zeros_like(position),
        k_hi=position + 1,
        position=position,
        turn_position=turn_position,
    )


def turn_positions(tokens: np.ndarray, special_ids: Mapping[str, int]) -> np.ndarray:
    """How far into its turn each token (R, T) stands, by the rule that exported networks know.

    A turn begins with <|bos|>, <|assistant_start|>, and every <|user_start|> but the first.
    """
    is_user = tokens == special_ids["<|user_start|>"]
    begins = np.isin(tokens, [special_ids["<|bos|>"], special_ids["<|assistant_start|>"]])
    begins |= is_user & (np.cumsum(is_user, axis=1) > 1)
    position = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return position - np.maximum.accumulate(np.where(begins, position, 0), axis=1)


def _mesh_of(model: ExportedModel) -> jax.sharding.Mesh:
    """The one device that the parameters are on."""
    (device,) = jax.tree.leaves(model.params)[0].devices()
    return make_mesh(MeshConfig(data=1), devices=[device])


def tensor_digests(model: ExportedModel, layout: Layout) -> dict[str, str]:
    """SHA-256 of every tensor's numbers in float32, also of those that repeat another."""
    digests = {name: tensor_digest(tensor) for name, tensor in layout.stream(model.params)}
    return digests | {name: digests[original] for name, original in layout.repeated.items()}


def _rendered(chat: Mapping[str, object], model: ExportedModel) -> tuple[str, list[int]]:
    for_answer = bool(chat["add_generation_prompt"])
    conversation: Conversation = parse_prompt(chat) if for_answer else parse_conversation(chat)
    ids = render(conversation, model.tokenizer, for_answer=for_answer).tokens
    text = render_text(conversation, for_answer=for_answer)
    if isinstance(model.tokenizer, ImportedTokenizer):
        for ours, theirs in model.tokenizer.special_names.items():
            text = text.replace(ours, theirs)
    return text, ids.tolist()


def _continue(model: ExportedModel, questions: Questions) -> list[list[int]]:
    """What the engine writes at temperature 0."""
    if not questions.prompts:
        return []
    engine = Engine(
        model.network,
        model.params,
        mesh=_mesh_of(model),
        max_batch=len(questions.prompts),
        prefix_bytes=0,
    )
    special_ids = model.tokenizer.special_ids
    generations = []
    for tokens, num_new in zip(questions.prompts, questions.num_new, strict=True):
        ids = np.asarray(tokens, np.int32)
        prompt = Prompt(ids, turn_positions(ids[None], special_ids)[0] == 0)
        sampling = Sampling(temperature=0.0, max_tokens=num_new)
        generations += engine.submit(prompt, sampling, end_ids={special_ids["<|assistant_end|>"]})
    engine.generate(generations)
    return [list(generation.tokens) for generation in generations]
