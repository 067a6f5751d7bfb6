"""The samples of docs/data/missing.md and docs/data/long.md are read as the pages say."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_pipeline.options import DataOptions
from data_pipeline.series.fill import DEFAULT_MAX_GAP
from data_pipeline.series.layout_groups import LEAST_TRAIN_ROWS
from data_pipeline.series.store import open_series

PAGES = Path(__file__).resolve().parents[3] / "docs" / "data"
MISSING, LONG = ((PAGES / f"{name}.md").read_text() for name in ("missing", "long"))


def blocks(page):
    """The indented blocks of a page, each without its indent, by the comment before it or the word `becomes`."""
    found = re.findall(r"(?:<!-- (.*?) -->|^(becomes))\n\n((?:    .*\n)+)", page, re.MULTILINE)
    return {comment or word: re.sub(r"^    ", "", block, flags=re.MULTILINE) for comment, word, block in found}


def opened(text, tmp_path, **options):
    (tmp_path / "x.csv").write_text(text)
    return open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache", DataOptions(**options))


def test_the_sample_with_missing_values_becomes_what_the_page_shows(tmp_path):
    samples = blocks(MISSING)
    series = opened(samples["missing: interpolate"], tmp_path, missing="interpolate")
    want = pd.read_csv(io.StringIO(samples["becomes"]), parse_dates=["date"])
    np.testing.assert_array_equal(series.values, want[["load", "wind"]].to_numpy(np.float32))
    np.testing.assert_array_equal(series.timestamps, want["date"].to_numpy())
    assert series.bounds["validation"] == (7, 8)


def test_the_longest_gap_of_the_page_is_the_default():
    assert f"The default is {DEFAULT_MAX_GAP} rows" in MISSING
    assert f"One with fewer than {LEAST_TRAIN_ROWS} is left out" in LONG


@pytest.mark.parametrize(
    ("name", "columns", "groups"),
    [("side by side", ("north", "south"), [None]), ("one after another", ("y",), ["north", "south"])],
)
def test_a_long_sample_is_read_as_the_page_says(name, columns, groups, tmp_path):
    series = opened(blocks(LONG)[f"long: {name}"], tmp_path, split="0.6/0.2/0.2" if groups[0] else "0.5/0.25/0.25")
    assert series.columns == columns and [group.id for group in series.groups] == groups
