"""Files that cannot be used are all named in one line, and nothing is written."""

from __future__ import annotations

import gzip

import pytest
from pems_kit import folder_of, lines_of, read_back, write_lines

from data_pipeline.errors import DataError
from data_pipeline.pems.importing import ImportOptions, import_folder
from data_pipeline.pems.report import render

NAME = "d03_text_station_5min_2019_06_{day:02d}.txt.gz"


@pytest.fixture(name="folder")
def folder_fixture(tmp_path):
    return folder_of(tmp_path / "raw", "2019-06-03", 3, stations=6)


def cut_gzip(path):
    path.write_bytes(path.read_bytes()[:-2000])


def edited(change):
    def edit(path):
        lines = lines_of(path)
        lines[99] = change(lines[99].split(","))
        write_lines(path, lines)

    return edit


def cut_text(path):
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes())[:-60])
    path.unlink()


def repeated(path):
    lines = lines_of(path)
    at = next(at for at, line in enumerate(lines) if line.split(",")[9])
    fields = lines[at].split(",")
    fields[9] = "77777"
    write_lines(path, [*lines[: at + 1], ",".join(fields), *lines[at + 1 :]])


DAMAGES = {
    "cut gzip": (cut_gzip, "truncated or damaged gzip"),
    "cut text": (cut_text, "fields, the lines before it have 52"),
    "short line": (edited(lambda line: ",".join(line[:20])), "line 100 has 20 fields, the lines before it have 52"),
    "long line": (edited(lambda line: ",".join([*line, "1"])), "line 100 has 53 fields"),
    "a word as flow": (
        edited(lambda line: ",".join([*line[:9], "many", *line[10:]])),
        "line 100, flow: 'many' is no num",
    ),
    "no station": (edited(lambda line: ",".join([line[0], "", *line[2:]])), "a line without a time or a station"),
    "no time": (edited(lambda line: ",".join(["", *line[1:]])), "a line without a time or a station"),
    "a word as time": (edited(lambda line: ",".join(["noon", *line[1:]])), "'noon' is no time MM/DD/YYYY HH:MM:SS"),
    "another day": (edited(lambda line: ",".join(["01/01/2019 00:00:00", *line[1:]])), "is a time of another file"),
    "between rows": (edited(lambda line: ",".join(["06/04/2019 12:01:00", *line[1:]])), "not a multiple of 5 minutes"),
    "two values": (repeated, "repeats a time of station"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "empty gzip": (lambda path: path.write_bytes(gzip.compress(b"")), "empty"),
    "no gzip": (lambda path: path.write_bytes(b"no gzip at all, but text"), "no gzip"),
    "a web page": (lambda path: path.write_bytes(gzip.compress(b"<!DOCTYPE html>\n<html>\n")), "a web page"),
    "a table": (lambda path: path.write_bytes(gzip.compress(b"a,b\n1,2\n")), "line 1 has 2 fields, at least 12"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line_and_nothing_is_written(damage, folder, tmp_path):
    spoil, message = DAMAGES[damage]
    spoil(folder / NAME.format(day=4))
    with pytest.raises(DataError) as caught:
        import_folder(folder, tmp_path / "out.parquet", ImportOptions())
    line = str(caught.value)
    assert line.isprintable() and message in line and "1 of 3 files" in line and "2019_06_04" in line
    assert "download them again, or give --skip-damaged" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_can_be_left_out_by_name(damage, folder, tmp_path):
    spoil, message = DAMAGES[damage]
    spoil(folder / NAME.format(day=4))
    report = import_folder(folder, tmp_path / "out.parquet", ImportOptions(skip_damaged=True))
    assert f"left out, damaged: {NAME.format(day=4)[:-3]}" in render(report) and message in render(report)
    table = read_back(report.out)
    assert len(table) == 3 * 288 and table.iloc[288 : 2 * 288].isna().all(axis=None)
    assert table.iloc[:288].notna().any(axis=None)


def test_all_damaged_files_are_in_one_answer(tmp_path):
    folder = folder_of(tmp_path / "raw", "2019-06-01", 14, stations=2)
    for day in range(1, 13):
        DAMAGES["cut gzip" if day % 2 else "short line"][0](folder / NAME.format(day=day))
    with pytest.raises(DataError, match="12 of 14 files") as caught:
        import_folder(folder, tmp_path / "out.parquet", ImportOptions())
    assert all(f"2019_06_{day:02d}" in str(caught.value) for day in range(1, 13))
    assert len(str(caught.value).splitlines()) == 3  # what to do, and a line for each of the two faults


def test_an_answer_has_at_most_ten_lines_and_names_all_files(tmp_path):
    folder = folder_of(tmp_path / "raw", "2019-06-01", 14, stations=2)
    for day in range(1, 15):
        path = folder / NAME.format(day=day)
        lines = lines_of(path)
        lines[day] = "1,2,3"
        write_lines(path, lines)
    with pytest.raises(DataError, match="14 of 14 files") as caught:
        import_folder(folder, tmp_path / "out.parquet", ImportOptions())
    assert all(f"2019_06_{day:02d}" in str(caught.value) for day in range(1, 15))
    assert len(str(caught.value).splitlines()) == 10


def test_a_folder_of_damaged_files_is_refused_even_if_they_may_be_left_out(folder, tmp_path):
    for path in folder.iterdir():
        cut_gzip(path)
    with pytest.raises(DataError, match="3 of 3 files"):
        import_folder(folder, tmp_path / "out.parquet", ImportOptions(skip_damaged=True))


def test_equal_repeated_lines_are_read_once_and_counted(folder, tmp_path):
    before = read_back(import_folder(folder, tmp_path / "before.parquet", ImportOptions()).out)
    path = folder / NAME.format(day=4)
    lines = lines_of(path)
    write_lines(path, [*lines[:50], *lines[40:]])
    report = import_folder(folder, tmp_path / "out.parquet", ImportOptions())
    assert "10 repeated lines, read once" in render(report)
    assert read_back(report.out).equals(before)


def test_files_with_fewer_lanes_are_read_and_noted(folder, tmp_path):
    before = read_back(import_folder(folder, tmp_path / "before.parquet", ImportOptions()).out)
    path = folder / NAME.format(day=4)
    write_lines(path, [",".join(line.split(",")[:32]) for line in lines_of(path)])
    report = import_folder(folder, tmp_path / "out.parquet", ImportOptions())
    assert "32 fields in a row instead of 52" in render(report) and read_back(report.out).equals(before)
