"""Writes what `samosa plan` says of every preset, and what `samosa doctor` says here, into docs/planning.md.

    python -m scripts.plan_pages                         # every preset, by the closed model
    python -m scripts.plan_pages --compiler samosa_d24   # these by the compiler, which takes minutes each

Text between a pair of marks in the page is replaced; all else stays. What was asked of the compiler before
and is not named now is made again by the closed model.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "planning.md"
LAPTOP = ("--device=cpu", "--count=1")
# Every preset of configs/, in the order of the page, and the machine it is for.
RUNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("samosa_d24", ("--cost-per-hour=24",)),
    ("samosa_d32", ("--cost-per-hour=24",)),
    ("llm_d20_561m", ("--cost-per-hour=24",)),
    ("matilda_363m", ()),
    ("novamind_256m", ()),
    ("matilda_152m", ()),
    ("matilda_114m", ("--device=rtx4090", "--count=1")),
    ("nanolm_10m", ("--device=rtx4090", "--count=1")),
    ("wikinews", LAPTOP),
    ("quickstart", LAPTOP),
    ("bench_cpu", LAPTOP),
)


def output_of(*arguments: str) -> str:
    """What a command prints, a refusal too; what it says of its progress is left out."""
    done = subprocess.run(
        [sys.executable, "-m", "samosa_jax", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"},
        check=False,
    )
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"samosa {' '.join(arguments)} failed: {done.stderr}")
    refused = done.stderr.strip() if done.returncode == 2 else ""
    lines = [line.rstrip() for line in (done.stdout.strip() or refused).splitlines()]
    return "\n".join(lines).replace(str(ROOT), "~/samosa_jax").replace(str(Path.home()), "~")


def replace(page: str, name: str, text: str) -> str:
    """The page with `text` between the marks of that name."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if not marks.search(page):
        raise ValueError(f"{PAGE} has no marks <!-- {name} --> and <!-- end of {name} -->")
    return marks.sub(lambda found: found[1] + text + found[2], page)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compiler", nargs="*", default=[], choices=[name for name, _ in RUNS])
    wanted = parser.parse_args().compiler
    sections = []
    for name, arguments in RUNS:
        by = "compiler" if name in wanted else "model"
        words = ["plan", f"--config=configs/{name}.yaml", *arguments, f"--memory={by}"]
        sections.append(f"### {name}\n\n```\n$ samosa {' '.join(words)}\n{output_of(*words)}\n```\n\n")
        print(f"planned {name}", flush=True)
    page = replace(PAGE.read_text(encoding="utf-8"), "plans", "".join(sections))
    calibration = subprocess.run(
        [sys.executable, "-m", "scripts.calibrate_memory"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    page = replace(page, "calibration", f"```\n{calibration.stdout}```\n")
    page = replace(page, "doctor", f"```\n$ samosa doctor\n{output_of('doctor')}\n```\n")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
