"""Where a document goes: an HTML file, and the Markdown of the same name beside it."""

import contextlib
from pathlib import Path

from samosa_jax.errors import UserError
from samosa_jax.reporting.document import Document
from samosa_jax.reporting.html_page import html_page
from samosa_jax.reporting.markdown_page import markdown_page


def check_page(name: str) -> Path:
    """The HTML file of that name. Raises UserError if the name is not that of one."""
    page = Path(name)
    if page.suffix not in (".html", ".htm"):
        raise UserError(f"--out is {page}; name a file that ends with .html (the Markdown goes beside it)")
    return page


def write_pages(document: Document, page: Path) -> None:
    """Writes both and prints their sizes. Raises UserError where they cannot be written."""
    for path, text in ((page, html_page(document)), (page.with_suffix(".md"), markdown_page(document))):
        _write(path, text)
        print(f"{path}: {len(text.encode()) / 1e3:,.0f} kB")


def _write(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
