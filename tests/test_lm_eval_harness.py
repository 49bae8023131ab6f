"""A trained model under the lm-evaluation-harness itself: its tasks, its windows, our numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "lm_eval", reason="lm_eval not found: pip install 'samosa-jax[lm-eval]' to test its adapter"
)

import exported_models
import jax
import jax.numpy as jnp
import numpy as np
from lm_eval.api.instance import Instance, OutputType
from lm_eval_tasks import CONTEXT_LEN, QUESTIONS, TEXTS, evaluate, write_run, write_tasks
from scripted_engine import ScriptedEngine

from samosa_jax.convert.exporting import write_folder
from samosa_jax.data.chat.conversation import parse_prompt
from samosa_jax.data.chat.template import render
from samosa_jax.errors import UserError
from samosa_jax.lm_eval_model import SamosaLM, prompt_of, read_settings, split_texts
from samosa_jax.rollout.request import Prompt
from samosa_jax.trained import Trained, open_trained

Direct = Callable[[Sequence[int]], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def trained(run_folder: Path) -> Trained:
    return open_trained(run_folder, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def model(trained: Trained) -> SamosaLM:
    return SamosaLM(trained)


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model for transformers."""
    pytest.importorskip("torch", reason="torch not found: pip install torch to compare with transformers")
    pytest.importorskip("accelerate", reason="accelerate not found: pip install accelerate for model=hf")

    folder = tmp_path_factory.mktemp("export")
    exported = exported_models.as_written(
        trained.network, trained.params, trained.tokenizer, name="small", dtype="float32"
    )
    write_folder(exported, folder, format="hf", lineage=(), shard_bytes=10**9)
    return folder


def responses(found: Mapping[str, Any], task: str) -> list[list[Any]]:
    """By item, what the model said to each request."""
    return [[one[0] for one in sample["resps"]] for sample in found["samples"][task]]


def open_with_transformers(folder: Path, **settings: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    open_model: Any = HFLM  # likewise
    found = open_model(
        pretrained=str(folder), trust_remote_code=True, device="cpu", dtype="float32", **settings
    )
    found.model.generation_config.max_new_tokens = None  # it would win over what a task says
    return found


@pytest.fixture(scope="module")
def direct(trained: Trained) -> Direct:
    """Of tokens[1:], each after all before it: log-probabilities, and whether each is the likeliest."""
    at, params = jnp.arange(CONTEXT_LEN)[None], trained.params

    @jax.jit
    def all_logprobs(tokens: jax.Array) -> jax.Array:
        logits = trained.network.logits(
            params,
            tokens[None],
            k_lo=jnp.zeros_like(at),
            k_hi=at + 1,
            position=at,
            turn_position=at,
        )
        return jax.nn.log_softmax(logits, axis=-1)[0]

    def logprobs(tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        targets = np.asarray(tokens[1:])
        padded = np.zeros(CONTEXT_LEN, np.int32)
        padded[: len(targets)] = tokens[:-1]
        values = np.asarray(all_logprobs(jnp.asarray(padded)))[: len(targets)]
        return values[np.arange(len(targets)), targets], values.argmax(-1) == targets

    return logprobs


def test_choices_by_direct_computation(trained: Trained, model: SamosaLM, tasks: Path, direct: Direct):
    """Every log-probability, also behind a space at a context's end, an empty context, and one too long."""
    found = evaluate(model, tasks, "my_choices")
    encode, bos = trained.tokenizer.encode, trained.tokenizer.bos_id
    for row, said in zip(QUESTIONS, responses(found, "my_choices"), strict=True):
        for choice, (logprob, is_greedy) in zip(row["choices"], said, strict=True):
            whole = [bos, *encode(row["question"] + choice)]
            num_asked = len(whole) - 1 - len(encode(row["question"].rstrip()))
            values, is_top = direct(whole[-CONTEXT_LEN - 1 :])
            assert logprob == pytest.approx(values[-num_asked:].sum(), abs=2e-4)
            assert is_greedy == is_top[-num_asked:].all()
    assert model.truncated["my_choices"] == 3


def test_rolling_by_direct_computation(trained: Trained, model: SamosaLM, tasks: Path, direct: Direct):
    """Every token counts once; a text longer than the model reads is scored window by window."""
    found = evaluate(model, tasks, "my_texts")
    nats = []
    for row, said in zip(TEXTS, responses(found, "my_texts"), strict=True):
        tokens = trained.tokenizer.encode(row["text"])
        total, done = 0.0, 0
        while done < len(tokens):
            end = min(done + CONTEXT_LEN, len(tokens))
            first = max(0, end - CONTEXT_LEN)
            window = [trained.tokenizer.bos_id, *tokens][first : end + 1]
            total += direct(window)[0][done - end :].sum()
            done = end
        assert said == [pytest.approx(total, abs=1e-3)]
        nats.append(-total)
    assert max(len(trained.tokenizer.encode(row["text"])) for row in TEXTS) > CONTEXT_LEN
    num_bytes = sum(len(row["text"].encode()) for row in TEXTS)
    value = found["results"]["my_texts"]["bits_per_byte,none"]
    assert value == pytest.approx(sum(nats) / math.log(2) / num_bytes, rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"apply_chat_template": True, "fewshot_as_multiturn": True}])
