"""Days, dates, ages and times of day: worked out in the thought, checked against the standard calendar.

Graded by what has to be kept in mind:

1  weekdays before and after, times on the clock    3  dates and days over months, arrivals
2  ages, minutes between two times                  4  the weekday of a date
"""

import random
from collections.abc import Callable, Sequence
from datetime import date, timedelta

from samosa_jax.data.chat.conversation import Message
from samosa_jax.tasks.scoring import (
    MONTHS,
    WEEKDAYS,
    final_date,
    final_time,
    final_weekday,
    gives_number,
)
from samosa_jax.tasks.task import Example, GeneratedTask, Split, answered, draw_in_split, with_level
from samosa_jax.tasks.temporal_wordings import NAMES, QUESTIONS

FIRST_DAY, LAST_DAY = date(1901, 1, 1), date(2099, 12, 31)
_READERS: dict[str, Callable[[str], str | None]] = {
    "weekday": final_weekday,
    "date": final_date,
    "time": final_time,
}


class TemporalTask(GeneratedTask):
    """Right if the last weekday, date, time or number (as asked for) of the answer is the right one."""

    name = "temporal"
    levels = (1, 2, 3, 4)

    def __init__(self, levels: Sequence[int] = ()) -> None:
        """levels: those to take; empty: all. Every kind of question of them is taken as often."""
        self._kinds = [(kind, level) for kind, level in _KINDS if not levels or level in levels]

    def compose(self, draw: random.Random, split: Split) -> Example:
        kind, level = draw.choice(self._kinds)
        return with_level(kind(draw, split), level)

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        kind = example.checks["gives"]
        if kind == "number":
            return float(gives_number(answer_text, example.answer))
        return float(_READERS[kind](answer_text) == example.answer)


def long_date(day: date) -> str:
    """As 14 March 1987."""
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _draw_date(draw: random.Random, split: Split, first: date = FIRST_DAY, last: date = LAST_DAY) -> date:
    span = (last - first).days
    return draw_in_split(split, lambda: first + timedelta(days=draw.randint(0, span)))


def _example(
    prompt: str, think: str, sentence: str, *, gives: str, answer: str, kind: str, **facts: object
) -> Example:
    return Example(
        conversation=answered(prompt, think=think, answer=sentence),
        answer=answer,
        checks={"gives": gives, "kind": kind, **facts},
    )


