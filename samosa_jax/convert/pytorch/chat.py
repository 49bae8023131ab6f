"""Talks with the model in this folder on the terminal.

    pip install torch safetensors tokenizers
    python chat.py                       # /reset begins anew, /quit or Ctrl-D leaves, Ctrl-C stops an answer
    python chat.py -p "Who are you?"     # prints the answer alone

Everything is in this file; config.json, model.safetensors and tokenizer.json are beside it, or in --model.
"""

import argparse
import codecs
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, TypeVar

try:
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from torch import Tensor
except ImportError as missing:
    print(f"{missing}; install what is needed: pip install torch safetensors tokenizers", file=sys.stderr)
    raise SystemExit(2) from missing

from samosa_jax.convert.pytorch.network import KeyValueCache, Network, NetworkConfig

BOS, USER_START, USER_END = "<|bos|>", "<|user_start|>", "<|user_end|>"
ASSISTANT_START, ASSISTANT_END = "<|assistant_start|>", "<|assistant_end|>"
THINK_START, THINK_END = "<think>", "</think>"
CALL_START, CALL_END = "<|python_start|>", "<|python_end|>"
END_MARKS = (ASSISTANT_END, BOS, USER_START, USER_END)
MARKS = (*END_MARKS, ASSISTANT_START, THINK_START, THINK_END, CALL_START, CALL_END)
MAX_REASON = 300  # characters of an error that are shown
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
# What a terminal would obey instead of showing it: control characters and marks of direction.
UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

# GPT-2's alphabet, a character for every byte: itself if it can be seen, else one of those from U+0100 on.
VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
HIDDEN = [byte for byte in range(0x100) if byte not in VISIBLE]
BYTE_OF = {chr(byte): byte for byte in VISIBLE} | {chr(0x100 + i): byte for i, byte in enumerate(HIDDEN)}

Read = TypeVar("Read")


class ChatError(Exception):
    """What is wrong with the files, the flags or the question, in one line."""


class Text:
    """Between text and tokens. Text never becomes a special token, whatever it spells."""

    def __init__(self, file: Path, marks: Mapping[str, int]) -> None:
        """marks: ids of the special tokens that a dialogue is made of, by name."""
        self.marks = marks
        self.names = {number: name for name, number in marks.items()}
        self._tokenizer: Tokenizer = read(file, lambda: Tokenizer.from_file(str(file)))
        self._tokenizer.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {number for number, token in added.items() if token.special}
        unknown = [name for name, number in marks.items() if number not in self._special]
        if unknown:
            raise ChatError(f"{file} has no special token {unknown[0]}, as config.json has; they do not fit")
        decoder = json.dumps(json.loads(self._tokenizer.to_str())["decoder"])
        self._is_over_bytes = "ByteLevel" in decoder
        self._has_space_mark = "Replace" in decoder or "Metaspace" in decoder

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def bytes_of(self, token: int) -> bytes:
        """What a token of text stands for; several may be needed for one character."""
        piece = self._tokenizer.id_to_token(token)
        if piece is None or token in self._special:
            return b""
        if self._is_over_bytes and BYTE_OF.keys() >= set(piece):
            return bytes(BYTE_OF[character] for character in piece)
        byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
        if byte:
            return bytes.fromhex(byte[1])
        return (piece.replace("\u2581", " ") if self._has_space_mark else piece).encode()


@dataclass
class Turn:
    """A question, and the tokens of its answer as the model wrote them."""

    question: str
    answer: list[int] = field(default_factory=list)


