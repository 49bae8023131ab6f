"""Likelihoods: what torch computes item by item, on any mesh, in few programs."""

import dataclasses
import gzip
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_runs
from likelihood_models import MODEL, TOKEN_BYTES, make_scorer, random_params

from samosa_jax.config import MeshConfig, ModelConfig
from samosa_jax.data import tokenizer_training
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.data.tokenizer_training import TokenizerOptions, draw_sample
from samosa_jax.evals.likelihood import Continuation, Scorer
from samosa_jax.evals.likelihood_tasks import TABLES, LikelihoodTask, open_questions, read_table
from samosa_jax.evals.packing import Text, pack, row_lengths
from samosa_jax.evals.prompts import encode_prompts, make_prompts
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params

EVERYTHING = dataclasses.replace(
    MODEL,
    position="hirope",
    window=24,
    window_pattern="SL",
    soft_cap=5.0,
    embedding_norm=True,
    value_embeddings=True,
    residual_scalars=True,
    x0_scalars=True,
    smear=True,
    backout=True,
)


def random_continuations(count: int, *, longest: int, seed: int = 0) -> list[Continuation]:
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        context = draw.integers(512, size=draw.integers(1, longest))
        continuation = draw.integers(512, size=draw.integers(1, 30))
        found.append(Continuation.of_text(context, continuation))
    return found


