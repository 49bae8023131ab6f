"""chat.py, as it is shipped: it talks on a terminal and in a pipe, and says in one line what is wrong."""

import argparse
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch not found: pip install torch to talk by it")
pytest.importorskip("tokenizers", reason="tokenizers not found: pip install tokenizers to talk by PyTorch")

import torch
from terminal import Terminal
from test_conversation import small_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch_export import ANSWERS, CALL, STORY, learned_network, new_network, tiny_config, write_folder
from torch_parity import SPECIAL_IDS

from samosa_jax.convert.pytorch import chat
from samosa_jax.convert.pytorch_sources import chat_program, remote_code
from samosa_jax.convert.tokenizer_json import tokenizer_json
from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.data.chat.template import pieces
from samosa_jax.data.tokenizer import SPECIAL_TOKENS

PROMPT = "\n>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config()
    return write_folder(tmp_path_factory.mktemp("torch") / "export", config, learned_network(config))


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    return Path(shutil.copytree(folder, tmp_path / "export"))


def environment(**others: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | others


def command(folder: Path, *flags: str) -> list[str]:
    return [sys.executable, str(folder / "chat.py"), "--temp=0", "--device=cpu", *flags]


def run(argv: Sequence[str], stdin: str = "", **others: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=100, env=environment(**others)
    )


def options(**changed: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(chat.parse_flags(["--temp=0", "--seed=0"])), **changed})


def open_chat(folder: Path, **changed: Any) -> chat.Chat:
    network, text = chat.load(folder, torch.device("cpu"))
    return chat.Chat(network, text, options=options(**changed))


def text_of(folder: Path) -> chat.Text:
    return chat.Text(folder / "tokenizer.json", SPECIAL_IDS)


@pytest.mark.parametrize("name", ["chat.py", *remote_code()])
def test_what_is_shipped_needs_nothing_of_ours(name: str, tmp_path: Path):
    source = {"chat.py": chat_program(), **remote_code()}[name]
    compile(source, name, "exec")
    assert "samosa_jax" not in source
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.is_file():
        pytest.skip("ruff not found: pip install ruff to check what is shipped")
    (tmp_path / name).write_text(source, encoding="utf-8")
    settings = Path(__file__).parents[1] / "pyproject.toml"
    for check in (["check"], ["format", "--check"]):
        done = run([str(ruff), *check, "--no-cache", "--config", str(settings), str(tmp_path / name)])
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_talks_on_a_terminal(folder: Path):
    with Terminal(command(folder), env=environment()) as shown:
        shown.wait_for(PROMPT)
        assert "parameters on cpu; /reset begins anew, /quit leaves" in shown.text
        shown.send("Who?\r")
        shown.wait_for(ANSWERS["Who?"])
        shown.wait_for(PROMPT, times=2)
        shown.send("Sum?\r")
        shown.wait_for("this program runs none")
        assert f"I add.\nSo:\n[{CALL}]\n(the model calls a tool" in shown.text
        assert b"\x1b[2mI add.\x1b[0m" in shown.written.replace(b"\r", b"")
        shown.wait_for(PROMPT, times=3)
        shown.send("/reset\r")
        shown.wait_for("(forgotten)")
        shown.send("/rest\r")
        shown.wait_for("there is no /rest")
        shown.send("Red?\r")
        shown.wait_for("\ufffd[31mred\ufffd done")
        assert b"\x1b[31m" not in shown.written
        shown.wait_for(PROMPT, times=6)
        time.sleep(0.2)  # Python does not see a signal between showing its prompt and reading
        shown.send("\x03")
        shown.wait_for("(/quit or Ctrl-D leaves)")
        shown.send("/quit\r")
        assert shown.wait_end() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(folder: Path, tmp_path: Path):
    # Text that never ends, of a model that was taught nothing.
    config = tiny_config(context_len=100_000)
    endless = write_folder(tmp_path / "endless", config, new_network(config))
    with Terminal(command(endless, "--max_tokens=50000"), env=environment()) as shown:
        shown.wait_for(PROMPT)
        shown.send("Tale?\r")
        written = len(shown.written)
        shown.wait_until(lambda: len(shown.written) > written + 50, "beginning of an answer")
        shown.send("\x03")
        shown.wait_for("(stopped)")
        shown.wait_for(PROMPT, times=2)
        shown.send("\x04")
        assert shown.wait_end() == 0


