"""The protocol says how the data of a result were read, split, scaled and cut, in the words of the source."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from data_pipeline.options import DataOptions
from data_pipeline.series.protocol import protocol_lines, protocol_of
from data_pipeline.series.store import known_series, open_series


def opened(tmp_path, index, options=None, **columns):
    frame = pd.DataFrame({"date": index, **(columns or {"a": np.arange(len(index)) % 7})})
    frame.astype({"date": str}).to_csv(tmp_path / "x.csv", index=False)
    return open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache", options or DataOptions())


def test_a_published_set_is_told_with_its_months_rows_and_dates(real_data_dir, tmp_path):
    protocol = protocol_of(open_series("ETTh1", real_data_dir, tmp_path), [(512, 96)])
    assert protocol["split"] == {
        "rule": "12/4/4 months of 30 days",
        "parts": {
            "train": {"rows": 8640, "first": "2016-07-01 00:00:00", "last": "2017-06-25 23:00:00"},
            "validation": {"rows": 2880, "first": "2017-06-26 00:00:00", "last": "2017-10-23 23:00:00"},
            "test": {"rows": 2880, "first": "2017-10-24 00:00:00", "last": "2018-02-20 23:00:00"},
        },
        "unused_rows": 3020,
    }
    (windows,) = protocol["windows"]
    assert (windows["train"], windows["validation"], windows["test"]) == (8033, 2785, 2785)
    assert protocol["step"] == "60 min" and protocol["zone"] is None and protocol["notes"] == []


def test_a_protocol_is_json(tmp_path):
    series = opened(tmp_path, pd.date_range("2020-01-01", periods=300, freq="MS"))
    protocol = protocol_of(series, [(24, 6)])
    assert json.loads(json.dumps(protocol)) == protocol


@pytest.mark.parametrize(("zone", "shown"), [("Europe/Berlin", "+01:00"), ("UTC", "Z"), (None, "")])
def test_times_of_the_protocol_are_those_of_the_file(zone, shown, tmp_path):
    series = opened(tmp_path, pd.date_range("2020-01-01", periods=400, freq="D", tz=zone))
    part = protocol_of(series, [])["split"]["parts"]["train"]
    assert part["first"] == f"2020-01-01 00:00:00{shown}"
    assert part["last"].startswith("2020-10-06 00:00:00")


def test_lengths_without_windows_are_none_and_equal_ones_are_told_once(tmp_path):
    series = opened(tmp_path, pd.date_range("2020-01-01", periods=300, freq="h"))
    first, second = protocol_of(series, [(24, 6), (24, 6), (290, 6)])["windows"]
    assert first["train"] == 210 - 29 and second["train"] is None and second["context_length"] == 290


def test_what_was_kept_dropped_and_filled_is_noted(tmp_path):
    index = pd.DatetimeIndex(np.delete(pd.date_range("2020-01-01", periods=300, freq="h").to_numpy(), 40))
    index = index[:10].append(index[9:])
    series = opened(tmp_path, index, a=[*np.arange(10) % 7, *np.arange(9, 299) % 7], flat=np.ones(300))
    notes = "\n".join(protocol_of(series, [])["notes"])
    for said in ("1 rows missing in 1 gaps", "1 row equal to the row before it", "constant over the training rows"):
        assert said in notes


def test_the_lines_say_all_of_it(tmp_path):
    series = opened(tmp_path, pd.date_range("2020-01-01", periods=1000, freq="h"), DataOptions(split="0.6/0.2/0.2"))
    text = "\n".join(protocol_lines(protocol_of(series, [(24, 6)])))
    for said in (
        "1,000 rows x 1 columns, one row per 60 min",
        "train: 600 rows, 2020-01-01 00:00:00 to 2020-01-25 23:00:00, 571 windows of 24 + 6",
        "test: 200 rows",
        "split 0.6/0.2/0.2 of all rows",
        "scaled: each column to mean 0 and deviation 1 of its 600 training rows",
        "separator comma",
    ):
        assert said in text


def test_rows_without_times_are_told_by_their_number(tmp_path):
    pd.DataFrame({"a": np.arange(100) * 0.5 % 7, "b": np.arange(100) % 3 * 0.1}).to_csv(tmp_path / "x.csv", index=False)
    series = open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache", DataOptions(step="row"))
    protocol = protocol_of(series, [])
    parts = protocol["split"]["parts"]
    assert "100 rows x 2 columns, rows taken as equidistant" in next(protocol_lines(protocol))
    assert parts["train"]["first"] == "row 1" and parts["test"] == {"rows": 20, "first": "row 81", "last": "row 100"}


def test_a_series_is_known_without_reading_it_again_once_it_was_converted(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.series.store.SETTLED_S", 0.0)
    name = str(tmp_path / "x.csv")
    assert known_series(name, None, tmp_path / "cache") is None
    series = opened(tmp_path, pd.date_range("2020-01-01", periods=300, freq="h"))
    known = known_series(name, None, tmp_path / "cache")
    assert known is not None and protocol_of(known, []) == protocol_of(series, [])
    (tmp_path / "x.csv").write_text("date,a\n2020-01-01,1\n")
    assert known_series(name, None, tmp_path / "cache") is None