class Chat:
    """A dialogue with a model: what it is told, and what it answers."""

    def __init__(self, network: Network, text: Text, *, options: argparse.Namespace) -> None:
        self.turns: list[Turn] = []
        self._network = network
        self._text = text
        self._options = options
        self._device = network.model.embed_tokens.weight.device
        self._capacity = network.config.context_len
        self._cache = KeyValueCache(self._capacity)
        self._read: list[int] = []  # tokens that are in the cache
        self._random = torch.Generator()
        self._random.seed() if options.seed is None else self._random.manual_seed(options.seed)
        self.ending = ""  # why the last answer ended where it did, unless the model ended it

    def reset(self) -> None:
        """Forgets everything."""
        self.turns = []

    def ask(self, question: str) -> tuple[Turn, int]:
        """Begins a turn; returns it and the number of old ones that are forgotten for want of room.

        Raises:
            ChatError: the question alone is too long.
        """
        turns = [*self.turns, Turn(question)][-self._options.history :]
        room = self._capacity - min(self._options.max_tokens, self._capacity // 4)
        kept = list(turns)
        while len(kept) > 1 and len(self.prompt(kept)) > room:
            kept = kept[1:]
        length = len(self.prompt(kept))
        if length >= self._capacity:
            raise ChatError(f"that is too long: {length} tokens, of {self._capacity} that the model can read")
        self.turns = kept
        return kept[-1], len(turns) - len(kept)

    def answer(self, turn: Turn) -> Iterator[int]:
        """The tokens of the answer, each as it is drawn, kept in the turn; the mark that ends it is not."""
        tokens = self.prompt(self.turns)
        self.ending = f"ended after {self._options.max_tokens} tokens: see --max_tokens"
        for _ in range(self._options.max_tokens):
            if len(tokens) >= self._capacity:
                self.ending = f"ended: all {self._capacity} tokens that the model can read are used"
                return
            token = self._draw(self._next_logits(tokens))
            if self._text.names.get(token) in END_MARKS:
                self.ending = ""
                return
            turn.answer.append(token)
            tokens.append(token)
            yield token

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """The tokens after which the model answers the last of the turns."""
        marks = self._text.marks
        tokens = [marks[BOS]]
        for number, turn in enumerate(turns):
            tokens.append(marks[USER_START])
            if number == 0 and self._options.system.strip():
                tokens += self._text.encode(f"{self._options.system.strip()}\n\n")
            tokens += self._text.encode(turn.question.strip())
            tokens += [marks[USER_END], marks[ASSISTANT_START], *turn.answer]
            if number < len(turns) - 1:
                tokens.append(marks[ASSISTANT_END])
        return tokens

    def _next_logits(self, tokens: list[int]) -> Tensor:
        """Of the token that follows (vocab_size,); reads what is not in the cache yet."""
        shared = 0
        for known, token in zip(self._read, tokens[:-1], strict=False):
            if known != token:
                break
            shared += 1
        self._cache.truncate(shared)
        self._read = tokens[:shared]
        with torch.inference_mode():
            hidden = self._network.model(torch.tensor([tokens], device=self._device), cache=self._cache)
            logits = self._network.logits(hidden[0, -1])
        self._read = list(tokens)
        return logits.cpu()

    def _draw(self, logits: Tensor) -> int:
        if self._options.temp == 0:
            return int(logits.argmax())
        if 0 < self._options.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(self._options.top_k).values[-1], -torch.inf)
        share = torch.softmax(logits / self._options.temp, dim=-1)
        return int(torch.multinomial(share, 1, generator=self._random))


class Display:
    """Writes an answer as it comes: whole characters, thoughts dimmed, calls of tools in brackets."""

    def __init__(self, text: Text, *, only_answer: bool) -> None:
        self._text = text
        self._only_answer = only_answer
        self._dims = sys.stdout.isatty() and "NO_COLOR" not in os.environ and not only_answer
        self._line_is_open = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._place = "text"
        self._call = ""
        self.called = False  # a tool

    def add(self, token: int) -> None:
        mark = self._text.names.get(token)
        if mark is None:
            self._write(self._decoder.decode(self._text.bytes_of(token)))
        elif mark == THINK_START and self._place == "text":
            self._enter("thought")
        elif mark == THINK_END and self._place == "thought":
            self._enter("text")
        elif mark == CALL_START and self._place != "call":
            self._enter("call")
        elif mark == CALL_END and self._place == "call":
            self._enter("text")
            self.called = True

    def end(self) -> None:
        self._enter("text")
        self._end_line()

    def _enter(self, place: str) -> None:
        self._write(self._decoder.decode(b"", final=True))
        if self._place == "thought":
            self._style(PLAIN)
            self._end_line()
        elif self._place == "call" and not self._only_answer:
            self._end_line()
            self._put(f"[{self._call.strip()}]\n")
        self._call = ""
        self._place = place
        if place == "thought":
            self._style(DIM)

    def _write(self, text: str) -> None:
        text = UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)
        if self._place == "call":
            self._call += text
        elif self._place == "text" or not self._only_answer:
            self._put(text)

    def _style(self, code: str) -> None:
        if self._dims:
            print(code, end="", flush=True)

    def _end_line(self) -> None:
        if self._line_is_open:
            self._put("\n")

    def _put(self, text: str) -> None:
        if text:
            print(text, end="", flush=True)
            self._line_is_open = not text.endswith("\n")


def read(file: Path, make: Callable[[], Read]) -> Read:
    """What `make` makes of the file. Raises ChatError if it fails."""
    if not file.is_file():
        raise ChatError(f"{file} is not there; put it back, or name the folder of an export with --model")
    try:
        return make()
    except Exception as error:  # tokenizers has no class of its own for a damaged file
        what = " ".join(str(error).split())[:MAX_REASON]
        raise ChatError(f"{file} cannot be used ({type(error).__name__}: {what}); copy it again") from error


