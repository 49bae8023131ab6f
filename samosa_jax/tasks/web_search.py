"""Facts that change: think, search the web once, and answer from what was found, naming the source.

Results look like those of a search service (https://docs.tavily.com): title, url and content each, on example
domains. All that they report is made up for the occasion, so the answer cannot come from memory.
"""

import json
import random
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Message, ToolCall
from samosa_jax.tasks.scoring import mentions_all
from samosa_jax.tasks.task import (
    Example,
    GeneratedTask,
    Split,
    answered_with_tool,
    draw_in_split,
    tools_called,
)
from samosa_jax.tasks.tool_schemas import WEB_SEARCH
from samosa_jax.tasks.web_reports import DISTRACTORS, OPENINGS, REPORTS, SITES, WORDS, Report


class WebSearchTask(GeneratedTask):
    """Right if the answer names what was found; where messages are known, in exactly one search."""

    name = "web_search"

    def compose(self, draw: random.Random, split: Split) -> Example:
        report = draw.choice(REPORTS)
        facts = draw_in_split(
            split, lambda: _facts(draw, report, split), key=lambda found: sorted(found.items())
        )
        site = draw.choice(SITES.of(split))
        query = report.query.format(**facts)
        pages = [
            {
                "title": report.title.format(**facts),
                "url": f"https://{site}/{report.kind}/{draw.randint(1000, 99999)}",
                "content": report.content.format(**facts),
            }
        ]
        pages += [
            {
                "title": title.format(**facts, subject=facts[report.subject]),
                "url": f"https://{draw.choice(SITES.of(split))}/archive/{draw.randint(100, 9999)}",
                "content": content.format(**facts, subject=facts[report.subject]),
            }
            for title, content in draw.sample(DISTRACTORS, draw.randint(1, 2))
        ]
        draw.shuffle(pages)
        conversation = answered_with_tool(
            f"{OPENINGS.pick(draw, split)} {report.questions.pick(draw, split).format(**facts)}".strip(),
            think=f"{draw.choice(report.reasons).format(**facts)} {draw.choice(_DECISIONS)}",
            call=ToolCall(WEB_SEARCH, {"query": query}),
            result=json.dumps({"query": query, "results": pages}, ensure_ascii=False),
            answer=f"{report.answer.format(**facts)} {draw.choice(_CREDITS).format(site=site)}",
        )
        found = [facts[name] for name in report.found]
        return Example(
            conversation=conversation,
            answer=", ".join(found),
            checks={"kind": report.kind, "mentions": found, "tool": WEB_SEARCH, "site": site},
        )

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        is_grounded = mentions_all(answer_text, example.checks["mentions"])
        return float(is_grounded and (not messages or tools_called(messages) == [WEB_SEARCH]))


def _facts(draw: random.Random, report: Report, split: Split) -> dict[str, str]:
    facts: dict[str, str] = {}
    for name, source in report.facts.items():
        if isinstance(source, str):
            taken = set(facts.values())
            facts[name] = draw.choice([word for word in WORDS[source].of(split) if word not in taken])
        else:
            low, high, divisor = source
            number = draw.randint(low, high)
            facts[name] = str(number) if divisor == 1 else f"{number / divisor:.{len(str(divisor)) - 1}f}"
    return facts


_DECISIONS = (
    "My memory may be out of date, so I search the web before I say anything.",
    "I should look it up instead of guessing.",
    "A web search will tell; a guess would not help anybody.",
    "This is not something to recall, so one search it is.",
)
_CREDITS = (
    "I found this on {site}.",
    "The source is {site}.",
    "That is what {site} reports.",
    "Source of this information: {site}.",
)
