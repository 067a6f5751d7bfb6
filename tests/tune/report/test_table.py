"""A table's cells: means and intervals over seeds, beside reported errors; in a terminal, as CSV, Markdown and HTML."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest
from report_kit import sweep as _sweep
from report_kit import trial as _trial

from tune.report.render.markdown import markdown
from tune.report.render.page import html_page
from tune.report.render.terminal import print_report
from tune.report.table import cells
from tune.report.table_csv import table_csv
from tune.report.values import as_json
from tune.tracking.reader import SweepRecord, TrialRecord

MSE = (0.379, 0.374, 0.380)


def _one(cell: str, seed: int, **given: Any) -> TrialRecord:
    dataset, horizon = cell.split("-")
    params = {"data.dataset": dataset, "data.prediction_length": horizon, "model.preset": "etth"}
    return _trial(cell, seed, params=params | given.pop("params", {}), **given)


def _record(**more: str) -> SweepRecord:
    errors = {"final/test_mae": 0.4, "final/naive_last_value_mse": 1.3, "final/naive_last_day_mse": 0.5}
    errors |= {"final/train_total_s": 9.0}
    trials = [
        _one("ETTh1-96", 2021 + at, metrics={**errors, "final/test_mse": mse}, history={"loss/val_mse": [0.5] * 40})
        for at, mse in enumerate(MSE)
    ]
    trials += [
        _one("ETTm1-96", 2021, metrics={**errors, "final/test_mse": 0.6}),
        _one("ETTm1-96", 2022, status="failed", reason="no luck"),
        _one("weather-720", 2021, status="planned"),
    ]
    tags = {"sweep": "benchmark", "question": "Which errors?", "arms": "ETTh1-96,ETTm1-96,weather-720"}
    environment = json.dumps({"git_commit": "abcdef0123456789", "git_dirty": True})
    missing, changed = {"weather": "put weather.csv into data"}, {"train.epochs": 40}
    table = json.dumps({"missing": missing, "set": changed})
    record = _sweep(*trials, **tags, environment=environment, table=table, **more)
    return replace(record, tags={name: value for name, value in record.tags.items() if name != "baseline"})


def test_a_cell_has_mean_scatter_and_interval_over_its_seeds_and_what_others_report() -> None:
    first, second, third = cells(_record())
    assert (first.test_mse, first.test_sd) == (pytest.approx(fmean(MSE)), pytest.approx(stdev(MSE)))
    assert first.test_bounds is not None
    half = 4.302653 * stdev(MSE) / 3**0.5  # of t with two degrees of freedom
    assert first.test_bounds == (pytest.approx(fmean(MSE) - half), pytest.approx(fmean(MSE) + half))
    assert (first.published, first.tfb, first.naive_mse, first.epochs) == (0.375, 0.377, 0.5, 40)
    assert first.commits == ("abcdef0123+",) and first.not_run is None
    assert (second.test_mse, second.test_bounds, second.not_run) == (0.6, None, "1 of 2 seeds failed: no luck")
    assert third.test_mse is None and third.not_run == "not run: file not at hand: put weather.csv into data"


def test_the_csv_has_one_row_a_cell_and_leaves_empty_what_is_not_known() -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(_record()))))
    assert [row["cell"] for row in rows] == ["ETTh1-96", "ETTm1-96", "weather-720"]
    assert rows[0]["seeds"] == "2021 2022 2023" and float(rows[0]["test_mse"]) == pytest.approx(fmean(MSE), abs=1e-6)
    assert (rows[0]["published_mse"], rows[0]["tfb_mse"], rows[0]["commit"]) == ("0.375", "0.377", "abcdef0123+")
    assert rows[0]["set"] == "--set train.epochs=40"
    assert rows[2]["test_mse"] == rows[2]["commit"] == "" and rows[2]["not_run"].startswith("not run: file not at hand")


def test_the_terminals_table_fits_80_columns_and_gives_no_verdict() -> None:
    text = io.StringIO()
    print_report(_record(), text)
    lines = text.getvalue().splitlines()
    begins = next(at for at, line in enumerate(lines) if line.startswith("cell"))
    assert all(len(line.rstrip()) <= 80 for line in lines[begins : begins + 5])
    assert "1 of 3 cells done; test MSE at or below PatchTST as published in 0, within 1 % above it in 1 more." in lines
    assert "Not the presets' own recipes: all cells have --set train.epochs=40." in lines
    assert "ETTm1-96 does not beat a naive forecast (0.5000)." in lines
    assert "weather-720: not run: file not at hand: put weather.csv into data" in lines
    assert not any("faster" in line or "baseline" in line for line in lines)


def test_page_markdown_and_json_hold_the_cells_and_compare_none() -> None:
    record = _record()
    page, text, content = html_page(record), markdown(record), as_json(record)
    assert page.count('<td class="drawn"><svg') == 3 and "Recipes: the presets of commit abcdef0123+." in page
    assert "| ETTh1-96 | 3 | 0.3777" in text and "verdict" not in text
    assert [cell["name"] for cell in content["table"]["cells"]] == ["ETTh1-96", "ETTm1-96", "weather-720"]
    assert content["comparisons"] == {} and content["table"]["cells"][2]["test_mse"] is None


def test_a_table_whose_test_set_was_not_read_shows_validation_errors_and_says_so() -> None:
    unread = _one("ETTh1-96", 2021, params={"train.read_test": "false"})
    record = _record()
    unread = replace(unread, metrics={"final/val_mse": 0.3})
    text = io.StringIO()
    print_report(replace(record, trials=(unread,)), text)
    assert "val MSE" in text.getvalue() and "test MSE" not in text.getvalue().partition("naive")[0]
    assert "Test set not read (--no-test)" in text.getvalue() and "0.3000" in text.getvalue()
