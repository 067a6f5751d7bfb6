"""The store: exact values, zero-copy, converted once, rebuilt when stale or damaged."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import logging
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from data_pipeline.datasets import DATASETS, get_dataset
from data_pipeline.errors import DataError
from data_pipeline.feed.batches import shared_tensor
from data_pipeline.series import arrow_file, store
from data_pipeline.series.arrow_file import map_file
from data_pipeline.series.store import open_series
from data_pipeline.source.generated import generator_sha256


def write_csv(path, rows=200, seed=0, columns=("a", "b")):
    values = np.random.default_rng(seed).normal(size=(rows, len(columns))).astype(np.float32)
    times = np.datetime64("2020-01-01T00:00:00") + np.arange(rows) * np.timedelta64(3600, "s")
    lines = [
        f"{str(time).replace('T', ' ')},{','.join(map(str, row))}" for time, row in zip(times, values, strict=True)
    ]
    path.write_text("\n".join([f"date,{','.join(columns)}", *lines]) + "\n")
    return times, values


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "own.csv"
    write_csv(path)
    return path


def test_values_and_timestamps_are_those_of_the_file(tmp_path):
    times, values = write_csv(tmp_path / "own.csv")
    series = open_series(str(tmp_path / "own.csv"), None, tmp_path / "cache")
    assert series.columns == ("a", "b") and series.step_minutes == 60
    np.testing.assert_array_equal(series.values, values)
    np.testing.assert_array_equal(series.timestamps, times)


def test_mean_and_deviation_are_of_the_training_rows_only(tmp_path):
    _, values = write_csv(tmp_path / "own.csv")
    series = open_series(str(tmp_path / "own.csv"), None, tmp_path / "cache")
    train = values[:140].astype(np.float64)
    assert series.bounds["train"] == (0, 140)
    np.testing.assert_allclose(series.mean, train.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(series.std, train.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(series.scaled, ((values - series.mean) / series.std).astype(np.float32))


def test_arrays_and_tensors_share_memory_with_the_map(csv, tmp_path):
    series = open_series(str(csv), None, tmp_path / "cache")
    for array in (series.values, series.scaled, series.timestamps):
        assert not array.flags.owndata and not array.flags.writeable
        address = array.__array_interface__["data"][0]
        assert str(series.path) in _mapping_at(address)
    tensor = shared_tensor(series.scaled)
    assert tensor.data_ptr() == series.scaled.__array_interface__["data"][0]
    assert isinstance(tensor, torch.Tensor) and tensor.shape == series.scaled.shape


def _mapping_at(address):
    with open("/proc/self/maps") as maps:
        for line in maps:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            if low <= address < high:
                return line
    return ""


def test_a_second_opening_converts_nothing(csv, tmp_path, monkeypatch):
    first = open_series(str(csv), None, tmp_path / "cache")
    monkeypatch.setattr(store, "convert", lambda *_: pytest.fail("converted again"))
    second = open_series(str(csv), None, tmp_path / "cache")
    assert second.path == first.path and second.source_sha256 == first.source_sha256
    np.testing.assert_array_equal(first.values, second.values)


def test_a_changed_source_converts_again_even_within_one_clock_tick(csv, tmp_path):
    first = open_series(str(csv), None, tmp_path / "cache")
    stat = os.stat(csv)
    csv.write_text(csv.read_text().replace("2020-01-01 00:00:00,0", "2020-01-01 00:00:00,9"))
    os.utime(csv, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = open_series(str(csv), None, tmp_path / "cache")
    assert second.values[0, 0] != first.values[0, 0] and second.source_sha256 != first.source_sha256


def test_an_old_source_is_not_hashed_again(csv, tmp_path, monkeypatch):
    now = store.time.time
    monkeypatch.setattr(store.time, "time", lambda: now() + 60)
    open_series(str(csv), None, tmp_path / "cache")
    monkeypatch.setattr(store, "contents_sha256", lambda _: pytest.fail("hashed"))
    open_series(str(csv), None, tmp_path / "cache")


def test_another_schema_version_converts_again(csv, tmp_path, monkeypatch):
    path = open_series(str(csv), None, tmp_path / "cache").path
    before = os.stat(path).st_ino
    monkeypatch.setattr(store, "SCHEMA_VERSION", -1)
    open_series(str(csv), None, tmp_path / "cache")
    assert os.stat(path).st_ino != before


@pytest.mark.parametrize("damage", ["truncated", "value", "timestamp", "empty", "metadata", "bounds", "noise"])
def test_a_damaged_file_is_rebuilt_and_reported(damage, csv, tmp_path, caplog):
    first = open_series(str(csv), None, tmp_path / "cache")
    want, path = first.values.copy(), first.path
    content = bytearray(path.read_bytes())
    arrays = {"value": first.values, "timestamp": first.timestamps}
    if damage in arrays:
        content[bytes(content).index(arrays[damage].tobytes()[:64])] ^= 1
    elif damage == "metadata":
        content = content.replace(b'"crc32"', b'"crc31"')
    elif damage == "bounds":
        flipped = content.replace(b'"bounds": {"train": [0, 140]', b'"bounds": {"train": [0, 141]')
        assert flipped != content
        content = flipped
    else:
        content = {"truncated": content[:-100], "empty": bytearray(), "noise": bytearray(b"x" * 5000)}[damage]
    path.unlink()  # the first series keeps its map
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = open_series(str(csv), None, tmp_path / "cache")
    assert "damaged" in caplog.text and str(path) in caplog.text
    np.testing.assert_array_equal(again.values, want)
    assert again.bounds == first.bounds
    map_file(path, check=True)


def test_metadata_and_arrays_come_from_one_opening_of_the_file(csv, tmp_path, monkeypatch):
    path = open_series(str(csv), None, tmp_path / "cache").path
    opened = []

    def opening(*given):
        opened.append(given[0])
        return open(*given)

    monkeypatch.setattr(arrow_file, "open", opening, raising=False)
    monkeypatch.setattr(arrow_file.pa, "OSFile", lambda *_: pytest.fail("opened by its path a second time"))
    map_file(path, check=True)
    assert opened == [path]


def test_gzip_and_plain_have_the_same_hash_and_values(csv, tmp_path):
    zipped = tmp_path / "zipped.csv.gz"
    zipped.write_bytes(gzip.compress(csv.read_bytes()))
    want = hashlib.sha256(csv.read_bytes()).hexdigest()
    plain, gz = (open_series(str(path), None, tmp_path / "cache") for path in (csv, zipped))
    assert plain.source_sha256 == gz.source_sha256 == want and plain.path != gz.path
    np.testing.assert_array_equal(plain.values, gz.values)


def test_etth1_has_the_published_hash(real_data_dir, tmp_path):
    assert open_series("ETTh1", real_data_dir, tmp_path).source_sha256 == DATASETS["ETTh1"].sha256


def test_demo_needs_no_folder_and_holds_windows_in_every_split(tmp_path):
    series = open_series("demo", None, tmp_path)
    assert series.columns == DATASETS["ETTh1"].columns and series.step_minutes == 60
    assert series.source_sha256 == generator_sha256(DATASETS["demo"])
    assert all(stop - start >= 96 for start, stop in series.bounds.values()) and series.bounds["train"][1] > 608


def test_the_next_conversion_removes_what_a_killed_one_left(tmp_path):
    open_series("demo", None, tmp_path)
    (file,) = tmp_path.glob("*.arrow")
    left, other = tmp_path / f".{file.stem}-abcd", tmp_path / ".other-0123-abcd"
    for folder in (left, other):
        folder.mkdir()
        (folder / "series.arrow").write_bytes(b"half")
    file.unlink()
    open_series("demo", None, tmp_path)
    assert file.exists() and not left.exists() and other.exists()


def test_demo_can_be_forecast_better_than_by_repeating_the_last_day(tmp_path):
    series = open_series("demo", None, tmp_path)
    context, horizon = 168, 24
    windows = np.lib.stride_tricks.sliding_window_view(series.scaled, context + horizon, axis=0)
    windows = windows.astype(np.float64)

    def split(name):
        start, stop = series.bounds[name]
        rows = windows[start : stop - context - horizon + 1].reshape(-1, context + horizon)
        return rows[:, :context], rows[:, context:]

    (past, future), (test_past, test_future) = split("train"), split("test")
    weights = np.linalg.solve(past.T @ past + 10 * np.eye(context), past.T @ future)
    linear = np.square(test_past @ weights - test_future).mean()
    repeated = np.square(test_past[:, -24:] - test_future).mean()
    assert linear < 0.7 * repeated


def test_a_missing_file_is_one_line_with_what_to_do(tmp_path):
    with pytest.raises(DataError) as caught:
        open_series("ETTh2", tmp_path, tmp_path / "cache")
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in ("ETTh2.csv", str(tmp_path), "ETDataset", "--dataset demo"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("name", "near"), [("etth1", "ETTh1"), ("ETTm3", "ETTm"), ("trafic", "traffic")])
def test_an_unknown_name_suggests_the_nearest(name, near):
    with pytest.raises(DataError, match=f"did you mean '{near}"):
        get_dataset(name)


def test_processes_that_start_together_convert_once(csv, tmp_path):
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from data_pipeline.series.store import open_series\n"
        f"print('sum', open_series({str(csv)!r}, None, __import__('pathlib').Path({str(tmp_path / 'cache')!r}))"
        ".values.sum())"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate()[0] for process in running]
    assert all(process.returncode == 0 for process in running)
    assert sum("converted" in output for output in outputs) == 1
    assert len({output.splitlines()[-1] for output in outputs}) == 1


def test_a_spec_survives_pickling():
    assert pickle.loads(pickle.dumps(DATASETS["demo"])) == DATASETS["demo"]


def test_planning_modules_import_nothing_heavy():
    code = (
        "import sys, data_pipeline.datasets, data_pipeline.errors, data_pipeline.feed, data_pipeline.series.windows\n"
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'numpy', 'ray', 'mlflow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_file_as_wide_as_traffic_is_read_by_its_name(tmp_path, monkeypatch):
    columns = DATASETS["traffic"].columns
    assert len(columns) == 862
    _, values = write_csv(tmp_path / "traffic.csv", rows=100, columns=columns)
    monkeypatch.setitem(DATASETS, "traffic", dataclasses.replace(DATASETS["traffic"], rows=100))
    series = open_series("traffic", tmp_path, tmp_path / "cache")
    assert series.bounds == {"train": (0, 70), "validation": (70, 80), "test": (80, 100)}
    np.testing.assert_array_equal(series.values, values)
