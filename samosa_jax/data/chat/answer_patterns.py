"""Habits of assistants that give their training data away: tags, labels, emoji, hedges, refusals, apologies.

Every function finds the first such place in an answer, or None. The answer's code is its own language: see
`prose`. The ideas are those of filters common for public chat data; the expressions are ours, and were read
against Dolly, Glaive's tool calls and preference pairs until they dropped no good answer seen.
"""

import re
from collections.abc import Callable, Mapping

_FENCED = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)", re.DOTALL)
_INLINE = re.compile(r"(`+)[^`\n]+\1")


def without_fences(answer: str) -> str:
    """The answer without its fenced blocks of code."""
    return _FENCED.sub("```", answer) if "```" in answer or "~~~" in answer else answer


def prose(answer: str) -> str:
    """The answer without its code: fenced blocks, and what stands between backticks."""
    return _INLINE.sub(" `` ", without_fences(answer)) if "`" in answer or "~~~" in answer else answer


_HTML = re.compile(r"</?(?:b|i|u|strong|em)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_LABEL = re.compile(r"^[ \t]*(?:[*_]{2})?(?:final answer|answer|response|q)(?:[*_]{2})?:", re.I | re.M)
# No letter before it: `vec![1, 2]` is Rust.
_IMAGE = re.compile(
    r"(?<![\w\]])!\[[^\]\n]+\](?![(\[])"  # ![a cat]
    r"|!\[[^\]\n]*\]\(\s*\)"  # ![a cat]()
    r"|\[(?:insert )?(?:an? )?(?:image|photo|picture)(?: (?:here|placeholder)|: ?[^\]\n]*)?\](?![(\[:])",
    re.IGNORECASE,
)


def find_html(answer: str) -> re.Match[str] | None:
    """Tags b, i, u, strong, em, with or without attributes."""
    return _HTML.search(answer) if "<" in answer else None


def find_stock_label(answer: str) -> re.Match[str] | None:
    """A line that begins with `Answer:`, `Response:`, `Final answer:` or `Q:`, bold or not."""
    return _LABEL.search(answer) if ":" in answer else None


def find_image_placeholder(answer: str) -> re.Match[str] | None:
    """`![a cat]` and `![a cat]()`, which show nothing, and `[image here]`."""
    return _IMAGE.search(answer) if "[" in answer else None


# What is shown as an emoji (UTS #51): characters of emoji presentation, and any symbol before U+FE0F. So the
# stars of a rating and the suits of cards, which are text, do not count.
_EMOJI_SHOWN = (
    "\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1\u26aa\u26ab"
    "\u26bd\u26be\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705\u270a\u270b\u2728\u274c\u274e"
    "\u2753-\u2755\u2757\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55"
    "\U0001f004\U0001f0cf\U0001f18e\U0001f191-\U0001f19a\U0001f201\U0001f21a\U0001f22f\U0001f232-\U0001f236"
    "\U0001f238-\U0001f23a\U0001f250\U0001f251"
    "\U0001f300-\U0001f64f"  # pictographs, emoticons
    "\U0001f680-\U0001f6ff"  # transport
    "\U0001f7e0-\U0001f7f0"  # coloured circles and squares
    "\U0001f900-\U0001f9ff\U0001fa70-\U0001faff"  # supplemental and extended pictographs
)
_EMOJI = (
    "(?:[\U0001f1e6-\U0001f1ff]{2}"  # a flag
    "|[0-9#*]\ufe0f?\u20e3"  # a keycap
    f"|(?:[{_EMOJI_SHOWN}]|[\xa9\xae\u203c-\u3299]\ufe0f)"
    "[\ufe0f\U0001f3fb-\U0001f3ff]*"  # skin tones
    f"(?:\u200d[{_EMOJI_SHOWN}\u2640-\u27bf]\ufe0f?[\U0001f3fb-\U0001f3ff]?)*)"  # joined: a family
)
_THREE_EMOJI = re.compile(f"(?:{_EMOJI}[ \t]*){{3}}")


def find_emoji_spam(answer: str) -> re.Match[str] | None:
    """Three emoji in a row, spaces between them or not; a flag, a keycap or a family is one."""
    return None if answer.isascii() else _THREE_EMOJI.search(answer)


_HEDGE = re.compile(
    r"\bas an? (?:(?:artificial intelligence|ai)(?: language| chat)? model|(?:large )?language model"
    r"|(?:artificial intelligence|ai)(?: assistant)?,? i"
    r" (?:am (?:not|unable)|do not|don['\u2019]?t|cannot|can not|can['\u2019]?t|have no|lack)\b)",
    re.IGNORECASE,
)
_CANNOT = (
    r"\bi(?: (?:cannot|can not|can['\u2019]?t|am (?:unable|not able) to)|['\u2019]m (?:unable|not able) to)"
)
_REFUSED = (
    r"(?:assist|help|provide|fulfil+|comply|complete|answer|generate|create|write|engage|support"
    r"|do (?:that|this))"
)
_REFUSAL = re.compile(
    rf"{_CANNOT} provide\b"
    rf"|\b(?:sorry|apologi[sz]e),?(?: but)?(?: that)? {_CANNOT} {_REFUSED}\b"
    rf"|\b(?:unfortunately|afraid),?(?: but)?(?: that)? {_CANNOT} (?:assist|help|provide)\b"
    rf"|{_CANNOT} (?:assist|help)(?: you)? with (?:that|this)\b"
    rf"|{_CANNOT} (?:fulfil+|comply with) (?:that|this|your)\b",
    re.IGNORECASE,
)


def find_hedge(answer: str) -> re.Match[str] | None:
    """`As an AI language model`, and `as an AI, I don't ...`."""
    lowered = answer.lower()
    may_hedge = "as a" in lowered and (" model" in lowered or " ai" in lowered or "artificial" in lowered)
    return _HEDGE.search(answer) if may_hedge else None


def find_refusal(answer: str) -> re.Match[str] | None:
    """`I cannot provide`, and `I'm sorry, but I can't assist with that` with all its cousins."""
    lowered = answer.lower()
    may_refuse = any(part in lowered for part in ("not ", "'t ", "\u2019t ", "cant ", "unable "))
    return _REFUSAL.search(answer) if may_refuse else None


_APOLOGY = re.compile(
    r"\b(?:my (?:sincere |deepest )?apologies|i (?:\w+ )?apologi[sz]e|i(?: a|['\u2019]?)m (?:\w+ )?sorry)\b",
    re.I,
)
_STOCK_APOLOGY = re.compile(
    r"(?:\bi (?:\w+ )?apologi[sz]e|\bmy (?:\w+ )?apologies|^apologies) for (?:any|the|my) (?:\w+ )?"
    r"(?:confusion|inconvenience|misunderstanding|mistake|error|oversight)",
    re.IGNORECASE,
)


def find_over_apology(answer: str) -> re.Match[str] | None:
    """`I apologize for the confusion` and the like, or the third apology of any kind."""
    lowered = answer.lower()
    if "apolog" not in lowered and "sorry" not in lowered:
        return None
    apologies = list(_APOLOGY.finditer(answer))
    return _STOCK_APOLOGY.search(answer) or (apologies[2] if len(apologies) > 2 else None)


# What no answer should show, whatever was asked.
HABITS: Mapping[str, Callable[[str], re.Match[str] | None]] = {
    "HTML": find_html,
    "a stock label": find_stock_label,
    "an image placeholder": find_image_placeholder,
    "emoji spam": find_emoji_spam,
    "a stock hedge": find_hedge,
}
