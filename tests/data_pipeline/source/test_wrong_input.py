"""Wrong files are refused in one line with the file and what to do; odd files are kept, with a note."""

from __future__ import annotations

import errno
import gzip
import io
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from csv_kit import GOOD, replaced, rows, text

from data_pipeline.errors import DataError
from data_pipeline.faults import MOST_LINES
from data_pipeline.options import DataOptions
from data_pipeline.series.store import open_series
from data_pipeline.source import csv_file

ZIPPED = gzip.compress(GOOD * 20, mtime=0)

# name -> (content, what the line must say)
WRONG = {
    "empty": (b"", "empty"),
    "only blank lines": (b"\n \n\n", "empty"),
    "header only": (b"date,a,b\n", "no data rows"),
    "header without line end": (b"date,a,b", "no data rows"),
    "no header": (text(header="2019-12-31 23:00:00,1,2").encode(), "header"),
    "numbers only, as LSTNet's files": (b"0.1,0.2\n0.3,0.4\n", "header"),
    "latin-1 cell": (replaced(30, "2020-01-02 06:00:00,größe,1").encode("latin-1"), "data row 31.*'a'"),
    "binary": (bytes(range(256)) * 20, "no text .binary.*UTF-8"),
    "a workbook": (b"PK\x03\x04" + bytes(range(256)) * 20, "Excel workbook.*save its sheet as CSV"),
    "decimal commas between commas": (text(rows(value="{at},5,2,5")).encode(), "5 fields, the header has 3"),
    "commas that are decimal marks or stand between thousands": (
        text(rows(value="1{at},625;2,125"), "date;a;b").replace("00,1", "00;1").encode(),
        "comma in '10,625'.*decimal mark or.*thousands.*data.decimal=,",
    ),
    "one column": (b"date\n2020-01-01\n", "one column"),
    "a column without a name": (text(rows(value="{at}.5,2"), header="date,,b").encode(), "no name.*data.ignore"),
    "a column name twice": (text(header="date,a,a").encode(), "two columns.*'a'"),
    "an unclosed quote in the header": (text(header='date,"a,b').encode(), "quote"),
    "an unclosed quote in a row": (replaced(20, '2020-01-01 20:00:00,"1,2').encode(), "row"),
    "a text cell": (replaced(4, "2020-01-01 04:00:00,high,2").encode(), "data row 5, column 'a': 'high'"),
    "a truth value": (replaced(4, "2020-01-01 04:00:00,true,2").encode(), "not a number"),
    "a hexadecimal number": (replaced(4, "2020-01-01 04:00:00,0x1F,2").encode(), "not a number"),
    "a number with thousands marks": (replaced(4, '2020-01-01 04:00:00,"1,000",2').encode(), "not a number"),
    "an empty cell": (replaced(7, "2020-01-01 07:00:00,,2").encode(), "data row 8, column 'a': no value"),
    "nan": (replaced(7, "2020-01-01 07:00:00,1,NaN").encode(), "data row 8, column 'b': no value"),
    "NA": (replaced(7, "2020-01-01 07:00:00,1,NA").encode(), "column 'b': no value"),
    "infinite": (replaced(7, "2020-01-01 07:00:00,1,-inf").encode(), "finite"),
    "beyond 32 bits": (replaced(7, "2020-01-01 07:00:00,1e39,2").encode(), "finite.*3.4e38"),
    "a short row": (replaced(9, "2020-01-01 09:00:00,1").encode(), "data row 10: there are 2 fields, the header has 3"),
    "a long row": (
        replaced(9, "2020-01-01 09:00:00,1,2,3").encode(),
        "data row 10: there are 4 fields, the header has 3",
    ),
    "a NUL byte": (replaced(9, "2020-01-01 09:00:00,1,\0").encode(), "UTF-8|number"),
    "cut in its last row": (GOOD[:-9], "fields|not a number|no value"),
    "unsorted": (text(rows()[30:] + rows()[:30]).encode(), "data row 31: time goes backwards.*data.id_column"),
    "newest first": (text(rows()[::-1]).encode(), "data row 2: time goes backwards.*58 more"),
    "a time twice": (replaced(20, "2020-01-01 19:00:00,5,9").encode(), "data row 21: the time 2020-01-01 19.*'b'"),
    "irregular times": (text([f"2020-01-01 00:{m:02d}:00,1,2" for m in (0, 7, 13, 21, 22, 50)]).encode(), "irregular"),
    "large gaps": (text(rows(120)[:50] + rows(120)[60:]).encode(), "10 rows are missing in 1 gap"),
    "no time column": (text(header="a,b,c").replace("2020-01-01 ", "x").encode(), "no timestamp column.*--set data"),
    "times that are none": (replaced(5, "yesterday,1,2").encode(), "data row 6, column 'date': 'yesterday' is no time"),
    "a day that does not exist": (replaced(5, "2020-02-30 00:00:00,1,2").encode(), "2020-02-30"),
    "day first or month first": (
        text([f"01.{d:02d}.2020 00:00,{d},2" for d in range(1, 13)]).encode(),
        "day first or month first in every row: say --set data.time_format='%d.%m.%Y %H:%M' or .*'%m.%d.%Y %H:%M'",
    ),
    "day first and month first": (
        text([f"{d:02d}.01.2020 00:00,{d},2" for d in range(1, 29)] + ["01.29.2020,1,2"]).encode(),
        "data row 29, column 'date': '01.29.2020' is no time .day first",
    ),
    "numbers too small to be times": (text([f"{3600 * at},1,2" for at in range(50)]).encode(), "no timestamp column"),
    "an empty time": (replaced(5, ",1,2").encode(), "data row 6, column 'date': there is no time"),
    "some times with a zone": (replaced(5, "2020-01-01 05:00:00+02:00,1,2").encode(), "zone"),
    "all but one time with a zone": (
        text([f"{line[:19]}Z{line[19:]}" for line in rows()[:59]] + rows()[59:]).encode(),
        "zone",
    ),
    "clocks set back": (
        text([f"2020-10-25 0{h}:{m:02d}:00,1,2" for h in (1, 2, 2, 3) for m in (0, 30)]).encode(),
        "2020-10-25 02:00.*row before|backwards",
    ),
    "one row": (text(rows(1)).encode(), "step"),
    "too few rows to split": (text(rows(4)).encode(), "4 rows"),
    "too small a spread": (
        text(
            [f"{line[:19]},{1e-30 * (at % 2):.0e},2" for at, line in enumerate(rows(59))] + [f"{rows()[59][:19]},1e9,2"]
        ),
        "varies so little",
    ),
}
WRONG_NAMED = {
    "a truncated gzip": ("x.csv.gz", ZIPPED[: len(ZIPPED) // 2], "truncated or damaged gzip"),
    "a gzip cut in its checksum": ("x.csv.gz", ZIPPED[:-3], "truncated or damaged gzip"),
    "a gzip with a flipped byte": ("x.csv.gz", ZIPPED[:200] + bytes([ZIPPED[200] ^ 8]) + ZIPPED[201:], "x.csv.gz"),
    "a plain file called gzip": ("x.csv.gz", GOOD, "gzip"),
    "an empty file called gzip": ("x.csv.gz", b"", "empty|gzip"),
    "a gzip called plain": ("x.csv", ZIPPED, "a gzip: let its name end in .gz"),
    "a CSV called Parquet": ("x.parquet", GOOD, "x.parquet.*Parquet"),
    "an empty Parquet": ("x.parquet", b"", "x.parquet"),
}


def check_refused(path, cache, message):
    with pytest.raises(DataError, match=message) as caught:
        open_series(str(path), None, cache)
    line = str(caught.value)
    assert all(part.isprintable() and len(part) <= 600 for part in line.splitlines()) and str(path) in line
    assert len(line.splitlines()) <= MOST_LINES
    assert not cache.exists() or [p for p in cache.iterdir() if p.suffix != ".lock"] == []


@pytest.mark.parametrize("case", WRONG)
def test_wrong_csv_is_one_line(case, tmp_path):
    content, message = WRONG[case]
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_refused(path, tmp_path / "cache", message)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_csv_is_the_same_line_when_gzipped(case, tmp_path):
    content, message = WRONG[case]
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(content if isinstance(content, bytes) else content.encode()))
    check_refused(path, tmp_path / "cache", message)


@pytest.mark.parametrize("case", WRONG_NAMED)
def test_a_wrong_container_is_one_line(case, tmp_path):
    name, content, message = WRONG_NAMED[case]
    (tmp_path / name).write_bytes(content)
    check_refused(tmp_path / name, tmp_path / "cache", message)


def test_an_error_far_into_a_large_file_names_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 1 << 10)
    lines = rows(2000)
    lines[1500] = lines[1500][:19] + ",,1"
    (tmp_path / "x.csv").write_text(text(lines))
    check_refused(tmp_path / "x.csv", tmp_path / "cache", "data row 1501")
    lines[1500] = lines[1500][:19] + ",word,1"
    (tmp_path / "x.csv").write_text(text(lines))
    check_refused(tmp_path / "x.csv", tmp_path / "cache", "data row 1501")


