"""Every sample of the page on reading, of the README and of the page on own data is read as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.source.readers import open_source

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "docs" / "data" / "reading.md", ROOT / "docs" / "own-data.md", ROOT / "README.md"]
SAMPLE = re.compile(
    r"<!-- read (?P<file>\S+) as (?P<encoding>\S+)(?: with data\.(?P<field>\w+)=(?P<value>\S+))? -->\n\n"
    r"(?P<lines>(?: {4}.*\n)+)\n?(?P<said>(?:- .*\n)*)"
)
SAMPLES = [match.groupdict() for page in PAGES for match in SAMPLE.finditer(page.read_text())]
TIMES = np.arange("2024-01-10", "2024-01-17", dtype="datetime64[D]").astype("datetime64[us]")
VALUES = [[10.5, 3], [11.25, 2], [12, 5], [13.5, 6], [14, 7], [15.5, 6], [16, 9]]


def test_every_page_has_samples():
    assert len(SAMPLES) == sum(page.read_text().count("<!-- read ") for page in PAGES) > 10


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["lines"].strip().split("\n")[0])
def test_a_sample_is_read_as_the_page_says(sample, tmp_path):
    path = tmp_path / sample["file"]
    path.write_bytes(re.sub("^ {4}", "", sample["lines"], flags=re.MULTILINE).encode(sample["encoding"]))
    said = [line[2:].partition(": ")[::2] for line in sample["said"].splitlines()]
    refused = [text for kind, text in said if kind == "refused"]
    options = DataOptions(**({sample["field"]: sample["value"]} if sample["field"] else {}))
    if refused:
        with pytest.raises(DataError) as caught:
            source = open_source(path, options)
            list(source.chunks())
            source.faults.raise_if_any()
        assert [text for text in refused if text not in str(caught.value)] == []
        return
    source = open_source(path, options)
    (chunk,) = source.chunks()
    source.faults.raise_if_any()
    np.testing.assert_array_equal(chunk.values[:, -2:], VALUES)
    if source.timestamp_column is not None:
        np.testing.assert_array_equal(chunk.timestamps.astype("datetime64[us]"), TIMES)
    assert sorted(source.notes) == sorted(text for kind, text in said if kind == "note")
