"""Chat with a trained model on the terminal.

    samosa chat                          # with the newest checkpoint of all runs
    samosa chat runs/sft -p "Who are you?"
    echo "Who are you?" | samosa chat -p -

`-p` prints the answer alone and exits: with 0, with 1 if the model failed, with 130 after Ctrl-C.
"""

import io
import re
import signal
import sys
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from samosa_jax.chat_commands import NAMES, Commands
from samosa_jax.chat_input import LineReader, default_history, on_signal, silent_keyboard
from samosa_jax.chat_screen import LiveAnswer, PlainAnswer, Screen, ThinkMode
from samosa_jax.chat_session import Answered, Session
from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.errors import UserError
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.request import Sampling
from samosa_jax.toolbox import open_tools

if TYPE_CHECKING:
    from samosa_jax.rollout.engine import Engine
    from samosa_jax.trained import Trained

PROMPT = "\u203a "
FROM_STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class ChatFlags:
    """The flags of `samosa chat`."""

    run: str = ""  # a run or a checkpoint; empty: the newest checkpoint under --runs
    runs: str = "runs"  # the folder with all runs
    step: int | None = None  # the checkpoint of that step; null: the newest
    tokenizer: str = ""  # its folder, where the run does not find it
    prompt: str = ""  # ask this, print the answer and exit; - reads it from standard input
    system: str = ""  # the system message
    history: int = 6  # turns that the model is told of, the present one among them
    temp: float = 0.8  # 0 takes the likeliest token
    top_k: int = 50  # draw among so many of the likeliest; 0: all
    top_p: float = 1.0  # draw among the likeliest that have this share together; 1: all
    max_tokens: int = 512  # longest answer
    seed: int | None = None  # null: other answers every time
    think: ThinkMode = "dim"  # how thoughts are shown
    tools: tuple[str, ...] = (
        "calculator",
    )  # that the model may use: calculator, web_search, python; or none
    describe_tools: bool = False  # tell the model of them; models trained to call them need no telling
    search_in: str = ""  # what web_search searches: .jsonl or a folder; empty: a service (TAVILY_API_KEY)
    context_len: int | None = None  # longest dialogue in tokens; null: as in training
    tensor: int = 1  # devices that the model is split over
    record: str = ""  # write what was shown as a picture (.svg) when the chat ends


def main(argv: list[str]) -> None:
    """Runs the command. Raises UserError; SystemExit with 1 or 130, see the module."""
    flags = parse_dataclass(
        argv,
        ChatFlags,
        description="Chat with a trained model.",
        positional=("run",),
        letters={"p": "prompt"},
    )
    sampling = make_sampling(flags)
    registry = open_tools(flags.tools, search_in=flags.search_in)
    # Neither a sign that the terminal lacks nor bytes that are no text may end the chat.
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    question = read_question(flags.prompt)
    recorder = make_recorder(flags.record)
    screen = Screen(Console(highlight=False, emoji=False, markup=False), recorder=recorder)
    with screen.console.status("loading the model") if screen.console.is_terminal else nullcontext():
        trained, engines = load(flags)
    for notice in trained.notices:
        print(notice, file=sys.stderr)
    with (
        # So that the terminal is left as it was found.
        on_signal(signal.SIGTERM, lambda: sys.exit(128 + signal.SIGTERM)),
        closing(Assistant(engines, trained.tokenizer, registry=registry)) as assistant,
    ):
        session = Session(
            assistant,
            trained.tokenizer,
            sampling=sampling,
            max_turns=flags.history,
            system=flags.system,
            tools=registry.schemas() if flags.describe_tools else (),
        )
        if question:
            ask_once(session, question, screen)
            return
        try:
            introduce(trained, session, screen)
            if screen.console.is_terminal:
                session.warm_up()
            converse(session, screen, think=flags.think)
        finally:
            if recorder is not None:
                write_picture(recorder, Path(flags.record), title=f"samosa chat, {trained.name}")


def make_sampling(flags: ChatFlags) -> Sampling:
    """Raises UserError for a number out of range."""
    if flags.history < 1:
        raise UserError(f"--history is {flags.history}; it must be at least 1, the present turn")
    try:
        return Sampling(
            temperature=flags.temp,
            top_k=flags.top_k,
            top_p=flags.top_p,
            max_tokens=flags.max_tokens,
            seed=flags.seed,
        )
    except ValueError as error:
        raise UserError(f"sampling: {error}") from error


def read_question(prompt: str) -> str:
    """What -p asks; empty: nothing, and the chat begins. Raises UserError for a question without words."""
    question = sys.stdin.read() if prompt == FROM_STDIN else prompt
    if prompt and not question.strip():
        raise UserError(
            f"-p asks nothing: {'standard input' if prompt == FROM_STDIN else 'the text'} is empty"
        )
    return question


