"""The samples on the page about steps have the steps that it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_pipeline.options import OPTION_NAMES, DataOptions
from data_pipeline.series.timeaxis import TimeAxis
from data_pipeline.source.readers import open_source
from data_pipeline.split_rule import parse_split

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data" / "steps.md").read_text()
SAMPLES = re.findall(r"<!-- step: (.*?) -->\n\n((?:    .*\n)+)", PAGE)


@pytest.mark.parametrize(("text", "sample"), SAMPLES, ids=[text for text, _ in SAMPLES])
def test_a_sample_of_the_page_has_the_step_that_it_is_shown_for(text, sample, tmp_path):
    (tmp_path / "x.csv").write_text("".join(line[4:] for line in sample.splitlines(keepends=True)))
    source = open_source(tmp_path / "x.csv", DataOptions())
    axis = TimeAxis("x.csv")
    for chunk in source.chunks():
        axis.add(chunk.timestamps)
    axis.zone, axis.offsets = source.zone, source.offsets
    axis.check()
    assert axis.step.text == text and not source.faults


def test_the_page_has_a_sample_of_each_family_of_the_calendar():
    assert len(SAMPLES) == PAGE.count("<!-- step:") == 5


def test_the_splits_of_the_page_are_understood_and_its_fields_exist():
    table = PAGE.partition("`--set data.split=`")[2]
    splits = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert [parse_split(text).unit for text in splits] == ["fraction", "dates", "files"]
    assert set(re.findall(r"\bdata\.(\w+)=", PAGE)) <= set(OPTION_NAMES)
