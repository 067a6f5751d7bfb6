"""What each chart of the report holds: the table's numbers, and nothing where there are none."""

from __future__ import annotations

import math
from typing import Any

import pytest
from report_kit import sweep, trial

from tune.measure.bottleneck import PARTS
from tune.report.arms import arm_rows, trained_by_arm
from tune.report.charts import Chart, charts, pareto_front
from tune.report.marks import COLOURS
from tune.tracking.reader import SweepRecord

EPOCHS = 4


def _charts(record: SweepRecord) -> dict[str, Chart]:
    return {chart.key: chart for chart in charts(arm_rows(record), trained_by_arm(record))}


def _marks(record: SweepRecord, key: str) -> Any:
    return _charts(record)[key].marks


def _ran(arm: str, seed: int, s: float, val_mse: float) -> Any:
    history = {f"time/{part}_s": [99.0, *[s / len(PARTS)] * (EPOCHS - 1)] for part in PARTS}
    history |= {"loss/val_mse": [val_mse + 1 / epoch for epoch in range(1, EPOCHS + 1)]}
    history |= {"loss/train_mse": [1 / epoch for epoch in range(1, EPOCHS + 1)]}
    return trial(arm, seed, s=s, metrics={"final/val_mse": val_mse}, history=history)


@pytest.fixture(name="record")
def record_fixture() -> SweepRecord:
    """Three pairs of two arms, and one pair of a third."""
    seeds = (1, 2, 3)
    pairs = [_ran(*each) for n in seeds for each in (("none", n, 2 + n / 100, 0.3), ("fast", n, 1 + n / 50, 0.4))]
    return sweep(*pairs, _ran("other", 1, 3.0, 0.5))


def test_the_answer_has_the_tables_intervals_and_none_under_three_pairs(record: SweepRecord) -> None:
    fast, other = _marks(record, "answer").items
    compared = next(row.comparison for row in arm_rows(record) if row.arm == "fast")
    assert compared is not None and compared.accuracy is not None
    assert (fast.ratio, fast.interval) == (compared.ratio, compared.interval)
    assert (fast.error, fast.error_bounds) == (compared.accuracy.difference, compared.accuracy.bounds)
    assert (fast.verdict.kind, fast.error_kind) == ("costly", "slow")
    assert (other.interval, other.error_bounds, other.verdict.kind) == (None, None, "unsure")


def test_the_front_is_marked_and_joined_from_fast_to_accurate(record: SweepRecord) -> None:
    marks = _marks(record, "pareto")
    assert {point.name: point.on_front for point in marks.items} == {"none": True, "fast": True, "other": False}
    assert [value for point in marks.front for value in point] == pytest.approx([1.04, 0.4, 2.02, 0.3])


def test_the_front_keeps_equal_points_and_drops_what_is_only_as_good_in_one() -> None:
    points = {"a": (1.0, 0.5), "same": (1.0, 0.5), "slower": (2.0, 0.5), "worse": (1.0, 0.6), "b": (3.0, 0.1)}
    assert pareto_front(points) == ["a", "same", "b"]
    assert pareto_front({}) == []


@pytest.mark.parametrize(("errors", "axis"), [((0.3, 0.3003), (0.2971485, 0.3031515)), ((0.3, 0.4), None)])
def test_errors_that_count_as_equal_do_not_look_far_apart(errors: tuple[float, float], axis: Any) -> None:
    arms = zip(("none", "fast"), errors, strict=True)
    marks = _marks(sweep(*(trial(arm, metrics={"final/val_mse": mse}) for arm, mse in arms)), "pareto")
    assert marks.y_range == (axis and pytest.approx(axis))


def test_the_difference_by_epoch_is_the_mean_over_the_seeds_that_both_have(record: SweepRecord) -> None:
    fast, other = _marks(record, "difference").items
    wanted = [(0.4 + 1 / epoch) / (0.3 + 1 / epoch) - 1 for epoch in range(1, EPOCHS + 1)]
    assert list(fast.x) == [1, 2, 3, 4] and list(fast.y) == pytest.approx(wanted)
    assert [low for low, _ in fast.band] == pytest.approx(wanted) and other.band == []


def test_a_curve_is_an_arms_mean_and_an_error_that_is_no_number_is_a_gap() -> None:
    one = trial("none", 1, history={"loss/val_mse": [0.5, math.nan, 0.2]})
    other = trial("none", 2, history={"loss/val_mse": [0.7, 0.4, math.inf]})
    (line,) = _marks(sweep(one, other), "validation").items
    assert (line.name, list(line.x), list(line.y)) == ("none", [1, 2, 3], [pytest.approx(0.6), None, None])


def test_an_epochs_time_is_the_mean_without_the_first_epoch(record: SweepRecord) -> None:
    marks = _marks(record, "times")
    assert len(marks.items) == len(PARTS) and marks.names == ["none", "fast", "other"]
    sums = [sum(values) for values in zip(*(part.values for part in marks.items), strict=True)]
    assert sums == pytest.approx([2.02, 1.04, 3])


def test_no_two_arms_of_the_scatter_look_alike_and_each_looks_the_same_everywhere() -> None:
    record = sweep(*(_ran(f"arm-{number}", 1, 1.0, 0.3) for number in range(14)), baseline="arm-0")
    looks = {point.name: point.look for point in _marks(record, "pareto").items}
    assert len(set(looks.values())) == 14 and looks["arm-0"].colour == COLOURS[0]
    assert {line.name: line.look for line in _marks(record, "validation").items} == looks


def test_arms_that_cannot_run_take_no_colour_from_the_others() -> None:
    record = sweep(trial("none"), trial("fast", status="unsupported"), trial("other"), arms="fast,none,other")
    assert [point.look.colour for point in _marks(record, "pareto").items] == list(COLOURS[:2])


def test_a_chart_without_data_says_so() -> None:
    assert not any(chart.has_data for chart in _charts(sweep(trial(status="oom"))).values())
