"""What quickstarts of several seeds have reached beside what the gate asks, and a picture of one of them.

    python -m scripts.quickstart_results FOLDER... --picture docs/images/quickstart.svg

Each folder is one that `samosa quickstart` ran in. Prints a Markdown table: a row for each measure, a
column for each folder, and what the gate asks; the picture shows the first folder's overview and dialogues.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from samosa_jax.evals import gates
from samosa_jax.evals.results import read_results
from samosa_jax.quickstart import GATES, NAME, talk
from samosa_jax.quickstart_overview import overview
from samosa_jax.quickstart_steps import CONFIGS, Settings

WIDTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    flags = parser.parse_args()
    print(table(flags.folders))
    if flags.picture is not None:
        picture = flags.picture.resolve()
        os.chdir(flags.folders[0])
        draw(picture)


def table(folders: Sequence[Path]) -> str:
    """The last model's share of every measure of the gate, by folder, as Markdown."""
    kept = [json.loads((folder / "data" / NAME / "quickstart.json").read_text()) for folder in folders]
    shares = [
        {result.task: result for result in read_results(folder / "runs" / f"{NAME}_grpo")}
        for folder in folders
    ]
    lines = [
        "| measure | gate | " + " | ".join(f"seed {one['settings']['seed']}" for one in kept) + " |",
        "|---" * (2 + len(folders)) + "|",
    ]
    for condition in gates.load(GATES[0][1]).conditions:
        wanted = (
            f"at least {condition.at_least:.0%}"
            if condition.at_least is not None
            else f"{condition.at_most:.0%}"
        )
        cells = []
        for own in shares:
            result = own[condition.task]
            cells.append(f"{result.value:.1%} ({result.low:.0%} to {result.high:.0%})")
        lines.append(f"| {condition.task} | {wanted} | " + " | ".join(cells) + " |")
    minutes = (sum(one["seconds"].values()) / 60 for one in kept)
    lines.append("| minutes in all | 10 | " + " | ".join(f"{each:.1f}" for each in minutes) + " |")
    return "\n".join(lines)


def draw(picture: Path) -> None:
    kept = json.loads(Path("data", NAME, "quickstart.json").read_text())
    settings = Settings(
        name=NAME,
        text=(),
        minutes=kept["settings"]["minutes"],
        config=CONFIGS / "quickstart.yaml",
        vocab_size=0,
        persona="",
        gate=None,
        seed=kept["settings"]["seed"],
        exports=False,
    )
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, highlight=False)
        console.print(overview(settings, kept["seconds"]))
        talk(settings, console)
    console.save_svg(str(picture), title="samosa quickstart")


if __name__ == "__main__":
    main()
