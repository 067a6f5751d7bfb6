"""An import equals what pandas makes of the same files; what is left out or filled is told."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pa_parquet
import pytest
from pems_kit import filled, folder_of, lines_of, read_back, reference, write_lines

from data_pipeline.errors import DataError
from data_pipeline.options import DEFAULTS
from data_pipeline.pems.importing import ImportOptions, import_folder
from data_pipeline.pems.parquet_pair import mask_path
from data_pipeline.pems.report import render
from data_pipeline.source.readers import open_source

ORDINARY, SPRING, AUTUMN = "2019-06-04", "2019-03-09", "2019-11-02"


def bring(folder, out, **options):
    return import_folder(folder, out, ImportOptions(**options))


@pytest.mark.parametrize("measure", ["flow", "occupancy", "speed"])
@pytest.mark.parametrize(
    ("start", "days", "kind"),
    [
        (ORDINARY, 2, "5min"),
        (SPRING, 3, "5min"),
        (AUTUMN, 3, "5min"),
        ("2019-03-01", 31, "hour"),
        ("2019-11-01", 59, "hour"),
    ],
)
def test_the_import_is_what_pandas_makes_of_the_files(measure, start, days, kind, tmp_path):
    folder = folder_of(tmp_path / "raw", start, days, kind=kind)
    report = bring(folder, tmp_path / "out.parquet", measure=measure, max_gap=4)
    wide, _ = reference(folder, measure, kind)
    expected, got = filled(wide, 4), read_back(report.out)
    assert (got.index == expected.index).all() and list(got) == list(expected)
    np.testing.assert_allclose(got.to_numpy(), expected.to_numpy(np.float32), rtol=1e-6)
    marks = read_back(report.mask)
    assert marks.dtypes.eq(bool).all() and (marks.to_numpy() == (wide.isna() & expected.notna()).to_numpy()).all()
    assert report.filled_cells == marks.to_numpy().sum() > 0
    assert report.empty_cells == expected.isna().to_numpy().sum()


@pytest.mark.parametrize(("start", "rows"), [(ORDINARY, 288), ("2019-03-10", 276), ("2019-11-03", 300)])
def test_a_day_has_the_rows_of_its_hours_on_one_clock(start, rows, tmp_path):
    report = bring(folder_of(tmp_path / "raw", start, 1), tmp_path / "out.parquet")
    times = read_back(report.out).index
    assert len(times) == report.rows == rows and set(np.diff(times)) == {np.timedelta64(5, "m")}


ORDERS = {
    "time": lambda line: line[0],
    "time, then station": lambda line: (line[0], int(line[1])),
    "time, stations in any order": lambda line: (line[0], hash_of(line[1])),
}


def hash_of(station):
    return int(station) * 7919 % 101


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("start", "kind"), [("2019-11-03", "5min"), ("2019-11-01", "hour")])
def test_the_hour_that_comes_twice_is_told_by_the_order_of_its_lines(order, start, kind, tmp_path):
    folder = folder_of(tmp_path / "raw", start, 1, kind=kind, stations=9)
    (path,) = folder.iterdir()
    lines = [line.split(",") for line in lines_of(path)]
    count = Counter(line[1] for line in lines)
    complete = {station for station in count if count[station] == max(count.values())}
    lines = [line for line in lines if line[1] in complete]  # else one line of the hour could be of either time
    write_lines(path, [",".join(line) for line in lines])
    expected = read_back(bring(folder, tmp_path / "expected.parquet").out)
    write_lines(path, [",".join(line) for line in sorted(lines, key=ORDERS[order])])
    pd.testing.assert_frame_equal(read_back(bring(folder, tmp_path / "got.parquet").out), expected)


@pytest.mark.parametrize("gone", ["first", "second"])
@pytest.mark.parametrize(("start", "kind"), [("2019-11-03", "5min"), ("2019-11-01", "hour")])
def test_a_station_with_one_line_of_the_hour_that_comes_twice_is_told_by_its_place(gone, start, kind, tmp_path):
    folder = folder_of(tmp_path / "raw", start, 1, kind=kind, stations=9)
    (path,) = folder.iterdir()
    lines = lines_of(path)
    station = lines[4].split(",")[1]
    of_hour = [at for at, line in enumerate(lines) if line.startswith("11/03/2019 01:00:00") and f",{station}," in line]
    before = read_back(bring(folder, tmp_path / "before.parquet", max_gap=0).out)
    assert len(of_hour) == 2
    del lines[of_hour[gone == "second"]]
    write_lines(path, lines)
    before.loc[pd.Timestamp("2019-11-03 08:00" if gone == "first" else "2019-11-03 09:00", tz="UTC"), int(station)] = (
        np.nan
    )
    pd.testing.assert_frame_equal(read_back(bring(folder, tmp_path / "out.parquet", max_gap=0).out), before)


def test_an_hour_that_should_come_twice_and_does_not_is_a_note(tmp_path):
    folder = folder_of(tmp_path / "raw", "2019-11-03", 1)
    (path,) = folder.iterdir()
    lines = lines_of(path)
    again = next(at for at, line in enumerate(lines) if " 01:00:00" in line and " 01:55:00" in lines[at - 1])
    write_lines(path, lines[:again] + [line for line in lines[again:] if " 01:" not in line])
    report = bring(folder, tmp_path / "out.parquet")
    assert "the hour that clocks repeat is there once" in render(report) and report.empty_rows == 12


def test_lines_of_an_hour_that_clocks_skip_are_left_out_and_counted(tmp_path):
    folder = folder_of(tmp_path / "raw", "2019-03-10", 1)
    (path,) = folder.iterdir()
    before = read_back(bring(folder, tmp_path / "before.parquet").out)
    lines = lines_of(path)
    extra = [line.replace(" 01:30", " 02:30") for line in lines if " 01:30" in line]
    write_lines(path, sorted(lines + extra, key=lambda line: line.split(",")[0]))
    report = bring(folder, tmp_path / "out.parquet")
    assert f"{len(extra)} lines of an hour that clocks skip, left out" in render(report)
    pd.testing.assert_frame_equal(read_back(report.out), before)


def test_plain_text_is_read_like_gzip(tmp_path):
    folder = folder_of(tmp_path / "raw", ORDINARY, 2)
    expected = read_back(bring(folder, tmp_path / "zipped.parquet").out)
    for path in list(folder.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    pd.testing.assert_frame_equal(read_back(bring(folder, tmp_path / "plain.parquet").out), expected)


def test_stations_under_the_percentage_are_left_out_by_name_and_share(tmp_path):
    folder = folder_of(tmp_path / "raw", ORDINARY, 2, stations=40)
    _, observed = reference(folder, "flow", "5min")
    report = bring(folder, tmp_path / "out.parquet", min_observed_pct=60)
    under = observed[observed < 60]
    assert 0 < len(under) < 40 and dict(report.under_observed) == pytest.approx(under.to_dict())
    assert set(read_back(report.out)) == set(observed.index) - set(under.index)
    assert f"{len(under)} stations: {under.index[0]} (" in render(report)


def test_stations_with_gaps_that_stay_are_left_out_if_asked_for(tmp_path):
    folder = folder_of(tmp_path / "raw", ORDINARY, 2, stations=40)
    wide, _ = reference(folder, "flow", "5min")
    empty = filled(wide, 6).isna().sum()
    report = bring(folder, tmp_path / "out.parquet", complete_only=True)
    assert dict(report.incomplete) == empty[empty > 0].to_dict() != {}
    table = read_back(report.out)
    assert set(table) == set(empty[empty == 0].index) and table.notna().all(axis=None) and report.empty_cells == 0
    assert f"left out, with gaps that stay (--complete-only): {len(report.incomplete)} station" in render(report)


def test_without_a_complete_station_it_is_one_line_with_the_reason(tmp_path):
    folder = folder_of(tmp_path / "raw", ORDINARY, 3)
    (folder / "d03_text_station_5min_2019_06_05.txt.gz").unlink()
    with pytest.raises(DataError, match=r"no station is without a gap of over 6 rows \(1 file not there"):
        bring(folder, tmp_path / "out.parquet", complete_only=True)


def test_ramps_without_a_speed_are_left_out_and_counted(tmp_path):
    folder = folder_of(tmp_path / "raw", ORDINARY, 1)
    ramps = {int(line.split(",")[1]) for line in lines_of(next(folder.iterdir())) if line.split(",")[5] == "OR"}
    report = bring(folder, tmp_path / "out.parquet", measure="speed")
    assert set(report.without_values) == ramps and ramps and not ramps & set(read_back(report.out))


def test_a_day_without_a_file_is_named_and_stays_empty(tmp_path):
    folder = folder_of(tmp_path / "raw", ORDINARY, 4)
    (folder / "d03_text_station_5min_2019_06_05.txt.gz").unlink()
    report = bring(folder, tmp_path / "out.parquet")
    assert report.missing_periods == ("2019_06_05",) and "no file: 1: 2019_06_05" in render(report)
    table = read_back(report.out)
    assert len(table) == 4 * 288 and table.iloc[288 : 2 * 288].isna().all(axis=None)
    assert report.longest["rows"] >= 288


def test_stations_that_come_and_go_between_files_are_empty_elsewhere(tmp_path):
    folder = folder_of(tmp_path / "raw", ORDINARY, 2, stations=4)
    first, second = sorted(folder.iterdir())
    gone, new = sorted({line.split(",")[1] for line in lines_of(first)})[:2]
    write_lines(second, [line for line in lines_of(second) if f",{gone}," not in line])
    write_lines(first, [line for line in lines_of(first) if f",{new}," not in line])
    table = read_back(bring(folder, tmp_path / "out.parquet").out)
    assert table[int(gone)].iloc[288:].isna().all() and table[int(new)].iloc[:288].isna().all()
    assert table[int(gone)].iloc[:288].notna().any() and table[int(new)].iloc[288:].notna().any()


def test_metadata_files_are_not_needed_and_others_are_named(tmp_path):
    folder = folder_of(tmp_path / "raw", ORDINARY, 1)
    (folder / "d03_text_meta_2019_01_01.txt").write_text("ID\tFwy\n")
    (folder / "notes.txt").write_text("mine")
    assert bring(folder, tmp_path / "out.parquet").ignored == ("notes.txt",)


def test_the_file_says_what_it_holds(tmp_path):
    report = bring(folder_of(tmp_path / "raw", ORDINARY, 1), tmp_path / "out.parquet", measure="occupancy")
    facts = json.loads(pa_parquet.read_schema(report.out).metadata[b"pems"])
    assert facts["measure"] == "occupancy" and facts["district"] == 3 and facts["max_gap"] == 6
    assert facts["first_day"] == ORDINARY


def test_training_reads_the_file_as_hours_of_utc(tmp_path):
    report = bring(folder_of(tmp_path / "raw", ORDINARY, 2), tmp_path / "out.parquet")
    source = open_source(report.out, DEFAULTS)
    assert source.zone == "UTC" and source.columns == tuple(map(str, read_back(report.out)))


def test_an_existing_output_is_replaced_only_if_asked_for(tmp_path):
    folder, out = folder_of(tmp_path / "raw", ORDINARY, 1), tmp_path / "out.parquet"
    mask_path(out).write_text("mine")
    with pytest.raises(DataError, match="out.filled.parquet exists: give another name, or --force"):
        bring(folder, out)
    assert mask_path(out).read_text() == "mine" and not out.exists()
    bring(folder, out, replace=True)
    assert len(read_back(out)) == len(read_back(mask_path(out))) == 288


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.csv", "ends in .parquet"), ("none/out.parquet", "there is no folder"), ("taken.parquet", "is a folder")],
)
def test_a_wrong_output_is_one_line(name, message, tmp_path):
    (tmp_path / "taken.parquet").mkdir()
    with pytest.raises(DataError, match=message):
        bring(folder_of(tmp_path / "raw", ORDINARY, 1), tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "delay"}, "--measure delay: give one of flow, occupancy, speed"),
        ({"min_observed_pct": 101}, "--min-observed 101: give a percentage from 0 to 100"),
        ({"min_observed_pct": float("nan")}, "--min-observed nan"),
        ({"max_gap": -1}, "--max-gap -1: give a number of rows from 0"),
    ],
)
def test_a_wrong_option_is_one_line(options, message):
    with pytest.raises(DataError, match=message):
        ImportOptions(**options)


def test_a_percentage_that_no_station_has_is_one_line_with_the_best(tmp_path):
    folder = folder_of(tmp_path / "raw", ORDINARY, 1, stations=3)
    (path,) = folder.iterdir()
    write_lines(path, lines_of(path)[3:])
    with pytest.raises(DataError, match=r"no station has --min-observed 100 %: the best one has \d+\.\d %"):
        bring(folder, tmp_path / "out.parquet", min_observed_pct=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_an_interrupted_import_leaves_nothing(tmp_path):
    def stop(what, share):
        if what.startswith("wrote"):
            raise KeyboardInterrupt

    folder = folder_of(tmp_path / "raw", ORDINARY, 1)
    with pytest.raises(KeyboardInterrupt):
        import_folder(folder, tmp_path / "out.parquet", ImportOptions(), stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_progress_rises_to_the_whole(tmp_path):
    shares = []
    folder = folder_of(tmp_path / "raw", ORDINARY, 3)
    import_folder(folder, tmp_path / "out.parquet", ImportOptions(), lambda _what, share: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 3
