"""From nothing to a chat model of your own on this machine, offline, in ten minutes on two CPU cores.

    samosa quickstart                                # tokenizer, base, SFT, DPO, GRPO, gates, export, report
    samosa quickstart --text my.txt --minutes 30     # pretrained on your own text, and for longer
    samosa quickstart --minutes 3                    # a look at all of it

Each step is an ordinary command, printed before it runs. Interrupt it at any moment and run it again:
finished steps are passed over, and training goes on where it stood, to the same bits.
"""

import argparse
import importlib
import importlib.util
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from samosa_jax.command_line import run
from samosa_jax.data.hub import SCHEME
from samosa_jax.data.sources import list_inputs
from samosa_jax.errors import UserError
from samosa_jax.evals import gates
from samosa_jax.evaluate import REFUSED_EXIT
from samosa_jax.quickstart_overview import overview
from samosa_jax.quickstart_steps import CONFIGS, JUDGEMENT, WHOLE_MINUTES, Settings, Step, steps
from samosa_jax.training.display import format_seconds

NAME = "quickstart"
# What a model can be held to after so many minutes; in fewer it has hardly begun.
GATES = (
    (WHOLE_MINUTES, CONFIGS / "gates" / "quickstart.yaml"),
    (3.0, CONFIGS / "gates" / "quickstart_short.yaml"),
)
EXPORTS_WITH = ("torch", "safetensors", "tokenizers")
TALKS = (
    ("Hello! Can you tell me your name?", "What is 127 * 46?", "Now add 58."),
    ("Please call me Tolu.", "How many r are in strawberry?", "Do you know who I am?"),
    ("Can you tell me a story about a turtle?",),
)
ANSWER_TOKENS = 160


def main(argv: list[str]) -> None:
    """Runs what is not done yet. Raises UserError; SystemExit with 3 if the model does not pass its gate."""
    settings = _settings(argv)
    console = Console(highlight=False)
    if not settings.exports:
        console.print(
            "PyTorch is not installed, so the model will be trained but not exported; "
            "`pip install 'samosa-jax[torch]'` and the same command again export it",
            markup=False,
        )
    # What a later step would refuse is refused before anything is made.
    local = [path for path in settings.text if not path.startswith(SCHEME)]
    if local:
        list_inputs(local)
    if settings.gate is not None:
        gates.load(settings.gate)
    todo = list(steps(settings))
    settings.data.mkdir(parents=True, exist_ok=True)
    journal = Journal(settings.data / "quickstart.json", settings)
    for number, step in enumerate(todo, start=1):
        heading = f"{number}/{len(todo)} {step.title}"
        if step.title in journal.seconds and (step.makes is None or step.makes.exists()):
            console.print(f"[dim]{heading}: done in {format_seconds(journal.seconds[step.title])}[/]")
            continue
        console.rule(f"[bold]{heading}", align="left", style="cyan")
        console.print(f"$ samosa {shlex.join(step.argv)}", soft_wrap=True, style="dim", markup=False)
        started = time.monotonic()
        if step.makes is None or not step.makes.exists():
            _run(step, journal)
        journal.add(step.title, time.monotonic() - started)
    console.print(overview(settings, journal.seconds))
    if console.is_terminal and sys.stdin.isatty():
        importlib.import_module("samosa_jax.chat").main([settings.run("grpo")])
    else:
        talk(settings, console)
    if journal.was_refused:
        console.print(f"The model does not meet {settings.gate}; `--minutes` gives it longer.", markup=False)
        sys.exit(REFUSED_EXIT)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `samosa quickstart --help` lists what there is")


