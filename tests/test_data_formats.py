"""The examples in docs/data_formats.md are read by what reads such files."""

import json
import re
from pathlib import Path

import pytest
from test_layers import ROOT

from samosa_jax.data.chat.reading import read_conversations, read_preferences
from samosa_jax.evals import gates, probes
from samosa_jax.evals.results import read_results
from samosa_jax.tasks.identity import load_persona
from samosa_jax.training.metrics import check_declared

TEXT = (ROOT / "docs" / "data_formats.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r'^```(?:json|yaml) title="([^"]+)"\n(.*?)^```', TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A folder with the files of the page; those that are shown in pieces are put together."""
    for name, text in EXAMPLES:
        folder = tmp_path / "probes" if name in ("probes.yaml", "pages.jsonl") else tmp_path
        folder.mkdir(exist_ok=True)
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)
    return tmp_path


def test_conversations(examples: Path):
    (example,) = read_conversations([examples / "chat.jsonl"])
    roles = [message.role for message in example.value.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    assert example.value.messages[2].think == "A calculation."


def test_preference_pairs(examples: Path):
    (pair,) = read_preferences([examples / "pairs.jsonl"])
    assert pair.value.chosen.messages[-1].text == "Hello!"


def test_results_and_metrics(examples: Path):
    (result,) = read_results(examples)
    assert result.metric == "pass@1"
    lines = [json.loads(line) for line in (examples / "metrics.jsonl").read_text().splitlines()]
    assert [line.pop("step") for line in lines] == [2, 30]
    for line in lines:
        check_declared(line)


def test_yaml(examples: Path):
    assert load_persona(examples / "persona.yaml").name == "Juniper"
    assert [condition.task for condition in gates.load(examples / "gate.yaml").conditions] == [
        "probes",
        "bpb",
    ]
    suite = probes.load_suite(examples / "probes")
    assert [probe.name for probe in suite.probes] == ["product"]
