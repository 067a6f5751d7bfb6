"""Parquet of any Arrow type is read as the same text is, and so is a folder of files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from read_kit import read

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.series.store import open_series
from data_pipeline.source.readers import open_source

HOURS = np.datetime64("2020-01-01", "us") + np.arange(60) * np.timedelta64(1, "h")


TEXT_TYPES = {
    "string": pa.string(), "large_string": pa.large_string(), "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "dictionary of large_string": pa.dictionary(pa.int8(), pa.large_string()),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXT_TYPES)
def test_text_of_any_arrow_type_reads_as_plain_text_does(kind, tmp_path):
    texts = pa.array([str(hour) for hour in HOURS]), pa.array([f"{at % 7}.5" if at else "?" for at in range(60)])
    times, numbers = (_cast(column, TEXT_TYPES[kind]) for column in texts)
    pa_parquet.write_table(pa.table({"date": times, "a": numbers}), tmp_path / "x.parquet")
    source, read_times, values = read(tmp_path / "x.parquet")
    np.testing.assert_array_equal(read_times.astype("datetime64[us]"), HOURS)
    assert np.isnan(values[0, 0]) and values[8, 0] == 1.5 and source.reading["time_format"] == "ISO 8601"


def _cast(column, kind):
    if pa.types.is_dictionary(kind):
        encoded = column.dictionary_encode()
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(kind.index_type),
                                              encoded.dictionary.cast(kind.value_type))  # fmt: skip
    return column.cast(kind)


NUMBERS = {
    "truth values": pa.array([True, False] * 30), "integers": pa.array([1, 0] * 30, pa.int16()),
    "unsigned": pa.array([1, 0] * 30, pa.uint64()), "half floats": pa.array(np.array([1, 0] * 30, np.float16)),
    "decimals": pa.array([1, 0] * 30).cast(pa.decimal128(21, 2)),
    "a dictionary": pa.array([1.0, 0.0] * 30).dictionary_encode(),
}  # fmt: skip


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_any_arrow_type_are_numbers(kind, tmp_path):
    pa_parquet.write_table(pa.table({"date": HOURS, "a": NUMBERS[kind]}), tmp_path / "x.parquet")
    source, _, values = read(tmp_path / "x.parquet")
    np.testing.assert_array_equal(values[:, 0], [1, 0] * 30)
    assert bool(source.notes) == (kind == "truth values")


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.decimal128(20, 0)])
def test_a_count_since_1970_in_parquet_is_a_time(kind, tmp_path):
    seconds = pa.array(HOURS.astype("datetime64[s]").astype(np.int64)).cast(kind)
    pa_parquet.write_table(pa.table({"unix": seconds, "a": np.arange(60.0) % 7}), tmp_path / "x.parquet")
    source, times, _ = read(tmp_path / "x.parquet")
    np.testing.assert_array_equal(times.astype("datetime64[us]"), HOURS)
    assert source.zone == "UTC"


@pytest.mark.parametrize(
    ("times", "zone"),
    [
        (pa.array(HOURS), None), (pa.array(HOURS).cast(pa.timestamp("ns", "UTC")), "UTC"),
        (pa.array(HOURS).cast(pa.timestamp("us", "Europe/Berlin")), "Europe/Berlin"),
        (pa.array([f"{hour}+02:00" for hour in HOURS]), "+02:00"), (pa.array([f"{hour}Z" for hour in HOURS]), "UTC"),
        (pa.array([f"{hour}{'+01:00' if at < 9 else '+02:00'}" for at, hour in enumerate(HOURS)]), "UTC"),
    ],
)  # fmt: skip
def test_the_zone_is_the_one_of_the_source(times, zone, tmp_path):
    pa_parquet.write_table(pa.table({"date": times, "a": np.arange(60.0) % 7}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet")[0].zone == zone


@pytest.mark.parametrize("layout", ["part-{at}.parquet", "month={at}/x.parquet", "year=2020/month={at}/0.PARQUET"])
def test_a_folder_of_parquet_files_is_read_in_the_order_of_names(layout, tmp_path):
    folder = tmp_path / "data.d"
    for at, hours in enumerate(np.split(HOURS, 12), start=1):
        path = folder / layout.format(at=at)
        path.parent.mkdir(parents=True, exist_ok=True)
        pa_parquet.write_table(pa.table({"date": hours, "a": np.arange(5.0) * at}), path)
    (folder / "_SUCCESS").write_text("")
    (folder / ".part-3.parquet.crc").write_text("")
    series = open_series(str(folder), None, tmp_path / "cache")
    np.testing.assert_array_equal(series.timestamps, HOURS)
    assert series.columns == ("a",) and "12 files, read in the order of their names" in series.notes
    assert any("keys are left out: " in note for note in series.notes) == ("=" in layout)
    before = series.source_sha256
    path = folder / layout.format(at=12)
    pa_parquet.write_table(pa.table({"date": HOURS[-5:], "a": np.arange(5.0)}), path)
    assert open_series(str(folder), None, tmp_path / "cache").source_sha256 != before


def test_a_key_of_the_folder_can_name_the_series(tmp_path):
    for name in ("A", "B b"):
        path = tmp_path / "long" / f"station={name}" / "x.parquet"
        path.parent.mkdir(parents=True)
        pa_parquet.write_table(pa.table({"date": HOURS, "a": np.arange(60.0) % 7}), path)
    source = open_source(tmp_path / "long", DataOptions(id_column="station"))
    assert {name for chunk in source.chunks() for name in chunk.ids} == {"A", "B b"}
    assert source.id_column == "station" and source.columns == ("a",)


def test_files_of_a_folder_with_other_columns_are_refused(tmp_path):
    pa_parquet.write_table(pa.table({"date": HOURS, "a": np.arange(60.0)}), tmp_path / "1.parquet")
    pa_parquet.write_table(pa.table({"date": HOURS, "b": np.arange(60.0)}), tmp_path / "2.parquet")
    with pytest.raises(DataError, match="2.parquet: its columns are not those of 1.parquet .a, b in one"):
        open_source(tmp_path, DataOptions())
    pa_parquet.write_table(pa.table({"date": HOURS, "a": ["x"] * 60}), tmp_path / "2.parquet")
    with pytest.raises(DataError, match="2.parquet: column 'a' holds string, in 1.parquet double"):
        open_source(tmp_path, DataOptions())


def test_a_folder_without_parquet_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="a folder without Parquet files"):
        open_source(tmp_path, DataOptions())