def times(count=60):
    return np.datetime64("2020-01-01", "us") + np.arange(count) * np.timedelta64(3600, "s")


PARQUET = {
    "no rows": ({"date": times(0), "a": np.zeros(0)}, "no data rows"),
    "text": ({"date": times(), "a": ["x"] * 60}, "'a' holds text .'x'.*--set data.ignore=a"),
    "lists": ({"date": times(), "a": [[1.0]] * 60}, "'a' holds list<.*--set data.ignore=a"),
    "null": ({"date": times(), "a": [1.0] * 59 + [None]}, "data row 60"),
    "nan": ({"date": times(), "a": [1.0] * 59 + [float("nan")]}, "data row 60"),
    "numbers as times": ({"date": np.arange(60), "a": np.arange(60.0)}, "'date' begins with '0', which is no time"),
    "no time": ({"a": np.arange(60.0), "b": np.arange(60.0)}, "no timestamp column"),
    "unsorted": ({"date": times()[::-1], "a": np.arange(60.0)}, "backwards"),
    "one column": ({"date": times()}, "one column"),
}


@pytest.mark.parametrize("case", PARQUET)
def test_wrong_parquet_is_one_line(case, tmp_path):
    columns, message = PARQUET[case]
    pa_parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    check_refused(tmp_path / "x.parquet", tmp_path / "cache", message)


