"""The same series, written in every way that people write it, is read to the very same series."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.options import DataOptions
from data_pipeline.series.store import open_series

ROWS = 24 * 20
TIMES = pd.date_range("2020-01-01", periods=ROWS, freq="h")
VALUES = {
    "OT": np.round(5 * np.sin(np.arange(ROWS) / 7), 3),
    "größe": np.arange(ROWS) % 7 * 0.5 - 1,
    "T (°C)": 1000.25 + np.arange(ROWS) % 11,
}
MISSING_AT = {"OT": (3, 200), "größe": (17,), "T (°C)": (ROWS - 1,)}
OPTIONS = DataOptions(missing="interpolate")


def of(form, add_hours=0, end=""):
    return lambda: [f"{text}{end}" for text in (TIMES + pd.Timedelta(add_hours, "h")).strftime(form)]


def end_of_day():
    """Midnight as 24:00 of the day before."""
    texts = TIMES.strftime("%Y-%m-%d %H:%M").tolist()
    days = (TIMES - pd.Timedelta(1, "D")).strftime("%Y-%m-%d")
    midnight = TIMES.hour == 0
    return [f"{day} 24:00" if at else text for text, day, at in zip(texts, days, midnight, strict=True)]


def mixed_offsets():
    """As a clock that is set forward on the tenth day."""
    local = TIMES.strftime("%Y-%m-%dT%H:%M:%S").tolist()
    later = (TIMES + pd.Timedelta(1, "h")).strftime("%Y-%m-%dT%H:%M:%S").tolist()
    return [f"{local[at]}Z" if at < 240 else f"{later[at]}+01:00" for at in range(ROWS)]


TIME_FORMS = {
    "iso": of("%Y-%m-%d %H:%M:%S"),
    "the letter T": of("%Y-%m-%dT%H:%M:%S"),
    "slashes": of("%Y/%m/%d %H:%M"),
    "day first": of("%d.%m.%Y %H:%M"),
    "day first, slashes": of("%d/%m/%Y %H:%M:%S"),
    "day first, two digits of the year": of("%d/%m/%y %H:%M"),
    "day first, name of the month": of("%d-%b-%Y %H:%M"),
    "month first": of("%m/%d/%Y %H:%M"),
    "month first, AM and PM": of("%m/%d/%Y %I:%M:%S %p"),
    "month first, name of the month": of("%B %d, %Y %H:%M"),
    "seven digits of a fraction": of("%Y-%m-%d %H:%M:%S", end=".0000000"),
    "24:00": end_of_day,
    "UTC": of("%Y-%m-%d %H:%M:%S", end=" UTC"),
    "Z": of("%Y-%m-%dT%H:%M:%S", end="Z"),
    "an offset": of("%Y-%m-%d %H:%M:%S", 2, "+02:00"),
    "an offset without a colon": of("%Y-%m-%dT%H:%M", -5, "-0500"),
    "two offsets": mixed_offsets,
    "digits": of("%Y%m%d %H:%M"),
    "digits with the letter T": of("%Y%m%dT%H%M%S"),
    "seconds since 1970": lambda: (TIMES.astype("int64") // (10**9 if TIMES.unit == "ns" else 10**6)).astype(str),
    "milliseconds since 1970": lambda: (TIMES.astype("int64") // (10**6 if TIMES.unit == "ns" else 10**3)).astype(str),
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252")
SEPARATORS = (",", ";", "\t", "|")
MISSING = ("", " ", "?", "-", "NA", "n/a", "N/A", "#N/A", "<NA>", "nan", "NaN", "null", "NULL", "None", "--", ".")
ENDINGS = (".csv", ".CSV", ".tsv", ".txt", ".csv.gz", ".Csv.GZ", ".txt.gz")
JUNK = ("nothing", "empty rows", "one separator", "empty columns", "empty fields of rows", "blank lines")


def number(value, decimal, quoted):
    text = repr(float(value)).replace(".", decimal)
    return f'"{text}"' if quoted else text


def written(form, separator, decimal, missing, order, junk, line_end, sep_line):
    """The text of the file, with the columns in this order."""
    quoted = decimal == separator
    columns = {"date": list(TIME_FORMS[form]())}
    columns["date"] = [f'"{text}"' if separator in text else text for text in columns["date"]]
    for name, values in VALUES.items():
        cells = [number(value, decimal, quoted) for value in values]
        for at in MISSING_AT[name]:
            cells[at] = missing
        columns[name] = cells
    names = list(order)
    rows = [separator.join(cells) for cells in zip(*(columns[name] for name in names), strict=True)]
    lines = [separator.join(names), *rows]
    if junk == "empty columns":
        lines = [f"{line}{separator * 2}" for line in lines]
    elif junk == "empty fields of rows":
        lines = [lines[0], *(f"{line}{separator}" for line in lines[1:])]
    elif junk == "empty rows":
        lines += [separator * (len(names) - 1)] * 3
    elif junk == "one separator":
        lines += [separator]
    elif junk == "blank lines":
        lines += ["", ""]
    if sep_line:
        lines.insert(0, f"sep={separator}")
    return line_end.join(lines) + line_end


def load(content, ending):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x{ending}")
        path.write_bytes(gzip.compress(content) if ending.lower().endswith(".gz") else content)
        series = open_series(str(path), None, Path(folder, "cache"), OPTIONS)
        return series.timestamps.copy(), series.columns, series.values.copy(), series.notes


@pytest.fixture(scope="module")
def plain():
    frame = pd.DataFrame({"date": TIMES.strftime("%Y-%m-%d %H:%M:%S"), **VALUES})
    for name, rows in MISSING_AT.items():
        frame.loc[list(rows), name] = np.nan
    times, columns, values, notes = load(frame.to_csv(index=False).encode(), ".csv")
    assert columns == tuple(VALUES) and not any("separated" in note for note in notes)
    return times, dict(zip(columns, values.T, strict=True))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_every_variant_reads_to_the_same_series(plain, data):
    pick = lambda values: data.draw(st.sampled_from(values))  # noqa: E731
    order = data.draw(st.permutations(["date", *VALUES]))
    encoding, separator, junk = pick(ENCODINGS), pick(SEPARATORS), pick(JUNK)
    text = written(pick(sorted(TIME_FORMS)), separator, pick((".", ",")), pick(MISSING), order, junk,
                   pick(("\n", "\r\n", "\r")), data.draw(st.booleans()))  # fmt: skip
    times, columns, values, notes = load(text.encode(encoding), pick(ENDINGS))
    want_times, want = plain
    assert columns == tuple(name for name in order if name != "date"), notes
    np.testing.assert_array_equal(times, want_times)
    for name, column in zip(columns, values.T, strict=True):
        np.testing.assert_array_equal(column, want[name])


@pytest.mark.parametrize("form", TIME_FORMS)
def test_each_form_of_time_reads_to_the_same_times(form, plain):
    text = written(form, ";", ",", "", ["date", *VALUES], "nothing", "\n", False)
    times, columns, _, notes = load(text.encode(), ".csv")
    np.testing.assert_array_equal(times, plain[0])
    assert "columns separated by semicolons" in notes and "numbers have a decimal comma" in notes


@pytest.mark.parametrize("missing", MISSING)
def test_each_spelling_of_a_missing_value_is_one(missing, plain):
    text = written("iso", ",", ".", missing, ["date", *VALUES], "nothing", "\n", False)
    _, columns, values, _ = load(text.encode(), ".csv")
    for name, column in zip(columns, values.T, strict=True):
        np.testing.assert_array_equal(column, plain[1][name])
