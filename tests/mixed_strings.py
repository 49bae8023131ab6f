"""Strings of every kind that a tokenizer meets, the same on every machine."""

import random
from collections.abc import Iterator, Sequence

_ALPHABETS = (
    "abcde \n\t",
    "aab ",
    "The cat's 'RE 'll don’t ſ",
    "".join(map(chr, range(0x20, 0x7F))),
    "".join(map(chr, range(0x20))),  # control characters
    "日本語の文字。中文，한국어 ",
    "👩\u200d👩\u200d👧 🇫🇷😀\ufe0f🏽",
    "e\u0301\u0302ё\u0308a\u0330 ",  # combining marks
    "שלום עולם مرحبا ١٢٣\u200f\u202e ",  # right to left
    "\0\u2581 a\n",
    "\r\n\t \x0b\x85\u2028\u00a0\u3000",  # what counts as white space somewhere
    "0123456789.,٣½Ⅳ",
    "    def f(x):\n\treturn {'a': x[0] != \"b\"}  # _\\;",
    "ﬁßİıǅΣςſﬆ",  # cases that change length
)
_FRAGMENTS = (
    "<0x41>",
    "<unk>",
    "<|not_special|>",
    "</s",
    "\\u2581",
    "&amp;",
    "https://a.b/c?d=e",
    "#include <a>\n",
)


def mixed_strings(count: int, texts: Sequence[str], seed: int = 0) -> Iterator[str]:
    """Of one or two alphabets, of any code points, and cut out of `texts`; without surrogates."""
    rng = random.Random(seed)
    for number in range(count):
        kind = number % 4
        if kind == 0:
            text = rng.choice(texts)
            start = rng.randrange(len(text))
            yield text[start : start + rng.randrange(1, 200)]
        elif kind == 1:
            yield "".join(_any_character(rng) for _ in range(rng.randrange(1, 20)))
        else:
            alphabets = rng.choices(_ALPHABETS, k=2)
            letters = "".join(alphabets)
            words = [
                "".join(rng.choices(letters, k=rng.randrange(1, 30))) for _ in range(rng.randrange(1, 4))
            ]
            yield "".join((*words, rng.choice(_FRAGMENTS))) if kind == 2 else "".join(words)


def _any_character(rng: random.Random) -> str:
    code = rng.randrange(rng.choice((0x80, 0x3000, 0x110000 - 0x800)))
    return chr(code if code < 0xD800 else code + 0x800)
