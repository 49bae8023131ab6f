"""Files, flags and their precedence; every mistake in one line with its place and a near miss; exit codes."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samosa_jax.command_line import load_config, parse_config, parse_dataclass, run, weighted_from_text
from samosa_jax.config import Config, SourceConfig, to_dict
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.keys import keys_of, near_miss, type_in_words

ROOT = Path(__file__).parents[1]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def error_of(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_flags_give_the_defaults() -> None:
    assert parse_config([]).config == Config()


def test_later_wins_among_files_and_flags(tmp_path: Path) -> None:
    first = write(tmp_path, "first.yaml", "model: {num_layers: 3, model_dim: 128}\n")
    second = write(tmp_path, "second.yaml", "model:\n  num_layers: 4\n")
    files = [f"--config={first}", f"--config={second}"]
    model = parse_config(files).config.model
    assert (model.num_layers, model.model_dim) == (4, 128)
    assert parse_config(files[::-1]).config.model.num_layers == 3
    assert parse_config([*files, "--model.num_layers=5"]).config.model.num_layers == 5
    assert parse_config(["--model.num_layers=5", *files]).config.model.num_layers == 4


def test_spellings_of_one_flag() -> None:
    for argv in (["--log.cost_per_hour=3.5"], ["--log.cost-per-hour", "3.5"], ["--cost-per-hour=3.5"]):
        assert parse_config(argv).config.log.cost_per_hour == 3.5
    assert parse_config(["--resume=never"]).config.checkpoint.resume == "never"
    assert parse_config(["--model.tie_embeddings"]).config.model.tie_embeddings
    assert parse_config(["--model.tie_embeddings", "--seed=1"]).config.model.tie_embeddings
    assert not parse_config(["--model.qk_norm", "false"]).config.model.qk_norm
    assert parse_config(["--model.soft_cap=null"]).config.model.soft_cap is None
    assert parse_config(["--sample.prompts=[one, two]"]).config.sample.prompts == ("one", "two")
    for argv in (
        ["--sample.prompts", "one", "two"],
        ["--sample.prompts=one", "--seed=1", "--sample.prompts=two"],
    ):
        assert parse_config(argv).config.sample.prompts == ("one", "two")
    parsed = parse_config(["--dry-run"])
    assert (parsed.dry_run, parsed.explain) == (True, False)
    parsed = parse_config(["--explain", "--dry_run=false"])
    assert (parsed.dry_run, parsed.explain) == (False, True)


@pytest.mark.parametrize(
    ("flag", "sources"),
    [
        ("--data=data/news", [("data/news", 1.0)]),
        ("--data=data/a=0.83,data/b=0.17", [("data/a", 0.83), ("data/b", 0.17)]),
        ("--data=data/a=3, data/b", [("data/a", 3.0), ("data/b", 1.0)]),
        ("--data.sources=[{path: data/a, weight: 2}, {path: data/b}]", [("data/a", 2.0), ("data/b", 1.0)]),
    ],
)
def test_sources_on_the_command_line(flag: str, sources: list[tuple[str, float]]) -> None:
    wanted = tuple(SourceConfig(path=path, weight=weight) for path, weight in sources)
    assert parse_config([flag]).config.data.sources == wanted


def test_sources_in_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, "mix.yaml", "data:\n  sources:\n  - {path: a, weight: 0.5}\n  - path: b\n")
    wanted = (SourceConfig(path="a", weight=0.5), SourceConfig(path="b"))
    assert load_config(file).data.sources == wanted
    replaced = parse_config([f"--config={file}", "--data=c"]).config.data.sources
    assert replaced == (SourceConfig(path="c"),)
    assert weighted_from_text("[{path: x}]", flag="--data", names="path") == "[{path: x}]"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--model.num_layer=3"], "--model.num_layer is no flag; did you mean --model.num_layers?"),
        (["--num-layers=3"], "--num_layers is no flag; did you mean --model.num_layers?"),
        (["--trian.num_steps=3"], "--trian.num_steps is no flag; did you mean --train.num_steps?"),
        (["--dry-rum"], "--dry_rum is no flag; did you mean --dry_run?"),
        (["--xyzzy=3"], "--xyzzy is no flag; see --help for all of them"),
        (["--model=3"], "--model is a group; set its keys, such as --model.depth"),
        (["--seed"], "--seed has no value; expected an integer"),
        (["--seed", "--explain"], "--seed has no value; expected an integer"),
        (["--seed=one"], "--seed is 'one'; expected an integer"),
        (["--train.num_steps=1e3"], "--train.num_steps is '1e3'; expected an integer"),
        (["--model.mlp=gelu"], "--model.mlp is 'gelu'; expected one of swiglu, relu2"),
        (["--model.tie_embeddings=maybe"], "--model.tie_embeddings is 'maybe'; expected true or false"),
        (["--model.soft_cap=high"], "--model.soft_cap is 'high'; expected a number or null"),
        (["--resume=perhaps"], "--resume is 'perhaps'; expected one of auto, never, must"),
        (["--sample.prompts=[[1]]"], "--sample.prompts is '[[1]]'; expected a list of texts"),
        (["--dry-run=often"], "--dry_run is 'often'; it is a switch and takes no value"),
        (["model.num_layers=3"], "did you mean --model.num_layers=3?"),
        (["stray"], "'stray' belongs to no flag; values are given as --key=value"),
        (["--data=a=much"], "--data gives a the weight 'much'; expected a number"),
        (["--data=a,a"], "data.sources names a more than once"),
        (["--data.sources=[{pth: a}]"], "--data.sources[0].pth is no key; did you mean path?"),
        (["--data.sources=[{weight: 1}]"], "--data.sources[0] has no path, which every entry needs"),
        (["--data.sources=[{path: a, weight: x}]"], "expected a list of {path, weight}"),
        (["--data.sources=[{path: a, weight: -1}]"], "data.sources weight of a is -1.0; it must be positive"),
        (["--data.sources=[{path: a"], "not valid YAML"),
        (["--model.num_kv_heads=4"], "model.num_heads is 6, not a multiple of model.num_kv_heads (4)"),
        (["--optimizer.embedding.kind=muon"], "optimizer.embedding.kind is muon"),
        (["--train.batch_tokens=1000"], "not a multiple of model.context_len (1024)"),
        (["--schedule.warmup_steps=1000"], "schedule.warmup_steps is 1000, but the run has 1000 steps"),
    ],
)
def test_every_wrong_flag_is_one_line(argv: list[str], says: str) -> None:
    assert says in error_of(*argv)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model:\n  num_layer: 3\n", ":2: model.num_layer is no key; did you mean model.num_layers?"),
        ("modle:\n  num_layers: 3\n", ":1: modle is no key"),
        ("model:\n  num_layers: abc\n", ":2: model.num_layers is 'abc'; expected an integer"),
        ("name: a\nmodel: 3\n", ":2: model is '3'; expected keys below it, such as model.depth"),
        ("seed: 1\nname: x\nseed: 2\n", ":3: seed is set twice, first in line 1"),
        ("model:\n  num_layers: [3\n", ":3: not valid YAML: while parsing a flow sequence"),
        ("model:\n\tnum_layers: 3\n", ":2: not valid YAML"),
        ("- 1\n", ":1: the file is a list; expected `key: value` lines"),
        ("# nothing\n", ": the file sets nothing"),
        (
            "data:\n  sources:\n  - path: a\n    weigt: 1\n",
            ":3: data.sources[0].weigt is no key; did you mean weight?",
        ),
        ("data:\n  sources:\n  - weight: 1\n", ":3: data.sources[0] has no path"),
        ("data:\n  sources: news\n", ":2: data.sources is 'news'; expected a list of {path, weight}"),
        ("optimizer:\n  matrix:\n    lr: [1]\n", ":3: optimizer.matrix.lr is 'a list'; expected a number"),
        ("model: {window: 4096, window_pattern: S}\n", "must lie in 1..model.context_len (1024)"),
    ],
)
def test_every_wrong_file_is_one_line_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path, "wrong.yaml", text)
    message = error_of(f"--config={file}")
    assert says in message
    if says.startswith(":"):
        assert message.startswith(f"{file}{says[:2]}")


def test_a_type_error_names_the_file_that_was_last_to_set_the_key(tmp_path: Path) -> None:
    good = write(tmp_path, "good.yaml", "seed: 3\n")
    bad = write(tmp_path, "bad.yaml", "name: x\nseed: many\n")
    assert error_of(f"--config={good}", f"--config={bad}").startswith(f"{bad}:2: seed is 'many'")
    assert error_of(f"--config={good}", "--seed=many").startswith("--seed is 'many'")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, "matilda_114m.yaml", "seed: 1\n")
    missing = error_of(f"--config={tmp_path / 'matilda_141m.yaml'}")
    assert f"there is no file {tmp_path / 'matilda_141m.yaml'}; did you mean" in missing
    assert str(tmp_path / "matilda_114m.yaml") in missing
    assert "is a folder" in error_of(f"--config={tmp_path}")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: café\n".encode("latin-1"))
    assert "latin.yaml: byte 9 is not UTF-8" in error_of(f"--config={latin}")


def test_print_config_reads_back_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--depth=12", "--data=a=0.25,b=0.75", "--model.soft_cap=15"]
    with pytest.raises(SystemExit) as left:
        parse_config([*argv, "--print_config"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    config = parse_config(argv).config
    assert yaml.safe_load(printed) == to_dict(config)
    assert load_config(write(tmp_path, "config.yaml", printed)) == config


def test_help_shows_every_key_with_its_comment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse_config(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in keys_of(Config))
    assert "tokens per optimizer step over all devices" in shown
    assert "auto|never|must" in shown


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a small command takes."""

    action: Literal["verify", "inspect"]
    files: tuple[str, ...] = ()
    out: str = "data"  # where it goes
    step: int | None = None
    skip_bad_rows: bool = False


