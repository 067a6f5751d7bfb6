"""ASHA with a memory: which trials are stopped at a rung, which never are, also after a restart."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from tune.driver.asha import Asha, make_asha
from tune.storage.trial_log import TrialLog

GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def _trial(name: str) -> Any:
    return SimpleNamespace(config={"job": {"trial_id": name}}, trial_id=f"tune-{name}")


def _report(scheduler: Asha, name: str, epoch: int, val_mse: float) -> str:
    trial = _trial(name)
    if epoch == 1:
        scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "metrics/loss/val_mse": val_mse})


def _filled(epochs: int = 10) -> Asha:
    """Three trials are past the first rung of ten epochs, which is epoch 2."""
    scheduler = Asha(epochs)
    for name, val_mse in (("a", 0.30), ("b", 0.29), ("c", 0.28)):
        assert [_report(scheduler, name, epoch, val_mse) for epoch in (1, 2)] == [GO, GO]
    return scheduler


def test_a_trial_outside_the_best_third_at_a_rung_is_stopped_with_the_reason() -> None:
    scheduler = _filled()
    assert [_report(scheduler, "d", epoch, 0.41) for epoch in (1, 2)] == [GO, STOP]
    assert scheduler.stopped == {
        "d": "stopped after epoch 2 by ASHA: validation MSE 0.41 is not in the best third of the 4 trials seen there, "
        "and more than 1% above the best of them, 0.28"
    }


def test_a_trial_within_the_margin_of_the_best_goes_on() -> None:
    scheduler = _filled()
    _report(scheduler, "e", 1, 0.2800)
    assert _report(scheduler, "d", 1, 0.5) == GO
    assert _report(scheduler, "d", 2, 0.2827) == GO  # not in the best third, and 0.96 % above 0.28
    assert scheduler.stopped == {}


def test_a_trial_as_good_as_the_baseline_goes_on_and_the_baseline_itself_always() -> None:
    scheduler = Asha(10, baseline="base")
    for name, val_mse in (("base", 0.50), ("b", 0.29), ("a", 0.28)):
        assert [_report(scheduler, name, epoch, val_mse) for epoch in (1, 2)] == [GO, GO]
    assert [_report(scheduler, "d", epoch, 0.504) for epoch in (1, 2)] == [GO, GO]
    assert [_report(scheduler, "e", epoch, 0.506) for epoch in (1, 2)] == [GO, STOP]
    assert scheduler.stopped["e"].endswith("and more than 1% above the baseline, 0.5")
    late = Asha(10, baseline="base")
    for name, val_mse in (("b", 0.29), ("a", 0.28), ("base", 0.50)):
        assert [_report(late, name, epoch, val_mse) for epoch in (1, 2)] == [GO, GO]


@pytest.mark.parametrize("epochs", [2, 3, 4, 7, 10, 28, 100])
def test_no_trial_is_stopped_at_its_last_epoch_and_the_best_one_never(epochs: int) -> None:
    scheduler = Asha(epochs)
    for epoch in range(1, epochs + 1):
        assert _report(scheduler, "best", epoch, 0.1) == GO
    for name in ("x", "y"):
        decisions = [_report(scheduler, name, epoch, 0.9) for epoch in range(1, epochs + 1)]
        assert STOP in decisions and decisions[-1] == GO


def test_one_epoch_leaves_nothing_to_stop() -> None:
    assert make_asha(1) is None
    assert isinstance(make_asha(2), Asha)


def test_a_report_without_an_epoch_or_a_number_decides_nothing() -> None:
    scheduler = _filled()
    scheduler.on_trial_add(None, _trial("d"))
    assert scheduler.on_trial_result(None, _trial("d"), {"status": "failed"}) == GO
    assert _report(scheduler, "d", 2, float("nan")) == GO
    assert [_report(scheduler, "e", epoch, 0.5) for epoch in (1, 2)] == [GO, STOP]


def test_what_trials_of_an_earlier_run_reported_counts_after_a_restart() -> None:
    past = {
        name: TrialLog(epochs={epoch: {"loss/val_mse": val_mse} for epoch in (1, 2)})
        for name, val_mse in (("a", 0.30), ("b", 0.29), ("c", 0.28))
    }
    again = Asha(10)
    again.replay(past)
    assert again.stopped == {}
    assert [_report(again, "d", epoch, 0.41) for epoch in (1, 2)] == [GO, STOP]
    assert again.stopped == _stopped_without_a_restart()


def _past(**reports: tuple[list[float], list[int], Any]) -> dict[str, TrialLog]:
    """name -> (validation MSE of each epoch, the number of its record, status)."""
    return {
        name: TrialLog(
            epochs={epoch: {"loss/val_mse": value} for epoch, value in enumerate(values, 1)},
            recorded=dict(enumerate(records, 1)),
            status=status,
        )
        for name, (values, records, status) in reports.items()
    }


FIRST = {"a": ([0.30] * 2, [1, 2], "done"), "b": ([0.29] * 2, [3, 4], "done"), "c": ([0.28] * 2, [5, 6], "done")}


def test_a_stop_whose_end_was_never_recorded_is_known_after_a_restart() -> None:
    again = Asha(10)
    again.replay(_past(**FIRST, d=([0.41, 0.41], [10, 11], None)))
    assert again.stopped == _stopped_without_a_restart()


def test_what_went_on_or_has_ended_is_not_stopped_by_a_restart() -> None:
    for late in (([0.41] * 3, [10, 11, 12], None), ([0.41] * 2, [10, 11], "stopped"), ([0.41], [10], None)):
        again = Asha(10)
        again.replay(_past(**FIRST, d=late))
        assert again.stopped == {}


def test_a_restart_replays_reports_in_the_order_of_their_records_and_not_of_the_trials() -> None:
    again = Asha(10)
    again.replay(_past(a=([0.28] * 2, [8, 9], "done"), b=([0.29] * 2, [6, 7], "done"), d=([0.41] * 2, [1, 2], None)))
    assert again.stopped == {}  # there was nothing to compare it with


def _stopped_without_a_restart() -> dict[str, str]:
    scheduler = _filled()
    for epoch in (1, 2):
        _report(scheduler, "d", epoch, 0.41)
    return scheduler.stopped


def test_a_trial_that_goes_on_after_a_restart_is_not_stopped_at_a_rung_it_passed_before() -> None:
    scheduler = _filled()
    scheduler.on_trial_add(None, _trial("a"))  # the same trial under another id of Tune's
    assert _report(scheduler, "a", 2, 0.30) == GO
    scheduler.on_trial_remove(None, _trial("a"))
    scheduler.on_trial_complete(None, _trial("a"), {"epoch": 2})


def test_tune_pickles_nothing_of_it() -> None:
    assert pickle.loads(pickle.dumps(_filled())).__dict__ == {}
