"""A data set without a published sha256: its row count and the pin of its first download reveal a changed copy."""

from __future__ import annotations

import gzip
import hashlib
import os

import pytest

from data_pipeline.datasets import DATASETS, DatasetSpec
from data_pipeline.errors import DataError
from data_pipeline.series.store import open_series
from data_pipeline.source import download as download_module
from data_pipeline.source.download import fetch
from data_pipeline.source.pins import pin_file, read_pins
from data_pipeline.split_rule import SplitRule

LINES = ["date,a", *(f"2020-01-{1 + at // 24:02d} {at % 24:02d}:00:00,{at % 7}.25" for at in range(60))]
CONTENT = ("\n".join(LINES) + "\n").encode()
SPEC = DatasetSpec(
    name="web",
    file="web.csv",
    split=SplitRule(unit="fraction", parts=(0.7, 0.1, 0.2)),
    columns=("a",),
    urls=("http://127.0.0.1:9/web.csv",),
    rows=60,
)


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """A data folder with the downloaded file and its pin."""
    monkeypatch.setitem(DATASETS, "web", SPEC)
    monkeypatch.setattr(download_module, "_get", lambda _url, part, _progress: part.write_bytes(CONTENT))
    fetch(SPEC, tmp_path)
    return tmp_path


def test_the_downloaded_file_is_read(fetched):
    assert len(open_series("web", fetched, fetched / "cache").values) == 60
    assert read_pins(pin_file(fetched, "web.csv")) == {SPEC.urls[0]: hashlib.sha256(CONTENT).hexdigest()}


def test_traffic_has_its_published_number_of_rows_and_no_sha256():
    assert (DATASETS["traffic"].rows, DATASETS["traffic"].sha256) == (17_544, None)


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_cut_between_two_rows_is_refused_by_its_row_count(pinned, fetched):
    if not pinned:
        pin_file(fetched, "web.csv").unlink()
    (fetched / "web.csv").write_bytes(("\n".join(LINES[:-1]) + "\n").encode())
    with pytest.raises(DataError, match="web.csv: 59 data rows found, web has 60: delete it"):
        open_series("web", fetched, fetched / "cache")


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_cut_within_its_last_number_is_refused_by_its_pin(zipped, fetched):
    cut = CONTENT[:-2] + b"\n"
    (fetched / "web.csv").unlink()
    (fetched / ("web.csv.gz" if zipped else "web.csv")).write_bytes(gzip.compress(cut) if zipped else cut)
    with pytest.raises(
        DataError, match="web.csv.*: cut or changed since its download.*web.csv.sha256 has.*: delete it"
    ):
        open_series("web", fetched, fetched / "cache")
    assert [left for left in (fetched / "cache").iterdir() if left.suffix != ".lock"] == []


@pytest.mark.parametrize("content", [b"", b"\n", b"no pin\n", b"\xff\n"])
def test_a_pin_file_without_a_pin_is_one_line(content, fetched):
    pin_file(fetched, "web.csv").write_bytes(content)
    if not content:
        assert len(open_series("web", fetched, fetched / "cache").values) == 60
        return
    with pytest.raises(DataError, match="web.csv.sha256: .*: delete it") as caught:
        open_series("web", fetched, fetched / "cache")
    assert str(caught.value).isprintable()
    (fetched / "web.csv").unlink()
    with pytest.raises(DataError, match="web.csv.sha256: .*: delete it"):
        fetch(SPEC, fetched)


def test_a_download_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_get", lambda _url, part, _progress: part.write_bytes(CONTENT))
    flushed, replace = set(), os.replace

    def record(descriptor):
        flushed.add(os.fstat(descriptor).st_ino)

    def renamed(source, target):
        assert os.stat(source).st_ino in flushed, f"{target} was not flushed"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", renamed)
    assert fetch(SPEC, tmp_path).read_bytes() == CONTENT
    assert len(flushed) == 2  # the file and its pin
