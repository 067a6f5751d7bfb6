"""Pairs, intervals, Holm, accuracy: known answers, and what must not change an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind, ttest_rel

from tune.stats.intervals import ALPHA
from tune.stats.pairs import Comparison, TrialResult, compare_arms, compare_sweeps

MARGIN = 0.01


def _results(times: Sequence[float | None], **given: Any) -> list[TrialResult]:
    errors = given.pop("mse", [None] * len(times))
    return [
        TrialResult(seed=str(seed), device="GPU-a", time_s=time_s, mse=mse, **given)
        for seed, (time_s, mse) in enumerate(zip(times, errors, strict=True))
    ]


def _compare(baseline: Sequence[float], arm: Sequence[float], **arms: Sequence[float]) -> Comparison:
    others = {"arm": _results(arm)} | {name: _results(times) for name, times in arms.items()}
    return compare_arms(_results(baseline), others, margin=MARGIN)["arm"]


def _errors(baseline: Sequence[float], arm: Sequence[float], margin: float = MARGIN) -> Any:
    runs = [_results([1.0] * len(errors), mse=errors) for errors in (baseline, arm)]
    accuracy = compare_arms(runs[0], {"arm": runs[1]}, margin=margin)["arm"].accuracy
    assert accuracy is not None
    return accuracy


# Time

BASELINE, ARM = (2.0, 2.1, 1.9, 2.2, 2.05), (1.5, 1.6, 1.45, 1.5, 1.58)


def test_the_ratio_is_the_geometric_mean_of_the_pairs() -> None:
    assert _compare((4.0, 9.0), (2.0, 1.0)).ratio == pytest.approx(math.sqrt(2 * 9))


def test_interval_and_p_are_those_of_scipys_paired_t_test_on_logarithms() -> None:
    comparison = _compare(BASELINE, ARM)
    scipys = ttest_rel([math.log(x) for x in BASELINE], [math.log(x) for x in ARM])
    interval = scipys.confidence_interval(0.95)
    assert comparison.p == pytest.approx(scipys.pvalue)
    assert comparison.interval == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert (comparison.count, comparison.verdict, comparison.level) == (5, "faster", ALPHA)


def test_an_interval_by_hand() -> None:
    """log ratios 0.1, 0.2, 0.3: mean 0.2, sd 0.1, t(0.975, 2) = 4.302653."""
    comparison = _compare([math.exp(x) for x in (0.1, 0.2, 0.3)], (1.0, 1.0, 1.0))
    reach = 4.302653 * 0.1 / math.sqrt(3)
    assert comparison.interval == pytest.approx((math.exp(0.2 - reach), math.exp(0.2 + reach)), rel=1e-6)
    assert comparison.verdict == "undecided"


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        (0, None), (1, None), (2, None), (3, "slower"),
    ],
)  # fmt: skip
def test_under_three_pairs_there_is_no_interval_and_no_verdict(pairs: int, verdict: str | None) -> None:
    comparison = _compare((1.0, 1.01, 0.99)[:pairs], (2.0,) * pairs)
    assert (comparison.count, comparison.verdict) == (pairs, verdict)
    assert (comparison.interval is None) == (comparison.p_holm is None) == (pairs < 3)
    assert (comparison.ratio is None) == (pairs == 0)


def test_without_scatter_a_difference_is_certain_and_equal_times_are_undecided() -> None:
    assert _compare((2.0,) * 3, (1.0,) * 3).verdict == "faster"
    assert _compare((2.0,) * 3, (2.0,) * 3).verdict == "undecided"


@pytest.mark.parametrize(
    ("p", "p_holm", "levels"),
    [
        ((0.01, 0.02, 0.04), (0.03, 0.04, 0.04), (ALPHA / 3, ALPHA / 2, ALPHA)),
        ((0.01, 0.03, 0.04), (0.03, 0.06, 0.06), (ALPHA / 3, ALPHA / 2, ALPHA / 2)),  # stops at the second
        ((0.02, 0.02, 0.02), (0.06, 0.06, 0.06), (ALPHA / 3, ALPHA / 3, ALPHA / 3)),
    ],
)
def test_holm_by_hand(p: Sequence[float], p_holm: Sequence[float], levels: Sequence[float]) -> None:
    arms = {str(index): _results(_times_with(each)) for index, each in enumerate(p)}
    comparisons = list(compare_arms(_results((1.0, 1.0, 1.0)), arms, margin=MARGIN).values())
    assert [each.p for each in comparisons] == pytest.approx(p)
    assert [each.p_holm for each in comparisons] == pytest.approx(p_holm)
    assert [each.level for each in comparisons] == pytest.approx(levels)


def _times_with(p: float) -> list[float]:
    """Three times whose logarithms have deviation 0.1 and mean has this `p`: P(|t| > x) = 1 - x / sqrt(2 + x^2)."""
    t = math.sqrt(2 * (1 - p) ** 2 / (1 - (1 - p) ** 2))
    return [math.exp(t * 0.1 / math.sqrt(3) + shift) for shift in (-0.1, 0.0, 0.1)]


def test_arms_without_enough_pairs_do_not_widen_the_others() -> None:
    alone = _compare(BASELINE, ARM)
    assert _compare(BASELINE, ARM, few=ARM[:2]).interval == alone.interval
    wider = _compare(BASELINE, ARM, same=BASELINE).interval
    assert wider is not None and alone.interval is not None and wider[0] < alone.interval[0]


def test_trials_that_make_no_pair_are_left_out_and_counted_with_their_reason() -> None:
    def run(seed: int, device: str = "GPU-a", unfit: str = "") -> TrialResult:
        return TrialResult(seed=str(seed), device=device, time_s=None if unfit else 1.0, unfit=unfit)

    baseline = [run(1), run(2), run(3), run(4, unfit="on a shared device"), run(5)]
    arm = [run(1), run(2, "GPU-b"), run(3, unfit="on a shared device"), run(4), run(6)]
    comparison = compare_arms(baseline, {"arm": arm}, margin=MARGIN)["arm"]
    assert comparison.count == 1
    assert comparison.left_out == {
        "on different devices": 1, "on a shared device": 2, "without a finished partner": 2,
    }  # fmt: skip


def test_from_ten_pairs_there_is_a_bootstrap_which_is_the_same_each_time() -> None:
    times = [1.0 + 0.01 * (index % 4) for index in range(10)]
    comparison = _compare([2.0] * 10, times)
    assert comparison.bootstrap is not None and comparison.interval is not None and comparison.ratio is not None
    assert comparison.bootstrap[0] < comparison.ratio < comparison.bootstrap[1]
    assert comparison.bootstrap == pytest.approx(comparison.interval, rel=0.01)
    assert _compare([2.0] * 10, times).bootstrap == comparison.bootstrap
    assert _compare([2.0] * 9, times[:9]).bootstrap is None
    assert _compare([2.0] * 10, [1.0] * 10).bootstrap == pytest.approx((2.0, 2.0))


# Accuracy


def test_the_bounds_of_an_error_by_hand() -> None:
    """Differences of 0.1, 0.2 and 0.3 %: mean 0.2 %, one-sided t(0.95, 2) = 2.919986."""
    accuracy = _errors((1.0, 2.0, 4.0), (1.001, 2.004, 4.012))
    reach = 2.919986 * 0.001 / math.sqrt(3)
    assert accuracy.difference == pytest.approx(0.002)
    assert accuracy.bounds == pytest.approx((0.002 - reach, 0.002 + reach), rel=1e-6)
    assert accuracy.verdict == "not_worse"


@pytest.mark.parametrize(
    ("excess", "margin", "verdict"),
    [
        ((0.0, 0.0, 0.0), 0.01, "not_worse"),
        ((0.004, 0.005, 0.006), 0.01, "not_worse"),  # surely larger, surely by less than the margin
        ((0.004, 0.005, 0.006), 0.002, "worse"),
        ((-0.03, 0.0, 0.03), 0.01, "undecided"),
        ((0.02, 0.02, 0.02), 0.01, "worse"),
        ((0.0, 0.0), 0.01, None),  # two pairs
    ],
)
def test_an_error_is_not_worse_only_where_its_upper_bound_is_under_the_margin(
    excess: Sequence[float], margin: float, verdict: str | None
) -> None:
    assert _errors([1.0] * len(excess), [1 + more for more in excess], margin).verdict == verdict


def test_errors_are_compared_on_whatever_device_and_without_a_time() -> None:
    baseline = [TrialResult(seed=str(seed), device="a", mse=0.3) for seed in range(3)]
    arm = [TrialResult(seed=str(seed), device="b", mse=0.3) for seed in range(3)]
    comparison = compare_arms(baseline, {"arm": arm}, margin=MARGIN)["arm"]
    assert comparison.ratio is None and comparison.accuracy is not None and comparison.accuracy.verdict == "not_worse"


def test_an_arm_is_worse_only_where_that_holds_over_all_arms_together() -> None:
    """One arm alone is worse at 95 %; among ten its lower bound is taken at 99.5 %, which reaches below 0."""
    equal, worse = (_results([1.0] * 3, mse=errors) for errors in ([1.0] * 3, [1.02, 1.03, 1.04]))
    alone = compare_arms(equal, {"arm": worse}, margin=MARGIN)["arm"].accuracy
    many = compare_arms(equal, {"arm": worse} | {str(n): equal for n in range(9)}, margin=MARGIN)["arm"].accuracy
    assert alone is not None and many is not None
    assert (alone.verdict, many.verdict) == ("worse", "undecided")


# Two sweeps


def _sweeps(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> dict[str, Comparison]:
    sides = [{arm: _results(times) for arm, times in side.items()} for side in (before, after)]
    return compare_sweeps(sides[0], sides[1], margin=MARGIN)


def test_two_sweeps_are_compared_by_welchs_t_on_logarithms() -> None:
    comparison = _sweeps({"arm": BASELINE}, {"arm": ARM[:4]})["arm"]
    scipys = ttest_ind([math.log(x) for x in BASELINE], [math.log(x) for x in ARM[:4]], equal_var=False)
    interval = scipys.confidence_interval(0.95)
    assert comparison.p == pytest.approx(scipys.pvalue)
    assert comparison.interval == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert (comparison.count, comparison.unit, comparison.verdict) == (4, "trial", "faster")


def test_errors_of_two_sweeps_are_pairs_from_three_common_seeds_on_and_else_welchs() -> None:
    old, new = (_results([1.0] * 4, mse=errors) for errors in ((0.3, 0.5, 0.4, 0.6), (0.31, 0.52, 0.41, 0.61)))
    paired = compare_sweeps({"arm": old}, {"arm": new}, margin=MARGIN)["arm"].accuracy
    assert paired is not None and (paired.count, paired.unit) == (4, "pair")
    assert paired == compare_arms(old, {"arm": new}, margin=MARGIN)["arm"].accuracy
    later = [replace(run, seed=str(int(run.seed) + 2)) for run in new]
    welchs = compare_sweeps({"arm": old}, {"arm": later}, margin=MARGIN)["arm"].accuracy
    logs = [[math.log(run.mse or 0) for run in side] for side in (new, old)]
    interval = ttest_ind(*logs, equal_var=False).confidence_interval(0.90)
    assert welchs is not None and welchs.unit == "trial" and welchs.bounds is not None
    assert welchs.bounds[1] == pytest.approx(math.expm1(interval.high))


def test_only_arms_of_both_sweeps_are_compared_and_few_trials_give_no_verdict() -> None:
    comparisons = _sweeps({"a": ARM, "old": ARM}, {"a": ARM[:2], "new": ARM})
    assert {arm: (each.verdict, each.count, each.unit) for arm, each in comparisons.items()} == {
        "a": (None, 2, "trial")
    }
    assert _sweeps({"a": ()}, {"a": ARM})["a"].ratio is None
    assert _sweeps({"a": ARM}, {"a": ARM[:1]})["a"].interval is None


# What must not change an answer

TIMES = st.lists(st.tuples(*[st.floats(0.5, 2.0)] * 2), min_size=3, max_size=8).filter(
    lambda pairs: len({round(math.log(a / b), 3) for a, b in pairs}) > 2
)


@given(TIMES)
def test_swapping_the_arms_inverts_ratio_and_interval(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    for forward, swapped in [
        (_compare(first, second), _compare(second, first)),
        (_sweeps({"a": first}, {"a": second})["a"], _sweeps({"a": second}, {"a": first})["a"]),
    ]:
        assert forward.ratio is not None and swapped.ratio is not None and forward.interval and swapped.interval
        assert forward.ratio == pytest.approx(1 / swapped.ratio)
        assert forward.interval == pytest.approx((1 / swapped.interval[1], 1 / swapped.interval[0]))
        assert forward.p == pytest.approx(swapped.p)


@given(TIMES, st.floats(0.01, 100))
def test_another_unit_of_time_changes_nothing(pairs: list[tuple[float, float]], scale: float) -> None:
    first, second = zip(*pairs, strict=True)
    seconds = _compare(first, second)
    scaled = _compare([scale * x for x in first], [scale * x for x in second])
    assert seconds.interval is not None
    assert scaled.interval == pytest.approx(seconds.interval) and scaled.p == pytest.approx(seconds.p)


@given(TIMES, st.lists(st.floats(0.5, 2.0), min_size=8, max_size=8))
def test_a_factor_that_a_block_shares_changes_nothing(pairs: list[tuple[float, float]], factors: list[float]) -> None:
    first, second = zip(*pairs, strict=True)
    scaled = [[x * factor for x, factor in zip(side, factors, strict=False)] for side in (first, second)]
    assert _compare(*scaled).interval == pytest.approx(_compare(first, second).interval)


@given(st.lists(TIMES, min_size=2, max_size=5))
def test_an_interval_excludes_1_exactly_where_the_arm_is_faster_or_slower(
    arms: list[list[tuple[float, float]]],
) -> None:
    baseline = _results([1.0] * 8)
    runs = {str(n): _results([first / second for first, second in pairs]) for n, pairs in enumerate(arms)}
    for comparison in compare_arms(baseline, runs, margin=MARGIN).values():
        assert comparison.interval is not None and comparison.p_holm is not None
        if not math.isclose(comparison.p_holm, ALPHA, rel_tol=1e-6):
            assert (comparison.interval[0] > 1 or comparison.interval[1] < 1) == (
                comparison.verdict in ("faster", "slower")
            )


@given(TIMES)
def test_another_arm_never_lowers_an_adjusted_p(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    alone, among = _compare(first, second), _compare(first, second, other=first)
    assert alone.p_holm is not None and among.p_holm is not None and among.p_holm >= alone.p_holm
