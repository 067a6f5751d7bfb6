"""The report tells the errors of each series, bounded, and how many filled targets count in none."""

from __future__ import annotations

import pytest
from report_kit import sweep, trial

from tune.measure.accuracy import ForecastErrors, SeriesErrors
from tune.measure.series_errors import TAG, as_tag
from tune.report.arms import arm_rows
from tune.report.notes import notes
from tune.report.render.markdown import markdown
from tune.report.tables import closing_tables
from tune.report.values import as_json


def tagged(count, seed=1, arm="none", without=0):
    each = tuple(SeriesErrors(series=at, windows=1000 + at, mse=count - at, mae=1.0) for at in range(count))
    text = as_tag(ForecastErrors(mse=1.0, mae=1.0, by_series=each), [f"s{at}" for at in range(count + without)])
    return trial(arm, seed, tags={TAG: text})


@pytest.mark.parametrize(("count", "rows"), [(3, 3), (10, 10), (11, 10), (400, 10)])
def test_series_are_listed_with_the_worst_first_at_most_ten(count, rows):
    table = closing_tables(sweep(tagged(count, seed=2), tagged(count, seed=1, without=4)), None)[0]
    assert table.title == "Test errors of none, seed 1, by series" and len(table.rows) == rows
    assert table.rows[0] == ["s0", "1,000", f"{count:.4f}", "1.0000"] and table.rows[-1][0] == f"s{count - 1}"
    assert ("The 5 worst and best of" in table.caption) == (count > 10)
    assert "4 series have no test window" in table.caption


def test_the_markdown_report_and_its_json_hold_the_errors_of_series():
    record = sweep(tagged(3))
    assert "Test errors of none, seed 1, by series" in markdown(record)
    (of_trial,) = as_json(record)["trials"]
    assert [of["id"] for of in of_trial[TAG]["shown"]] == ["s0", "s1", "s2"]


def test_a_file_of_one_series_has_no_such_table():
    record = sweep(trial())
    assert not [table for table in closing_tables(record, None) if "by series" in table.title]
    assert TAG not in as_json(record)["trials"][0]


@pytest.mark.parametrize(("count", "told"), [(1234, True), (0, False), (None, False)])
def test_filled_targets_that_count_in_no_error_are_told_with_their_number(count, told):
    metrics = {} if count is None else {"final/filled_targets_left_out": float(count)}
    record = sweep(trial(metrics=metrics))
    lines = [line for line in notes(record, arm_rows(record)) if "targets that the source lacks" in line]
    assert bool(lines) == told and (not told or "leave out 1,234 targets" in lines[0])
