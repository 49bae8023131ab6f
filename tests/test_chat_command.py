"""`samosa chat` as people use it: on a terminal, in a pipe, for one answer, with a model that was trained."""

import contextlib
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chat_runs
import pytest
import small_chat_model
import training_runs
from small_chat_model import question
from terminal import Terminal

from samosa_jax import chat
from samosa_jax.chat_commands import Commands
from samosa_jax.chat_input import LineReader
from samosa_jax.chat_screen import PlainAnswer, Screen
from samosa_jax.chat_session import Session
from samosa_jax.data.chat.reading import read_conversations
from samosa_jax.errors import UserError
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.request import Sampling
from samosa_jax.toolbox import open_tools
from samosa_jax.trained import make_engines, open_trained

GREEDY = ("--temp=0", "--top_k=0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_chat_model.train(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def assistant(runs: Path) -> Iterator[Assistant]:
    trained = open_trained(runs / "small")
    trained = open_trained(runs / "small", devices=trained.devices[:1])
    registry = open_tools(["calculator"])
    with Assistant(make_engines(trained, max_batch=1), trained.tokenizer, registry=registry) as assistant:
        yield assistant


@pytest.fixture
def session(runs: Path, assistant: Assistant) -> Session:
    return Session(
        assistant,
        open_trained(runs / "small").tokenizer,
        sampling=Sampling(temperature=0.0, max_tokens=400),
        max_turns=6,
    )


def ask(session: Session, text: str) -> str:
    out = io.StringIO()
    session.ask(question(text), PlainAnswer(out, "hide", only_answer=True))
    return out.getvalue()


def terminal(runs: Path, *flags: str, columns: int = 80, rows: int = 40) -> Terminal:
    argv = [sys.executable, "-m", "samosa_jax", "chat", str(runs / "small"), *GREEDY, *flags]
    env = {**training_runs.environment(), "XDG_STATE_HOME": str(runs.parent / "state")}
    return Terminal(argv, columns=columns, rows=rows, env=env, cwd=runs.parent)


def one_prompt(runs: Path, *flags: str) -> None:
    chat.main([str(runs / "small"), *GREEDY, *flags])


def test_one_prompt_prints_the_answer_and_nothing_else(runs, capsys, monkeypatch):
    one_prompt(runs, "-p", question("Who are you?"))
    assert capsys.readouterr() == ("I am a **small** model.\n\n- one\n- two\n", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO(question("What is 2+3?")))
    one_prompt(runs, "-p", "-")
    assert capsys.readouterr() == ("It is 5.\n", "")
    one_prompt(runs, "-p", question("Show colours."))
    assert capsys.readouterr() == ("\u241b[31mred\u241b[2J\u2407 done\n", "")
    one_prompt(runs, "-p", "bytes that are no text: \udcff\udc80", "--max_tokens=4")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["-p"], "-p has no value; expected text"),
        (["-p", " "], "-p asks nothing: the text is empty"),
        (["-p", "hi", "--temp=-1"], "temperature is -1.0; it must be at least 0"),
        (["--max_tokens=0"], "max_tokens is 0; it must be at least 1"),
        (["--history=0"], "--history is 0; it must be at least 1"),
        (["--think=loud"], "--think is 'loud'; expected one of show, dim, hide"),
        (["--tools=calcluator"], "--tools has 'calcluator', which is no tool; did you mean calculator?"),
        (["--tools=web_search"], "nothing to search in; name documents with --search_in=PATH"),
        (["--temperture=1"], "--temperture is no flag"),
        (["--record=out.txt"], "expected the name of an .svg file"),
        (["--tensor=99"], "there are 8 devices here"),
        (["--context_len=100000"], "was trained with 512 tokens"),
        (["--step=7"], "has no finished checkpoint of step 7"),
    ],
)
def test_bad_flags_are_refused_in_one_line(runs, flags, says, monkeypatch):
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    with pytest.raises(UserError) as caught:
        one_prompt(runs, *flags)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_checkpoint_it_ends_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "samosa_jax", "chat", "-p", "hi"],
        cwd=tmp_path,
        env=training_runs.environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no run with a finished checkpoint under runs; train one")
    assert done.stderr.count("\n") == 1