@jax.jit(static_argnums=0)
def forward(network: Network, params: Params, tokens: jax.Array, turn_position: jax.Array) -> jax.Array:
    """Log-probabilities (B, T, V) of plain causal rows."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    logits = network.logits(
        params,
        tokens,
        k_lo=jnp.zeros_like(position),
        k_hi=position + 1,
        position=position,
        turn_position=turn_position,
    )
    return jax.nn.log_softmax(logits)


def direct(network: Network, params: Params, one: Continuation) -> tuple[float, bool]:
    """The network's log-probabilities over one text by itself, logits everywhere."""
    tokens = np.concatenate([one.context, one.continuation])
    rows = np.zeros((2, 1, -(-len(tokens) // 128) * 128), np.int32)
    rows[:, 0, : len(tokens)] = tokens, one.turn_position
    logprobs = np.asarray(forward(network, params, *rows))[0, len(one.context) - 1 : len(tokens) - 1]
    own = logprobs[np.arange(len(one.continuation)), one.continuation]
    return float(own.sum()), bool((logprobs.argmax(-1) == one.continuation).all())


@pytest.mark.parametrize("config", [MODEL, EVERYTHING], ids=["plain", "everything"])
def test_scores_are_those_of_each_text_by_itself(config: ModelConfig) -> None:
    network = Network.build(config)
    params = random_params(network)
    asked = random_continuations(24, longest=90)
    turns = np.random.default_rng(0).integers(9, size=40)
    asked.append(Continuation.of_turns(np.arange(30), np.arange(10), turns))
    scores = make_scorer(network, params, tokens_at_once=1024).score(asked)
    for one, score in zip(asked, scores, strict=True):
        logprob, is_greedy = direct(network, params, one)
        assert score.logprob == pytest.approx(logprob, rel=2e-5, abs=2e-4)
        assert score.is_greedy == is_greedy
        assert score.num_tokens == len(one.continuation)
        assert score.num_bytes == TOKEN_BYTES[one.continuation].sum()
        assert score.num_cut == 0


def test_greedy_continuations_are_found() -> None:
    network = Network.build(MODEL)
    params = random_params(network)
    context, written = [1, 2, 3], []
    for _ in range(5):
        tokens = np.zeros((1, 128), np.int32)
        tokens[0, : 3 + len(written)] = context + written
        logprobs = forward(network, params, tokens, np.arange(128)[None])
        written.append(int(np.asarray(logprobs)[0, 2 + len(written)].argmax()))
    scorer = make_scorer(network, params)
    wrong = [*written[:4], (written[4] + 1) % 512]
    right, other = scorer.score(
        [Continuation.of_text(context, written), Continuation.of_text(context, wrong)]
    )
    assert (right.is_greedy, other.is_greedy) == (True, False)
    assert right.logprob > other.logprob


@pytest.mark.parametrize("mesh", [MeshConfig(data=8), MeshConfig(data=2, fsdp=2, tensor=2)], ids=str)
def test_every_mesh_gives_the_same(mesh: MeshConfig) -> None:
    network = Network.build(dataclasses.replace(MODEL, num_kv_heads=2))
    params = random_params(network)
    asked = random_continuations(30, longest=90, seed=3)
    alone = make_scorer(network, params, tokens_at_once=512).score(asked)
    spread = make_scorer(network, params, mesh=mesh, tokens_at_once=512).score(asked)
    for one, other in zip(alone, spread, strict=True):
        assert one.logprob == pytest.approx(other.logprob, rel=2e-5, abs=2e-4)
        assert dataclasses.replace(one, logprob=0) == dataclasses.replace(other, logprob=0)


def test_what_does_not_fit_loses_its_beginning_and_says_so() -> None:
    network = Network.build(MODEL)
    params = random_params(network)
    scorer = make_scorer(network, params, context_len=16)
    tokens = np.arange(60) % 500
    long, short, endless = scorer.score(
        [
            Continuation.of_text(tokens[:40], tokens[40:45]),
            Continuation.of_text(tokens[28:40], tokens[40:45]),
            Continuation.of_text(tokens[:20], tokens[20:60]),
        ]
    )
    # 16 tokens are read, the last one of the continuation is not.
    assert (long.num_cut, short.num_cut) == (28, 0)
    assert long.logprob == pytest.approx(short.logprob, abs=1e-4)
    assert (endless.num_tokens, endless.num_cut, endless.is_greedy) == (16, 19, False)
    kept = direct(network, params, Continuation.of_text(tokens[43:44], tokens[44:60]))
    assert endless.logprob == pytest.approx(kept[0], abs=1e-3)


def test_letters_after_the_same_question_are_read_once() -> None:
    network = Network.build(MODEL)
    params = random_params(network)
    asked = [
        Continuation.of_text(np.arange(number, number + 50), [letter])
        for number in range(10)
        for letter in (5, 6, 7, 8)
    ]
    scorer = make_scorer(network, params)
    scores = scorer.score(asked)
    assert scorer.spent.tokens == 10 * 50
    for one, score in zip(asked[:8], scores[:8], strict=True):
        assert score.logprob == pytest.approx(direct(network, params, one)[0], abs=1e-4)


def test_packing_loses_and_repeats_nothing() -> None:
    draw = np.random.default_rng(0)
    texts, number = [], 0
    for _ in range(400):
        size, asked = int(draw.integers(1, 300)), int(draw.integers(1, 20))
        at = sorted(draw.integers(size, size=asked).tolist())
        answers = list(range(number, number + asked))
        number += asked
        tokens = draw.integers(1, 500, size=size).astype(np.int32)
        turns = np.arange(size, dtype=np.int32) % 11
        text = Text(tokens=tokens, turn_position=turns, at=at, targets=list(range(asked)), answers=answers)
        texts.append(text)
    seen: dict[int, tuple[int, int, int]] = {}
    shapes = set()
    for batch in pack(texts, context_len=300, num_groups=2, tokens_per_group=1024):
        rows = batch.rows
        shapes.add((rows.tokens.shape, rows.at.shape))
        by_group = [array.reshape(2, -1) for array in (rows.tokens, rows.position, rows.turn_position)]
        lo, width = rows.k_lo.reshape(2, -1), rows.tokens.shape[1]
        for group, question in zip(*np.nonzero(batch.answers >= 0), strict=True):
            at = rows.at[group, question]
            values = [int(array[group, at]) for array in by_group]
            assert at % width - lo[group, at] == values[1]  # the text begins where its first key is
            answer = int(batch.answers[group, question])
            assert answer not in seen
            seen[answer] = (values[0], values[1], values[2])
    assert len(shapes) == len(row_lengths(300)) == 3
    assert len(seen) == number
    for text in texts:
        for at, answer in zip(text.at, text.answers, strict=True):
            assert seen[answer] == (text.tokens[at], at, text.turn_position[at])


@pytest.mark.parametrize(("context", "continuation"), [([], [1]), ([1], [])])
def test_nothing_to_score_is_refused(context: list[int], continuation: list[int]) -> None:
    with pytest.raises(ValueError, match="each needs at least one"):
        Continuation.of_text(context, continuation)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    training_runs.write_dataset(folder)
    return Tokenizer.load(folder / "tokenizer")


def encode(task: LikelihoodTask, tokenizer: Tokenizer, data: Path, *, count: int) -> list[list[Continuation]]:
    items = open_questions(task, data_dir=data).items[:count]
    prompts = [make_prompts(item, (), delimiter=task.delimiter) for item in items]
    return encode_prompts(prompts, tokenizer, boundary="context")


NUM_QUESTIONS = 300


def test_many_questions_compile_few_programs(
    test_data: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """How fast they are is printed, beside the obvious loop over choices."""
    network = Network.build(dataclasses.replace(MODEL, context_len=512))
    params = random_params(network)
    task = read_table(TABLES / "benchmarks.yaml")["arc_easy"]
    groups = encode(task, tokenizer, test_data, count=NUM_QUESTIONS)
    scorer = make_scorer(network, params)
    asked = [one for group in groups for one in group]
    scorer.score(asked)
    assert 1 <= scorer.spent.programs <= 8
    began = time.perf_counter()
    together = scorer.score(asked)
    seconds = time.perf_counter() - began
    few = asked[:24]
    for one in few:
        direct(network, params, one)
    began = time.perf_counter()
    alone = [direct(network, params, one)[0] for one in few]
    ratio = (time.perf_counter() - began) / len(few) / (seconds / len(asked))
    assert [score.logprob for score in together[:24]] == pytest.approx(alone, rel=1e-4, abs=1e-3)
    with capsys.disabled():
        print(
            f"\n{NUM_QUESTIONS} questions, {len(asked)} choices: {scorer.spent.programs} programs, "
            f"{NUM_QUESTIONS / seconds:.0f} questions/s, {scorer.spent.tokens / 2 / seconds:.0f} tokens/s, "
            f"{ratio:.1f} times as fast as choice by choice"
        )


TORCH_TASKS = ("arc_challenge", "piqa", "hellaswag", "lambada", "winogrande")
TORCH_ROWS = 16


@pytest.fixture(scope="module")
def llama() -> tuple[Any, Scorer]:
    """A small Llama of transformers with random numbers, and a scorer of the same as a network of ours."""
    torch = pytest.importorskip("torch", reason="torch not found: pip install torch to compare with it")
    transformers = pytest.importorskip("transformers", reason="transformers not found: pip install it")
    from samosa_jax.convert.names import llama_layout

    config = ModelConfig(
        vocab_size=1024,
        context_len=1024,
        num_layers=2,
        model_dim=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=64,
        mlp="swiglu",
        norm_scale=True,
        qk_norm=False,
        rope_base=10_000.0,
        norm_eps=1e-5,
    )
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=1024,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=1024,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=False,
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else noise * parameter.shape[-1] ** -0.5)
    network = Network.build(config)
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    params = llama_layout(config, network.info).to_params(tensors, source="the test")
    return model, make_scorer(network, params, token_bytes=np.ones(1024, int))


@pytest.fixture(scope="module")
def words(test_data: Path) -> Tokenizer:
    """A tokenizer that knows the words of real text."""
    sample = draw_sample(passages(test_data), max_bytes=1 << 18, seed=0)
    return tokenizer_training.train(sample, TokenizerOptions(vocab_size=1024), inputs=["passages"])


def passages(test_data: Path) -> list[str]:
    source = test_data / "llm_foundry_eval" / "language_understanding" / "lambada_openai.jsonl.gz"
    return [json.loads(line)["context"] for line in gzip.decompress(source.read_bytes()).split(b"\n")[:800]]


@pytest.mark.parametrize("name", TORCH_TASKS)
def test_scores_equal_those_of_transformers_item_for_item(
    name: str, llama: tuple[Any, Scorer], words: Tokenizer, test_data: Path, tmp_path: Path
) -> None:
    import torch

    model, scorer = llama
    task = read_table(TABLES / "benchmarks.yaml")[name]
    data = write_hellaswag(tmp_path, test_data) if name == "hellaswag" else test_data
    groups = encode(task, words, data, count=200)
    assert len(groups) == 200
    asked = [one for group in groups for one in group]
    scores = scorer.score(asked)
    torch.set_num_threads(1)  # threads of so small a model wait for each other
    worst = 0.0
    for start in range(0, len(asked), TORCH_ROWS):
        some = asked[start : start + TORCH_ROWS]
        texts = [np.concatenate([one.context, one.continuation]) for one in some]
        rows = torch.zeros((len(some), max(map(len, texts))), dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text)] = torch.from_numpy(text)
        with torch.no_grad():
            logits = model(rows).logits
        for one, row, of_row, score in zip(some, rows, logits, scores[start:], strict=False):
            begin, end = len(one.context), len(one.context) + len(one.continuation)
            targets, before = row[begin:end], of_row[begin - 1 : end - 1].double()
            theirs = torch.log_softmax(before, -1).gather(-1, targets[:, None]).sum().item()
            worst = max(worst, abs(theirs - score.logprob) / abs(theirs))
            assert score.is_greedy == bool((before.argmax(-1) == targets).all())
    assert worst < 2e-5
    assert scorer.spent.programs <= 8


def write_hellaswag(folder: Path, test_data: Path) -> Path:
    """Rows in HellaSwag's published form, made of real passages: 200 questions of four endings."""
    texts = passages(test_data)
    rows = []
    for number in range(200):
        four = texts[4 * number : 4 * number + 4]
        words = four[0].split()
        row = {
            "ind": number,
            "activity_label": "Removing ice from car",
            "ctx_a": " ".join(words[:10]),
            "ctx_b": " ".join(words[10:14]) if number % 3 else "",
            "endings": [" ".join(text.split()[14:30]) + " [step] done." for text in four],
            "label": str(number % 4),
        }
        rows.append(json.dumps(row))
    (folder / "hellaswag.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
