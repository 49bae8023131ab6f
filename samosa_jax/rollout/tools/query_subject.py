"""What a turn of the user is about, and which words of a later turn stand for it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["person", "place", "thing"]

_REFERENCE = re.compile(
    r"\b(?:(?P<person>he|him|his|she|hers?|(?:this|that) (?:man|woman|person|player|actor|actress|singer|"
    r"author|politician))|(?P<place>there|(?:this|that) (?:city|country|place|town|state|region|island))|"
    r"(?P<thing>it|its|they|them|their|theirs|(?:this|that|the same) (?:company|firm|team|club|film|movie|"
    r"book|show|series|game|phone|car|product|band|song|stock|one|thing|topic)|that$|this$))(?:'s)?\b",
    re.IGNORECASE,
)
# "It" and "there" that stand for nothing. Blanked out at their own length, so that places stay.
_EMPTY = re.compile(
    r"\b(?:(?:is|was|will|does|did|has) it (?:\w+ )?(?:be |been )?(?:rain|snow|cold|hot|warm|sunny|windy|"
    r"true|possible|safe|ok|legal|worth|take)\w*|(?:what|which) (?:time|day|date|year) (?:is|was) it|"
    r"(?:hot|cold|warm|late|far) is it|it (?:is|was|takes|rains|snows|'s)|"
    r"(?:is|are|was|were|will|can|could|has|have) there|there(?:'s| is| are| was| were))\b",
    re.IGNORECASE,
)
_QUOTE = re.compile(r"\"([^\"]{2,80})\"|“([^”]{2,80})”")
_PHRASES = tuple(
    re.compile(expression, re.IGNORECASE)
    for expression in (
        r"\b(?:about|heard of|explain|describe|define|introduce|named|line on) (?P<subject>[^,;]+)$",
        r"^(?:(?:and|so|ok|okay|hi|hello|please)[ ,]+)*(?:who|what|where)(?:'s| is| are| was|"
        r" were) (?P<subject>[^,;]+)$",
    )
)
_PHRASE_END = re.compile(
    r"\s+(?:and (?:who|what|when|where|how|does|is)\b.*|like|now|today|currently|right now|these days|"
    r"again|please|doing|for a living)$",
    re.IGNORECASE,
)
_PHRASE_START = re.compile(r"^(?:the|a|an|current|present|new|latest|my|our)\s+", re.IGNORECASE)
_PREPOSITIONAL = re.compile(
    r"\b(?:in|of|about|at|between|on|to) (?:the )?(?P<subject>[\w' -]{2,60})$", re.IGNORECASE
)
_PLACE_HEAD = re.compile(
    r"^(?:\w+ )?(?:capital|city|town|village|island|country|largest|biggest)\b", re.IGNORECASE
)
_WORD = re.compile(r"\w[\w.&'-]*")
_LINKS = {"of", "de", "von", "van", "der", "the", "da", "al"}
# Words that are written with a capital without being a name, or that a question begins with.
_NO_NAME = re.compile(
    r"(?:i|i'm|i'd|a|an|the|and|or|but|so|if|is|are|was|were|be|do|does|did|has|have|had|can|could|will|"
    r"would|should|may|what|what's|who|who's|whose|which|when|where|why|how|tell|give|show|find|search|"
    r"look|please|thanks|thank|hi|hello|hey|ok|okay|yes|no|not|my|your|his|her|its|their|our|in|on|at|of|"
    r"for|to|from|by|with|about|any|some|there|it|he|she|they|we|you|this|that|these|those|now|then|today|"
    r"tomorrow|yesterday|tonight|latest|current|weather|forecast|news|price|prices|share|stock|score|"
    r"convert|compare|explain|describe|define|ceo|cto|cfo|gdp|president|prime|minister|mayor|king|queen|"
    r"good|morning|afternoon|evening|great|interesting|right|also|just|let's|google|result|results|did|one|"
    r"write|make|name|monday|tuesday|wednesday|thursday|friday|saturday|sunday|january|february|march|"
    r"april|june|july|august|september|october|november|december)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reference:
    """A word that stands for something said before, and where it stands."""

    word: str
    kind: Kind
    start: int
    stop: int

    @classmethod
    def to_anything(cls) -> "Reference":
        return cls("", "thing", 0, 0)

    def replaced(self, text: str, subject: str) -> str:
        return f"{text[: self.start]}{subject}{text[self.stop :]}"


def first_reference(sentence: str) -> Reference | None:
    """The first word that needs an earlier turn; None if a name before it in the sentence may be meant."""
    blanked = _EMPTY.sub(lambda found: "_" * len(found.group()), sentence)
    found = _REFERENCE.search(blanked)
    if found is None or _names(sentence[: found.start()]):
        return None
    kind: Kind = "person" if found["person"] else "place" if found["place"] else "thing"
    return Reference(found.group(), kind, found.start(), found.end())


def subject_of(sentences: Sequence[str], kind: Kind) -> str | None:
    """What the last sentence with a subject is about.

    That is a title in quotation marks, the phrase after "who is" or "tell me about", or a name, whichever a
    word of this kind is likelier to stand for.
    """
    for sentence in reversed(sentences):
        if subject := _subject(sentence.rstrip(" .!?"), kind):
            return subject
    return None


def first_name(text: str) -> str | None:
    names = _names(text)
    return names[0] if names else None


def _subject(sentence: str, kind: Kind) -> str | None:
    if quoted := _QUOTE.search(sentence):
        return quoted[1] or quoted[2]
    phrase, name = _phrase(sentence), first_name(sentence)
    if kind == "person":
        return phrase or name
    if kind == "place" and phrase and _PLACE_HEAD.match(phrase):
        return phrase
    if name:
        return name
    if found := _PREPOSITIONAL.search(sentence):
        return _trimmed(found["subject"])
    return phrase


def _phrase(sentence: str) -> str | None:
    for pattern in _PHRASES:
        if found := pattern.search(sentence):
            return _trimmed(found["subject"])
    return None


def _trimmed(phrase: str) -> str | None:
    """Without articles and words of time; None if it only points further back."""
    length = 0
    while length != len(phrase):
        length = len(phrase)
        phrase = _PHRASE_START.sub("", _PHRASE_END.sub("", phrase.strip()))
    is_empty = not phrase or len(phrase.split()) > 8 or _REFERENCE.search(phrase)
    return None if is_empty or phrase.lower() in ("you", "yourself", "your", "me") else phrase


def _names(text: str) -> list[str]:
    """Runs of words with capital letters, numbers after them included (iPhone 17, Bank of England)."""
    names: list[str] = []
    run: list[str] = []
    links: list[str] = []  # of, the ...: part of the name if a capital follows
    end = 0

    def close() -> None:
        if run:
            names.append(" ".join(run))
        run.clear()
        links.clear()

    for found in _WORD.finditer(text):
        if text[end : found.start()].strip():
            close()
        end = found.end()
        word = found.group().rstrip(".'-")
        bare = word.removesuffix("'s")
        if bare.lower() in _LINKS and run:
            links.append(bare)
            continue
        is_name = any(letter.isupper() for letter in bare) and not _NO_NAME.fullmatch(bare)
        if is_name or (run and not links and bare.isdigit()):
            run.extend((*links, bare))
            links.clear()
        else:
            close()
        if bare != word:
            close()
    close()
    return names
