"""Whether a question needs the web, and what to search for: rules over the last turns, no model.

The last message of the user is read sentence by sentence (its questions alone, where it has any). Patterns of
`query_patterns` decide; then "he", "it", "there" or "what about Paris?" take their subject from the user's
most recent turns that have one. If those were about the assistant itself, nothing is searched.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from samosa_jax.data.chat.conversation import Message
from samosa_jax.rollout.tools.query_patterns import CHANGING, TIMELY, WISHES, Pattern, first_match
from samosa_jax.rollout.tools.query_subject import Reference, first_name, first_reference, subject_of
from samosa_jax.rollout.tools.query_vetoes import IDENTITY, SETTLED, SMALL_TALK, STORIES, VETOES

KNOWLEDGE_ENDS = 2025  # the first year of which a model trained today has seen too little
FORESEEABLE_YEARS = 10  # later ones are forecasts or fiction
MAX_QUERY_WORDS = 12
MAX_TURNS = 8  # of the user, that are looked back on
MAX_TURN_CHARS = 2000  # of each turn, its end
MAX_SENTENCES = 12  # of the last turn that are weighed

_SENTENCE_BREAK = re.compile(
    r"(?<=[.?!])(?<!\b[A-Za-z]\.)(?<!\b(?:Dr|Mr|Ms|St|vs)\.)(?<!\b(?:Mrs|etc)\.)[\"')]*\s+|\n+"
)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|(?<!\w)'[^']*'(?!\w)")
# Titles such as the song Yesterday, or USA Today.
_TITLE_WORD = re.compile(r"(?<=[\w,] )(?:Today|Tomorrow|Yesterday|Tonight)\b(?!')")
_OPENING = re.compile(
    r"^(?:(?:please|pls|kindly|hi|hello|hey|ok|okay|so|and|but|also|well|now|then|actually|interesting|"
    r"right|thanks|thank you|great|cool|good (?:morning|afternoon|evening)|excuse me|sorry|by the way|just|"
    r"quick question|one (?:more|last) (?:thing|question)|(?:can|could|would|will) you(?: please| kindly|"
    r" just)?(?= \w)|(?:can|could|may) i (?:ask|know)|(?:do|did|would) you (?:happen to )?know|any idea|"
    r"have you heard|(?:go ahead and|let's|i want you to|i'd like you to|i need you to)|"
    r"(?:please )?(?:tell|show|give) (?:me|us)|let me know|"
    r"i (?:really )?(?:want|need|would like)(?: to (?:know|hear|see))?|i'd like(?: to (?:know|hear|see))?|"
    r"i (?:wonder|am wondering|was wondering)|i'm (?:wondering|curious)|what can you (?:tell me|say) about|"
    r"what do you know about|my question is)[\s,:;!-]+)+",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:[\s,;]+(?:please|pls|thanks|thank you|for me|will you|would you|if you can|do you know))+$",
    re.IGNORECASE,
)
# What a question says first about who asks: "my dog is ill, what can I do".
_ASIDE = re.compile(
    r"^(?:i|my|we|our|i'm|i've)\b(?! (?:heard|read|saw))[^?]*, (?=(?:who|what|which|when|where|why|how|is|"
    r"are|do|does|did|can)\b)",
    re.IGNORECASE,
)
_QUESTION_WORDS = re.compile(
    r"^(?:(?:what|which|who|where)(?:'s| is| are| was| were)|what|which|is|are|was|were|does|do|did|has|"
    r"have|will)\s+",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"(?:a|an|the|is|are|was|were|do|does|did|has|have|had|will|be|been|being|am|please|my|us|our|you|your|"
    r"it|its|he|him|his|she|her|hers|they|them|their|there|that|some|any|just|also)",
    re.IGNORECASE,
)
_ELLIPSIS = re.compile(
    r"^(?:(?:ok|okay|and|but|so|thanks)[, ]+)*(?:(?:what|how) about|"
    r"and) (?:(?:in|for|at|on|of) )?(?P<topic>(?!(?:who|what|when|where|why|how|which|is|are|do|does|did|"
    r"can|will|tell|give|you|me|that|and|about)\b).{2,40})$",
    re.IGNORECASE,
)
_YEAR = re.compile(
    r"(?<![\d.,$€£₹-])[12]\d{3}(?![.,]?\d)(?!\s*(?:%|percent|[kcm]?m|k?g|miles|met(?:er|re)s?|dollars|"
    r"euros|rupees|bits?|bytes|calories|people|words|steps|pixels|years)\b)"
)


@dataclass(frozen=True, kw_only=True)
class Decision:
    needs_search: bool
    query: str = ""  # a few words; empty where nothing is searched
    reason: str  # the kind of pattern and the words that it matched


def classify(messages: Sequence[Message], *, knowledge_ends: int = KNOWLEDGE_ENDS) -> Decision:
    """Whether the last message of the user needs a search.

    Args:
      messages: the conversation so far; what follows the last user message is not read.
      knowledge_ends: questions about this year or one soon after it need a search.
    """
    said = [message.text.replace("’", "'") for message in messages if message.role == "user"]
    turns = [text[-MAX_TURN_CHARS:] for text in said]
    if not turns:
        return Decision(needs_search=False, reason="no question")
    return _decide(turns[-MAX_TURNS:], knowledge_ends)


def _decide(turns: Sequence[str], knowledge_ends: int) -> Decision:
    *earlier, text = turns
    if story := first_match(STORIES, " ".join(_masked(text).split())):
        return _decision(False, story)
    sentences = _sentences(text)
    wishes = [sentence for sentence in sentences if first_match(WISHES, _core(sentence))]
    questions = [sentence for sentence in sentences if sentence.endswith("?")]
    # Orders such as "translate this" make material of the sentences beside them.
    orders = [sentence for sentence in sentences if first_match(VETOES, _core(sentence))][:1]
    asked = (wishes or questions or orders or sentences)[-MAX_SENTENCES:]
    decisions: list[Decision] = []
    for sentence in asked:
        said_before = text[: text.find(sentence)]
        decisions.append(_decide_sentence(sentence, earlier, said_before, len(asked) == 1, knowledge_ends))
        if decisions[-1].needs_search:
            break
    return decisions[-1] if decisions else Decision(needs_search=False, reason="no question")


def _decide_sentence(
    sentence: str, earlier: Sequence[str], said_before: str, is_alone: bool, knowledge_ends: int
) -> Decision:
    core = _core(sentence)
    if idle := first_match(SMALL_TALK, _masked(sentence.rstrip(" .!"))):
        return _decision(False, idle)
    if wish := first_match(WISHES, core):
        return _wished(wish[1]["what"].strip(), [*earlier, said_before])
    if is_alone and earlier and (elliptic := _ELLIPSIS.match(_without_end(sentence))):
        continued = _continued(elliptic["topic"], _decide(earlier, knowledge_ends))
        if continued.needs_search:
            return continued
    judged = _judged(core, knowledge_ends)
    reference = first_reference(core)
    turn = None
    if reference and not first_match((*IDENTITY, *VETOES), _masked(core)):
        turn = _antecedent(reference, [*earlier, said_before])
    if reference is None or turn is None:
        return replace(judged, query=_query(core)) if judged.needs_search else judged
    if first_match(IDENTITY, _masked(turn)):
        return Decision(needs_search=False, reason=f'identity: "{reference.word}" is about the assistant')
    if not judged.needs_search and not first_match(SETTLED, _masked(core)):
        before = _decide([turn], knowledge_ends)
        judged = replace(before, reason=f"follows up on {before.reason}") if before.needs_search else judged
    if not judged.needs_search:
        return judged
    subject = subject_of(_sentences(turn), reference.kind) or ""
    return replace(judged, query=_query(reference.replaced(core, subject)))


def _judged(core: str, knowledge_ends: int) -> Decision:
    """What one sentence needs by itself; without a query."""
    masked = _masked(_ASIDE.sub("", core))
    for patterns, needs_search in ((IDENTITY, False), (VETOES, False), (TIMELY, True)):
        if found := first_match(patterns, masked):
            return _decision(needs_search, found)
    years = [int(year) for year in _YEAR.findall(masked)]
    if recent := [year for year in years if knowledge_ends <= year <= knowledge_ends + FORESEEABLE_YEARS]:
        return Decision(needs_search=True, reason=f"recent year: {recent[0]}")
    if years:
        return Decision(needs_search=False, reason=f"another year: {years[0]}")
    for patterns, needs_search in ((SETTLED, False), (CHANGING, True)):
        if found := first_match(patterns, masked):
            return _decision(needs_search, found)
    return Decision(needs_search=False, reason="nothing that changes")


def _wished(what: str, before: Sequence[str]) -> Decision:
    """A wish to search for `what`, or for what was said before where it only points back."""
    reference = first_reference(what)
    points_back = reference is not None or not _query(what)
    turn = _antecedent(reference or Reference.to_anything(), before) if points_back else None
    if identity := first_match(IDENTITY, _masked(turn or what)) or first_match(IDENTITY, _masked(what)):
        return _decision(False, identity)
    query = _query(what)
    if turn is not None:
        said = _sentences(turn)
        subject = subject_of(said, reference.kind if reference else "thing") or ""
        # "Look it up" is about the whole question, "look up his age" about its subject.
        query = _query(reference.replaced(what, subject)) if reference and query else _query(_core(said[-1]))
    return Decision(needs_search=bool(query), query=query, reason="explicit wish")


def _continued(topic: str, base: Decision) -> Decision:
    """What "and in Paris?" needs: what the question before it, decided as `base`, needs of Paris."""
    if not base.needs_search or first_match(VETOES, topic):
        return replace(base, needs_search=False, query="")
    topic = _query(topic)
    name = first_name(base.query)
    if first_match(TIMELY, topic):
        query = f"{base.query} {topic}"
    elif first_match(CHANGING, f"{topic} of") or first_match(CHANGING, topic):
        query = f"{topic} {name or base.query}"
    else:
        query = base.query.replace(name, topic) if name else f"{base.query} {topic}"
    return replace(base, query=_few_words(query), reason=f"follows up on {base.reason}")


def _antecedent(reference: Reference, before: Sequence[str]) -> str | None:
    """The most recent turn that is about the assistant or has a subject that the word can stand for."""
    for turn in reversed(before):
        if first_match(IDENTITY, _masked(turn)) or subject_of(_sentences(turn), reference.kind):
            return turn
    return None


def _decision(needs_search: bool, found: tuple[Pattern, re.Match[str]]) -> Decision:
    pattern, match = found
    return Decision(needs_search=needs_search, reason=f"{pattern.reason}: {match.group().strip()[:40]}")


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE_BREAK.split(text) if part and part.strip()]


def _without_end(sentence: str) -> str:
    return _CLOSING.sub("", sentence.strip().rstrip(" .!?")).rstrip(" ,.!?")


def _core(sentence: str) -> str:
    """Without greeting, politeness and final punctuation."""
    ended = _without_end(sentence)
    return _OPENING.sub("", ended) or ended


def _masked(text: str) -> str:
    """With words that are only mentioned, such as titles, hidden from the patterns."""
    return _TITLE_WORD.sub("_", _QUOTED.sub("_", text))


def _query(sentence: str) -> str:
    text = _QUESTION_WORDS.sub("", _core(sentence))
    words = re.sub(r"[\"“”?!,;:()]|(?<![A-Z])\.(?=\s|$)|(?<!\w)'|'(?!\w)|'s\b", " ", text).split()
    return _few_words(" ".join(word for word in words if not _FILLER.fullmatch(word)))


def _few_words(text: str) -> str:
    return " ".join(text.split()[:MAX_QUERY_WORDS])
