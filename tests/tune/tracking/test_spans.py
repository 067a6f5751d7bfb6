"""When the driver ran and what it did for all trials at once: stored once, over kills and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tune.tracking.reader import read_sweep
from tune.tracking.spans import WARM_UP, span
from tune.tracking.tracker import Tracker


def _open(folder: Path, uri: str, began_ms: int) -> Tracker:
    tracker = Tracker(
        outbox_path=folder / "outbox.jsonl", tracking_uri=uri, experiment="e", artifact_root=str(folder / "artifacts")
    )
    tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={}, driver_began_ms=began_ms)
    return tracker


def _kinds(folder: Path) -> list[str]:
    records = map(json.loads, (folder / "outbox.jsonl").read_text().splitlines())
    return [f"{record['kind']} {record.get('part', '')}".strip() for record in records]


def test_mlflow_has_each_span_and_a_killed_run_ends_at_its_last_record(tmp_path: Path, new_store: str) -> None:
    killed = _open(tmp_path, new_store, 1000)
    began_ms = killed.now_ms() - 500
    killed.log_span(WARM_UP, began_ms)
    last_ms = killed.now_ms()
    killed.close()  # without end_run, as a killed driver leaves it
    with _open(tmp_path, new_store, 5000) as tracker:
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={}, driver_began_ms=5000)  # with all arms
        tracker.end_run()
        tracker.end_run()
        assert tracker.flush(60.0) == 0
        spans = read_sweep(new_store, "e", "s").spans
    assert _kinds(tmp_path) == [
        "begin_sweep",
        "span warm_up",
        "span driver",
        "begin_sweep",
        "begin_sweep",
        "span driver",
    ]
    ((warm_began_ms, warm_ended_ms),) = spans[WARM_UP]
    assert (warm_began_ms, warm_ended_ms <= last_ms) == (began_ms, True)
    (first, second) = spans["driver"]
    assert first == (1000, warm_ended_ms)
    assert second[0] == 5000 and second[1] >= last_ms


def test_a_piece_that_took_no_time_is_not_recorded_and_one_that_was_interrupted_is(
    tmp_path: Path, new_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _open(tmp_path, new_store, 1000) as tracker:
        now_ms = [10**13]
        monkeypatch.setattr(tracker, "now_ms", lambda: now_ms[0])
        with span(tracker, WARM_UP):
            now_ms[0] += 50
        assert _kinds(tmp_path) == ["begin_sweep"]
        with pytest.raises(KeyboardInterrupt), span(tracker, WARM_UP):
            now_ms[0] += 5000
            raise KeyboardInterrupt
        assert _kinds(tmp_path) == ["begin_sweep", "span warm_up"]


def test_a_sweep_whose_command_says_no_beginning_has_no_span_of_it(tmp_path: Path, new_store: str) -> None:
    with Tracker(
        outbox_path=tmp_path / "outbox.jsonl", tracking_uri=new_store, experiment="e", artifact_root=None
    ) as tracker:
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={})
        tracker.end_run()
        assert tracker.flush(60.0) == 0
        assert read_sweep(new_store, "e", "s").spans == {}
    assert _kinds(tmp_path) == ["begin_sweep"]
