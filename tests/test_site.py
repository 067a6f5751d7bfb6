"""The site of docs/ builds strictly, and what pages promise to list in full they do."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tune.commands.main import COMMANDS, load_command
from tune.config.sweeps import SWEEPS
from tune.config.trial_config import FIELDS, SEED_STUDY_ONLY
from tune.report.arms import COLUMNS
from tune.stats.verdicts import ACCURACY_WORDS, SPEED_WORDS, STOP_WORDS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def tool(name: str) -> Any:
    """A module of docs/tools."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it, which fails at a broken link, heading or page without a place."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return target


def test_the_site_builds_strictly_with_the_readme_as_its_first_page(site: Path) -> None:
    assert "On my GPUs and my data" in (site / "index.html").read_text()


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = {page.name: page.read_text() for page in site.glob("*.html")}
    loads = ('<script src="http', '<link rel="stylesheet" href="http', '<img src="http', "fonts.googleapis")
    assert {name for name, text in pages.items() if any(load in text for load in loads)} == set()


def test_the_site_has_files_outside_of_docs_that_pages_link_to(site: Path) -> None:
    assert (site / "source" / "launcher" / "slurm-job.sh").exists() and (site / "source" / "LICENSE").exists()


def test_the_page_of_commands_has_every_command_and_option() -> None:
    text = tool("generated").commands()
    for words in COMMANDS:
        for action in load_command(words).parser()._actions:
            assert all(option in text for option in action.option_strings if option not in ("-h", "--help"))
        assert not words or f"## {' '.join(words)}\n" in text


def test_the_page_of_fields_has_every_field_with_its_meaning() -> None:
    generated = tool("generated")
    text, meanings = generated.fields(), generated.meanings()
    ours = [name for name in FIELDS if name not in SEED_STUDY_ONLY]
    assert [name for name in ours if f"| `{name}` |" not in text] == []
    assert [name for name in ours if not meanings.get(name)] == []  # a comment beside the field, in its line


def test_a_name_of_a_generated_part_that_is_unknown_fails_the_build() -> None:
    with pytest.raises(KeyError):
        tool("generated").fill("<!-- generated: nothing -->")


def test_the_page_on_the_report_has_every_column_verdict_and_status() -> None:
    text = (DOCS / "reading-the-report.md").read_text() + (DOCS / "repeats.md").read_text()
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    statuses = {"done", "stopped", "unsupported", "failed", "oom", "nan", "failed_gate"}
    words = {*SPEED_WORDS.values(), *ACCURACY_WORDS.values(), *(name for name, _ in COLUMNS), *statuses}
    assert words - rows == set()
    assert [why for why in STOP_WORDS.values() if why not in text] == []


def test_the_page_on_sweeps_has_every_sweep() -> None:
    text = (DOCS / "sweeps.md").read_text()
    assert [name for name in SWEEPS if f"| `{name}` |" not in text] == []


def test_the_charts_picture_is_that_of_the_recorded_result() -> None:
    chart = tool("chart")
    assert chart.TARGET.read_text() == chart.chart(json.loads(chart.RESULT.read_text()))


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "results.md"], ids=lambda page: page.name)
def test_the_figures_of_the_attention_sweep_are_those_of_its_result(page: Path) -> None:
    result, text = json.loads(tool("chart").RESULT.read_text()), page.read_text()
    for arm, compared in result["comparisons"].items():
        done = [trial["metrics"] for trial in result["trials"] if trial["arm"] == arm and trial["status"] == "done"]
        if done:
            low, high = compared["interval"]
            epoch_s = fmean(each["final/epoch_all_windows_s"] for each in done)
            row = rf"{arm}\b.* {epoch_s:.3f} .* {compared['ratio']:.2f}x? \(?{low:.2f}-{high:.2f}"
            assert re.search(row, text), row


def test_the_recorded_session_is_of_the_sweep_that_make_demo_runs() -> None:
    words = " ".join(tool("record_demo").demo())
    session = (
        (DOCS / "getting-started.md").read_text().partition("<!-- demo -->")[2].partition("<!-- end of demo -->")[0]
    )
    assert f"experiments.py {words}\n" in session and "Answer: " in session
