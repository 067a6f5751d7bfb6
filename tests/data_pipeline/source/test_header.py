"""Wrong headers and first rows are refused in one line, for a conversion and for a forecast."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from data_pipeline.errors import DataError
from data_pipeline.series.steps import FixedStep
from data_pipeline.series.store import open_series
from data_pipeline.series.tail import other_columns, read_tail

HOURLY = FixedStep(step_us=3_600_000_000)
HOURS = np.datetime64("2020-01-01", "us") + np.arange(60) * np.timedelta64(3600, "s")
TEXTS = [str(hour) for hour in HOURS]
VALUES = np.arange(60.0) % 7


def no_utf8(at):
    """The times as text; the one in row `at` is not UTF-8."""
    content = [text.encode() for text in TEXTS]
    content[at] = b"\xff\xfe2020"
    offsets = np.cumsum([0, *map(len, content)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), 60, [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(content))])


def of_unit(unit, at=slice(None)):
    """The times as a column of another unit, whose rows `at` hold microseconds since 1970."""
    numbers = HOURS.astype(f"datetime64[{unit}]").view(np.int64).copy()
    numbers[at] = HOURS.view(np.int64)[at]
    return pa.array(numbers).cast(pa.timestamp(unit))


WRONG = {
    "microseconds called milliseconds": (
        of_unit("ms"),
        "data row 1, column 'date': the value cannot be read as timestamp.ms",
    ),
    "microseconds in one row of milliseconds": (
        of_unit("ms", 30),
        "data row 31, column 'date': the value cannot be read",
    ),
    "microseconds called seconds": (of_unit("s"), "column 'date': the value cannot be read as timestamp"),
    "microseconds in one row of seconds": (
        of_unit("s", 30),
        "data row 31, column 'date': the value cannot be read as timestamp",
    ),
    "bytes that are no UTF-8": (no_utf8(0), "data row 1, column 'date': the value cannot be read as string"),
    "one time that is no UTF-8": (no_utf8(30), "data row 31, column 'date': the value cannot be read as string"),
    "a zone that is not on Earth": (pa.array(HOURS).cast(pa.timestamp("us", "Mars/Phobos")), "unknown zone"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_times_are_refused_in_one_line(case, tmp_path):
    times, message = WRONG[case]
    path = tmp_path / "x.parquet"
    pa_parquet.write_table(pa.table({"date": times, "a": VALUES}), path)
    with pytest.raises(DataError, match=message) as caught:
        open_series(str(path), None, tmp_path / "cache")
    assert str(caught.value).isprintable() and str(path) in str(caught.value)


def test_a_column_of_text_whose_first_value_is_no_utf_8_is_named(tmp_path):
    pa_parquet.write_table(pa.table({"date": HOURS, "note": no_utf8(0), "a": VALUES}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'note' holds text .*, not numbers"):
        open_series(str(tmp_path / "x.parquet"), None, tmp_path / "cache")
    tail = read_tail(tmp_path / "x.parquet", columns=["a"], rows=5, step=HOURLY)
    np.testing.assert_array_equal(tail.values[:, 0], VALUES[-5:])
    assert other_columns(tmp_path / "x.parquet", tail) == ("note",)


def test_a_name_too_long_for_a_csv_is_one_line(tmp_path):
    lines = [f"date,a,{'b' * 131_073}", *(f"{text},1,2" for text in TEXTS)]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="are no CSV .*131072.*: give short names"):
        open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_columns_that_a_forecast_leaves_out_are_found_at_every_line_end(end, tmp_path):
    lines = ["\ufeffdate,a,b,c", *(f"{text},{at % 7},2,3" for at, text in enumerate(TEXTS))]
    (tmp_path / "x.csv").write_bytes((end.join(lines) + end).encode())
    tail = read_tail(tmp_path / "x.csv", columns=["b"], rows=5, step=HOURLY)
    assert other_columns(tmp_path / "x.csv", tail) == ("a", "c")
    assert open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache").columns == ("a", "b", "c")


def test_the_row_index_of_a_shuffled_frame_is_no_channel(tmp_path):
    frame = pd.DataFrame({"date": HOURS, "a": VALUES})
    frame.sample(frac=1, random_state=0).sort_values("date").to_parquet(tmp_path / "x.parquet")
    series = open_series(str(tmp_path / "x.parquet"), None, tmp_path / "cache")
    assert series.columns == ("a",)
    assert series.notes == ("column '__index_level_0__' numbers the rows and is left out",)
    tail = read_tail(tmp_path / "x.parquet", columns=["a"], rows=5, step=HOURLY)
    assert other_columns(tmp_path / "x.parquet", tail) == ("__index_level_0__",)


def test_times_that_are_a_frames_index_are_times(tmp_path):
    pd.DataFrame({"a": VALUES}, index=pd.DatetimeIndex(HOURS)).to_parquet(tmp_path / "x.parquet")
    series = open_series(str(tmp_path / "x.parquet"), None, tmp_path / "cache")
    assert series.columns == ("a",)
    np.testing.assert_array_equal(series.timestamps, HOURS)
