"""Text and a tokenizer for the tests of `prepare`, made once per session; a pytest plugin."""

from itertools import islice
from pathlib import Path

import pytest
from preparing import write_rows

from samosa_jax.data import corpus, tokenizer_training


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Distinct stories, short ones so that there are many."""
    stories = dict.fromkeys(story[:600] for story in islice(corpus.stories(), 900))
    return list(stories)[:800]


@pytest.fixture(scope="session")
def tokenizer_dir(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers") / "tok"
    sample = tokenizer_training.draw_sample(texts, max_bytes=1_000_000, seed=0)
    options = tokenizer_training.TokenizerOptions(vocab_size=600, max_bytes=1_000_000)
    tokenizer_training.write(tokenizer_training.train(sample, options, inputs=["stories"]), folder)
    return folder


@pytest.fixture(scope="session")
def stories_file(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("text") / "stories.jsonl.gz", texts)
