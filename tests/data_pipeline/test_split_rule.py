"""`data.split` is read as fractions, dates or files, and everything else is refused in a line that says the forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.split_rule import parse_split, with_absolute_files


@pytest.mark.parametrize(
    ("text", "unit", "told"),
    [
        ("0.7/0.1/0.2", "fraction", "0.7/0.1/0.2 of all rows"),
        (" 0.6 / 0.2 / 0.2 ", "fraction", "0.6/0.2/0.2 of all rows"),
        ("0.333/0.333/0.333", "fraction", "0.333/0.333/0.333 of all rows"),
        ("2021-06-01/2021-09-01", "dates", "validation from 2021-06-01, test from 2021-09-01"),
        ("2021-06-01 12:30/2021-06-02T00:00:00", "dates", "validation from 2021-06-01 12:30, test from 2021-06-02T"),
        ("val.csv, /data/test.csv", "files", "a file for each: validation val.csv, test /data/test.csv"),
    ],
)
def test_a_split_is_fractions_dates_or_files(text, unit, told):
    rule = parse_split(text)
    assert rule.unit == unit and told in rule.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.7/0.2/0.2", r"sum to 1\.1 .*give three above 0 that sum to 1"),
        ("0.8/0/0.2", "the smallest is 0;"),
        ("1.2/-0.4/0.2", "the smallest is -0.4;"),
        ("nan/0.5/0.5", "sum to nan"),
        ("70/10/20", "sum to 100 "),
        ("0.7/0.3", "write fractions .* dates .* files"),
        ("", "write fractions"),
        ("2021-09-01/2021-06-01", "give two dates in time order"),
        ("2021-06-01/2021-06-01", "give two dates in time order"),
        ("2021-13-01/2021-06-01", "write fractions"),
        ("2021-06-01/2021-09-01/2021-10-01", "write fractions"),
        ("2021-06-01T00:00Z/2021-09-01", "without a zone"),
        ("a.csv,b.csv,c.csv", "give two files"),
        ("a.csv,a.csv", "give two files"),
        ("a.csv,", "give two files"),
    ],
)
def test_no_split_is_one_line_with_what_was_given(text, message):
    with pytest.raises(DataError, match=message) as caught:
        parse_split(text)
    assert f"data.split={text}" in str(caught.value) or "  " in text


def test_files_are_made_absolute_and_the_rest_stays():
    assert with_absolute_files("val.csv,/x/test.csv", Path("/data")) == "/data/val.csv,/x/test.csv"
    assert with_absolute_files("0.7/0.1/0.2", Path("/data")) == "0.7/0.1/0.2"
