"""The documents name files that exist, and CONTRIBUTING.md stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
DATA_PAGES = sorted((ROOT / "docs" / "data").glob("*.md"))
LINKED = [ROOT / "README.md", CONTRIBUTING, *sorted((ROOT / "docs").glob("*.md")), *DATA_PAGES, *DECISIONS]
LOG = ROOT / "docs" / "measurements.md"  # dated entries: they name files as these were called on that day
PACKAGES = ("tune", "data_pipeline", "model", "launcher")
NOT_USED = {"num_to_keep", "get_pickled_error"}  # names of Ray's that decisions say we do without
FOLDERS = (*PACKAGES, "tests", "benchmarks", "docs")
TOP_FILES = tuple(sorted(file.name for file in ROOT.iterdir() if file.is_file() and not file.name.startswith(".")))


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def paths_in_backticks(text: str) -> set[str]:
    """What stands in backticks and begins with a folder of ours, or looks like a file of ours at the top."""
    words = {word for quoted in re.findall(r"`([^`\n]+)`", text) for word in quoted.split()}
    words = {word.split("::")[0].rstrip(",:") for word in words}
    begins = (*(f"{folder}/" for folder in FOLDERS), ".ci/")
    tests = {f"tests/**/{word}" for word in words if re.fullmatch(r"test_\w+\.py", word)}
    return {word for word in words if word.startswith(begins) or word in TOP_FILES} | tests


def names_in_backticks(text: str) -> set[str]:
    """Identifiers in backticks: CamelCase, capitals, or with an underscore."""
    quoted = re.findall(r"`(?:\w+\.)?([A-Za-z]\w*[A-Za-z\d])(?:\(\))?`", text)
    return {word for word in quoted if "_" in word or word != word.lower()}


def exists(path: str) -> bool:
    """Whether a path, or at least one file that a pattern means, is there."""
    return bool(list(ROOT.glob(path.rstrip("/")))) if "*" in path else (ROOT / path).exists()


def anchors(file: Path) -> set[str]:
    """The addresses of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tree() -> dict[str, set[str]]:
    """Top-level folder -> the folders below it that CONTRIBUTING's tree names."""
    named: dict[str, set[str]] = {}
    top = ""
    for line in CONTRIBUTING.read_text().splitlines():
        if entry := re.match(r" {4}(\w+)/ ", line):
            named[top := entry[1]] = set()
        elif entry := re.match(r" {6}(\w+)/ ", line):
            named[top].add(entry[1])
    return named


@pytest.mark.parametrize("file", [CONTRIBUTING, *DECISIONS, *sorted((ROOT / "docs").glob("[rs]*.md"))], ids=name)
def test_every_path_that_a_document_quotes_exists(file: Path) -> None:
    assert not {path for path in paths_in_backticks(file.read_text()) if not exists(path)}


@pytest.fixture(scope="module")
def words_of_the_code() -> set[str]:
    files = [file for folder in (*PACKAGES, "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "experiments.py", ROOT / "Makefile", *(ROOT / "launcher").glob("*")]
    text = "\n".join(file.read_text() for file in files if file.is_file() and file != Path(__file__))
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize("file", [CONTRIBUTING, *DECISIONS], ids=name)
def test_every_name_that_a_decision_quotes_is_in_the_code(file: Path, words_of_the_code: set[str]) -> None:
    assert names_in_backticks(file.read_text()) <= words_of_the_code | NOT_USED


@pytest.mark.parametrize("file", LINKED, ids=name)
def test_every_relative_link_leads_to_a_file_and_a_heading(file: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), f"{name(file)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name(file)} links to {link}"


@pytest.mark.parametrize("package", PACKAGES)
def test_contributings_tree_names_exactly_the_packages_that_exist(package: str) -> None:
    assert tree()[package] == {init.parent.name for init in (ROOT / package).glob("*/__init__.py")}


def test_contributing_has_at_most_100_lines() -> None:
    assert len(CONTRIBUTING.read_text().splitlines()) <= 100


def test_the_index_of_decisions_names_every_file() -> None:
    index = ROOT / "docs" / "decisions" / "README.md"
    links = set(re.findall(r"^- \[([\w.]+)\]", index.read_text(), re.MULTILINE))
    assert links == {file.name for file in DECISIONS} - {index.name}


@pytest.mark.parametrize("package", ["data_pipeline", "model", *sorted(tree()["tune"])])
def test_a_package_has_one_file_of_decisions(package: str) -> None:
    assert ROOT / "docs" / "decisions" / f"{package}.md" in DECISIONS


def test_measurements_list_every_entry_in_their_contents() -> None:
    contents, _, entries = LOG.read_text().partition("\n## ")
    headings = re.findall(r"^## (.*)$", f"## {entries}", re.MULTILINE)
    assert re.findall(r"^- \[(.*)\]\(#", contents, re.MULTILINE) == headings
