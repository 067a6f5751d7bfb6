"""Every named set says whose it is and how it is split, and is read as published. A published file is known by path."""

from __future__ import annotations

import dataclasses
import gzip
import lzma
import re

import numpy as np
import pytest

from data_pipeline.datasets import DATASETS, FRACTION_SPLIT, get_dataset
from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.series.splits import split_bounds
from data_pipeline.series.steps import FixedStep
from data_pipeline.series.store import open_series
from data_pipeline.series.windows import window_starts
from data_pipeline.source import download as download_module
from data_pipeline.source.download import fetch
from data_pipeline.source.pins import pin_file, read_pins
from model.presets import PRESETS

DOWNLOADED = [name for name, spec in DATASETS.items() if spec.urls]
MATRICES = [name for name in DOWNLOADED if any(url.endswith(".txt.gz") for url in DATASETS[name].urls)]
HASHED = [name for name in DOWNLOADED if DATASETS[name].sha256]
ROWS = 60


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_set_names_source_licence_and_recipe(name):
    spec = DATASETS[name]
    assert spec.source.startswith("https://") and spec.licence and spec.citation
    assert spec.preset in (None, *PRESETS) and (spec.preset is not None) == (name != "exchange_rate")
    assert spec.columns and spec.step_minutes and (spec.rows or spec.sha256)


@pytest.mark.parametrize("name", [name for name in DOWNLOADED if DATASETS[name].split == FRACTION_SPLIT])
def test_a_set_has_windows_for_its_recipe_and_for_the_defaults(name):
    spec = DATASETS[name]
    recipe = PRESETS[spec.preset or "study"]
    horizon = recipe.get("data.prediction_length", 96)
    bounds = split_bounds(spec.split, spec.rows, FixedStep(step_us=round(60e6 * spec.step_minutes)))
    for context, steps in ((recipe["data.context_length"], horizon), (512, 96)):
        assert all(len(starts) > 0 for starts in window_starts(bounds, context, steps).values())


@pytest.mark.parametrize("horizon", [24, 36, 48, 60])
def test_illness_has_windows_for_every_horizon_of_the_paper(horizon):
    recipe = PRESETS["illness"]
    assert (recipe["data.context_length"], recipe["model.patch_length"], recipe["model.patch_stride"]) == (104, 24, 2)
    starts = window_starts(split_bounds(FRACTION_SPLIT, 966, FixedStep(step_us=7 * 86_400_000_000)), 104, horizon)
    assert [len(starts[split]) for split in ("train", "validation", "test")] == [
        676 - 104 - horizon + 1, 97 - horizon + 1, 193 - horizon + 1,
    ]  # fmt: skip


def matrix(spec, rows=ROWS):
    values = np.arange(rows * len(spec.columns)).reshape(rows, -1) % 97
    return [",".join(f"{value}.25" for value in row) for row in values]


def csv(spec, rows=ROWS):
    """A file with the columns and the step of a set; times of days as the exchange rates write them."""
    first = np.datetime64(spec.first_timestamp or "2002-01-01T00:00:00", "s")
    times = first + np.arange(rows) * np.timedelta64(round(60 * spec.step_minutes), "s")
    texts = [str(time).replace("T", " ") for time in times]
    if spec.name == "exchange_rate":
        texts = [re.sub(r"-0?", "/", text[:10]) + " 0:00" for text in texts]
    lines = [f"{text},{line}" for text, line in zip(texts, matrix(spec, rows), strict=True)]
    return "\r\n".join([",".join(("date", *spec.columns)), *lines, ""]).encode()


@pytest.fixture(name="shortened")
def shortened_fixture(monkeypatch):
    """The named sets with ROWS rows and no published sha256."""
    for name in DOWNLOADED:
        short = dataclasses.replace(DATASETS[name], rows=ROWS, sha256=None, split=FRACTION_SPLIT)
        monkeypatch.setitem(DATASETS, name, short)


@pytest.mark.usefixtures("shortened")
@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_file_in_the_layout_of_a_set_is_read_by_its_name(name, tmp_path):
    spec = DATASETS[name]
    (tmp_path / spec.file).write_bytes(csv(spec))
    series = open_series(name, tmp_path, tmp_path / "cache")
    assert series.columns == spec.columns and len(series.values) == ROWS
    assert (series.values[1] == (np.arange(len(spec.columns)) + len(spec.columns)) % 97 + 0.25).all()


