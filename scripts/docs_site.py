"""Files of the repository that a page of docs/ links to become pages of the site: the hooks of mkdocs.yml."""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
LANGUAGE = {
    ".css": "css",
    ".jinja": "jinja",
    ".js": "js",
    ".json": "json",
    ".py": "python",
    ".sbatch": "bash",
    ".sh": "bash",
    ".toml": "toml",
    ".yaml": "yaml",
}
HEAD = "---\nsearch:\n  exclude: true\n---\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside docs/ that a page links to, and for what those link to in turn."""
    docs = Path(config.docs_dir)
    waiting = [docs / file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            path = linked_file(page, target)
            if path is None or docs in path.parents or files.get_file_from_path(place_of(path, docs)):
                continue
            files.append(
                File.generated(
                    config,
                    place_of(path, docs),
                    content=content_of(path, docs),
                    inclusion=InclusionLevel.NOT_IN_NAV,
                )
            )
            if path.suffix == ".md":
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links that leave docs/ at the pages that stand for those files."""
    docs = Path(config.docs_dir)
    if page.file.generated_by is not None:
        return markdown
    return with_links(markdown, docs / page.file.src_uri, docs)


def linked_file(page: Path, target: str) -> Path | None:
    """The file of the repository that a relative link of a Markdown file names, None if it names none."""
    path = Path(os.path.normpath(page.parent / target))
    return path if path.is_file() and ROOT in path.parents else None


def place_of(path: Path, docs: Path) -> str:
    """Where a file of the repository is in the site, as a path below docs/."""
    if docs in path.parents:
        return path.relative_to(docs).as_posix()
    inside = path.relative_to(ROOT).as_posix()
    return f"repository/{inside}" if path.suffix == ".md" else f"repository/{inside}.md"


def content_of(path: Path, docs: Path) -> str:
    """Markdown as it is, with its links followed; any other text as one block of code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return with_links(text, path, docs)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    language = LANGUAGE.get(path.suffix, "text")
    return f"{HEAD}# {path.relative_to(ROOT).as_posix()}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def with_links(markdown: str, page: Path, docs: Path) -> str:
    """The text of a Markdown file with its links to files of the repository as links inside the site."""
    here = PurePosixPath(place_of(page, docs)).parent

    def follow(match: re.Match[str]) -> str:
        path = linked_file(page, match[1])
        return match[1] if path is None else os.path.relpath(place_of(path, docs), here)

    return LINK.sub(follow, markdown)
