"""CORE: prompts, shots and scores as published, arithmetic as by hand, 0 for a model that knows nothing."""

import csv
import dataclasses
import gzip
import importlib.util
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import training_runs
import yaml
from likelihood_models import MODEL, make_scorer, random_params

from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.evals.aggregates import CHATCORE_BASELINES, aggregate
from samosa_jax.evals.catalog import open_catalog, select
from samosa_jax.evals.items import ChoiceItem, Item, SchemaItem, TextItem
from samosa_jax.evals.likelihood import Continuation, Score
from samosa_jax.evals.likelihood_tasks import TABLES, open_questions, read_table, run_task
from samosa_jax.evals.prompts import draw_examples, encode_prompts, in_order, make_prompts
from samosa_jax.evals.ranking import centre, choice_score, rank_values
from samosa_jax.model.gpt import Network

CORE = read_table(TABLES / "core.yaml")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    training_runs.write_dataset(folder)
    return Tokenizer.load(folder / "tokenizer")


def test_tasks_shots_and_baselines_are_those_of_dclm(test_data: Path) -> None:
    folder = test_data / "dclm_meta"
    names = json.loads((folder / "additional_aggregation.json").read_text())["low_variance_datasets"]
    settings = {
        task["label"]: task for task in yaml.safe_load((folder / "heavy.yaml").read_text())["icl_tasks"]
    }
    with (folder / "eval_meta_data.csv").open(encoding="utf-8") as file:
        baselines = {row["Eval Task"]: float(row["Random baseline"]) for row in csv.DictReader(file)}
    assert list(CORE) == [f"core/{name}" for name in names]
    assert len(CORE) == 22
    for name in names:
        task, theirs = CORE[f"core/{name}"], settings[name]
        assert task.shots == theirs["num_fewshot"][0]
        assert task.kind == theirs["icl_task_type"]
        assert task.delimiter == theirs.get("continuation_delimiter", " ")
        assert f"local_data/{task.local[0]}.jsonl" == theirs["dataset_uri"]
        assert task.baseline == baselines[name]
        assert task.ranked_by == ("mean",)


def choice(number: int) -> ChoiceItem:
    return ChoiceItem(name=str(number), query=f"Q{number}", choices=("a", "b"), gold=number % 2)


def test_examples_are_drawn_as_published() -> None:
    """Numbers from the definition: shuffle by 1337, then of the others a sample by 1234 + place."""
    items = [choice(number) for number in range(20)]
    order = list(range(20))
    random.Random(1337).shuffle(order)
    asked = in_order(items)
    assert [item.name for item in asked] == [str(number) for number in order]
    for place in (0, 7, 19):
        others = [number for number in range(20) if number != place]
        wanted = [str(order[number]) for number in random.Random(1234 + place).sample(others, 10)]
        examples = draw_examples(asked, place, 10)
        assert [item.name for item in examples] == wanted
        assert asked[place] not in examples
    assert draw_examples(asked, 3, 5, seed=1) != draw_examples(asked, 3, 5)


def test_prompts_read_as_they_should() -> None:
    shown = [
        ChoiceItem(name="0", query="One?", choices=("no", "yes"), gold=1),
        ChoiceItem(name="1", query="Two?", choices=("left", "right"), gold=0),
    ]
    asked = make_prompts(
        ChoiceItem(name="2", query="Three?", choices=("x", "y"), gold=0), shown, delimiter="\nAnswer: "
    )
    before = "One?\nAnswer: yes\n\nTwo?\nAnswer: left\n\nThree?\nAnswer: "
    assert asked.whole == (before + "x", before + "y")
    schema = SchemaItem(name="0", contexts=("The cat", "The dog"), continuation="barks.", gold=1)
    assert make_prompts(schema, [schema], delimiter=" ").whole == (
        "The dog barks.\n\nThe cat barks.",
        "The dog barks.\n\nThe dog barks.",
    )
    text = TextItem(name="0", context=" Paris is in \n", continuation="France")
    assert make_prompts(text, [text], delimiter=" ").whole == ("Paris is in France\n\nParis is in France",)


def test_what_is_scored_begins_where_it_should(tokenizer: Tokenizer) -> None:
    def scored(item: Item, **options: Any) -> list[str]:
        (asked,) = encode_prompts([make_prompts(item, (), delimiter=" ")], tokenizer, **options)
        assert all(one.context[0] == tokenizer.bos_id for one in asked)
        return [tokenizer.decode(one.continuation) for one in asked]

    fruits = ChoiceItem(name="0", query="Eat", choices=("the green apple", "the green door"), gold=0)
    assert scored(fruits, boundary="context") == [" the green apple", " the green door"]
    shared = scored(fruits, boundary="shared")
    assert all(
        one.endswith(end) and len(one) < 11 for one, end in zip(shared, ("apple", "door"), strict=True)
    )
    schema = SchemaItem(
        name="0", contexts=("Anna sees Tom and Anna", "Anna sees Tom and he"), continuation="x y", gold=0
    )
    assert all(one.endswith("x y") for one in scored(schema, boundary="shared"))
    word = TextItem(name="0", context="Tom opens a green ", continuation="door")
    assert scored(word, boundary="context") == [" door"]
    # One answer is the beginning of the other, or the same: something of each is scored all the same.
    nested = ChoiceItem(name="0", query="Eat", choices=("the", "the bread", "the"), gold=0)
    assert all(scored(nested, boundary="shared"))