def test_the_harness_says_the_same_of_the_export(
    model: SamosaLM, tasks: Path, exported: Path, settings: Mapping[str, Any]
):
    """Its own model class for transformers, on the exported model: same prompts, same numbers, same words."""
    theirs = open_with_transformers(exported)
    assert theirs.max_length == model.max_length
    names = ("my_choices", "my_answers")
    here, there = (evaluate(one, tasks, *names, **settings) for one in (model, theirs))
    for name in names:
        assert [one["arguments"] for one in here["samples"][name]] == [
            one["arguments"] for one in there["samples"][name]
        ]
        own, other = here["results"][name], there["results"][name]
        assert {key: own[key] for key in own if "," in key} == {
            key: other[key] for key in other if "," in key
        }
    for own, other in zip(responses(here, "my_choices"), responses(there, "my_choices"), strict=True):
        assert [one[1] for one in own] == [one[1] for one in other]
        assert [one[0] for one in own] == pytest.approx([one[0] for one in other], abs=2e-4)
    said = responses(here, "my_answers")
    assert said == responses(there, "my_answers")
    assert all("e" not in text for (text,) in said)


def test_rolling_says_the_same_of_the_export(model: SamosaLM, tasks: Path, exported: Path):
    """Told to leave <|bos|> to the windows: else its class scores a <|bos|> after <|bos|>."""
    theirs = open_with_transformers(exported, add_bos_token=False)
    here, there = (evaluate(one, tasks, "my_texts")["results"]["my_texts"] for one in (model, theirs))
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert here[f"{name},none"] == pytest.approx(there[f"{name},none"], rel=1e-5)


def test_plain_text_becomes_no_special_token(trained: Trained):
    tokenizer = trained.tokenizer
    ((context, continuation),) = split_texts([("a <think> b", " </think>")], tokenizer)
    assert context[0] == tokenizer.bos_id
    assert not {*context[1:], *continuation} & set(tokenizer.special_ids.values())


