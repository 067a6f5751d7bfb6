"""A trial's raw measurements: complete in their files, described, visibly capped, and in MLflow with its run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tracking_kit
from trial_kit import run_small

from tune.measure import raw_samples
from tune.measure.gpu_sampler import DeviceSample
from tune.measure.raw_samples import DEVICE, STEPS, RawSamples, read_samples
from tune.measure.timer import EpochTimes

shared_store, sweep_id, opened = (
    tracking_kit.shared_store_fixture, tracking_kit.sweep_id_fixture, tracking_kit.opened_fixture,
)  # fmt: skip


def _times(steps: int, began_s: float = 100.0) -> EpochTimes:
    each = tuple(float(number) for number in range(steps))
    return EpochTimes(
        began_s=began_s, train_s=1.0, feed_host_s=0.0, tail_ms=0.0, start_ms=each, step_ms=each, gap_ms=each,
        wait_ms=each, h2d_ms=each,
    )  # fmt: skip


def _sample(at_s: float) -> DeviceSample:
    return DeviceSample(
        at_s=at_s, sm_clock_mhz=1980, memory_clock_mhz=None, throttle_reasons=4, power_w=350.5, utilisation_pct=97,
        temperature_c=61,
    )  # fmt: skip


def test_what_was_measured_is_read_back_with_its_units_and_its_trial(tmp_path: Path) -> None:
    raw = RawSamples("fast-s1", epochs=2)
    raw.add_epoch(1, _times(3), [_sample(100.25)])
    raw.add_epoch(2, _times(2, began_s=200.0), [_sample(200.5), _sample(200.75)])
    raw.write(tmp_path)
    steps, device = read_samples(tmp_path / STEPS), read_samples(str(tmp_path / DEVICE))
    assert steps["epoch"].to_pylist() == [1, 1, 1, 2, 2]
    assert steps["step"].to_pylist() == [1, 2, 3, 1, 2]
    assert steps["step_ms"].to_pylist() == [0, 1, 2, 0, 1]
    assert device["at_ms"].to_pylist() == [250, 500, 750]  # since their own epoch began
    assert device["memory_clock_mhz"].to_pylist() == [None] * 3
    assert device["power_w"].to_pylist() == [350.5] * 3
    for table in (steps, device):
        metadata = table.schema.metadata
        assert metadata[b"trial_id"] == b"fast-s1"
        assert list(json.loads(metadata[b"columns"])) == table.column_names
        assert json.loads(metadata[b"left_out"]) == {}


def test_without_a_gpu_there_is_no_file_of_one(tmp_path: Path) -> None:
    raw = RawSamples("t", epochs=1)
    raw.add_epoch(1, _times(3), [])
    raw.write(tmp_path)
    assert os.listdir(tmp_path) == [STEPS]


def test_an_epoch_keeps_its_first_steps_and_says_how_many_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_samples, "MOST_ROWS", 12)
    monkeypatch.setattr(raw_samples, "LEAST_ROWS", 4)
    raw = RawSamples("t", epochs=2)  # room for 6 each
    raw.add_epoch(1, _times(9), [])
    raw.add_epoch(2, _times(6), [])
    raw.write(tmp_path)
    table = read_samples(tmp_path / STEPS)
    assert table["step"].to_pylist() == [1, 2, 3, 4, 5, 6] * 2
    assert json.loads(table.schema.metadata[b"left_out"]) == {"1": 3}
    many = RawSamples("t", epochs=1000)
    many.add_epoch(1, _times(9), [])
    many.write(tmp_path / "many")
    assert read_samples(tmp_path / "many" / STEPS).num_rows == 4


def test_an_interrupted_trial_continues_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_samples, "MOST_ROWS", 4)
    monkeypatch.setattr(raw_samples, "LEAST_ROWS", 2)
    first, uninterrupted = RawSamples("t", epochs=2), RawSamples("t", epochs=2)
    for raw in (first, uninterrupted):
        raw.add_epoch(1, _times(3), [_sample(100.25)])
    first.write(tmp_path / "checkpoint")
    rest = RawSamples("t", epochs=2)
    rest.restore(tmp_path / "checkpoint")
    for raw, folder in ((rest, "rest"), (uninterrupted, "uninterrupted")):
        raw.add_epoch(2, _times(3), [])
        raw.write(tmp_path / folder)
    for name in (STEPS, DEVICE):
        mine, theirs = (read_samples(tmp_path / folder / name) for folder in ("rest", "uninterrupted"))
        assert mine.equals(theirs, check_metadata=True)


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = RawSamples("t", epochs=2)
    raw.add_epoch(1, _times(3), [])
    raw.write(tmp_path)

    def full(*_: Any) -> None:
        raise OSError("disk full")

    raw.add_epoch(2, _times(3), [])
    monkeypatch.setattr(raw_samples.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        raw.write(tmp_path)
    assert os.listdir(tmp_path) == [STEPS]
    assert read_samples(tmp_path / STEPS).num_rows == 3


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / STEPS).write_text("no arrow")
    with pytest.raises(pa.ArrowInvalid):
        read_samples(tmp_path / STEPS)


def test_a_trials_files_hold_every_step_once_also_after_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "part", stop_after=1, train__epochs=3)
    kept = read_samples(tmp_path / "part" / "report-1" / "samples" / STEPS)
    assert set(kept["epoch"].to_pylist()) == {1}
    rest = run_small(tmp_path / "rest", checkpoint=tmp_path / "part" / "report-1", train__epochs=3)
    assert rest.final["status"] == "done", rest.final
    folder = tmp_path / "rest" / f"report-{len(rest.reports)}" / "samples"
    assert os.listdir(folder) == [STEPS]
    table, steps = read_samples(folder / STEPS), kept.num_rows
    assert table["step"].to_pylist() == list(range(1, steps + 1)) * 3
    assert table.slice(0, steps).equals(kept)
    for number, report in enumerate(rest.epochs, start=1):
        step_ms = table.slice(number * steps, steps)["step_ms"].to_pylist()
        assert sum(step_ms) / 1e3 == pytest.approx(report["metrics"]["time/step_s"], rel=1e-5)
    assert rest.final["tags"]["diagnosis"].partition(":")[0] in ("on a CPU", "data-bound", "not diagnosed")


def test_the_files_become_artifacts_of_the_trials_run(
    shared_store: str, sweep_id: str, opened: Any, tmp_path: Path
) -> None:
    import mlflow.artifacts

    fetched = tmp_path / "fetched"
    fetched.mkdir()

    raw = RawSamples("a", epochs=1)
    raw.add_epoch(1, _times(3), [_sample(100.25)])
    raw.write(tmp_path / "samples")
    tracker = opened()
    tracking_kit.plan(tracker, "a", "b")
    tracking_kit.end(tracker, "a", samples_dir=tmp_path / "samples")
    tracking_kit.end(tracker, "b", samples_dir=tmp_path / "gone", metrics={"final/test_mse": 0.5})
    tracking_kit.settle(tracker)
    runs = {run.data.tags.get("trial_id"): run for run in tracking_kit.mlflow_runs(shared_store, sweep_id)}
    for name in (STEPS, DEVICE):
        path = mlflow.artifacts.download_artifacts(
            run_id=runs["a"].info.run_id, artifact_path=f"samples/{name}", tracking_uri=shared_store,
            dst_path=str(fetched),
        )  # fmt: skip
        assert read_samples(path).equals(read_samples(tmp_path / "samples" / name), check_metadata=True)
    assert runs["b"].data.metrics["final/test_mse"] == 0.5
    assert any("raw samples is not there" in problem for problem in tracker.problems)