def _settings(argv: list[str]) -> Settings:
    parser = _Parser(
        prog="samosa quickstart",
        description="Train a chat model of your own on this machine: all stages, offline, in minutes.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--text", action="append", metavar="FILE", help="pretrain on this file or folder; may repeat")
    add("--minutes", type=float, default=WHOLE_MINUTES, help="to spend on two CPU cores, about (10)")
    add("--config", type=Path, default=CONFIGS / "quickstart.yaml", help="of another base model")
    add("--vocab-size", type=int, default=0, metavar="N", help="for a text too small for that of --config")
    add("--persona", default="", metavar="FILE", help="who the assistant is; see configs/personas")
    add("--gate", type=Path, help="what the last model must show; by the minutes, if not given")
    add("--name", default="", help="of data/NAME, runs/NAME_STAGE and exports/NAME (quickstart)")
    add("--seed", type=int, default=0, help="other seeds give other conversations and another model")
    flags = parser.parse_args(argv)
    text = tuple(flags.text or ())
    return Settings(
        name=flags.name or (NAME if not text else f"{NAME}_{Path(text[0]).stem}"),
        text=text,
        minutes=flags.minutes,
        config=flags.config,
        vocab_size=flags.vocab_size,
        persona=flags.persona,
        gate=flags.gate or _gate_for(flags.minutes),
        seed=flags.seed,
        exports=all(importlib.util.find_spec(package) for package in EXPORTS_WITH),
    )


def _gate_for(minutes: float) -> Path | None:
    return next((gate for least, gate in GATES if minutes >= least), None)


class Journal:
    """What is done, and how long it took; on disk after every step, so that a killed run knows."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Raises UserError where the folder is that of a quickstart with other settings."""
        self._path = path
        self._gate = str(settings.gate or "")
        self.seconds: dict[str, float] = {}
        self.was_refused = False
        if not path.exists():
            self._write(settings.recorded())
            return
        kept = json.loads(path.read_text())
        settings.check_same(kept["settings"], where=path)
        self.seconds, self.was_refused = kept["seconds"], kept["was_refused"]
        self._settings = settings.recorded()
        if kept.get("gate", self._gate) != self._gate:
            # Another gate judges anew, by the results that are there.
            self.seconds.pop(JUDGEMENT, None)
            self.was_refused = False

    def add(self, title: str, seconds: float) -> None:
        self.seconds[title] = round(seconds, 1)
        self._write(self._settings)

    def refuse(self) -> None:
        self.was_refused = True

    def _write(self, settings: Mapping[str, object]) -> None:
        self._settings = settings
        kept = {
            "settings": settings,
            "gate": self._gate,
            "seconds": self.seconds,
            "was_refused": self.was_refused,
        }
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(kept, indent=1))
        os.replace(temporary, self._path)


def _run(step: Step, journal: Journal) -> None:
    name, *argv = step.argv
    try:
        importlib.import_module(f"samosa_jax.{name}").main(argv)
    except SystemExit as stopped:
        # A model that does not pass its gate is exported and reported on all the same.
        if stopped.code != REFUSED_EXIT:
            raise
        journal.refuse()


def talk(settings: Settings, console: Console) -> None:
    """Some dialogues of several turns with the last model."""
    from contextlib import closing

    from samosa_jax.chat import ChatFlags, load
    from samosa_jax.chat_screen import PlainAnswer
    from samosa_jax.chat_session import Session
    from samosa_jax.rollout.assistant import Assistant
    from samosa_jax.rollout.request import Sampling
    from samosa_jax.toolbox import open_tools

    last = settings.run("grpo")
    trained, engines = load(ChatFlags(run=last))
    sampling = Sampling(temperature=0.0, max_tokens=ANSWER_TOKENS)
    registry = open_tools(("calculator",))
    with closing(Assistant(engines, trained.tokenizer, registry=registry)) as assistant:
        for talk in TALKS:
            console.print()
            session = Session(assistant, trained.tokenizer, sampling=sampling, max_turns=6)
            for question in talk:
                answer = io.StringIO()
                session.ask(question, PlainAnswer(answer, "dim"))
                console.print(f"> {question}", style="bold", markup=False)
                console.print(answer.getvalue().rstrip(), markup=False)
    console.print(
        f"\n`samosa chat {last}` goes on talking, `samosa serve {last}` in a browser.", markup=False
    )


if __name__ == "__main__":
    run(main)