def test_arithmetic_by_hand() -> None:
    assert centre(0.25, 0.25) == 0
    assert centre(1, 0.403) == 1
    assert centre(0.7, 0.62) == pytest.approx(0.2105, abs=1e-4)
    scores = {"a": [1, 1, 1, 0], "b": [0, 1], "c": [0, 0, 1, 0, 0]}
    whole = aggregate({"a": 50, "b": 0, "c": 25}, scores)
    # (0.75 - 0.5) / 0.5 = 0.5; 0.5; (0.2 - 0.25) / 0.75 = -1/15
    assert whole.interval.value == pytest.approx((0.5 + 0.5 - 1 / 15) / 3)
    assert whole.interval.low < whole.interval.value < whole.interval.high
    assert whole.centred == pytest.approx({"a": 0.5, "b": 0.5, "c": -1 / 15})
    assert (whole.metric, whole.missing) == ("centered", ())
    partial = aggregate({"a": 50, "x": 0, "b": 0, "y": 25}, scores)
    assert partial.interval.value == pytest.approx(0.5)
    assert (partial.metric, partial.missing) == ("centered_partial", ("x", "y"))
    with pytest.raises(ValueError, match="none of x has scores"):
        aggregate({"x": 0}, scores)


def test_choices_and_ties() -> None:
    assert choice_score([-3.0, -1.0, -2.0], 1) == 1
    assert choice_score([-3.0, -1.0, -2.0], 0) == 0
    assert choice_score([-1.0, -1.0 - 1e-8, -2.0], 0) == 0.5
    assert choice_score([-1.0, -1.0, -1.0], 2) == pytest.approx(1 / 3)
    assert choice_score([-1.0, -1.0, -2.0], 2) == 0
    assert choice_score([float("nan"), -1.0], 1) == 0
    assert choice_score([float("-inf"), -1.0], 1) == 1
    long = Score(logprob=-6.0, num_tokens=3, num_bytes=12, is_greedy=False, num_cut=0)
    short = Score(logprob=-4.0, num_tokens=1, num_bytes=2, is_greedy=False, num_cut=0)
    answers = ("twelve bytes", "no")
    assert rank_values([long, short], answers, "sum") == [-6, -4]
    assert rank_values([long, short], answers, "mean") == [-2, -4]
    assert rank_values([long, short], answers, "bytes") == [-0.5, -2]


def test_a_model_that_knows_nothing_scores_nothing(test_data: Path, tokenizer: Tokenizer) -> None:
    """Equal logits: exactly what guessing gives, task by task, and 0 once centred by it."""
    network = Network.build(MODEL)
    params = jax.tree.map(lambda x: x, jax.jit(network.init)(jax.random.key(0)))
    params["head"] = 0 * params["head"]
    scorer = make_scorer(network, params)
    outcomes, chances = {}, {}
    for name, task in CORE.items():
        if name.split("/")[1] in ("hellaswag", "hellaswag_zeroshot", "jeopardy", "squad", "coqa"):
            continue
        questions = open_questions(task, data_dir=test_data)
        outcome, _ = run_task(task, questions, scorer=scorer, tokenizer=tokenizer, limit=8)
        outcomes[name] = [item["score"] for item in outcome["accuracy"]]
        chances[name] = 100 * questions.chance
        assert np.mean(outcomes[name]) == pytest.approx(questions.chance)
    assert len(outcomes) == 17
    blind = aggregate(chances, outcomes)
    assert blind.interval.value == pytest.approx(0, abs=1e-9)
    # The published baselines of two tasks are not chance: BoolQ's is the share of the commoner answer.
    published = aggregate({name: CORE[name].baseline or 0.0 for name in outcomes}, outcomes)
    assert published.centred["core/boolq"] == pytest.approx((0.5 - 0.62) / 0.38)
    assert published.centred["core/commonsense_qa"] == pytest.approx((0.25 - 0.403) / 0.597)
    others = [
        value for name, value in published.centred.items() if not name.endswith(("boolq", "commonsense_qa"))
    ]
    assert others == pytest.approx([0] * 15)
    assert scorer.spent.programs <= 8


def test_a_model_without_numbers_scores_nothing_and_says_so(test_data: Path, tokenizer: Tokenizer) -> None:
    network = Network.build(MODEL)
    params = jax.tree.map(lambda x: x * np.nan, jax.jit(network.init)(jax.random.key(0)))
    task = CORE["core/copa"]
    questions = open_questions(task, data_dir=test_data)
    outcome, counts = run_task(
        task, questions, scorer=make_scorer(network, params), tokenizer=tokenizer, limit=6
    )
    assert [item["score"] for item in outcome["accuracy"]] == [0] * 6
    assert counts["not_a_number"] == 6


