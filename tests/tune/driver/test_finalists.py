"""Which trials of a search reach its final, and how a stopped trial counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.config.sweeps import get_sweep
from tune.config.trial_config import TrialConfig
from tune.driver.finalists import FINALISTS, Candidate, candidate, choose_finalists, counted_from, objective, summary
from tune.machine.device import DeviceFacts
from tune.plan.plan import PlannedTrial, make_plan
from tune.stats.pairs import MARGIN
from tune.storage.trial_log import TrialLog

CPU = DeviceFacts(device_type="cpu", name="some CPU")


def _trial(name: str, val_mse: float, epoch_s: float | None = 1.0, status: str = "done", same: str = "") -> Candidate:
    return Candidate(trial_id=name, computation=same or name, status=status, val_mse=val_mse, epoch_s=epoch_s)


def _names(chosen: list[Candidate]) -> list[str]:
    return [trial.trial_id for trial in chosen]


def test_among_equal_errors_the_fastest_go_on() -> None:
    within = [
        _trial("slow", 0.300, 3.0),
        _trial("fast", 0.302, 1.0),
        _trial("middle", 0.301, 2.0),
        _trial("last", 0.3, 4.0),
    ]
    assert _names(choose_finalists([*within, _trial("faster but wrong", 0.4, 0.1)])) == ["fast", "middle", "slow"]


def test_where_too_few_are_as_accurate_the_next_by_error_follow_and_not_the_next_by_speed() -> None:
    chosen = choose_finalists(
        [
            _trial("best", 0.3),
            _trial("fast", 0.5, 0.1),
            _trial("next", 0.4, 9.0),
            _trial("third", 0.45, 1.0),
        ]
    )
    assert _names(chosen) == ["best", "next", "third"]


def test_a_time_that_was_not_measured_alone_makes_nobody_fast() -> None:
    chosen = choose_finalists(
        [_trial("unknown", 0.3000, None), _trial("known", 0.3001, 5.0), _trial("other", 0.3002, None)]
    )
    assert _names(chosen) == ["known", "unknown", "other"]


def test_a_stopped_trial_goes_on_only_where_none_finished() -> None:
    stopped = [_trial("stopped", 0.1, 0.1, "stopped"), _trial("slower", 0.1, 0.2, "stopped")]
    assert _names(choose_finalists([*stopped, _trial("done", 0.3)])) == ["done"]
    assert _names(choose_finalists(stopped)) == ["stopped", "slower"]


def test_the_same_computation_goes_on_once_and_the_baselines_not_at_all() -> None:
    candidates = [
        _trial("first", 0.3, 1.0, same="x"),
        _trial("again", 0.3, 2.0, same="x"),
        _trial("baseline", 0.3, 0.1),
    ]
    assert _names(choose_finalists(candidates, baseline="baseline")) == ["first"]


def test_what_is_faster_and_more_accurate_than_the_baseline_goes_on_before_the_slow_and_most_accurate() -> None:
    slow = [_trial(f"slow{n}", val_mse, 3.0) for n, val_mse in enumerate((0.446, 0.447, 0.448))]
    candidates = [
        *slow,
        _trial("fast", 0.490, 0.12),
        _trial("faster", 0.500, 0.10),
        _trial("baseline", 0.516, 1.0),
    ]
    assert _names(choose_finalists(candidates, baseline="baseline")) == ["faster", "fast", "slow0"]
    assert _names(choose_finalists(candidates[:-1], baseline="baseline")) == [
        "slow0",
        "slow1",
        "slow2",
    ]  # without the baseline


def test_the_margin_is_the_baselines_only_where_it_is_worse_than_the_best_and_has_finished() -> None:
    others = [_trial("best", 0.300, 2.0), _trial("near", 0.302, 1.0), _trial("far", 0.304, 0.1)]
    for baseline in (_trial("baseline", 0.2), _trial("baseline", 0.4, status="stopped")):
        assert _names(choose_finalists([*others, baseline], baseline="baseline")) == ["near", "best", "far"]
    assert _names(choose_finalists([*others, _trial("baseline", 0.302)], baseline="baseline")) == [
        "far",
        "near",
        "best",
    ]


CANDIDATES = st.lists(
    st.builds(
        _trial,
        st.uuids().map(str),
        st.floats(0.1, 0.2),
        st.one_of(st.none(), st.floats(0.1, 10)),
        st.sampled_from(["done", "stopped"]),
    ),
    max_size=12,
    unique_by=lambda trial: trial.trial_id,
)


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_and_takes_all_it_can(candidates: list[Candidate], random: Any) -> None:
    chosen = choose_finalists(candidates)
    able = [trial for trial in candidates if trial.status == "done"] or candidates
    assert len(chosen) == min(FINALISTS, len(able))
    random.shuffle(candidates)
    assert choose_finalists(candidates) == chosen


@given(CANDIDATES)
def test_nobody_is_left_out_for_one_who_is_less_accurate_and_slower(candidates: list[Candidate]) -> None:
    done = [trial for trial in candidates if trial.status == "done"]
    best = min((trial.val_mse for trial in done), default=0.0)
    chosen = choose_finalists(candidates)
    for left in (trial for trial in done if trial not in chosen):
        for taken in chosen:
            within = taken.val_mse <= best * (1 + MARGIN)
            assert taken.status == "done" and (within or taken.val_mse <= left.val_mse)


def _planned(**fields: Any) -> PlannedTrial:
    overrides = {"data.dataset": "demo", "train.epochs": 6, **fields}
    return make_plan(get_sweep("attention"), overrides=overrides, repeats=1, seed=1, device=CPU).trials[0]


def _config(**fields: Any) -> TrialConfig:
    return _planned(**fields).config


PRUNED = {"pruning.score": "magnitude", "pruning.heads_per_layer": 2, "pruning.schedule": "one_shot"}


def _log(*val_mse: float, **given: Any) -> TrialLog:
    epochs = {n: {"loss/val_mse": value, "time/train_s": float(n)} for n, value in enumerate(val_mse, 1)}
    return TrialLog(epochs=epochs, **given)


def test_only_epochs_with_the_final_number_of_heads_count() -> None:
    config = _config(**PRUNED)
    assert counted_from(config) == 3
    assert objective(config, _log(0.1, 0.2, 0.5, 0.4)) == 0.4
    assert objective(_config(), _log(0.1, 0.2, 0.5, 0.4)) == 0.1
    assert objective(config, _log(0.2, 0.1)) == 0.1  # no epoch counts yet, so all do
    assert objective(config, _log(float("nan"))) is None


def test_a_stopped_trial_sums_up_its_epochs_and_has_no_test_error() -> None:
    metrics = summary(_planned(**PRUNED), _log(0.1, 0.2, 0.5, 0.4, 0.45))
    assert metrics == {
        "final/val_mse": 0.4,
        "final/best_epoch": 4,
        "final/median_epoch_s": 4.0,
        "final/epoch_all_windows_s": 4.0 * 1633 / 1536,
        "final/windows_per_epoch": 1536,  # 12 steps of 128; demo has 1,633 training windows
        "final/steps_per_epoch": 12,
        "final/train_total_s": 15.0,
    }
    early = summary(_planned(**PRUNED), _log(0.1))
    assert (early["final/val_mse"], early["final/median_epoch_s"], early["final/best_epoch"]) == (None, None, None)
    assert early["final/train_total_s"] == 1.0


@pytest.mark.parametrize("status", ["failed", "oom", "nan", "failed_gate", "unsupported", None])
def test_a_trial_without_a_result_is_no_trial(status: str | None) -> None:
    assert candidate(_planned(), _log(0.1, status=status, metrics={"final/val_mse": 0.1})) is None


def test_a_candidates_time_is_of_all_windows_and_counts_only_where_it_was_alone_on_its_device() -> None:
    metrics = {"final/val_mse": 0.1, "final/median_epoch_s": 2.0}
    for tag, epoch_s in (("true", 2.0 * 1633 / 1536), ("false", None), ("unknown", None)):
        made = candidate(_planned(), TrialLog(status="done", tags={"timing_valid": tag}, metrics=metrics))
        assert made is not None and made.epoch_s == epoch_s
    assert candidate(_planned(), TrialLog(status="done", metrics={"final/val_mse": float("nan")})) is None


def test_a_batch_that_leaves_out_windows_does_not_win_by_them() -> None:
    """Both trials need 2 s for an epoch, but batch 512 trains 1,536 windows in it and batch 32 trains 1,632."""
    log = TrialLog(
        status="done", tags={"timing_valid": "true"}, metrics={"final/val_mse": 0.1, "final/median_epoch_s": 2.0}
    )
    trials = {batch: candidate(_planned(**{"train.batch_size": batch}), log) for batch in (512, 32)}
    times = [trial.epoch_s for trial in trials.values() if trial is not None]
    assert times == [2.0 * 1633 / 1536, 2.0 * 1633 / 1632]
