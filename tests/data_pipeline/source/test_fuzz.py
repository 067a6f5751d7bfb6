"""For any bytes, a file loads exactly or is refused in one line, and never leaves a half-written file."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import math
import re
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.series.store import open_series

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
cells = st.one_of(
    finite.map(repr),
    st.sampled_from(
        ["", "nan", "inf", "1e39", "-0", "0x1", "1_0", "x", '"1"', " 2 ", "1e-50", "١", "+3", "1.", ".5", "1e", "1,2"]
    ),
)


def load(content, ending):
    """The series, or None if it was refused properly."""
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder, f"x{ending}"), Path(folder, "cache")
        path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
        try:
            series = open_series(str(path), None, cache)
        except DataError as error:
            assert all(line.isprintable() for line in str(error).splitlines()) and str(path) in str(error)
            assert not cache.exists() or all(left.suffix == ".lock" for left in cache.iterdir())
            return None
        return series.timestamps.copy(), series.values.copy(), series.scaled.copy(), series.columns


def as_python_reads_it(content):
    """Times and values as the standard library reads them."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252")
    header, *lines = [line for line in csv.reader(io.StringIO(text, newline="")) if "".join(line).strip()]
    times = np.array([in_utc(line[0].strip()) for line in lines], "datetime64[us]")
    return (
        times,
        np.array([[float(cell) for cell in line[1:]] for line in lines]),
        tuple(name.strip() for name in header[1:]),
    )


def in_utc(text):
    """The time that a text says, whatever stands between its numbers."""
    day, zone = re.fullmatch(r"(.*?)(Z|[+-]\d\d:?\d\d)?", text).groups() if len(text) > 19 else (text, None)
    numbers = [int(number) for number in re.findall(r"\d+", day)]
    year, month, date, hour, minute, *second = numbers[:6]
    time = datetime.datetime(year, month, date) + datetime.timedelta(hours=hour, minutes=minute, seconds=sum(second))
    if fraction := re.search(r":\d+:\d+[.,](\d+)", day):
        time += datetime.timedelta(microseconds=int(fraction[1].ljust(6, "0")[:6]))
    if zone not in (None, "Z"):
        sign = -1 if zone[0] == "-" else 1
        time -= sign * datetime.timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return time


def check(content, ending):
    loaded = load(content, ending)
    if loaded is None:
        return False
    times, values, scaled, columns = loaded
    want_times, want, want_columns = as_python_reads_it(content)
    np.testing.assert_array_equal(times, want_times)
    np.testing.assert_array_equal(values, want.astype(np.float32))
    assert columns == want_columns and np.isfinite(scaled).all()
    return True


def table(rows, step_minutes, widths=2):
    times = np.datetime64("2020-02-27T00:00:00") + np.arange(len(rows)) * np.timedelta64(60 * step_minutes, "s")
    names = ",".join(f"c{at}" for at in range(widths))
    return [f"date,{names}", *(f"{time},{','.join(row)}" for time, row in zip(times, rows, strict=True))]


@SETTINGS
@given(
    st.lists(st.lists(finite.map(repr), min_size=2, max_size=2), min_size=10, max_size=40),
    st.integers(1, 100_000),
    st.sampled_from([".csv", ".csv.gz"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_every_regular_table_of_numbers_loads_exactly_or_says_why_it_cannot_be_scaled(rows, step, ending, end):
    content = end.join([*table(rows, step), ""]).encode()
    if not check(content, ending):
        values = np.array(rows, float)
        train = values[: int(0.7 * len(rows))]
        spread = np.where(np.ptp(train, axis=0) == 0, 1.0, train.std(axis=0))
        assert (np.abs(values - train.mean(axis=0)) / spread).max() > 0.99 * np.finfo(np.float32).max


@SETTINGS
@given(st.lists(st.lists(cells, min_size=2, max_size=2), min_size=10, max_size=15))
def test_odd_cells_load_exactly_or_are_refused(rows):
    check("\n".join([*table(rows, 60), ""]).encode(), ".csv")


@SETTINGS
@given(st.data())
def test_a_damaged_file_loads_exactly_or_is_refused(data):
    rows = [[repr(math.sin(at)), str(at % 5)] for at in range(30)]
    content = bytearray("\n".join([*table(rows, 60), ""]).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["replace", "insert", "delete", "cut"]))
        if how == "replace":
            content[at] = data.draw(st.sampled_from(list(b'\n\r,";-:. 09Ee+T/\x00\xff\tZ')))
        elif how == "insert":
            content[at:at] = data.draw(
                st.sampled_from([b"\n", b"\r\n", b",", b'"', b" ", b"\xff", b"1", b"-", b"\x00", b"\n\n"])
            )
        elif how == "delete":
            del content[at : at + data.draw(st.integers(1, 30))]
        elif how == "cut":
            del content[at + 1 :]
        if not content:
            return
    check(bytes(content), ".csv")


@SETTINGS
@given(st.binary(max_size=400), st.sampled_from([".csv", ".csv.gz", ".parquet"]))
def test_noise_is_refused(content, ending):
    assert load(content, ending) is None


@SETTINGS
@given(st.text(st.sampled_from('date,ab;\t|"\n 0123456789-:.TZ+eE\r'), max_size=200))
def test_any_text_of_csv_letters_loads_or_is_refused_in_one_line(text):
    load(text.encode(), ".csv")