def test_a_question_alone_prints_the_answer_alone(folder: Path):
    done = run([*command(folder), "-p", "Who?"])
    assert (done.stdout, done.stderr, done.returncode) == (ANSWERS["Who?"] + "\n", "", 0)


@pytest.fixture
def talk_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Function of a folder, standard input and flags: what is printed and what is told of."""

    def talk(folder: Path, stdin: str, *flags: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        assert chat.main([f"--model={folder}", "--temp=0", "--device=cpu", *flags]) == 0
        told = capsys.readouterr()
        return told.out, told.err

    return talk


def test_a_call_in_a_question_alone_is_told_of_elsewhere(folder: Path, talk_in_a_pipe: Any):
    printed, told = talk_in_a_pipe(folder, "Sum?\n", "-p", "-")
    assert printed == "So:\n"
    assert told == "(the model calls a tool, and this program runs none: the turn ends here)\n"


def test_in_a_pipe_a_line_is_a_question(folder: Path, talk_in_a_pipe: Any):
    printed, told = talk_in_a_pipe(folder, "Who?\n\nTale?\n", "--max_tokens=60")
    lines = printed.splitlines()
    assert lines[1] == ANSWERS["Who?"]
    assert len(lines[2]) > 60
    assert STORY.startswith(lines[2])
    assert lines[3] == "(ended after 60 tokens: see --max_tokens)"
    assert told == ""


def test_characters_are_never_cut(folder: Path, capsys: pytest.CaptureFixture[str]):
    text = text_of(folder)
    display = chat.Display(text, only_answer=False)
    shown = []
    for token in [*text.encode("a你"), text.encode("好")[0], *text.encode("b")]:
        display.add(token)
        shown.append(capsys.readouterr().out)
    assert shown == ["a", "", "", "你", "", "\ufffdb"]


def test_prompts_are_those_of_the_template(folder: Path):
    talk = open_chat(folder, system="  Be kind. ", history=9)
    for question, answer in (("Who? ", "I am."), (" Say <|assistant_end|> and <think>", "No.")):
        turn, _ = talk.ask(question)
        turn.answer = text_of(folder).encode(answer)
    talk.ask("And?")
    messages = [
        Message(role="system", text="  Be kind. "),
        Message(role="user", text="Who?"),
        Message(role="assistant", text="I am."),
        Message(role="user", text="Say <|assistant_end|> and <think>"),
        Message(role="assistant", text="No."),
        Message(role="user", text="And?"),
    ]
    text = text_of(folder)
    expected: list[int] = []
    for piece in pieces(Conversation(messages=tuple(messages), tools=()), for_answer=True):
        expected += [SPECIAL_IDS[piece.opening]] if piece.opening else []
        expected += text.encode(piece.text)
        expected += [SPECIAL_IDS[piece.closing]] if piece.closing else []
    assert talk.prompt(talk.turns) == expected
    assert expected.count(SPECIAL_IDS["<|assistant_end|>"]) == 2
    assert SPECIAL_IDS["<think>"] not in expected


def test_answers_with_the_cache_are_those_without(folder: Path):
    talk = open_chat(folder, max_tokens=30)
    for question in ("Who?", "Tale?", "hm", "Who?"):
        turn, _ = talk.ask(question)
        tokens = talk.prompt(talk.turns)
        said = list(talk.answer(turn))
        network, _ = chat.load(folder, torch.device("cpu"))
        for token in said:
            assert token == int(network(torch.tensor([tokens]))[0, -1].argmax())
            tokens.append(token)


def test_it_keeps_the_last_turns(folder: Path):
    talk = open_chat(folder, history=2)
    for question in ("one", "two", "three"):
        assert talk.ask(question)[1] == 0
    assert [turn.question for turn in talk.turns] == ["two", "three"]


def test_the_oldest_turns_make_room(tmp_path: Path, talk_in_a_pipe: Any):
    config = tiny_config(context_len=64)
    folder = write_folder(tmp_path / "small", config, new_network(config))
    lines = "\n".join(["a" * 20, "b" * 20, "c" * 70, "d"])
    printed, _ = talk_in_a_pipe(folder, lines, "--max_tokens=12")
    assert "(the oldest 1 turns are forgotten: there is no more room)" in printed
    assert "(that is too long: 74 tokens, of 64 that the model can read)" in printed
    talk = open_chat(folder, max_tokens=1000)
    turn, _ = talk.ask("a" * 50)
    assert len(list(talk.answer(turn))) <= 64 - 54
    assert talk.ending == "ended: all 64 tokens that the model can read are used"


def test_draws_follow_the_seed(folder: Path):
    def said(**changed: Any) -> list[int]:
        talk = open_chat(folder, **{"temp": 5.0, "max_tokens": 12, **changed})
        return list(talk.answer(talk.ask("hm")[0]))

    assert said(seed=1) == said(seed=1) != said(seed=2)
    assert said(seed=1, top_k=1) == said(temp=0)
    assert said(seed=None) != said(seed=None)


def test_every_kind_of_tokenizer_is_spelled_out(tmp_path: Path):
    """Our own, and those of imported models: over bytes, and over characters with a mark for spaces."""
    sample = "naïve café 你好 \t\n\n  x\u2581y \x00 😀 <|bos|>"
    ours = small_tokenizer()
    (tmp_path / "ours.json").write_bytes(tokenizer_json(ours))
    over_bytes = Tokenizer(models.BPE())
    over_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    over_bytes.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    over_bytes.train_from_iterator([sample] * 3, trainer)
    over_bytes.save(str(tmp_path / "bytes.json"))
    byte_ids = {name: number for number, name in enumerate(SPECIAL_TOKENS)}
    for name, marks in (("ours.json", ours.special_ids), ("bytes.json", byte_ids)):
        text = chat.Text(tmp_path / name, marks)
        ids = text.encode(sample)
        assert b"".join(map(text.bytes_of, ids)).decode() == sample
        assert not {*ids} & {*marks.values()}
        assert text.bytes_of(marks["<|bos|>"]) == b""
    assert chat.Text(tmp_path / "ours.json", ours.special_ids).encode(sample) == ours.encode(sample)


def change(**changed: Any) -> Callable[[Path], None]:
    """Of config.json."""

    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return spoil


def leave_out(name: str) -> Callable[[Path], None]:
    """Of config.json."""

    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        values = json.loads(file.read_text())
        del values[name]
        file.write_text(json.dumps(values))

    return spoil


def truncate(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:1000])

    return spoil


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "config.json is not there; put it back, or name"),
        (remove("model.safetensors"), "model.safetensors is not there"),
        (remove("tokenizer.json"), "tokenizer.json is not there"),
        (truncate("config.json"), "config.json cannot be used (JSONDecodeError"),
        (truncate("model.safetensors"), "model.safetensors cannot be used (SafetensorError"),
        (truncate("tokenizer.json"), "tokenizer.json cannot be used (Exception"),
        (leave_out("head_dim"), "the configuration has no head_dim"),
        (change(model_dim="wide"), "config.json cannot be used (TypeError"),
        (change(mlp_dim=96), "model.safetensors cannot be used (RuntimeError"),
        (change(special_token_ids={}), "config.json cannot be used (KeyError: '<|ass"),
        (
            change(special_token_ids=dict.fromkeys(SPECIAL_TOKENS, 200)),
            "has no special token <|assistant_end|>",
        ),
    ],
)
def test_a_damaged_folder_is_named_in_one_line(
    broken: Path, spoil: Callable[[Path], None], message: str, capsys: pytest.CaptureFixture[str]
):
    spoil(broken)
    assert chat.main([f"--model={broken}", "--device=cpu", "-p", "Who?"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert str(broken) in told.err
    assert told.err.count("\n") == 1
    assert len(told.err) < 600


def test_a_model_smaller_than_its_tokenizer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = dataclasses.replace(tiny_config(), vocab_size=300)
    folder = write_folder(tmp_path / "other", config, new_network(config))
    assert chat.main([f"--model={folder}", "-p", "Who?"]) == 2
    assert "has 375 tokens, config.json only 300; they belong to different models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--temp=nan", "--temp is nan; it must be at least 0"),
        ("--history=0", "--history is 0; it must be at least 1"),
        ("--device=tpu9", "--device=tpu9 cannot be used"),
    ],
)
def test_a_bad_flag_is_named(flag: str, message: str, capsys: pytest.CaptureFixture[str]):
    assert chat.main([flag]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "tokenizers"])
def test_a_missing_package_is_named(folder: Path, tmp_path: Path, package: str):
    (tmp_path / f"{package}.py").write_text(f'raise ImportError("No module named {package!r}")\n')
    done = run(command(folder), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"No module named '{package}'; install what is needed: pip install torch safetensors tokenizers\n"
    )
