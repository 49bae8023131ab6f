"""What the model wrote as it learned: the same prompt at several steps, beside each other."""

from collections.abc import Sequence

from samosa_jax.reporting.document import Block, Excerpts, Missing, Paragraph, Section
from samosa_jax.reporting.figures_in_words import count, setting
from samosa_jax.reporting.items_in_words import short
from samosa_jax.reporting.lineage import Lineage

MAX_SHOWN = 8  # of a prompt
MAX_CHARS = 700


def samples_section(lineage: Lineage) -> Section:
    by_prompt: dict[str, list[tuple[str, str]]] = {}  # (where it was written, the text)
    for run in lineage.runs:
        for sample in run.samples:
            where = f"{run.name}, step {count(sample.step)}"
            own = by_prompt.setdefault(sample.prompt, [])
            text = short(sample.text, max_chars=MAX_CHARS)
            if own and own[-1][1] == text:
                # A stage begins with what the one before has ended with.
                own[-1] = (f"{own[-1][0]}; {where}", text)
            else:
                own.append((where, text))
    blocks: list[Block] = []
    without = [run.name for run in lineage.runs if not run.samples]
    if by_prompt:
        drawn = [
            f"{run.name} temperature {setting(run.config['sample.temperature'])}"
            for run in lineage.runs
            if run.samples and "sample.temperature" in run.config
        ]
        drawn_like = f" Drawn at: {', '.join(drawn)}." if drawn else ""
        blocks.append(
            Paragraph(
                f"Written while training, through the lineage; step 0 is before a stage begins.{drawn_like}"
            )
        )
    for prompt, samples in by_prompt.items():
        shown = evenly(samples)
        left_out = f" ({len(shown)} of {len(samples)} shown)" if len(shown) < len(samples) else ""
        blocks.append(Excerpts(title=f"{prompt}{left_out}", items=shown))
    if without:
        blocks.append(Missing(f"samples: {', '.join(without)} wrote none"))
    return Section(name="samples", title="Samples", blocks=blocks)


def evenly(samples: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first, the last, and some of those between."""
    if len(samples) <= MAX_SHOWN:
        return list(samples)
    last = len(samples) - 1
    return [samples[round(index * last / (MAX_SHOWN - 1))] for index in range(MAX_SHOWN)]