def test_chat_prompts_are_the_template(trained: Trained, model: SamosaLM):
    """Tokens and turns are those that the model was trained on, also of an answer that is begun."""
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Tom."},
        {"role": "user", "content": "And then?"},
    ]
    rendered = render(parse_prompt({"messages": history}), trained.tokenizer, for_answer=True)
    text = model.apply_chat_template(history)
    ((context, continuation),) = split_texts([(text, "Anna")], trained.tokenizer)
    assert context == rendered.tokens.tolist()
    assert continuation == trained.tokenizer.encode("Anna")
    assert prompt_of(context, trained.tokenizer).begins_turn.tolist() == rendered.begins_turn.tolist()
    begun = [*history, {"role": "assistant", "content": "Then "}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == f"{text}Then "
    with pytest.raises(UserError, match="one template"):
        model.chat_template("tool_use")
    with pytest.raises(UserError, match="was not trained on: message 0: the assistant speaks before"):
        model.apply_chat_template([{"role": "assistant", "content": "Hm."}, history[1]])


def ask(model: SamosaLM, kind: OutputType, *arguments: tuple[Any, ...], repeats: int = 1) -> list[Any]:
    requests = [
        Instance(kind, {}, given, 0, metadata=("mine", number, repeats))
        for number, given in enumerate(arguments)
    ]
    return getattr(model, kind)([one for one in requests for _ in range(repeats)], disable_tqdm=True)


def test_answers_at_a_temperature(trained: Trained):
    """Repeats of one question differ; the same seed says the same again, another one something else."""
    prompt = (
        "Tom likes",
        {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0, "top_p": 0.9},
    )
    one, other = SamosaLM(trained, seed=1), SamosaLM(trained, seed=2)
    said = [ask(model, "generate_until", prompt, repeats=3) for model in (one, one, other)]
    assert len(set(said[0])) == 3
    assert said[0] == said[1]
    assert said[0] != said[2]


def test_thoughts_are_no_part_of_an_answer(trained: Trained):
    """In a chat; stop strings hold for what is said alone, and whatever ends a turn ends the answer."""
    tokenizer, model = trained.tokenizer, SamosaLM(trained)
    said = {
        "Red?": "<think>Hm.\nred?</think>It is red.\nAnd more",
        "Blue?": "<think>Hm.</think>No.<|assistant_end|>",
    }
    chats = {model.apply_chat_template([{"role": "user", "content": text}]): said[text] for text in said}
    tokens_of = {tuple(tokenizer.encode_with_specials(chat)): text for chat, text in chats.items()}

    def script(prompt: Prompt, sample: int) -> list[int]:
        return tokenizer.encode_with_specials(tokens_of[tuple(prompt.tokens.tolist())])

    vars(model)["_engine"] = ScriptedEngine(script, filler=tokenizer.encode("x")[0], context_len=CONTEXT_LEN)
    settings = {"until": ["\n"], "max_gen_toks": 60}
    assert ask(model, "generate_until", *((chat, settings) for chat in chats)) == ["It is red.", "No."]


def test_long_prompts_lose_their_beginning(trained: Trained):
    """An answer is written after the last tokens of its prompt that leave it room, and that is counted."""
    model, settings = SamosaLM(trained), {"until": ["e"], "max_gen_toks": 30}
    tokens = trained.tokenizer.encode("the dog " * 60)
    assert ask(model, "generate_until", ("the dog " * 60, settings))
    (long,) = model._wanted([Instance("generate_until", {}, ("the dog " * 60, settings), 0)])
    assert long.prompt.tokens.tolist() == tokens[-(CONTEXT_LEN - 30) :]
    assert model.truncated["mine"] == 1
    with pytest.raises(UserError, match=r"answers of 128 tokens; small reads and writes 128 together"):
        ask(model, "generate_until", ("Tom", {"until": [], "max_gen_toks": CONTEXT_LEN}))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"temprature": 1.0}, "temprature=1.0 is nothing .*; did you mean temperature"),
        ({"num_beams": 4}, "num_beams=4 is nothing"),
        ({"do_sample": True, "top_p": 7}, "top_p is 7; it must be above 0 and at most 1"),
    ],
)
def test_settings_that_cannot_be_followed(given: Mapping[str, Any], problem: str):
    with pytest.raises(UserError, match=f"generation_kwargs of mine: {problem}"):
        read_settings(given, task="mine")


def test_settings():
    """Sampling has to be asked for; without a word about it the likeliest token is taken."""
    settings = read_settings({"until": "\n", "temperature": 0.7, "do_sample": False}, task="mine")
    assert (settings.temperature, settings.stop, settings.max_tokens) == (0.0, ("\n",), 256)
    settings = read_settings({"until": ["", "a", "a"], "do_sample": True, "max_new_tokens": 7}, task="mine")
    assert (settings.temperature, settings.stop, settings.max_tokens) == (1.0, ("a",), 7)


def test_a_continuation_without_a_token(model: SamosaLM):
    with pytest.raises(UserError, match="mine: the continuation '' of item 0 adds no token"):
        ask(model, "loglikelihood", ("Tom", ""))