@pytest.mark.usefixtures("shortened")
@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_beside_is_read_like_the_published_table(name, tmp_path, monkeypatch):
    spec = DATASETS[name]
    monkeypatch.setattr(download_module, "_get", lambda *_: pytest.fail("nothing needs a download"))
    own = tmp_path / next(url for url in spec.urls if url.endswith(".txt.gz")).rsplit("/", 1)[-1]
    own.write_bytes(gzip.compress(("\n".join(matrix(spec)) + "\n").encode()))
    fetch(spec, tmp_path)
    assert len(read_pins(pin_file(tmp_path, spec.file))) == 1
    from_matrix = open_series(name, tmp_path, tmp_path / "cache")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / spec.file).write_bytes(csv(spec))
    from_table = open_series(name, tmp_path / "table", tmp_path / "cache")
    np.testing.assert_array_equal(from_matrix.values, from_table.values)
    np.testing.assert_array_equal(from_matrix.timestamps, from_table.timestamps)


@pytest.mark.usefixtures("shortened")
@pytest.mark.parametrize("damage", ["cut", "narrow"])
@pytest.mark.parametrize("name", MATRICES)
def test_a_damaged_matrix_beside_is_one_line_and_leaves_no_file(damage, name, tmp_path):
    spec = DATASETS[name]
    own = tmp_path / next(url for url in spec.urls if url.endswith(".txt.gz")).rsplit("/", 1)[-1]
    text = "\n".join([*matrix(spec), "1,2" if damage == "narrow" else ""])
    content = gzip.compress(text.encode())
    own.write_bytes(content[:-9] if damage == "cut" else content)
    message = "damaged gzip" if damage == "cut" else rf"line {ROWS + 1} has 2 numbers, expected {len(spec.columns)}"
    with pytest.raises(DataError, match=f"{own.name}: {message}.*: replace .* by the published file, or remove it"):
        fetch(spec, tmp_path)
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")} == {own.name}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
@pytest.mark.parametrize("name", HASHED)
def test_a_published_file_given_by_path_says_so(ending, name, real_data_dir, tmp_path):
    content = published(real_data_dir, name)
    own = tmp_path / f"mine{ending}"
    own.write_bytes(gzip.compress(content, 1) if ending.endswith(".gz") else content)
    notes = open_series(str(own), None, tmp_path / "cache").notes
    split = "split 70/10/20 as a file of your own"
    assert f"this is the published {name}; {split}, --dataset {name} --data-dir DIR splits it as published" in notes
    (tmp_path / DATASETS[name].file).write_bytes(content)
    assert not any("published" in note for note in open_series(name, tmp_path, tmp_path / "cache").notes)


def test_weather_keeps_its_double_row_as_published(real_data_dir, tmp_path):
    (tmp_path / "weather.csv").write_bytes(published(real_data_dir, "weather"))
    series = open_series("weather", tmp_path, tmp_path / "cache")
    twice = np.flatnonzero(np.diff(series.timestamps) == np.timedelta64(0))
    assert [str(series.timestamps[row]) for row in twice] == ["2020-05-12T06:00:00.000000"]
    assert (len(series.values), series.groups[0].bounds["train"]) == (52_696, (0, 36_887))


def published(folder, name):
    for path in folder.glob(f"{name}.csv*"):
        opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
        with opened(path, "rb") as file:
            return file.read()
    pytest.skip(f"no {name}.csv in {folder}: set TSF_DATA_DIR to a folder with the published files")


def test_a_file_of_numbers_only_has_equidistant_rows(tmp_path):
    path = tmp_path / "electricity.txt.gz"
    path.write_bytes(gzip.compress(b"14,69.5,1e3\n18,92,-4\n"))
    spec = get_dataset(str(path))
    assert spec.options == DataOptions(step="row") and "rows taken as equidistant" in spec.notes[0]


@pytest.mark.parametrize(
    "content",
    [b"date,a\n2020-01-01,1\n", b"2020-01-01,1\n2020-01-02,2\n", b"", b"1\n2\n", b"\xff\xfe,1\n", b"a;b\n1;2\n"],
)
def test_a_file_with_names_or_times_is_no_such_file(content, tmp_path):
    (tmp_path / "mine.txt").write_bytes(content)
    spec = get_dataset(str(tmp_path / "mine.txt"))
    assert spec.options == DataOptions() and spec.notes == ()


def test_a_set_cannot_be_read_otherwise_than_published():
    with pytest.raises(DataError, match="can only be given for a file, not for weather"):
        get_dataset("weather", DataOptions(step="row"))
