"""Generated station files have the layout of the PeMS Data Clearinghouse."""

from __future__ import annotations

import re

import pytest
from pems_kit import folder_of, lines_of

LINE = re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d,\d{6},3,\d+,[NSEW],(?:CD|CH|FF|FR|HV|ML|OR),\.\d+,\d*,\d+,\d*,")
NUMBER = re.compile(r"(?:[1-9]\d*)?(?:\.\d*[1-9])?|0")


@pytest.mark.parametrize(
    ("start", "kind", "name", "fields"),
    [
        ("2019-06-04", "5min", "d03_text_station_5min_2019_06_04.txt.gz", 52),
        ("2019-06-10", "hour", "d03_text_station_hour_2019_06.txt.gz", 42),
    ],
)
def test_a_line_has_the_fields_of_its_kind(start, kind, name, fields, tmp_path):
    (path,) = folder_of(tmp_path, start, 1, kind=kind).iterdir()
    assert path.name == name
    for line in lines_of(path):
        assert LINE.match(line) and line.count(",") == fields - 1
        assert all(NUMBER.fullmatch(field) for field in line.split(",")[6:])


@pytest.mark.parametrize(
    ("start", "hours"),
    [("2019-06-04", range(24)), ("2019-03-10", [0, 1, *range(3, 24)]), ("2019-11-03", [0, 1, *range(1, 24)])],
)
def test_times_follow_the_clocks_of_california(start, hours, tmp_path):
    (path,) = folder_of(tmp_path, start, 1, stations=30).iterdir()
    times = [line[11:16] for line in lines_of(path)]
    changes = [time for time, before in zip(times, ["", *times], strict=False) if time != before]
    assert changes == [f"{hour:02d}:{minute:02d}" for hour in hours for minute in range(0, 60, 5)]


def test_one_seed_gives_the_same_files(tmp_path):
    contents = [[path.read_bytes() for path in sorted(folder_of(tmp_path / name, "2019-06-04", 2).iterdir())]
                for name in ("a", "b")]  # fmt: skip
    assert contents[0] == contents[1]
