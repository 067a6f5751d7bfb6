"""Errors of each series: averaged over its windows, all of them in a table, the best and worst in a bounded tag."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from long_kit import opened, unequal

from data_pipeline.feed import FEEDS, open_feed
from tune.measure.accuracy import ForecastErrors, SeriesErrors, evaluate
from tune.measure.series_errors import FILE, SHOWN, as_tag, read_tag, write_table

L, H, B = 24, 6, 16


def last_value(past):
    return past[:, -1:].expand(-1, H, -1)


@pytest.mark.parametrize("way", ["refuse", "interpolate"])
@pytest.mark.parametrize("name", FEEDS)
def test_errors_of_each_series_and_of_all_are_those_of_numpy(name, way, tmp_path):
    table = unequal()
    if way == "interpolate":
        table.loc[[250, 251, 280, 530, 531], "y"] = np.nan
    series = opened(table, tmp_path, missing=way)
    feed = open_feed(
        name, series, context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1, num_workers=0
    )
    got = evaluate({"last": last_value}, feed.eval_batches("test"), n_series=len(series.groups))["last"]
    feed.close()
    left_out, every, want = 0, [], {}
    for number, group in enumerate(series.groups):
        first, stop = group.bounds["test"]
        errors = []
        for row in range(*group.rows):
            if first <= row + L and row + L + H <= stop:
                wrong = series.scaled[row + L : row + L + H].astype(np.float64) - series.scaled[row + L - 1]
                there = np.ones_like(wrong, bool) if series.filled is None else ~series.filled[row + L : row + L + H]
                left_out += (~there).sum()
                errors.append(wrong[there])
        if errors:
            every += errors
            want[number] = (len(errors), np.square(np.concatenate(errors)).mean(), abs(np.concatenate(errors)).mean())
    assert [of.series for of in got.by_series] == list(want)
    assert [(of.windows, of.mse, of.mae) for of in got.by_series] == [
        pytest.approx(of, rel=1e-5) for of in want.values()
    ]
    assert got.mse == pytest.approx(np.square(np.concatenate(every)).mean(), rel=1e-5)
    assert got.mae == pytest.approx(abs(np.concatenate(every)).mean(), rel=1e-5)
    assert got.filled_left_out == left_out and (left_out > 0) == (way == "interpolate")


def errors_of(count):
    """`count` series, of which the one called 0 has the largest error; the last of the file has no window."""
    each = tuple(SeriesErrors(series=at, windows=at + 1, mse=10.0 / (at + 1), mae=1.0) for at in range(count))
    return ForecastErrors(mse=1.0, mae=1.0, by_series=each), [str(at) for at in range(count + 1)]


@pytest.mark.parametrize(
    ("count", "shown"), [(3, "012"), (10, "0123456789"), (300, ["0", "1", "2", "3", "4", *map(str, range(295, 300))])]
)
def test_the_tag_shows_all_series_or_the_worst_and_the_best(count, shown):
    text = as_tag(*errors_of(count))
    content = read_tag(text)
    assert [of["id"] for of in content["shown"]] == list(shown) and len(content["shown"]) <= 2 * SHOWN
    assert content["with_windows"] == count and content["series"] == count + 1
    assert content["shown"][0] == {"id": "0", "windows": 1, "mse": 10.0, "mae": 1.0}
    assert len(text) < 5000


def test_the_tag_is_bounded_whatever_the_ids_are():
    errors, ids = errors_of(300)
    assert len(as_tag(errors, [f"{'ä' * 1000}{name}" for name in ids])) < 5000


def test_a_file_of_one_series_has_no_tag():
    assert as_tag(ForecastErrors(mse=1.0, mae=1.0), [None]) is None and read_tag(None) is None


def test_the_table_holds_every_series(tmp_path):
    errors, ids = errors_of(300)
    write_table(tmp_path, errors, ids)
    rows = list(csv.DictReader((tmp_path / FILE).read_text().splitlines()))
    assert [(row["id"], int(row["windows"]), float(row["mse"])) for row in rows] == [
        (str(at), at + 1, 10.0 / (at + 1)) for at in range(300)
    ]