def load(folder: Path, device: torch.device) -> tuple[Network, Text]:
    """The model in a folder; where the device computes faster in bfloat16, its matrices are in it."""
    config_file, weights = folder / "config.json", folder / "model.safetensors"

    def build() -> tuple[Network, dict[str, int]]:
        values = json.loads(config_file.read_text(encoding="utf-8"))
        with torch.device("meta"):
            network = Network(NetworkConfig.from_dict(values))
        return network, {name: values["special_token_ids"][name] for name in MARKS}

    network, marks = read(config_file, build)
    text = Text(folder / "tokenizer.json", marks)
    if text.vocab_size > network.config.vocab_size:
        raise ChatError(
            f"{folder / 'tokenizer.json'} has {text.vocab_size} tokens, config.json only "
            f"{network.config.vocab_size}; they belong to different models"
        )
    tensors = read(weights, lambda: load_file(weights))
    halves = device.type == "cuda" and torch.cuda.is_bf16_supported()
    for name, tensor in tensors.items():
        dtype = torch.bfloat16 if halves and tensor.ndim == 2 else torch.float32
        tensors[name] = tensor.to(device, dtype)
    read(weights, lambda: network.load_state_dict(tensors, assign=True))
    return network.eval(), text


def choose_device(name: str) -> torch.device:
    """The one that is named; else CUDA, MPS or the CPU, the first that is here."""
    if not name:
        here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(name for name, is_here in here.items() if is_here)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ChatError(f"--device={name} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Talk with the model in this folder.")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="the folder of an export")
    parser.add_argument("-p", "--prompt", default="", help="ask this, print the answer and leave; - reads it")
    parser.add_argument("--system", default="", help="the system message")
    parser.add_argument("--history", type=int, default=6, help="turns that the model is told of")
    parser.add_argument("--temp", type=float, default=0.8, help="0 takes the likeliest token")
    parser.add_argument("--top_k", type=int, default=50, help="draw among so many of the likeliest; 0: all")
    parser.add_argument("--max_tokens", type=int, default=512, help="longest answer")
    parser.add_argument("--seed", type=int, help="the same answers every time")
    parser.add_argument("--device", default="", help="cuda, mps or cpu")
    options = parser.parse_args(argv)
    for name, least in (("history", 1), ("temp", 0), ("top_k", 0), ("max_tokens", 1)):
        value = getattr(options, name)
        if not least <= value < float("inf"):
            raise ChatError(f"--{name} is {value}; it must be at least {least}")
    return options


def say(line: str, *, file: TextIO) -> None:
    """A line of the program's own."""
    print(f"({line})", file=file, flush=True)


def answer(chat: Chat, text: Text, question: str, *, only_answer: bool) -> bool:
    """Asks, and shows what the model says; whether it could say it to its end."""
    notices = sys.stderr if only_answer else sys.stdout
    turn, num_forgotten = chat.ask(question)
    if num_forgotten:
        say(f"the oldest {num_forgotten} turns are forgotten: there is no more room", file=notices)
    display = Display(text, only_answer=only_answer)
    was_stopped = False
    try:
        for token in chat.answer(turn):
            display.add(token)
            if display.called:
                break
    except KeyboardInterrupt:
        was_stopped = True
    display.end()
    if was_stopped:
        say("stopped", file=notices)
    elif display.called:
        say("the model calls a tool, and this program runs none: the turn ends here", file=notices)
    elif chat.ending:
        say(chat.ending, file=notices)
    return not was_stopped


def converse(chat: Chat, text: Text) -> None:
    """Turn after turn, until /quit or the end of the input."""
    while True:
        try:
            question = input("\n> " if sys.stdin.isatty() else "").strip()
            if question == "/quit":
                return
            if question == "/reset":
                chat.reset()
                say("forgotten", file=sys.stdout)
            elif re.fullmatch(r"/\w*", question):
                say(f"there is no {question}: /reset begins anew, /quit leaves", file=sys.stdout)
            elif question:
                answer(chat, text, question, only_answer=False)
        except ChatError as error:
            say(str(error), file=sys.stdout)
        except KeyboardInterrupt:
            print()
            say("/quit or Ctrl-D leaves", file=sys.stdout)
        except EOFError:
            print()
            return


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status: 2 for bad files or flags, 130 for -p and Ctrl-C."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        options = parse_flags(argv)
        device = choose_device(options.device)
        network, text = load(options.model, device)
        chat = Chat(network, text, options=options)
        if options.prompt:
            question = sys.stdin.read() if options.prompt == "-" else options.prompt
            return 0 if answer(chat, text, question, only_answer=True) else 130
        size = sum(value.numel() for value in network.parameters())
        say(f"{size:,} parameters on {device.type}; /reset begins anew, /quit leaves", file=sys.stdout)
        converse(chat, text)
    except ChatError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