def test_a_limit_changes_no_question(test_data: Path, tokenizer: Tokenizer) -> None:
    network = Network.build(MODEL)
    scorer = make_scorer(network, random_params(network))
    task = dataclasses.replace(CORE["core/copa"], shots=2)
    questions = open_questions(task, data_dir=test_data)
    few, _ = run_task(task, questions, scorer=scorer, tokenizer=tokenizer, limit=5)
    more, _ = run_task(task, questions, scorer=scorer, tokenizer=tokenizer, limit=12)
    for one, other in zip(few["accuracy"], more["accuracy"], strict=False):
        assert (one["item"], one["score"]) == (other["item"], other["score"])
        assert one["values"] == pytest.approx(other["values"], abs=1e-5)


def test_names_and_groups() -> None:
    catalog = open_catalog()
    core = select(catalog, ["core"])
    assert core.tasks == tuple(CORE)
    assert core.aggregates == {"core": {name: task.baseline for name, task in CORE.items()}}
    chat = select(catalog, ["chatcore"])
    assert set(chat.tasks) == set(CHATCORE_BASELINES)
    assert set(chat.aggregates) == {"chatcore"}
    everything = select(catalog, ["all"])
    assert set(everything.aggregates) == {"core", "chatcore"}
    assert {"bpb", "mmlu", "gsm8k", "probes"} <= set(everything.tasks)
    several = select(catalog, ["arc_easy,piqa", "probes/reasoning"])
    assert several.tasks == ("arc_easy", "piqa", "probes")
    assert several.named == {"arc_easy", "piqa", "probes"}


PEER_TASKS = {
    "multiple_choice": "core/arc_easy",
    "schema": "core/winograd",
    "language_modeling": "core/lambada_openai",
}


@pytest.mark.parametrize("kind", PEER_TASKS)
def test_scores_are_those_of_nanochat(kind: str, tokenizer: Tokenizer, test_data: Path) -> None:
    """Its own core_eval on the same network, item for item: prompts, shots, what is scored, the choice."""
    checkout = os.environ.get("SAMOSA_NANOCHAT")
    if not checkout:
        pytest.skip("set SAMOSA_NANOCHAT to a checkout of karpathy/nanochat to run this test")
    torch = pytest.importorskip("torch", reason="torch not found: pip install torch to compare with it")
    spec = importlib.util.spec_from_file_location("core_eval", Path(checkout) / "nanochat" / "core_eval.py")
    assert spec is not None
    assert spec.loader is not None
    core_eval: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core_eval)
    network = Network.build(dataclasses.replace(MODEL, context_len=512))
    params = random_params(network)
    task = dataclasses.replace(CORE[PEER_TASKS[kind]], shots=2)
    source = test_data / "llm_foundry_eval" / f"{task.local[0]}.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(source.read_bytes()).split(b"\n") if line]
    random.Random(1337).shuffle(rows)

    class Encoder:
        def __call__(self, texts: Sequence[str], prepend: int) -> list[list[int]]:
            return [[prepend, *tokenizer.encode(text)] for text in texts]

        def get_bos_token_id(self) -> int:
            return tokenizer.bos_id

    @jax.jit
    def logits_of(tokens: jax.Array) -> jax.Array:
        position = jax.numpy.broadcast_to(jax.numpy.arange(tokens.shape[1]), tokens.shape)
        ranges = {"k_lo": 0 * position, "k_hi": position + 1}
        return network.logits(params, tokens, **ranges, position=position, turn_position=position)

    def model(input_ids: Any) -> Any:
        rows, length = input_ids.shape
        padded = np.zeros((4, -(-length // 512) * 512), np.int32)
        padded[:rows, :length] = input_ids.numpy()
        return torch.from_numpy(np.asarray(logits_of(padded))[:rows, :length].copy())

    meta = {
        "task_type": kind,
        "num_fewshot": 2,
        "continuation_delimiter": task.delimiter,
    }
    count = 12 if kind == "language_modeling" else 25
    theirs = [
        core_eval.evaluate_example(place, model, Encoder(), rows, "cpu", meta) for place in range(count)
    ]
    questions = open_questions(task, data_dir=test_data)
    scorer = make_scorer(network, params, context_len=2048)
    ours, _ = run_task(task, questions, scorer=scorer, tokenizer=tokenizer, limit=count)
    assert [item["score"] for item in ours["accuracy"]] == [float(right) for right in theirs]
    if kind != "language_modeling":
        assert 0 < sum(theirs) < count


def test_continuations_keep_every_token(tokenizer: Tokenizer) -> None:
    item = ChoiceItem(name="0", query="Anna sees", choices=("a house", "the river today"), gold=0)
    (asked,) = encode_prompts([make_prompts(item, (), delimiter=" ")], tokenizer, boundary="context")
    for one, answer in zip(asked, item.choices, strict=True):
        assert isinstance(one, Continuation)
        assert tokenizer.decode([*one.context, *one.continuation]) == f"Anna sees {answer}"
