"""Conversion: another file under a published name, a folder or disk that refuses the result, a crash in between."""

from __future__ import annotations

import resource
import signal

import pytest
from csv_kit import replaced, rows, text

from data_pipeline.datasets import DATASETS
from data_pipeline.errors import DataError
from data_pipeline.series import store
from data_pipeline.series.store import open_series


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (rows(), "date,a,b", "columns a, b found, ETTh1 has HUFL"),
        (rows(value="1,2,3,4,5,6,7"), "date," + ",".join(DATASETS["ETTm1"].columns), "needs 14400 at one row per 60"),
    ],
)
def test_another_file_under_a_published_name_is_refused(lines, header, message, tmp_path):
    (tmp_path / "ETTh1.csv").write_text(text(lines, header))
    with pytest.raises(DataError, match=message):
        open_series("ETTh1", tmp_path, tmp_path / "cache")


def test_another_step_under_a_published_name_is_refused(tmp_path):
    (tmp_path / "ETTm1.csv").write_text(
        text(rows(value="1,2,3,4,5,6,7"), "date," + ",".join(DATASETS["ETTm1"].columns))
    )
    with pytest.raises(DataError, match="one row per 60 min found, ETTm1 has one per 15"):
        open_series("ETTm1", tmp_path, tmp_path / "cache")


def test_changed_values_under_a_published_name_are_kept_and_reported(tmp_path):
    lines = rows(14400, value=",".join(["{at}"] * 7))
    (tmp_path / "ETTh1.csv").write_text(text(lines, "date," + ",".join(DATASETS["ETTh1"].columns)))
    series = open_series("ETTh1", tmp_path, tmp_path / "cache")
    assert any("not the published file" in note for note in series.notes)


def test_a_cache_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written.*cache folder"):
        open_series("demo", None, tmp_path / "file" / "cache")


@pytest.mark.parametrize("limit_kib", [0, 4, 30, 120, 200])
def test_a_full_disk_is_one_line_and_leaves_nothing(limit_kib, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kib << 10, limits[1]))
    try:
        with pytest.raises(DataError, match="no space left"):
            open_series("demo", None, cache)  # 250 KiB
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []
    assert len(open_series("demo", None, cache).values) == 3200


def test_a_crash_while_converting_leaves_the_old_file_in_place(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text(text())
    old = open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache")
    (tmp_path / "x.csv").write_text(replaced(3, "2020-01-01 03:00:00,oops,1"))
    with pytest.raises(DataError, match="oops"):
        open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache")
    (tmp_path / "x.csv").write_text(text())
    monkeypatch.setattr(store, "convert", lambda *_: pytest.fail("the old file was still right"))
    assert open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache").source_sha256 == old.source_sha256