def request_of(*argv: str) -> Request:
    return parse_dataclass(argv, Request, description="Checks.", positional=("action", "files"))


def test_a_small_command_has_the_same_flags_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = Request(action="verify", files=("a.txt", "b, c.txt"), skip_bad_rows=True)
    assert request_of("verify", "a.txt", "--skip-bad-rows", "b, c.txt") == wanted
    assert request_of("--action=inspect", "--step", "7").step == 7
    for argv, says in (
        ([], "--action is missing; expected one of verify, inspect"),
        (["check"], "--action is 'check'; expected one of verify, inspect"),
        (["verify", "--stepp=1"], "--stepp is no flag; did you mean --step?"),
        (["verify", "--step=x"], "--step is 'x'; expected an integer or null"),
    ):
        with pytest.raises(ConfigError) as caught:
            request_of(*argv)
        assert str(caught.value) == says
    with pytest.raises(SystemExit):
        request_of("--help")
    assert "where it goes" in capsys.readouterr().out


def test_near_misses() -> None:
    names = ["model.num_layers", "model.unroll_layers", "train.num_steps"]
    assert near_miss("num_layers", names) == "; did you mean model.num_layers?"
    assert near_miss("tokenizer_folder", names) == ""


def test_types_in_words() -> None:
    words = {key.name: type_in_words(key.type) for key in keys_of(Config).values()}
    assert words["seed"] == "an integer"
    assert words["model.depth"] == "an integer or null"
    assert words["sample.prompts"] == "a list of texts"
    assert words["data.sources"] == "a list of {path, weight}"
    assert not [text for text in words.values() if "typing" in text or "class" in text]