def _weekday_of_date(draw: random.Random, split: Split) -> Example:
    """Conway's doomsday rule: the same weekday falls on an easily remembered date in every month."""
    day = _draw_date(draw, split)
    weekday = WEEKDAYS[day.weekday()]
    anchor = 2 if day.year < 2000 else 1  # Wednesday in the 1900s, Tuesday in the 2000s
    short = day.year % 100
    doomsday = (anchor + short + short // 4) % 7
    leap = day.year % 4 == 0
    known = ((4 if leap else 3), (29 if leap else 28), 14, 4, 9, 6, 11, 8, 5, 10, 7, 12)[day.month - 1]
    offset = day.day - known
    month = MONTHS[day.month - 1]
    away = (
        "exactly that day"
        if offset == 0
        else f"{_days(abs(offset))} {'after' if offset > 0 else 'before'} it"
    )
    think = (
        f"I use the doomsday rule. For the {day.year // 100}00s the anchor day is {WEEKDAYS[anchor]}. The "
        f"year part is {short}, and {short} + {short // 4} leap days = {short + short // 4}, which leaves "
        f"{(short + short // 4) % 7} modulo 7, so the doomsday of {day.year} is {WEEKDAYS[doomsday]}. In "
        f"{month} it falls on the {_ordinal(known)}. The {_ordinal(day.day)} is {away}; {abs(offset)} modulo "
        f"7 is {abs(offset) % 7}, which leads to {weekday}."
    )
    tense = draw.choice(("falls on a", "is a"))
    return _example(
        QUESTIONS["weekday_of_date"].pick(draw, split).format(date=long_date(day)),
        think,
        f"By the Gregorian calendar, {long_date(day)} {tense} {weekday}.",
        gives="weekday",
        answer=weekday,
        kind="weekday_of_date",
        date=day.isoformat(),
    )


def _weekday_shift(draw: random.Random, split: Split) -> Example:
    start, days, sign = draw_in_split(
        split, lambda: (draw.randrange(7), draw.randint(3, 200), draw.choice((1, -1)))
    )
    weekday = WEEKDAYS[(start + sign * days) % 7]
    weeks, rest = divmod(days, 7)
    steps = ", ".join(WEEKDAYS[(start + sign * step) % 7] for step in range(1, rest + 1))
    direction = "forward" if sign > 0 else "back"
    walk = (
        f"Counting {direction} from {WEEKDAYS[start]}: {steps}."
        if rest
        else f"So it stays {WEEKDAYS[start]}."
    )
    think = (
        f"Weekdays repeat every seven days. {days} days are {_plural(weeks, 'week')} and {_days(rest)}, and "
        f"whole weeks change nothing. {walk}"
    )
    when = f"in {days} days" if sign > 0 else f"{days} days ago"
    verb = "it will be" if sign > 0 else "it was"
    kind = "weekday_ahead" if sign > 0 else "weekday_ago"
    return _example(
        QUESTIONS[kind].pick(draw, split).format(today=WEEKDAYS[start], days=days),
        think,
        f"If today is {WEEKDAYS[start]}, then {when} {verb} {'a ' if draw.random() < 0.5 else ''}{weekday}.",
        gives="weekday",
        answer=weekday,
        kind=kind,
        today=WEEKDAYS[start],
        shift=sign * days,
    )


def _days_between(draw: random.Random, split: Split) -> Example:
    first = _draw_date(draw, split, date(1950, 1, 1), date(2080, 12, 31))
    last = first + timedelta(days=draw.randint(5, 330))
    days = (last - first).days
    think = (
        f"I count month by month from {long_date(first)} and leave out the first day itself. "
        f"{_month_walk(first, last)} Together that is {days}."
    )
    return _example(
        QUESTIONS["days_between"].pick(draw, split).format(first=long_date(first), last=long_date(last)),
        think,
        f"From {long_date(first)} to {long_date(last)} the number of days is {days}.",
        gives="number",
        answer=str(days),
        kind="days_between",
        first=first.isoformat(),
        last=last.isoformat(),
    )


def _date_after(draw: random.Random, split: Split) -> Example:
    first = _draw_date(draw, split, date(1950, 1, 1), date(2080, 12, 31))
    days = draw.randint(10, 120)
    last = first + timedelta(days=days)
    think = (
        f"I add {days} days to {long_date(first)} month by month, watching where each month ends. "
        f"{_month_walk(first, last)} That uses up all {days} days."
    )
    return _example(
        QUESTIONS["date_after"].pick(draw, split).format(first=long_date(first), days=days),
        think,
        f"Adding {days} days to {long_date(first)} gives {long_date(last)}.",
        gives="date",
        answer=last.isoformat(),
        kind="date_after",
        first=first.isoformat(),
        days=days,
    )


def _age(draw: random.Random, split: Split) -> Example:
    born = _draw_date(draw, split, date(1930, 1, 1), date(2015, 12, 31))
    today = born + timedelta(days=draw.randint(365 * 4, 365 * 80))
    age = today.year - born.year - ((today.month, today.day) < (born.month, born.day))
    name = NAMES.pick(draw, split)
    had = (today.month, today.day) >= (born.month, born.day)
    birthday = f"{born.day} {MONTHS[born.month - 1]}"
    think = (
        f"The years differ by {today.year} - {born.year} = {today.year - born.year}. The birthday is on "
        f"{birthday}, and on {long_date(today)} it has {'already come' if had else 'not come yet'} that "
        f"year, so {'nothing is taken off' if had else 'one year is taken off'}."
    )
    asked = QUESTIONS["age"].pick(draw, split)
    return _example(
        asked.format(name=name, born=long_date(born), today=long_date(today)),
        think,
        f"On {long_date(today)} the age of {name} in full years is {age}.",
        gives="number",
        answer=str(age),
        kind="age",
        born=born.isoformat(),
        today=today.isoformat(),
    )


def _clock_after(draw: random.Random, split: Split) -> Example:
    start, minutes = draw_in_split(split, lambda: (draw.randrange(0, 1440, 5), draw.randint(35, 600)))
    rest = minutes % 60
    end = start + minutes
    think = (
        f"{minutes} minutes are {_hours(minutes)}. Starting at {clock(start)}, the full hours "
        f"lead to {clock(start + minutes - rest)}, and what is left of the last hour to {clock(end)}"
        f"{', past midnight' if end >= 1440 else ''}."
    )
    return _example(
        QUESTIONS["clock_after"].pick(draw, split).format(start=clock(start), minutes=minutes),
        think,
        f"Counting {_plural(minutes, 'minute')} from {clock(start)}, it ends at {clock(end)}.",
        gives="time",
        answer=_time24(end),
        kind="clock_after",
        start=_time24(start),
        minutes=minutes,
    )


def _journey(draw: random.Random, split: Split) -> Example:
    start, speed, quarters = draw_in_split(
        split, lambda: (draw.randrange(5 * 60, 19 * 60, 15), draw.randrange(20, 121, 4), draw.randint(3, 20))
    )
    distance, minutes = speed * quarters // 4, quarters * 15
    vehicle, unit = draw.choice(
        (("train", "km"), ("train", "miles"), ("bus", "km"), ("bus", "miles"), ("boat", "km"))
    )
    think = (
        f"Time is distance over speed: {distance} / {speed} hours, which is {_hours(minutes)}. "
        f"Added to {clock(start)} this gives {clock(start + minutes)}."
    )
    asked = QUESTIONS["journey"].pick(draw, split)
    return _example(
        asked.format(
            vehicle=vehicle, start=clock(start), distance=f"{distance} {unit}", speed=f"{speed} {unit}"
        ),
        think,
        f"The {vehicle} needs {_plural(minutes, 'minute')} for the {distance} {unit} and arrives at "
        f"{clock(start + minutes)}.",
        gives="time",
        answer=_time24(start + minutes),
        kind="journey",
        start=_time24(start),
        distance=distance,
        speed=speed,
    )


def _duration(draw: random.Random, split: Split) -> Example:
    start, minutes = draw_in_split(split, lambda: (draw.randint(6 * 60, 18 * 60), draw.randint(17, 340)))
    end = start + minutes
    think = (
        f"In minutes since midnight, {clock(start)} is {start} and {clock(end)} is {end}. Both lie on the "
        f"same day, so the difference {end} - {start} is what passes between them."
    )
    return _example(
        QUESTIONS["duration"].pick(draw, split).format(start=clock(start), end=clock(end)),
        think,
        f"Between {clock(start)} and {clock(end)}, the minutes that pass are {minutes}.",
        gives="number",
        answer=str(minutes),
        kind="duration",
        start=_time24(start),
        end=_time24(end),
    )


# Every kind of question and its level.
_KINDS = (
    (_weekday_of_date, 4),
    (_weekday_shift, 1),
    (_weekday_shift, 1),
    (_days_between, 3),
    (_date_after, 3),
    (_age, 2),
    (_clock_after, 1),
    (_journey, 3),
    (_duration, 2),
)


def clock(minutes: int) -> str:
    """Minutes since midnight, a day or more being taken off, as 5:30 pm."""
    hour, minute = divmod(minutes % 1440, 60)
    return f"{(hour + 11) % 12 + 1}:{minute:02d} {'pm' if hour >= 12 else 'am'}"


def _time24(minutes: int) -> str:
    hour, minute = divmod(minutes % 1440, 60)
    return f"{hour:02d}:{minute:02d}"


def _month_walk(first: date, last: date) -> str:
    """The days of each month between two dates, in words."""
    parts: list[str] = []
    at = first
    while (at.year, at.month) != (last.year, last.month):
        following = date(at.year + at.month // 12, at.month % 12 + 1, 1)
        end = following - timedelta(days=1)
        within = (end - at).days if at == first else end.day
        parts.append(f"{MONTHS[at.month - 1]} {at.year} adds {within}")
        at = following
    within = (last - first).days if at == first else last.day
    parts.append(f"{MONTHS[last.month - 1]} {last.year} adds {within}, up to the {_ordinal(last.day)}")
    return "; ".join(parts) + "."


def _ordinal(number: int) -> str:
    suffix = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _hours(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    parts = [_plural(count, noun) for count, noun in ((hours, "hour"), (rest, "minute")) if count]
    return " and ".join(parts)


def _days(count: int) -> str:
    return _plural(count, "day")
