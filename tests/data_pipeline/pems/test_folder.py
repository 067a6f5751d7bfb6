"""A folder is of one district and one kind; any other is one line that says what was found."""

from __future__ import annotations

import pytest

from data_pipeline.errors import DataError
from data_pipeline.pems.folder import station_files

DAY, MONTH = "d03_text_station_5min_2019_06_0{}.txt.gz", "d03_text_station_hour_2019_0{}.txt.gz"


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_files_are_sorted_by_time_and_gaps_between_them_are_known(tmp_path):
    found = station_files(make(tmp_path, DAY.format(5), DAY.format(1), DAY.format(2)))
    assert [file.period for file in found.files] == ["2019_06_01", "2019_06_02", "2019_06_05"]
    assert found.missing_periods() == ["2019_06_03", "2019_06_04"]
    months = make(tmp_path / "months", MONTH.format(1), MONTH.format(4), "d03_text_station_hour_2018_12.txt")
    assert station_files(months).missing_periods() == ["2019_02", "2019_03"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((DAY.format(1), MONTH.format(1)), r"several kinds: 5min \(1 file\), hour \(1 file\)"),
        (
            (DAY.format(1), DAY.format(2), "d04_text_station_5min_2019_06_03.txt"),
            r"districts: 3 \(2 files\), 4 \(1 file\)",
        ),
        ((DAY.format(1), DAY.format(1)[:-3]), "are of the same time: move one out"),
        (("d03_text_station_5min_2019_02_30.txt.gz",), "no such date"),
        (("d03_text_station_5min_2019_02.txt.gz",), "a 5min file is of one day"),
        (("d03_text_station_day_2019_06.txt",), r"it holds d03_text_station_day_2019_06\.txt"),
        (("2019/" + DAY.format(1),), "some lie in its folders 2019: give one of these"),
        ((), "it holds no file"),
    ],
)
def test_a_folder_that_cannot_be_one_series_is_one_line(names, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        station_files(make(tmp_path, *names))
    assert str(caught.value).isprintable()


def test_a_path_that_is_no_folder_is_one_line(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        station_files(tmp_path / "none")
    with pytest.raises(DataError, match="is no folder"):
        station_files(make(tmp_path, "file") / "file")
