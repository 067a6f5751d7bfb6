"""Which shapes may go on by their error, in which order, and how a stopped trial counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.config.sweeps import get_sweep
from tune.config.trial_config import TrialConfig
from tune.driver.finalists import (
    Candidate,
    able,
    candidate,
    counted_from,
    error_limit,
    likely_fastest_first,
    objective,
    reached,
    summary,
)
from tune.machine.device import DeviceFacts
from tune.plan.plan import PlannedTrial, make_plan
from tune.stats.pairs import MARGIN
from tune.storage.trial_log import TrialLog

CPU = DeviceFacts(device_type="cpu", name="some CPU")


def _shape(name: str, val_mse: float, status: str = "done", effort: tuple[int, ...] = (1, 1, 1)) -> Candidate:
    return Candidate(trial_id=name, shape=(name,), status=status, val_mse=val_mse, effort=effort)


def _able(*candidates: Candidate, baseline: str = "", target: float | None = None) -> list[str]:
    limit = error_limit(candidates, baseline=(baseline,), target=target)
    return [each.trial_id for each in able(candidates, limit)]


def test_shapes_within_the_margin_of_the_best_one_go_on_the_most_accurate_first() -> None:
    assert _able(_shape("next", 0.302), _shape("best", 0.300), _shape("wrong", 0.304)) == ["best", "next"]


def test_the_margin_is_the_baselines_where_it_is_worse_than_the_best_and_has_finished() -> None:
    others = [_shape("best", 0.300), _shape("near", 0.302), _shape("far", 0.304)]
    assert _able(*others, _shape("baseline", 0.302), baseline="baseline") == ["best", "baseline", "near", "far"]
    for baseline in (_shape("baseline", 0.2), _shape("baseline", 0.4, "stopped")):
        names = _able(*others, baseline, baseline="baseline")
        assert names == (["baseline"] if baseline.status == "done" else ["best", "near"])


def test_the_limit_says_whose_error_it_is_above() -> None:
    limit = error_limit([_shape("best", 0.3), _shape("baseline", 0.4)], baseline=("baseline",), target=None)
    assert limit is not None and limit.val_mse == pytest.approx(0.4 * (1 + MARGIN))
    assert limit.why == "1% above the baseline's"
    limit = error_limit([_shape("best", 0.3), _shape("baseline", 0.2)], baseline=("baseline",), target=None)
    assert limit is not None and limit.why == "1% above the best one's"
    assert error_limit([], baseline=None, target=0.4) is None


def test_a_stopped_shape_goes_on_only_where_none_finished() -> None:
    assert _able(_shape("stopped", 0.1, "stopped"), _shape("done", 0.3)) == ["done"]
    assert _able(_shape("stopped", 0.1, "stopped"), _shape("worse", 0.3, "stopped")) == ["stopped"]


def test_a_target_that_is_reached_is_the_limit_and_one_that_is_not_changes_nothing() -> None:
    shapes = [_shape("good", 0.30), _shape("better", 0.20), _shape("bad", 0.31)]
    assert _able(*shapes, target=0.30) == ["better", "good"]
    assert _able(*shapes, target=0.1) == ["better"]
    assert reached(shapes, 0.30) and not reached(shapes, 0.1) and not reached(shapes, None)


def test_a_stopped_trial_reaches_no_target() -> None:
    assert not reached([_shape("stopped", 0.1, "stopped")], 0.2)


def test_what_costs_less_in_every_part_is_tried_first_and_of_these_the_most_accurate() -> None:
    cheap, cheap_too, middle = (1, 9, 1), (9, 1, 1), (2, 9, 1)
    shapes = [
        _shape("middle", 0.1, effort=middle),
        _shape("cheap", 0.3, effort=cheap),
        _shape("too", 0.2, effort=cheap_too),
    ]
    assert [each.trial_id for each in likely_fastest_first(shapes)] == ["too", "cheap", "middle"]


EFFORTS = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
SHAPES = st.lists(
    st.builds(_shape, st.uuids().map(str), st.floats(0.1, 0.2), st.sampled_from(["done", "stopped"]), EFFORTS),
    max_size=12,
    unique_by=lambda each: each.trial_id,
)


@given(SHAPES, st.randoms(use_true_random=False))
def test_no_choice_depends_on_the_order_of_the_trials(shapes: list[Candidate], random: Any) -> None:
    first, names = likely_fastest_first(shapes), _able(*shapes)
    random.shuffle(shapes)
    assert (likely_fastest_first(shapes), _able(*shapes)) == (first, names)


@given(SHAPES)
def test_none_is_lost_and_none_comes_after_one_that_costs_more_in_every_part(shapes: list[Candidate]) -> None:
    ordered = likely_fastest_first(shapes)
    assert sorted(each.trial_id for each in ordered) == sorted(each.trial_id for each in shapes)
    for at, each in enumerate(ordered):
        for later in ordered[at + 1 :]:
            less = all(a <= b for a, b in zip(later.effort, each.effort, strict=True))
            assert not less or later.effort == each.effort


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
    assert candidate(_planned(), ("shape",), _log(0.1, status=status, metrics={"final/val_mse": 0.1})) is None


def test_an_error_that_is_no_number_is_no_result() -> None:
    log = TrialLog(status="done", metrics={"final/val_mse": float("nan")})
    assert candidate(_planned(), ("shape",), log) is None


def test_a_candidate_has_the_error_and_the_effort_of_its_trial() -> None:
    made = candidate(_planned(), ("shape",), TrialLog(status="done", metrics={"final/val_mse": 0.1}))
    assert made is not None and (made.val_mse, made.shape, made.status) == (0.1, ("shape",), "done")
    assert len(made.effort) == 3
