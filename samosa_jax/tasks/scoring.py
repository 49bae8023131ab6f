"""How an answer is read: the number, day, date, time or letter that it gives, and if it is right."""

import re
from collections.abc import Iterable
from fractions import Fraction

from samosa_jax.data.chat.answer_patterns import HABITS, prose

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)

_NUMBER = re.compile(
    r"(?<![\w.])[-−]?(?:\$\s?)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"  # -$1,250.50
    r"|(?<![\w.])[-−]?\$?\.\d+"
)
_WEEKDAY = re.compile("|".join(WEEKDAYS), re.IGNORECASE)
_DATE = re.compile(
    rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({'|'.join(MONTHS)}),? (\d{{4}})\b"
    rf"|\b({'|'.join(MONTHS)}) (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})\b"
    r"|\b(\d{4})-(\d{2})-(\d{2})\b",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\b(\d{1,2})(?::(\d{2}))?\s*([ap])\.?m\b|\b(\d{1,2}):(\d{2})\b", re.IGNORECASE)
_SPELLED = re.compile(r"(?<![A-Za-z])[A-Za-z](?:(?:\s*[-,·.]\s*|\s+)[A-Za-z](?![A-Za-z]))+(?![A-Za-z])")
_SPACES = re.compile(r"[\s$,]")


def parse_number(text: str) -> Fraction | None:
    """A number as people write it: `$1,250.00` is 1250, `72.` is 72; None where there is none.

    None also for more digits than Python converts (4300), as a model that repeats itself may write.
    """
    plain = _SPACES.sub("", text.strip().rstrip(".%")).replace("−", "-")
    try:
        return Fraction(plain) if re.fullmatch(r"-?(?:\d+(?:\.\d+)?|\.\d+)", plain) else None
    except ValueError:
        return None


def final_number(text: str) -> Fraction | None:
    """The number after the last `####`, else the last number of the text."""
    _, mark, after = text.rpartition("####")
    found = _NUMBER.findall(after if mark else text)
    return parse_number(found[0 if mark else -1]) if found else None


def gives_number(text: str, wanted: str, *, places: int | None = None) -> bool:
    """Whether the final number is the wanted one; with `places`, after rounding both to so many decimals."""
    given, gold = final_number(text), parse_number(wanted)
    if given is None or gold is None:
        return False
    return given == gold if places is None else round(given, places) == round(gold, places)


def final_weekday(text: str) -> str | None:
    """The last weekday that is named, capitalised; None where there is none."""
    found = _WEEKDAY.findall(text)
    return found[-1].capitalize() if found else None


def final_date(text: str) -> str | None:
    """The last full date (14 March 1987, March 14, 1987 or 1987-03-14), as 1987-03-14."""
    found = list(_DATE.finditer(text))
    if not found:
        return None
    day, month, year, us_month, us_day, us_year, iso_year, iso_month, iso_day = found[-1].groups()
    if iso_year:
        return f"{iso_year}-{iso_month}-{iso_day}"
    number = MONTHS.index((month or us_month).capitalize()) + 1
    return f"{year or us_year}-{number:02d}-{int(day or us_day):02d}"


def final_time(text: str) -> str | None:
    """The last time of day (5:30 pm, 5 pm or 17:30), as 17:30."""
    found = list(_CLOCK.finditer(text))
    if not found:
        return None
    hour, minute, half, hour24, minute24 = found[-1].groups()
    if half is None:
        return f"{int(hour24):02d}:{minute24}"
    return f"{int(hour) % 12 + (12 if half.lower() == 'p' else 0):02d}:{minute or '00'}"


def final_spelling(text: str) -> str | None:
    """The letters of the last run of single letters, as in b-a-n-a-n-a; lower case."""
    found = _SPELLED.findall(text)
    return re.sub(r"[^a-z]", "", found[-1].lower()) if found else None


def mentions_all(text: str, wanted: Iterable[str]) -> bool:
    """Whether every phrase stands in the text as whole words, in any case."""
    return all(mentions(text, phrase) for phrase in wanted)


def mentions(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def has_habit(text: str) -> bool:
    """Whether an answer shows one of HABITS outside of its code."""
    shown = prose(text)
    return any(find(shown) for find in HABITS.values())