def wait_for_answer_to_begin(shown: Terminal, asked: str) -> None:
    before = shown.written.count(b"thinking")
    shown.send(f"{question(asked)}\r")
    shown.wait_until(lambda: shown.written.count(b"thinking") > before, "sign that it is thinking")


def stop_an_answer(shown: Terminal) -> None:
    """Ctrl-C in the middle of an answer; a very fast one may be over before the key arrives."""
    for _ in range(5):
        prompts, endings = shown.text.count("\u203a"), shown.text.count("number 13.")
        wait_for_answer_to_begin(shown, "Tell a story.")
        shown.send("\x03")
        shown.wait_until(
            lambda prompts=prompts: shown.text.count("\u203a") > prompts + 1 or "\nstopped\n" in shown.text,
            "end of the answer",
        )
        if "\nstopped\n" in shown.text:
            assert shown.text.count("number 13.") == endings
            return
    raise AssertionError(f"no answer was stopped:\n{shown.text}")


def test_a_whole_chat_on_a_terminal(runs):
    """Answers, commands, mistakes, Ctrl-C, files: the program goes on until it is told to end."""
    picture = runs.parent / "chat.svg"
    with terminal(runs, f"--record={picture}") as shown:
        shown.wait_for("\u203a")
        assert "small (sft), step 120: 0.1 M parameters, 512 tokens of context, float32 on cpu" in shown.text

        shown.send(f"{question('Who are you?')}\r")
        shown.wait_for("\u203a", times=2)
        assert "I am a small model.\n\n • one\n • two\n" in shown.text
        assert b"\x1b[1msmall" in shown.written

        shown.send(f"{question('What is 2+3?')}\r")
        shown.wait_for("\u203a", times=3)
        assert "  I add them.\n\n\u25b8 calculator 2+3\n  5\n\nIt is 5.\n" in shown.text

        shown.send("/stats\r")
        shown.wait_for("2 turns\nall answers: 2,")
        shown.send("/rest\r")
        shown.wait_for("/rest is no command; did you mean /reset?")
        shown.send("/help\r")
        shown.wait_for("Ctrl-C stops an answer")
        shown.send("/save kept\r")
        shown.wait_for("saved 2 turns to kept.jsonl")
        shown.send("/reset\r")
        shown.wait_for("a new conversation")
        shown.send("/save kept2\r")
        shown.wait_for("there is nothing to save yet")

        stop_an_answer(shown)
        shown.send("/load kept.jsonl\r")
        shown.wait_for("loaded 2 turns from kept.jsonl")
        shown.send("/load nowhere.jsonl\r")
        shown.wait_for("nowhere.jsonl is no file")
        shown.send("/th\t hide\r")
        shown.wait_for("think is hide")
        wait_for_answer_to_begin(shown, "What is 2+3?")
        shown.send("/seed 3\r")  # typed ahead
        shown.wait_for("seed is 3\n\n\u203a")
        assert shown.text.count("/seed 3") == 1
        assert shown.text.count("It is 5.") == 3
        assert re.search(r"\nthought for [0-9.]+ s, 3 words\n", shown.text)

        shown.send("half a line")
        shown.wait_for("half a line")
        shown.send("\x03")
        shown.wait_for("Ctrl-C once more, or Ctrl-D, ends the chat")
        shown.send("\x03")
        assert shown.wait_end() == 0
    row = next(read_conversations([runs.parent / "kept.jsonl"])).value
    assert [message.text for message in row.messages][:2] == [
        question("Who are you?"),
        "I am a **small** model.\n\n- one\n- two",
    ]
    assert row.messages[3].tool_call is not None
    drawn = picture.read_text(encoding="utf-8")
    assert drawn.startswith("<svg")
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "").replace(
        "https://www.textualize.io", ""
    )
    assert all(word in drawn for word in ("small", "calculator", "stopped"))


