"""The comparisons of a sweep with `--repeats auto`: those of its looks (tune/stats/looks.py). Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tune.stats.intervals import BOOTSTRAP_MIN_PAIRS, bootstrap_interval, mean_of
from tune.stats.looks import MOST_BLOCKS, Standing, standings
from tune.stats.pairs import Accuracy, Comparison, TrialResult, excess, log_ratios

Results = Sequence[TrialResult]


def look_at(
    baseline: Results, arms: Mapping[str, Results], *, margin: float, stops: Mapping[str, Standing] | None = None
) -> dict[str, Standing]:
    """Where each arm stands after the looks that these trials allow.

    baseline: without a trial, as where it cannot run, no arm has a pair.
    margin: an error at most this much above the baseline's counts as equal.
    stops: where arms have stopped, if other numbers decided that.
    """
    first = _first_seed(baseline, arms)

    def by_block(values: Mapping[str, float]) -> dict[int, float]:
        return {int(seed) - first: value for seed, value in values.items()}

    def ended(results: Results) -> set[int]:
        return {int(result.seed) - first for result in results if result.ended}

    return standings(
        {arm: by_block(log_ratios(baseline, results)[0]) for arm, results in arms.items()},
        {arm: by_block(excess(baseline, results)) for arm, results in arms.items()},
        ended={arm: ended(results) for arm, results in arms.items()},
        baseline=ended(baseline) if baseline else range(MOST_BLOCKS),
        margin=margin,
        stops=stops,
    )


def _first_seed(baseline: Results, arms: Mapping[str, Results]) -> int:
    return min((int(result.seed) for side in (baseline, *arms.values()) for result in side), default=0)


def compare_at_looks(
    baseline: Results, arms: Mapping[str, Results], *, margin: float, stops: Mapping[str, Standing]
) -> dict[str, Comparison]:
    """Compare each arm with the baseline as the looks do: ratio, interval and verdict are those of a look.

    Before the first look there are a ratio and a difference of what has run, without interval and verdict.
    """
    first = _first_seed(baseline, arms)
    looked = look_at(baseline, arms, margin=margin, stops=stops)
    return {arm: _comparison(baseline, results, looked[arm], margin, first) for arm, results in arms.items()}


def _comparison(baseline: Results, results: Results, arm: Standing, margin: float, first: int) -> Comparison:
    """Of the blocks in which the arm was to run."""
    end = first + (arm.stopped_at or MOST_BLOCKS)
    baseline, results = ([each for each in side if int(each.seed) < end] for side in (baseline, results))
    ratios, left_out = log_ratios(baseline, results)
    by_seed = dict(sorted(ratios.items(), key=lambda item: int(item[0])))
    seen, errors = list(by_seed.values()), list(excess(baseline, results).values())
    speed, level = arm.speed, arm.speed.level
    enough = level is not None and speed.count >= BOOTSTRAP_MIN_PAIRS
    so_far, errors_so_far = mean_of(seen), mean_of(errors)
    if speed.value is None and so_far is not None:
        speed = replace(speed, value=math.exp(so_far.value), count=so_far.count)
    accuracy = arm.accuracy
    if accuracy.value is None and errors_so_far is not None:
        accuracy = replace(accuracy, value=errors_so_far.value, count=errors_so_far.count)
    error = None
    if accuracy.value is not None:
        difference, bounds = accuracy.value, accuracy.interval
        error = Accuracy(difference=difference, bounds=bounds, count=accuracy.count, margin=margin)
    return Comparison(
        ratio=speed.value,
        interval=speed.interval,
        level=level,
        p=None,
        p_holm=None,
        count=speed.count,
        unit="pair",
        bootstrap=bootstrap_interval(seen[: speed.count], level) if enough and level is not None else None,
        left_out=dict(left_out),
        accuracy=error,
        looks=arm,
    )
