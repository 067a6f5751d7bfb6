"""MkDocs' hook: README as the first page, generated parts, and links to files outside of docs/.

A page may link to any file of the checkout, as on GitHub. The site holds a copy of such a file under source/.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "tools")]

from generated import fill  # noqa: E402

DOCS, HOME, SOURCE = ROOT / "docs", ROOT / "README.md", "source"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")  # a relative one, without its heading


def place(file: Path) -> str:
    """Where the site has a file of the checkout, from the site's top."""
    if file == HOME:
        return "index.md"
    return file.relative_to(DOCS).as_posix() if file.is_relative_to(DOCS) else f"{SOURCE}/{file.relative_to(ROOT)}"


def origin(uri: str) -> Path:
    """The file of the checkout that a page of the site is made of."""
    if uri == "index.md":
        return HOME
    return ROOT / uri.removeprefix(f"{SOURCE}/") if uri.startswith(f"{SOURCE}/") else DOCS / uri


def linked(page: Path) -> set[Path]:
    """The files of the checkout that a page links to."""
    targets = {(page.parent / link).resolve() for link in LINK.findall(page.read_text())}
    return {target for target in targets if target.is_file() and target.is_relative_to(ROOT)}


def outside(pages: set[Path]) -> set[Path]:
    """All files outside of docs/ that the pages link to, directly or over others."""
    found: set[Path] = set()
    while new := {file for page in pages for file in linked(page) if not file.is_relative_to(DOCS)} - found - {HOME}:
        found |= new
        pages = {file for file in new if file.suffix == ".md"}
    return found


def on_files(files: Files, *, config: Any) -> Files:
    pages = {Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path}
    files.append(File.generated(config, "index.md", content=HOME.read_text()))
    for file in sorted(outside(pages | {HOME})):
        files.append(File.generated(config, place(file), abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    file = origin(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = (file.parent / match[1]).resolve()
        return os.path.relpath(place(target), os.path.dirname(page.file.src_uri)) if target.exists() else match[1]

    return fill(LINK.sub(moved, markdown))