def test_escape_sequences_and_wide_characters_on_a_narrow_terminal(runs):
    with terminal(runs, columns=16) as shown:
        shown.wait_for("\u203a")
        before = len(shown.written)
        shown.send(f"{question('Show colours.')}\r")
        shown.wait_for("\u203a", times=2)
        assert "\u241b[31mred\u241b[2J\u2407\ndone" in shown.text
        assert b"\x1b[31m" not in shown.written[before:]
        assert b"\x1b[2J" not in shown.written[before:]
        shown.send(f"{question('Say hello in Chinese.')}\r")
        shown.wait_for("\u203a", times=3)
        assert "你好世界" in shown.text.replace(" ", "")
        shown.send("\x1b[A\r")  # the line before again
        shown.wait_for("\u203a", times=4)
        assert shown.text.replace(" ", "").count("你好世界") == 2
        shown.send("\x1b[200~/system two\nlines\x1b[201~\r")  # pasted
        shown.wait_until(
            lambda: bool(re.search(r"system message:\s+two\nlines\n", shown.text)), "message of two lines"
        )
        shown.send("\x04")
        assert shown.wait_end() == 0
    history = runs.parent / "state" / "samosa_jax" / "chat_history"
    assert question("Show colours.") in history.read_text(encoding="utf-8")
    assert history.stat().st_mode & 0o077 == 0


def test_one_prompt_on_a_terminal_is_drawn_as_markdown_without_thoughts_and_tools(runs):
    with terminal(runs, "-p", question("What is 2+3?")) as shown:
        assert shown.wait_end() == 0
        assert shown.lines == ["It is 5."]
    assert shown.written.rfind(b"\x1b[?25h") > shown.written.rfind(b"\x1b[?25l")  # the cursor is there again


def test_ctrl_c_ends_one_prompt_with_130(runs):
    with terminal(runs, "-p", question("Tell a story.")) as shown:
        shown.wait_until(lambda: b"thinking" in shown.written, "sign that it is thinking")
        shown.send("\x03")
        assert shown.wait_end() == 130
        assert "Traceback" not in shown.text


