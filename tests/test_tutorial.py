"""Pages with code are true: it prints what stands under it, and what they quote stands in the files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_layers import ROOT

PAGES = {name: ROOT / "docs" / f"{name}.md" for name in ("tutorial", "extending")}
TUTORIAL = PAGES["tutorial"].read_text(encoding="utf-8")
RUN = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
QUOTE = re.compile(r'^```python title="([^"]+)"\n(.*?)^```\n', re.DOTALL | re.MULTILINE)
MARK = "=== block {}"


def run_blocks(blocks: list[str], folder: Path) -> list[str]:
    """What each block prints, all of them in one session in an empty folder."""
    parts = [f"print({MARK.format(number)!r})\n{block}" for number, block in enumerate(blocks)]
    # One device, as at home.
    reader = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)],
        cwd=folder,
        env={**reader, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    printed = re.split(rf"^{MARK.format('[0-9]+')}\n", done.stdout, flags=re.MULTILINE)
    return printed[1:]


@pytest.mark.parametrize("name", PAGES)
def test_the_code_prints_what_is_shown(name: str, tmp_path: Path):
    """SAMOSA_UPDATE_GOLDEN=1 writes the page anew; read the diff before you commit it."""
    text = PAGES[name].read_text(encoding="utf-8")
    found = RUN.findall(text)
    blocks = [code for code, _ in found]
    assert len(blocks) > 5, "the page lost its code"
    printed = run_blocks(blocks, tmp_path)
    assert len(printed) == len(blocks)
    if os.environ.get("SAMOSA_UPDATE_GOLDEN") == "1":
        outputs = iter(printed)
        PAGES[name].write_text(
            RUN.sub(lambda block: with_output(block[1], next(outputs)), text), encoding="utf-8"
        )
        return
    for (code, shown), output in zip(found, printed, strict=True):
        assert output == shown, f"this printed something else than what is shown:\n{code}"


def with_output(code: str, output: str) -> str:
    shown = f"\n```text\n{output}```\n" if output else ""
    return f"```python\n{code}```\n{shown}"


@pytest.mark.parametrize(("name", "quoted"), QUOTE.findall(TUTORIAL))
def test_quotes_stand_in_the_files(name: str, quoted: str):
    source = (ROOT / name).read_text(encoding="utf-8")
    for part in quoted.split("...\n"):
        assert part in source, f"{name} does not say:\n{part}"


def test_there_are_quotes():
    assert len(QUOTE.findall(TUTORIAL)) > 10
