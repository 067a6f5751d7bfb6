"""README is short, and the sentences of README and of the pages for users are."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LOG = DOCS / "measurements.md"
FILES = [ROOT / "README.md", *sorted({*DOCS.glob("*.md"), *(DOCS / "data").glob("*.md")} - {LOG})]
DEFINED = ("arm", "trial", "block", "pair", "verdict", "gate")
MOST_WORDS, MEDIAN, LONGEST = 900, 18, 40  # of README; of a page's sentences; of any sentence
MARKUP = re.compile(r"(?s:<!--.*?-->|^```.*?^```$)|^(?: {4}|#|\|).*$|!\[[^\]]*\]\([^)]*\)", re.MULTILINE)


def sentences(text: str) -> list[str]:
    """The sentences of paragraphs and list items, without code, tables, headings and pictures. Code in it is a word."""
    text = re.sub(r"\]\([^)]*\)", "]", MARKUP.sub("\n\n", text))
    text = re.sub(r"`[^`]*`", "code", text)
    parts = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", text, flags=re.MULTILINE)
    found = [piece for part in parts for piece in re.split(r"(?<=[.?!])\**\s+", " ".join(part.split()))]
    return [sentence for sentence in found if re.search(r"\w", sentence)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_sentences_are_short(file: Path) -> None:
    lengths = {sentence: len(sentence.split()) for sentence in sentences(file.read_text())}
    assert [sentence for sentence, length in lengths.items() if length > LONGEST] == []
    assert median(lengths.values()) <= MEDIAN


def test_readme_has_at_most_900_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= MOST_WORDS


@pytest.mark.parametrize("word", DEFINED)
def test_readme_defines_a_word_in_one_sentence(word: str) -> None:
    assert re.search(rf"^- (?:An?|The) \*\*{word}\*\* is ", (ROOT / "README.md").read_text(), re.MULTILINE)
