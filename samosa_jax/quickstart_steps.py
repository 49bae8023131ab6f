"""The steps of the quickstart: which command runs when, with which flags, for the minutes that there are."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from samosa_jax.command_line import load_config
from samosa_jax.config import Config
from samosa_jax.errors import UserError
from samosa_jax.tasks.preference import HABITS

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = CONFIGS / "recipes" / "quickstart"
WHOLE_MINUTES = 10.0  # what the numbers below are made for, on two CPU cores
MIN_MINUTES = 1.0
# Of the whole, compiling, evaluating, exporting and reporting: as long however little is trained.
FIXED_MINUTES = 2.5

TOKENIZER_BYTES = 3_000_000
CONVERSATIONS, MIN_CONVERSATIONS = 36_000, 1_000
PAIRS, MIN_PAIRS = 800, 200
SPOILED = 0.2  # of the conversations have a habit of scraped text, for DPO to take out again
HELD_OUT = 100  # conversations and pairs kept for validation
STEPS = {"base": 180, "mid": 720, "sft": 480, "dpo": 40, "grpo": 24}
MIN_STEPS = {"base": 20, "mid": 4, "sft": 4, "dpo": 4, "grpo": 2}
# Of a step of the chat stages, however long they are: conversations are short, and eight devices share them.
ROWS, REWARDED_ROWS = 8, 40
SKILLS = ("sums", "letters", "memory", "identity", "thinking", "stories", "manners")
QUESTIONS = 100  # of every skill, the same after every stage
STORIES = "embedded/stories"
JUDGEMENT = "evaluate grpo"  # the step that holds the last model against the gate


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the quickstart."""

    title: str
    argv: tuple[str, ...]  # as after `samosa`
    makes: Path | None = None  # the step is passed over once this is there; None: the command itself goes on


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user chose. Raises UserError where it makes no sense.

    Attributes:
        text: files and folders to pretrain on; empty: the embedded stories.
        minutes: that all of it may take, about, on two CPU cores.
        config: of the base model.
        vocab_size: of it and its tokenizer; 0: as in config.
        persona: YAML file of who the assistant is; empty: samosaChaat.
        gate: YAML file of what the last model must show; None: nothing.
        exports: whether PyTorch is there, by which an export is verified.
    """

    name: str
    text: tuple[str, ...]
    minutes: float
    config: Path
    vocab_size: int
    persona: str
    gate: Path | None
    seed: int
    exports: bool

    def __post_init__(self) -> None:
        if not MIN_MINUTES <= self.minutes < math.inf:
            raise UserError(f"--minutes is {self.minutes:g}; expected at least {MIN_MINUTES:g}")
        if self.vocab_size < 0:
            raise UserError(f"--vocab-size is {self.vocab_size}; it must be positive, or left out")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}; it must be at least 0")
        if not self.name or "/" in self.name:
            raise UserError(f"--name is {self.name!r}; it is a part of names of folders, without a slash")
        for path in (self.config, self.gate, Path(self.persona) if self.persona else None):
            if path is not None and not path.is_file():
                raise UserError(f"{path}: no such file; name one that there is")

    def recorded(self) -> dict[str, object]:
        """What decides the models, as the quickstart keeps it to go on with."""
        names = ("text", "minutes", "config", "vocab_size", "persona", "seed")
        values = {name: getattr(self, name) for name in names}
        return {**values, "text": list(self.text), "config": str(self.config)}

    def check_same(self, before: Mapping[str, object], *, where: Path) -> None:
        """Raises UserError where what is kept there began with other settings."""
        for name, now in self.recorded().items():
            if name == "vocab_size" and not self.tokenizer.exists():
                continue  # the text may have turned out to be too small for the one of before
            if before.get(name) != now:
                raise UserError(
                    f"{where}: was begun with {name} {before.get(name)!r}, found {now!r}; give --name "
                    "another name, or the flags of before"
                )

    @property
    def data(self) -> Path:
        return Path("data") / self.name

    @property
    def tokenizer(self) -> Path:
        return self.data / "tokenizer"

    @cached_property
    def base(self) -> Config:
        return load_config(self.config)

    @property
    def whole_vocab_size(self) -> int:
        """Of the tokenizer and the model, given or not."""
        return self.vocab_size or self.base.model.vocab_size

    def run(self, stage: str) -> str:
        return f"runs/{self.name}_{stage}"

    @property
    def export(self) -> Path:
        return Path("exports") / self.name

    @property
    def share(self) -> float:
        """Of the training that WHOLE_MINUTES have room for."""
        return max(self.minutes - FIXED_MINUTES, 0.1) / (WHOLE_MINUTES - FIXED_MINUTES)

    def num_steps(self, stage: str) -> int:
        return max(round(STEPS[stage] * self.share), MIN_STEPS[stage])


def steps(settings: Settings) -> Iterator[Step]:
    """All steps, in order. The same settings give the same steps, which is what lets a stopped one go on."""
    yield from _data_steps(settings)
    yield from _training_steps(settings)
    last = settings.run("grpo")
    if settings.exports:
        yield Step(
            title="export",
            argv=("export", last, f"--out={settings.export}"),
            makes=settings.export,
        )
    yield Step(title="report", argv=("report", last))


def _data_steps(settings: Settings) -> Iterator[Step]:
    data, seed = settings.data, str(settings.seed)
    inputs = settings.text or (STORIES,)
    persona = ("--persona", settings.persona) if settings.persona else ()
    chat, pairs, tokenizer = data / "chat.jsonl", data / "pairs.jsonl", settings.tokenizer
    count = max(round(CONVERSATIONS * settings.share), MIN_CONVERSATIONS)
    yield Step(
        title="conversations",
        argv=(
            *("prepare", "synth", "starter", "--count", str(count), "--seed", seed, "--out", str(chat)),
            *("--spoiled", str(SPOILED), *persona),
        ),
        makes=chat,
    )
    yield Step(
        title="preferences",
        argv=(
            *("prepare", "synth", "preference", "--of", "starter", "--seed", seed, "--out", str(pairs)),
            *("--count", str(max(round(PAIRS * settings.share), MIN_PAIRS)), "--artefacts", *HABITS),
            *persona,
        ),
        makes=pairs,
    )
    yield Step(
        title="tokenizer",
        argv=(
            *("train_tokenizer", "--input", *inputs, "--chat", str(chat), "--out", str(tokenizer)),
            *("--vocab-size", str(settings.whole_vocab_size), "--max-bytes", str(TOKENIZER_BYTES)),
        ),
        makes=tokenizer,
    )
    # A file of one's own is often a single text, of which nothing could be held out.
    pieces = ("--split-on", "blank-lines", "--val-documents", "8") if settings.text else ()
    yield Step(
        title="text",
        argv=(
            *("prepare", "--input", *inputs, "--tokenizer", str(tokenizer), "--out", str(data / "text")),
            *pieces,
        ),
    )
    with_tokenizer = ("--tokenizer", str(tokenizer), "--val-documents", str(HELD_OUT))
    yield Step(
        title="chat",
        argv=("prepare", "chat", str(chat), "--out", str(data / "chat"), *with_tokenizer),
    )
    yield Step(
        title="pairs",
        argv=("prepare", "chat", str(pairs), "--preferences", "--out", str(data / "pairs"), *with_tokenizer),
    )


def _training_steps(settings: Settings) -> Iterator[Step]:
    def train(stage: str, *flags: str) -> Step:
        name = Path(settings.run(stage)).name
        seed = f"--seed={settings.seed}"
        steps = f"--train.num_steps={settings.num_steps(stage)}"
        return Step(
            title=stage, argv=("train", *flags, f"--name={name}", seed, "--train.horizon=steps", steps)
        )

    def stage_of(stage: str, overlay: str, *flags: str, before: str) -> Step:
        files = (CONFIGS / "stages" / f"{overlay}.yaml", RECIPES / f"{overlay}.yaml")
        configs = [f"--config={path}" for path in files]
        rows = REWARDED_ROWS if stage == "grpo" else ROWS
        batch = f"--train.batch_tokens={rows * settings.base.model.context_len}"
        return train(stage, *configs, f"--init_from={settings.run(before)}", batch, *flags)

    data = settings.data
    # A preset warms up for as long as its own run wants.
    warmup_steps = min(settings.base.schedule.warmup_steps, settings.num_steps("base") // 10)
    yield train(
        "base",
        *(f"--config={settings.config}", f"--data={data / 'text'}"),
        f"--schedule.warmup_steps={warmup_steps}",
        f"--model.vocab_size={settings.whole_vocab_size}",
    )
    yield stage_of("mid", "midtrain", f"--data={data / 'chat'}", before="base")
    yield _evaluation(settings, "mid")
    yield stage_of("sft", "sft", f"--data={data / 'chat'}", before="mid")
    yield _evaluation(settings, "sft")
    yield stage_of("dpo", "dpo", f"--data={data / 'pairs'}", before="sft")
    yield _evaluation(settings, "dpo")
    # What has learnt for less than the whole time may have no signal yet; all stages are to be seen even so.
    insist = ("--rl.ignore_preflight=true",) if settings.minutes < WHOLE_MINUTES else ()
    yield stage_of("grpo", "grpo", *insist, before="dpo")
    yield _evaluation(settings, "grpo", gate=settings.gate)


def _evaluation(settings: Settings, stage: str, *, gate: Path | None = None) -> Step:
    tasks = ",".join(("probes", *(f"starter_{skill}" for skill in SKILLS)))
    persona = (f"--persona={settings.persona}",) if settings.persona else ()
    flags: Sequence[str] = (
        *(f"--tasks={tasks}", f"--limit={QUESTIONS}", "--max_batch=64", "--max_tokens=128"),
        *(f"--probes={RECIPES / 'probes'}", *persona, *([f"--gate={gate}"] if gate else ())),
    )
    return Step(title=f"evaluate {stage}", argv=("evaluate", settings.run(stage), *flags))
