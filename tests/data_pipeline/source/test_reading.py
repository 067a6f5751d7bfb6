"""What is found out of a file is said; options are honoured or refused; all faults are told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from csv_kit import rows, text
from read_kit import read

from data_pipeline.errors import DataError, DataFaults
from data_pipeline.faults import MOST_LINES
from data_pipeline.options import DataOptions
from data_pipeline.series.steps import FixedStep
from data_pipeline.series.store import open_series
from data_pipeline.series.tail import other_columns, read_tail
from data_pipeline.source import csv_file
from data_pipeline.source.readers import open_source

DAYS = pd.date_range("2020-01-01", periods=60, freq="D")
HOURS = np.datetime64("2020-01-01", "us") + np.arange(60) * np.timedelta64(1, "h")


def write(tmp_path, content, name="x.csv"):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / name


def table(header, row, count=60, end=""):
    """Daily rows: `row` makes one from its number and day."""
    return "\n".join([header, *(row(at, DAYS[at]) for at in range(count))]) + "\n" + end


GERMAN = table("Datum;Größe;b", lambda at, day: f"{day:%d.%m.%Y};{at % 7},5;{at}").encode("cp1252")

FOUND = {
    "a plain file": (table("date,a", lambda at, day: f"{day:%Y-%m-%d},{at % 7}"), (), {"separator": "comma",
        "decimal": ".", "encoding": "UTF-8", "time_format": "ISO 8601", "timestamp_column": "date"}),
    "a German one": (GERMAN, ("separated by semicolons", "decimal comma", "%d.%m.%Y .day first", "CP1252"),
        {"separator": "semicolon", "decimal": ",", "encoding": "CP1252", "time_format": "%d.%m.%Y"}),
    "UTF-16": (GERMAN.decode("cp1252").encode("utf-16"), ("UTF-16",), {"encoding": "UTF-16-LE"}),
    "points between thousands": (table("date;a", lambda at, day: f"{day:%Y-%m-%d};1.00{at % 7},5"),
        ("'.' between thousands",), {"decimal": ",", "thousands": "."}),
    "commas between thousands": (table("date;a", lambda at, day: f"{day:%Y-%m-%d};1,00{at % 7}.5"),
        ("',' between thousands",), {"decimal": ".", "thousands": ","}),
    "a count of milliseconds": (table("ts,a", lambda at, day: f"{int(day.timestamp()) * 1000},{at % 7}"),
        ("'ts' counts time in ms since 1970",), {"time_format": "ms", "timestamp_column": "ts"}),
    "dates and times in two columns": (table("Date,Time,a", lambda at, day: f"{day:%m/%d/%Y},10:00:00,{at % 7}"),
        ("joined from the columns 'Date' and 'Time'",), {"time_format": "%m/%d/%Y %H:%M:%S"}),
    "years": (table("year,a", lambda at, _: f"{1960 + at},{at % 7}"), ("%Y .years",), {"timestamp_column": "year"}),
    "quarters": (table("quarter\ta", lambda at, _: f"{1960 + at // 4}Q{at % 4 + 1}\t{at % 7}"),
        ("times read as quarters",), {"timestamp_column": "quarter", "separator": "tab"}),
    "truth values": (table("date,a,on", lambda at, day: f"{day:%Y-%m-%d},{at % 7},{at % 2 == 0}"),
        ("'on' holds truth values, read as 0 and 1",), {}),
    "UTF-32": (table("date,a", lambda at, day: f"{day:%Y-%m-%d},{at % 7}").encode("utf-32"), ("UTF-32",), {}),
    "a measure called time": (table("time,Datum,b", lambda at, day: f"{at % 7}.5,{day:%Y-%m-%d},2"),
        ("'Datum', not 'time'",), {"timestamp_column": "Datum"}),
    "an index without a name": (table(",date,a", lambda at, day: f"{at},{day:%Y-%m-%d},{at % 7}"),
        ("'Unnamed: 0' numbers the rows and is left out",), {}),
    "an index called Unnamed: 0": (table("Unnamed: 0,date,a", lambda at, day: f"{at},{day:%Y-%m-%d},{at % 7}"),
        ("'Unnamed: 0' numbers the rows and is left out",), {}),
    "an index called index": (table("index,date,a", lambda at, day: f"{at},{day:%Y-%m-%d},{at % 7}"),
        ("'index' numbers the rows and is left out",), {}),
    "an index of which the header knows nothing": (table("date,a", lambda at, day: f"{at + 1},{day:%Y-%m-%d},{at % 7}"),
        ("'Unnamed: 0' numbers the rows",), {}),
    "a counter with a name": (table("No,date,a", lambda at, day: f"{at + 1},{day:%Y-%m-%d},{at % 7}"),
        ("'No' counts the rows; --set data.ignore=No",), {}),
    "empty columns": (table("date,a,,note", lambda at, day: f"{day:%Y-%m-%d},{at % 7},,"),
        ("empty columns left out: 3, 'note'",), {}),
    "empty rows": (table("date,a", lambda at, day: f"{day:%Y-%m-%d},{at % 7}", end=",\n,,,\n,\n"),
        ("3 empty rows left out",), {}),
    "times without a name": (table(",a", lambda at, day: f"{day:%Y-%m-%d},{at % 7}"), (),
        {"timestamp_column": "Unnamed: 0"}),
    "empty lines before the header": (table("\n;;\ndate;a", lambda at, day: f"{day:%Y-%m-%d};{at % 7}"),
        ("semicolons",), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_what_is_found_out_is_said(case, tmp_path):
    content, notes, reading = FOUND[case]
    source, times, values = read(write(tmp_path, content))
    assert len(times) == 60 and not np.isnan(values).any()
    assert len(source.notes) >= len(notes) if notes else source.notes == []
    for note in notes:
        assert [found for found in source.notes if pd.Series([found]).str.contains(note).all()], source.notes
    assert source.reading | reading == source.reading


def test_an_index_column_that_counts_nothing_is_a_measure(tmp_path):
    source, _, values = read(write(tmp_path, table("index,date", lambda at, day: f"{at % 5},{day:%Y-%m-%d}")))
    assert source.columns == ("index",) and values[7, 0] == 2


def test_a_column_that_stops_counting_far_below_is_no_counter(tmp_path):
    lines = table("No,date,a", lambda at, day: f"{at + 1 if at < 59 else 7},{day:%Y-%m-%d},{at % 7}")
    source, _, _ = read(write(tmp_path, lines))
    assert source.notes == []


def test_a_letter_of_another_encoding_far_below_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "HEAD_BYTES", 1 << 10)
    content = table("date,s,a", lambda at, day: f"{day:%Y-%m-%d},{'Köln' if at > 50 else 'Bonn'},{at % 7}")
    path = write(tmp_path, content.encode("cp1252"))
    source = open_source(path, DataOptions(id_column="s"))
    assert [chunk.ids[-1] for chunk in source.chunks()][-1] == "Köln" and "encoding CP1252, not UTF-8" in source.notes


def test_a_column_that_looks_empty_but_is_not_far_below_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "HEAD_BYTES", 1 << 9)
    content = table("date,a,late", lambda at, day: f"{day:%Y-%m-%d},{at % 7},{9 if at == 59 else ''}")
    source, _, values = read(write(tmp_path, content))
    assert source.columns == ("a", "late") and values[59, 1] == 9 and np.isnan(values[:59, 1]).all()


def test_a_row_far_below_decides_between_day_first_and_month_first(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "HEAD_BYTES", 1 << 9)
    months = pd.date_range("1960-01-01", periods=200, freq="MS")
    lines = [f"{day:%d/%m/%Y},{at % 7}" for at, day in enumerate(months)] + ["13/09/1976,1"]
    _, times, _ = read(write(tmp_path, "\n".join(["date,a", *lines]) + "\n"))
    np.testing.assert_array_equal(times[:200].astype("datetime64[us]"), months.to_numpy().astype("datetime64[us]"))


HONOURED = {
    "separator": (table("date;a, b", lambda at, day: f"{day:%Y-%m-%d};{at % 7}"), {"separator": ";"}, ("a, b",)),
    "separator tab": (table("date\ta", lambda at, day: f"{day:%Y-%m-%d}\t{at % 7}"), {"separator": "tab"}, ("a",)),
    "another separator": (table("date^a", lambda at, day: f"{day:%Y-%m-%d}^{at % 7}"), {"separator": "^"}, ("a",)),
    "decimal": (table("date;a", lambda at, day: f"{day:%Y-%m-%d};1{at % 7},125"), {"decimal": ","}, ("a",)),
    "encoding": (table("date,ă", lambda at, day: f"{day:%Y-%m-%d},{at}").encode("cp1250"), {"encoding": "cp1250"},
                 ("ă",)),
    "time_format": (table("date,a", lambda at, day: f"{day:%d.%m.%y},{at}", 12), {"time_format": "%d.%m.%y"}, ("a",)),
    "time_format s": (table("date,a", lambda at, day: f"{60 * at},{at % 7}"), {"time_format": "s"}, ("a",)),
    "timestamp_column": (table("date,when,a", lambda at, day: f"{at % 7},{day:%Y-%m-%d},{at % 7}"),
                         {"timestamp_column": "when"}, ("date", "a")),
    "columns": (table("date,a,b,c", lambda at, day: f"{day:%Y-%m-%d},1,{at % 7},word"), {"columns": ("b", "a")},
                ("b", "a")),
    "ignore": (table("date,a,b,c", lambda at, day: f"{day:%Y-%m-%d},1,{at % 7},word"), {"ignore": ("c", "a")}, ("b",)),
    "rows without times": (table("a,b", lambda at, day: f"{at % 7},1"), {"step": "row"}, ("a", "b")),
    "numbers without names": (table("0.5,1.5", lambda at, day: f"{at % 7},1"), {"step": "row"}, ("0", "1")),
}  # fmt: skip


@pytest.mark.parametrize("case", HONOURED)
def test_each_option_is_honoured(case, tmp_path):
    content, given, columns = HONOURED[case]
    source, times, values = read(write(tmp_path, content), **given)
    assert source.columns == columns and len(times) == len(values) >= 12 and not np.isnan(values).any()
    if given.get("step") == "row":
        assert source.timestamp_column is None and source.zone is None
        np.testing.assert_array_equal(times, np.arange(len(times)))


def test_a_decimal_mark_that_was_given_makes_the_other_one_stand_between_thousands(tmp_path):
    path = write(tmp_path, HONOURED["decimal"][0])
    assert read(path, decimal=",")[2][3, 0] == np.float32(13.125) and read(path, decimal=".")[2][3, 0] == 13125


PLAIN = table("date,a,b", lambda at, day: f"{day:%Y-%m-%d},{at % 7},1")
REFUSED = {
    "a separator that is not there": (PLAIN, {"separator": ";"}, "no semicolon in its header.*data.separator"),
    "a separator of two marks": (PLAIN, {"separator": ";;"}, "data.separator=';;': give one mark"),
    "a decimal mark that is not there": (table("date;a", lambda at, day: f"{day:%Y-%m-%d};0,5"), {"decimal": "."},
                                         "'0,5' is not a number with the decimal mark '.'.*data.decimal"),
    "an unknown encoding": (PLAIN, {"encoding": "klingon"}, "no text encoding 'klingon'"),
    "an encoding that is none of text": (PLAIN, {"encoding": "zlib"}, "no text encoding 'zlib'"),
    "an encoding that does not fit": (GERMAN, {"encoding": "utf-8"}, "no UTF-8 text .*data.encoding=cp1252"),
    "a form of time that does not fit": (PLAIN, {"time_format": "%d.%m.%Y"},
                                         "data row 1.*'2020-01-01' is no time .%d.%m.%Y.*59 more"),
    "a form of time that is none": (PLAIN, {"time_format": "days"}, "data.time_format='days' is no format"),
    "a broken form of time": (PLAIN, {"time_format": "%Q"}, "data.time_format='%Q' is no format"),
    "a time column that is not there": (PLAIN, {"timestamp_column": "Date"}, "no column 'Date'.*did you mean 'date'"),
    "a time column without times": (PLAIN, {"timestamp_column": "b"}, "column 'b': '1' is no time"),
    "columns that are not there": (PLAIN, {"columns": ("a", "c")}, "no column 'c': there are a, b"),
    "the time as a column": (PLAIN, {"columns": ("date",)}, "no column 'date'"),
    "an ignored column that is not there": (PLAIN, {"ignore": ("c",)}, "data.ignore names no column 'c'"),
    "a column both read and ignored": (PLAIN, {"columns": ("a",), "ignore": ("a",)}, "another option reads"),
    "a series' name that is not there": (PLAIN, {"id_column": "id"}, "no column 'id' that names series"),
    "numbers without names": ("1.5,2\n2.5,3\n", {}, "first line holds values.*data.step=row"),
    "only text": (table("date,a", lambda at, day: f"{day:%Y-%m-%d},x{at}"), {}, "'a' holds text .'x0'.*data.ignore=a"),
    "columns of text": (table("date,a,b,c", lambda at, day: f"{day:%Y-%m-%d},1,x,y z"), {},
                        "columns 'b', 'c' hold text .*data.ignore=b,c.*data.id_column=b"),
    "no times": (table("a,b", lambda at, day: f"{at % 7},1"), {},
                 "no timestamp column.*data.timestamp_column.*step=row"),
    "spaces between columns": (table("date a b", lambda at, day: f"{day:%Y-%m-%d} {at} 1"), {},
                               "a space separates columns, --set data.separator=MARK"),
    "percent": (table("date,a", lambda at, day: f"{day:%Y-%m-%d},{at} %"), {}, "holds text .'0 %'.*numbers$"),
    "a measure called date": (table("date,b", lambda at, day: f"{at % 7},1"), {},
                              "'date' begins with '0', which is no time.*data.timestamp_column"),
    "seconds finer than microseconds": (table("date,a", lambda at, day: f"{day:%Y-%m-%d} 00:00:00.{at:07d},1"), {},
                                        "data row 2, column 'date': '2020-01-02 00:00:00.0000001' is no time"),
    "UTF-8 that breaks off": (table("date,ü", lambda at, day: f"{day:%Y-%m-%d},1").encode() + b"2020-04-01,\xff\n", {},
                              "no UTF-8 text"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_a_remedy(case, tmp_path):
    content, given, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, content), **given)


def test_all_kinds_of_fault_are_one_answer_each_with_its_first_row_column_and_count(tmp_path):
    lines = rows()
    lines[3] = lines[3].replace(",", ",x", 1)
    lines[5] = lines[9] = f"{lines[5][:19]},1,high"
    lines[20] += ",9"
    lines[25] = f"{lines[25][:19]},1e39,2"
    lines[30] = "noon,1,2"
    lines[31] = ",1,2"
    lines[40] = f"{lines[40][:19]}Z,1,2"
    with pytest.raises(DataFaults) as caught:
        read(write(tmp_path, text(lines)))
    head, *told = str(caught.value).splitlines()
    assert head.endswith("x.csv: 7 kinds of fault") and len(told) == 7 < MOST_LINES
    beginnings = ["data row 4, column 'a': 'x3'", "data row 6, column 'b': 'high' is not a number (1 more",
                  "data row 21: there are 4 fields", "data row 26, column 'a': the value is not a finite",
                  "data row 31, column 'date': 'noon' is no time", "data row 32, column 'date': there is no time",
                  "data row 41, column 'date': the time has a zone"]  # fmt: skip
    for line, begin in zip(told, beginnings, strict=True):
        assert line.startswith(begin) and line.rpartition(": ")[2], line


@pytest.mark.parametrize("block", [1 << 10, 1 << 22])
def test_rows_are_numbered_as_in_the_file_after_skipped_ones(block, tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", block)
    lines = rows(900)
    for at in (2, 3, 400):
        lines[at] = ","
    lines[700] = f"{lines[700][:19]},word,1"
    with pytest.raises(DataError, match="data row 701, column 'a': 'word'"):
        read(write(tmp_path, text(lines)))


def test_a_short_file_with_an_index_is_read_alike_in_training_and_in_a_forecast(tmp_path):
    path = write(tmp_path, table(",date,a", lambda at, day: f"{at},{day:%Y-%m-%d},{at % 7}"))
    series = open_series(str(path), None, tmp_path / "cache")
    tail = read_tail(path, columns=["a"], rows=20, step=FixedStep(step_us=86_400_000_000))
    np.testing.assert_array_equal(series.values[-20:], tail.values)
    assert series.columns == ("a",) and other_columns(path, tail) == ("Unnamed: 0",)


@pytest.mark.parametrize("names", [("unique_id", "ds", "y"), ("shop", "date", "sales")])
@pytest.mark.parametrize("ids", [("A", "B"), (1, 2)])
def test_the_long_format_tells_the_series_of_each_row(names, ids, tmp_path):
    key, when, value = names
    lines = [f"{name},{hour},{at % 7}" for at, hour in enumerate(HOURS) for name in ids]
    path = write(tmp_path, "\n".join([",".join(names), *lines]) + "\n")
    options = DataOptions() if key == "unique_id" else DataOptions(id_column=key)
    source = open_source(path, options)
    (chunk,) = source.chunks()
    assert source.id_column == key and source.columns == (value,) and source.timestamp_column == when
    assert chunk.ids.tolist() == [str(name) for name in ids] * 60


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_the_size_of_blocks_changes_nothing(encoding, end, tmp_path, monkeypatch):
    lines = [f"Köln {at},{hour},{'?' if at % 50 == 49 else at}" for at, hour in enumerate(np.tile(HOURS, 20))]
    path = write(tmp_path, (end.join(["sép,date,a", *lines]) + end).encode(encoding))
    options = DataOptions(id_column="sép")
    found = []
    for block in (1 << 10, 1 << 22):
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", block)
        chunks = list(open_source(path, options).chunks())
        assert (len(chunks) > 1) == (block == 1 << 10)
        found.append(
            [np.concatenate(arrays) for arrays in zip(*((c.ids, c.timestamps, c.values) for c in chunks), strict=True)]
        )
    for small, large in zip(*found, strict=True):
        np.testing.assert_array_equal(small, large)
    assert found[0][0].tolist() == [f"Köln {at}" for at in range(1200)]


def test_a_forecast_reads_only_its_columns(tmp_path):
    path = write(tmp_path, table("word,date,b,a", lambda at, day: f"x,{day:%Y-%m-%d},{at},{at % 7}"))
    source, _, values = read(path, replace(DataOptions(), ignore=("nothing",)), ["a", "b"])
    assert source.columns == ("a", "b") and values[8].tolist() == [1, 8]
    with pytest.raises(DataError, match="no column 'c': there are .*"):
        open_source(path, DataOptions(), ["a", "c"])
