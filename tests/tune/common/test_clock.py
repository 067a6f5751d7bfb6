"""Wall time that does not jump."""

from pathlib import Path

import pytest
from tracking_kit import log, plan

from tune.common.clock import SteadyClock
from tune.storage.outbox import Outbox
from tune.tracking.tracker import Tracker
from tune.trial.state import Timeline

HOUR_NS = 3600 * 10**9


@pytest.fixture(params=[-HOUR_NS, HOUR_NS], ids=["back", "forwards"])
def jump_ns(request: pytest.FixtureRequest) -> int:
    return request.param


def _jump(monkeypatch: pytest.MonkeyPatch, by_ns: int) -> None:
    import time

    real = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: real() + by_ns)


def test_a_steady_clock_continues_when_the_wall_clock_is_set(monkeypatch: pytest.MonkeyPatch, jump_ns: int) -> None:
    clock = SteadyClock()
    before_ms = clock.now_ms()
    _jump(monkeypatch, jump_ns)
    assert 0 <= clock.now_ms() - before_ms < 60_000
    assert SteadyClock(not_before_ms=before_ms).now_ms() >= before_ms


def test_a_trials_time_is_right_when_the_wall_clock_is_set(monkeypatch: pytest.MonkeyPatch, jump_ns: int) -> None:
    spans = Timeline()
    _jump(monkeypatch, jump_ns)
    spans.epoch_began()
    spans.work_ended()
    taken_ms = spans.spent_ms()
    assert taken_ms is not None and 0 <= taken_ms < 60_000
    assert spans.first_epoch_ms is not None and spans.work_ended_ms is not None
    assert spans.started_ms <= spans.first_epoch_ms <= spans.work_ended_ms


def test_a_trial_begins_when_its_actor_gets_it_not_when_its_process_starts() -> None:
    alone, waited = Timeline(), Timeline(100.0)
    assert 99_000 < alone.started_ms - waited.started_ms <= 100_000
    spent_ms = waited.spent_ms()
    assert spent_ms is not None and spent_ms >= 100_000
    assert "waited_s" not in waited.as_tag()


def test_records_stay_in_order_over_processes_whose_clocks_disagree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jump_ns: int
) -> None:
    path, store = tmp_path / "outbox.jsonl", f"sqlite:///{tmp_path}/mlflow.db"
    for epoch in (1, 2):
        tracker = Tracker(outbox_path=path, tracking_uri=store, experiment="e", artifact_root=None)
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={})
        plan(tracker, "a")
        log(tracker, "a", epoch)
        tracker.close(0)
        _jump(monkeypatch, jump_ns)
    outbox = Outbox(path)
    times_ms = [record["time_ms"] for record, _ in outbox.read()]
    outbox.close()
    assert len(times_ms) == 5 and times_ms == sorted(times_ms)