def load(flags: ChatFlags) -> "tuple[Trained, list[Engine]]":
    """The model and the engine that runs it. Raises UserError."""
    import jax

    from samosa_jax.compilation_cache import use_compilation_cache
    from samosa_jax.trained import make_engines, open_named

    use_compilation_cache()
    devices = jax.devices()
    if not 1 <= flags.tensor <= len(devices):
        raise UserError(f"--tensor is {flags.tensor}; there are {len(devices)} devices here")
    trained = open_named(flags, devices=devices[: flags.tensor])
    engines = make_engines(trained, max_batch=1, context_len=flags.context_len, tensor=flags.tensor)
    return trained, engines


def introduce(trained: "Trained", session: Session, screen: Screen) -> None:
    """Says which model answers, and on what."""
    stage = "" if trained.config.stage == trained.name else f" ({trained.config.stage})"
    count = len(trained.devices)
    device = f"{f'{count} x ' if count > 1 else ''}{trained.devices[0].device_kind}"
    screen.say(
        f"{trained.name}{stage}, step {trained.step}: {trained.num_params / 1e6:,.1f} M "
        f"parameters, {session.context_len:,} tokens of context, {trained.network.compute_dtype} on {device}",
        style="bold",
    )
    if trained.config.content == "text":
        screen.say("it has read text alone and no conversation yet: expect it to go on, not to answer")
    screen.say("/help lists the commands, Ctrl-D ends the chat")
    screen.show()


def ask_once(session: Session, question: str, screen: Screen) -> None:
    """Prints one answer, and nothing else to stdout. SystemExit with 1 or 130 unless it came to its end."""
    if screen.console.is_terminal:
        view = LiveAnswer(screen, "hide", only_answer=True)
    else:
        view = PlainAnswer(sys.stdout, "hide", only_answer=True)
    ended = session.ask(question, view).ended
    if ended.reason == "error":
        print(f"error: {ended.error}", file=sys.stderr)
        sys.exit(1)
    if ended.reason == "cancelled":
        sys.exit(130)


def converse(session: Session, screen: Screen, *, think: ThinkMode) -> None:
    """Questions, commands and answers until the end of input. Raises UserError if nothing is ever asked."""
    commands = Commands(session, screen, think=think)
    num_dropped, was_interrupted, is_first = 0, False, True
    with closing(LineReader(words=NAMES, history=default_history())) as reader:
        while True:
            try:
                line = reader.read(PROMPT)
            except EOFError:
                break
            except KeyboardInterrupt:
                screen.show()
                if was_interrupted:
                    return
                was_interrupted = True
                screen.say("Ctrl-C once more, or Ctrl-D, ends the chat")
                continue
            was_interrupted, is_first = False, False
            if not line.strip():
                continue
            screen.echo(PROMPT, line)
            try:
                if line.startswith("/"):
                    if not commands.run(line):
                        return
                else:
                    with silent_keyboard():
                        answered = session.ask(line.strip(), screen.answer(commands.think))
                    report(answered, screen, num_dropped_before=num_dropped)
                    num_dropped = answered.num_dropped_turns
            except UserError as error:
                screen.say(str(error), style="red")
            except KeyboardInterrupt:
                screen.say("stopped")
            screen.show()
    if is_first and not sys.stdin.isatty():
        raise UserError(
            "nothing was asked: standard input is empty; ask with -p TEXT, or run it in a terminal"
        )
    screen.show()


def report(answered: Answered, screen: Screen, *, num_dropped_before: int) -> None:
    """Says what one does not see of an answer."""
    ended = answered.ended
    if ended.reason == "length":
        screen.say(
            f"cut off after {ended.usage.completion_tokens} tokens: /max_tokens, or the context, is full"
        )
    elif ended.reason == "cancelled":
        screen.say("stopped")
    elif ended.reason == "error":
        screen.say(ended.error, style="red")
    if not answered.is_kept:
        screen.say("this turn is left out of the conversation")
    if answered.num_dropped_turns > num_dropped_before:
        turns = "turn" if answered.num_dropped_turns == 1 else f"{answered.num_dropped_turns} turns"
        reason = "the context is full" if answered.context_was_full else "see --history"
        screen.say(f"the model is no longer told of the oldest {turns}: {reason}")


def make_recorder(path: str) -> Console | None:
    """What --record draws with. Raises UserError for a place where no picture can be."""
    if not path:
        return None
    if Path(path).suffix != ".svg" or not Path(path).parent.is_dir():
        raise UserError(f"--record is {path}; expected the name of an .svg file in a folder that exists")
    return Console(
        record=True,
        file=io.StringIO(),
        width=Console().width,
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
    )


def write_picture(recorder: Console, path: Path, *, title: str) -> None:
    """Raises UserError if it cannot be written."""
    try:
        # Without the fonts that rich would have every reader fetch from elsewhere.
        picture = re.sub(r"@font-face\s*{[^}]*}\s*", "", recorder.export_svg(title=title))
        path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--record: {path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    run(main)