def test_a_chat_in_a_pipe(runs, capsys, monkeypatch):
    lines = [question("Who are you?"), "/temp 0.5", "/nope", "/quit", "never read"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    one_prompt(runs)
    out = capsys.readouterr().out
    assert "I am a **small** model." in out
    assert "temp is 0.5" in out
    assert "/nope is no command" in out
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(UserError, match="nothing was asked"):
        one_prompt(runs)


def test_turns_are_remembered_and_the_oldest_are_dropped_when_there_is_no_room(session):
    session.max_turns = 3
    for number in range(1, 6):
        answered = session.ask(question("Who are you?"), PlainAnswer(io.StringIO(), "hide"))
        assert answered.num_dropped_turns == max(0, number - 3)
        assert not answered.context_was_full
        assert session.num_turns == number
    session.max_turns = 100
    session.reset()
    dropped = [
        session.ask(question("Tell a story."), PlainAnswer(io.StringIO(), "hide")).num_dropped_turns
        for _ in range(4)
    ]
    assert dropped[0] == 0
    assert dropped[-1] > 0
    assert session.answers[-1].context_was_full
    assert len(session.answers) == 9
    last = session.answers[-1].ended.usage
    assert last.prompt_tokens + last.completion_tokens <= session.context_len


def test_the_next_turn_reads_only_what_is_new(session):
    ask(session, "Who are you?")
    ask(session, "What is 2+3?")
    first, second = (answered.ended.usage for answered in session.answers)
    assert second.cached_tokens >= first.prompt_tokens + first.completion_tokens - 8


def test_a_question_longer_than_the_context_is_refused_and_forgotten(session):
    ask(session, "Who are you?")
    before = session.conversation
    with pytest.raises(UserError, match="ask something shorter"):
        ask(session, "Who are you? " * 500)
    assert session.conversation == before
    assert ask(session, "What is 2+3?") == "It is 5.\n"


def commands(session: Session) -> tuple[Commands, io.StringIO]:
    from rich.console import Console

    out = io.StringIO()
    return Commands(session, Screen(Console(file=out, highlight=False)), think="hide"), out


def test_saved_conversations_are_read_by_prepare_and_by_load(session, runs, tmp_path):
    session.set_system("Be brief.")
    ask(session, "Who are you?")
    ask(session, "What is 2+3?")
    whole = session.conversation
    run, out = commands(session)
    assert run.run(f"/save '{tmp_path}/a chat.jsonl'")
    path = tmp_path / "a chat.jsonl"
    assert [example.value for example in read_conversations([path])] == [whole]
    prepared = chat_runs.prepare(path, runs.parent / "tokenizer", tmp_path / "out", val_documents=0)
    assert (prepared / "manifest.json").exists()

    session.reset()
    assert session.num_turns == 0
    assert session.system == "Be brief."
    run.run("/system none")
    run.run(f"/load '{path}'")
    assert session.conversation == whole
    assert session.system == "Be brief."
    assert out.getvalue().rstrip().endswith("It is 5.")
    ask(session, "Who are you?")
    run.run(f"/save '{path}'")  # its own file may be written again
    assert next(read_conversations([path])).value == session.conversation


def test_wrong_files_change_nothing(session, tmp_path):
    ask(session, "Who are you?")
    before = session.conversation
    run, _ = commands(session)
    files = {
        "text.txt": "hello",
        "broken.jsonl": '{"messages": [',
        "other.jsonl": '{"question": 1}\n',
        "order.jsonl": json.dumps({"messages": [{"role": "assistant", "content": "hi"}]}),
        "empty.jsonl": "",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(UserError) as caught:
            run.run(f"/load {tmp_path / name}")
        assert "\n" not in str(caught.value), name
    for line in (
        f"/load {tmp_path}",
        "/load",
        "/load a b c",
        "/load 'a",
        f"/load {tmp_path / 'nowhere.jsonl'}",
        f"/load {'n' * 300}",
        "/load ~nobody-of-that-name/a.jsonl",
    ):
        with pytest.raises(UserError):
            run.run(line)
    for line in (
        "/save text.txt",
        f"/save {tmp_path / 'other.jsonl'}",
        f"/save {tmp_path / 'no' / 'such.jsonl'}",
        f"/save {'n' * 300}",
        "/save ~nobody-of-that-name/a.jsonl",
        "/save ''",
        "/save .",
    ):
        with pytest.raises(UserError):
            run.run(line)
    assert session.conversation == before
    assert (tmp_path / "other.jsonl").read_text() == files["other.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_history_that_cannot_be_read_is_no_loss(tmp_path, monkeypatch):
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    with contextlib.closing(LineReader(history=tmp_path)):  # a folder
        pass


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/temp hot", "/temp: 'hot' is no number for it"),
        ("/temp -3", "/temp: temperature is -3.0; it must be at least 0"),
        ("/temp nan", "/temp: temperature is nan"),
        ("/temp none", "/temp: 'none' is no number"),
        ("/top_k 1.5", "/top_k: '1.5' is no number"),
        ("/max_tokens 0", "/max_tokens: max_tokens is 0"),
        ("/think loud", "/think is 'loud'; expected one of show, dim, hide"),
        ("/", "/ is no command; /help lists them"),
        ("/hlep", "did you mean /help?"),
    ],
)
def test_bad_commands_are_refused_in_one_line(session, line, says):
    sampling = session.sampling
    run, _ = commands(session)
    with pytest.raises(UserError) as caught:
        run.run(line)
    assert says in str(caught.value)
    assert session.sampling == sampling


def test_settings_hold_from_the_next_answer_on(session):
    run, out = commands(session)
    for line in ("/temp 0.5", "/seed 7", "/top_k 5", "/max_tokens 3", "/top_p 0.9"):
        assert run.run(line)
    assert session.sampling == Sampling(temperature=0.5, seed=7, top_k=5, max_tokens=3, top_p=0.9)
    run.run("/seed none")
    run.run("/seed")
    assert session.sampling.seed is None
    assert out.getvalue().endswith("seed is none\nseed is none\n")
    ask(session, "Tell a story.")
    assert session.answers[-1].ended.usage.completion_tokens <= 3
    assert not run.run("/quit")


def test_speed_is_measured_from_the_question_on(session):
    began = time.monotonic()
    ask(session, "Tell a story.")
    answered = session.answers[-1]
    assert 0 < answered.first_seconds < answered.seconds <= time.monotonic() - began
    tokens = answered.ended.usage.completion_tokens
    assert answered.tokens_per_second == pytest.approx(
        (tokens - 1) / (answered.seconds - answered.first_seconds)
    )
