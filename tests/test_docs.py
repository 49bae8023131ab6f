"""docs/ builds as a site without a warning; the messages and keys that it names are those of the program."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_layers import ROOT

from samosa_jax.config import Config
from samosa_jax.keys import keys_of

PAGES = sorted((ROOT / "docs").rglob("*.md"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
QUOTES = re.findall(r"^> (.+)$", RUNBOOK, re.MULTILINE)
GAP = "…"  # what stands for a value in a quoted message


def test_the_site_builds_strictly(tmp_path: Path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs is not installed: pip install -e '.[docs]' to build the documentation")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("index.html"):
        article = re.sub(r"<pre.*?</pre>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        # Markdown as repositories show it needs fewer blank lines around lists.
        assert not re.findall(r"^(?:[-*]|\d+\.) \S.*", article, re.MULTILINE), f"a list in {page} is none"
    # A file of the repository that a page links to is a page itself.
    assert (tmp_path / "repository" / "samosa_jax" / "training" / "resume.py" / "index.html").is_file()


def messages_of(source: str) -> set[str]:
    """The texts in a Python file, f-strings with GAP in the place of each value."""
    nodes = list(ast.walk(ast.parse(source)))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values]
            texts.add("".join(parts))
    return texts


@pytest.fixture(scope="module")
def messages() -> str:
    files = sorted((ROOT / "samosa_jax").rglob("*.py"))
    return "\n".join("\n".join(messages_of(path.read_text(encoding="utf-8"))) for path in files)


@pytest.mark.parametrize("quote", QUOTES)
def test_messages_in_the_runbook_are_those_of_the_program(quote: str, messages: str):
    assert quote in messages


def test_the_runbook_quotes_messages():
    assert len(QUOTES) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_of_the_configuration_exist(page: Path):
    known = set(keys_of(Config))
    groups = {key.split(".")[0] for key in known if "." in key}
    written = re.findall(r"--([a-z]+(?:\.[a-z_0-9]+)+)", page.read_text(encoding="utf-8"))
    unknown = {key for key in written if key.split(".")[0] in groups} - known
    # A key may stand for all below it, as in --rl.reward.
    assert not {key for key in unknown if not any(name.startswith(f"{key}.") for name in known)}