def test_a_cut_parquet_is_one_line(tmp_path):
    sink = io.BytesIO()
    pa_parquet.write_table(pa.table({"date": times(), "a": np.arange(60.0)}), sink)
    (tmp_path / "x.parquet").write_bytes(sink.getvalue()[:-50])
    check_refused(tmp_path / "x.parquet", tmp_path / "cache", "x.parquet")


@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "decimal", "text times", "zoned", "date"])
def test_parquet_reads_as_the_same_csv_does(kind, tmp_path):
    values = np.arange(60) % 7
    stamps = pa.array(times())
    if kind == "text times":
        stamps = stamps.cast(pa.string())
    elif kind == "zoned":
        stamps = stamps.cast(pa.timestamp("ns", "UTC"))
    elif kind == "date":
        stamps = pa.array(np.datetime64("2020-01-01") + np.arange(60))
    numbers = pa.array(values).cast(pa.decimal128(25, 2)) if kind == "decimal" else pa.array(values.astype("float64"))
    if kind in ("float32", "int64"):
        numbers = pa.array(values.astype(kind))
    pa_parquet.write_table(pa.table({"date": stamps, "a": numbers}), tmp_path / "x.parquet", row_group_size=13)
    series = open_series(str(tmp_path / "x.parquet"), None, tmp_path / "cache")
    np.testing.assert_array_equal(series.values[:, 0], values.astype(np.float32))
    step = 24 if kind == "date" else 1
    np.testing.assert_array_equal(series.timestamps, np.datetime64("2020-01-01T00") + np.arange(60) * step)
    assert bool(series.notes) == (kind == "zoned")


ODD = {
    "windows line ends": (GOOD.replace(b"\n", b"\r\n"), None),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, None),
    "no last line end": (GOOD[:-1], None),
    "blank lines at the end": (GOOD + b"\n\n", None),
    "quoted cells": (text([f'"{line[:19]}","{line[20:21]}",{line[22:]}' for line in rows()]).encode(), None),
    "spaces around numbers": (text(rows(value=" {at} , {at}.5 ")).encode(), None),
    "the letter T": (text([line.replace(" ", "T") for line in rows()]).encode(), None),
    "slashes and no leading zeros": (
        text([f"2020/1/{1 + at // 24} {at % 24}:00,{at % 7},{at % 7}.5" for at in range(60)]).encode(),
        None,
    ),
    "another name for the time": (text(header="Timestamp,a,b").encode(), None),
    "a time column found by its content": (text(header="when,a,b").encode(), None),
    "a zone": (text([f"{line[:19]}+00:00{line[19:]}" for line in rows()]).encode(), "UTC"),
    "a small gap": (text(rows(300)[:150] + rows(300)[151:]).encode(), "1 rows missing in 1 gap"),
    "a constant column": (text(rows(value="{at},3.5")).encode(), "constant.*b"),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_file_is_kept_and_its_oddity_noted(case, tmp_path, caplog):
    content, message = ODD[case]
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    series = open_series(str(path), None, tmp_path / "cache")
    assert series.columns == ("a", "b") and series.step_minutes == 60 and len(series.values) in (60, 299)
    hours = (series.timestamps - np.datetime64("2020-01-01")).astype("timedelta64[h]").astype(int)
    np.testing.assert_array_equal(series.values[:, 0], hours % 7)
    if message is None:
        assert series.notes == () and caplog.text == ""
    else:
        (note,) = series.notes
        assert re.search(message, note) and caplog.text == ""  # the caller prints notes
    assert np.isfinite(series.scaled).all() and (series.std > 0).all()


def test_times_with_a_zone_are_converted_to_utc(tmp_path):
    (tmp_path / "x.csv").write_text(text([f"{line[:19]}+02:00{line[19:]}" for line in rows()]))
    series = open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache")
    assert series.timestamps[0] == np.datetime64("2019-12-31T22:00")


def test_the_time_column_can_be_named(tmp_path):
    (tmp_path / "x.csv").write_text(text(header="measured at,a,b"))
    series = open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache", DataOptions(timestamp_column="measured at"))
    assert series.columns == ("a", "b")
    with pytest.raises(DataError, match="no column 'noon'.*measured at"):
        open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache", DataOptions(timestamp_column="noon"))
    with pytest.raises(DataError, match="only be given for a file, not for demo"):
        open_series("demo", None, tmp_path / "cache", DataOptions(timestamp_column="noon"))


def test_a_folder_or_nothing_is_no_file(tmp_path):
    (tmp_path / "x.csv").mkdir()
    check_refused(tmp_path / "x.csv", tmp_path / "cache", "is a folder")
    check_refused(tmp_path / "y.csv", tmp_path / "cache", "no file")


def test_no_permission_to_read_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text(text())

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(csv_file, "open", refuse, raising=False)
    check_refused(tmp_path / "x.csv", tmp_path / "cache", "no permission")
