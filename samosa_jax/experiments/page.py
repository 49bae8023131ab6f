"""A Markdown page whose sections are written by commands, between marks, and whose other text stays."""

import os
import re
from pathlib import Path

from samosa_jax.errors import UserError

PICTURES = "images"  # folder beside the page


def check_page(page: Path) -> None:
    """Raises UserError, before hours of training, if the page could not be written."""
    if page.suffix != ".md":
        raise UserError(f"{page} is to be the page; name a Markdown file such as docs/ablations.md")
    if page.exists() and not page.is_file():
        raise UserError(f"{page} is no file; name a Markdown file such as docs/ablations.md")
    try:
        if page.exists():
            page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{page} cannot be read as UTF-8 text ({error}); name another page") from error


def picture_for(page: Path, *, name: str) -> Path:
    """docs/images/ablations_text.png, for docs/ablations.md and the name "text"."""
    return page.parent / PICTURES / f"{page.stem}_{name}.png"


def write_section(page: Path, *, mark: str, text: str) -> None:
    """Puts the text between `<!-- MARK -->` and `<!-- end of MARK -->`, at the end of a page without them.

    Raises UserError if the page cannot be read or written, or has one of the marks alone or twice.
    """
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    try:
        before = page.read_text(encoding="utf-8") if page.exists() else ""
        if before.count(begin) != before.count(end) or before.count(begin) > 1:
            raise UserError(f"{page} has not one pair of {begin} and {end}; mend it, or remove both")
        if begin in before:
            pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
            after = pattern.sub(lambda _: section, before)
        else:
            after = f"{before.rstrip()}\n\n{section}\n".lstrip()
        page.parent.mkdir(parents=True, exist_ok=True)
        temporary = page.with_name(f"{page.name}.tmp")
        temporary.write_text(after, encoding="utf-8")
        os.replace(temporary, page)
    except OSError as error:
        raise UserError(f"{page} cannot be written ({error.strerror}); choose another --out") from error


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