def test_every_field_is_a_key() -> None:
    """A field that the key table misses could be set by no file and no flag."""
    names = {"model": 0, "train": 0}
    for group in names:
        inner = {spec.name for spec in dataclasses.fields(getattr(Config(), group))}
        assert {f"{group}.{name}" for name in inner} == {
            key for key in keys_of(Config) if key.startswith(f"{group}.")
        }


def exit_of(main) -> object:
    with pytest.raises(SystemExit) as left:
        run(main, ["a"])
    return left.value.code


def test_run_turns_errors_into_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: list[str]) -> None:
        raise UserError(f"row 3 of {argv[0]}:\n  no text")

    def interrupt(argv: list[str]) -> None:
        raise KeyboardInterrupt

    def bug(argv: list[str]) -> None:
        raise ZeroDivisionError

    assert exit_of(lambda argv: None) == 0
    assert exit_of(fail) == 2
    assert capsys.readouterr().err == "error: row 3 of a: no text\n"
    assert exit_of(interrupt) == 130
    with pytest.raises(ZeroDivisionError):
        run(bug, [])


PRINTER = """
from samosa_jax.command_line import run
def main(argv):
    while True:
        print("line")
run(main)
"""


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PRINTER], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=10) == 128 + signal.SIGPIPE


def samosa(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "samosa_jax", *argv], capture_output=True, text=True, cwd=ROOT
    )


def test_the_samosa_command() -> None:
    overview = samosa("--help")
    assert overview.returncode == 0
    assert "samosa train" in overview.stdout
    wrong = samosa("tran")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: 'tran' is no command; did you mean train?\n"


def test_the_overview_imports_nothing_heavy() -> None:
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    start = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "-m", "samosa_jax", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    seconds = time.perf_counter() - start
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "difflib" in imported  # the trace is on
    assert not imported & {"jax", "numpy", "yaml", "jsonargparse"}
    assert seconds < 2  # about 0.05 s alone; the machine may be busy


@dataclass(frozen=True, kw_only=True)
class Question:
    """Flags with a letter."""

    about: str = ""  # of which model
    prompt: str = ""  # what to ask


def ask(*argv: str) -> Question:
    return parse_dataclass(argv, Question, description="Ask.", positional=("about",), letters={"p": "prompt"})


def test_a_letter_takes_the_next_word_whatever_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("-p", "-") == Question(prompt="-")
    assert ask("-p", "--about=x", "base") == Question(prompt="--about=x", about="base")
    assert ask("base", "-p", "one", "-p", "two") == Question(prompt="two", about="base")
    with pytest.raises(ConfigError, match="-p has no value; expected text"):
        ask("base", "-p")
    with pytest.raises(SystemExit):
        ask("--help")
    assert "  -p TEXT           the same as --prompt=TEXT\n" in capsys.readouterr().out


@settings(max_examples=25)
@given(st.text())
@example("@someone")
@example("null")
@example("[unclosed")
@example("a: b: {c")
@example("%TAG")
def test_text_is_taken_as_it_is(text: str) -> None:
    assert ask("-p", text).prompt == text
    assert ask(f"--prompt={text}").prompt == text
