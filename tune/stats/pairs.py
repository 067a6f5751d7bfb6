"""How arms are compared: pairs of one seed on one device, a t interval, Holm over the arms. Pure arithmetic.

Times are compared as logarithms, so a ratio is a geometric mean: the reference's time over the arm's, above 1 where
the arm is faster. Inside a sweep the reference is the baseline arm, pair by pair. Across two sweeps it is the same arm
in the earlier sweep. Nothing pairs the times of two sweeps, so their interval is Welch's; errors of one seed are pairs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tune.common.errors import WrongInput
from tune.stats.intervals import (
    ALPHA,
    BOOTSTRAP_MIN_PAIRS,
    MIN_PAIRS,
    Bounds,
    HolmStep,
    Mean,
    bootstrap_interval,
    holm,
    mean_of,
    ratio_interval,
    tested,
    welch_difference,
)
from tune.stats.looks import Standing
from tune.stats.verdicts import FASTER, NOT_WORSE, SLOWER, UNDECIDED, WORSE

MARGIN = 0.01  # a validation error at most this much above another, relative to that one, counts as equal to it
NO_PARTNER, TWO_DEVICES = "without a finished partner", "on different devices"


def margin_of(percent: float) -> float:
    """--margin-pct as a fraction. WrongInput unless it is above 0 and at most 100."""
    if not 0 < percent <= 100:
        raise WrongInput(f"--margin-pct {percent:g}: give a number above 0, at most 100; a sweep itself takes 1")
    return percent / 100


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a comparison uses of one trial."""

    seed: str
    device: str = ""  # equal for two trials exactly if they ran on the very same device
    time_s: float | None = None  # of an epoch or of the whole training; None: it does not count
    unfit: str = ""  # why it does not count
    mse: float | None = None  # validation error; None: unknown
    ended: bool = True  # False: planned or running


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """An arm's validation error relative to the reference's: 0.01 is 1 % more."""

    difference: float
    bounds: Bounds | None  # the upper holds with 95 %, the lower with 95 % for all arms together; None: too few pairs
    count: int  # common seeds, on whatever GPU they ran; unpaired: trials of the side that has fewer
    margin: float
    unit: str = "pair"  # what is counted: pair or trial

    @property
    def verdict(self) -> str | None:
        """NOT_WORSE: the upper bound is under the margin. WORSE: it is not, and the lower bound is above 0.

        Else UNDECIDED; None with too few pairs.
        """
        if self.bounds is None:
            return None
        low, high = self.bounds
        return NOT_WORSE if high < self.margin else WORSE if low > 0 else UNDECIDED


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm's speed and error relative to the reference's."""

    ratio: float | None  # None where there is nothing to compare
    interval: Bounds | None  # at `level`; None: too few pairs. It excludes 1 exactly if p_holm is under ALPHA
    level: float | None  # the error that Holm's step allows this interval: ALPHA / (arms not yet found different)
    p: float | None
    p_holm: float | None
    count: int  # pairs; unpaired: trials of the side that has fewer
    unit: str  # what is counted: pair or trial
    bootstrap: Bounds | None  # BCa at the same level, from BOOTSTRAP_MIN_PAIRS on
    left_out: Mapping[str, int]  # reason -> seeds
    accuracy: Accuracy | None  # None without a common seed whose error is known
    looks: Standing | None = None  # with `--repeats auto`: where all of the above but `left_out` comes from

    @property
    def verdict(self) -> str | None:
        """On speed: FASTER, SLOWER, UNDECIDED or, by a look, WITHIN_MARGIN; None with too few pairs, or no look yet."""
        if self.looks is not None:
            return self.looks.speed.verdict
        if self.ratio is None or self.p_holm is None:
            return None
        if self.p_holm >= ALPHA:
            return UNDECIDED
        return FASTER if self.ratio > 1 else SLOWER


def compare_arms(
    baseline: Sequence[TrialResult], arms: Mapping[str, Sequence[TrialResult]], *, margin: float
) -> dict[str, Comparison]:
    """Compare each arm with the baseline of the same sweep, in pairs. The tested arms are one Holm family."""
    return compare_each({arm: (baseline, results) for arm, results in arms.items()}, margin=margin)


def compare_each(
    cases: Mapping[str, tuple[Sequence[TrialResult], Sequence[TrialResult]]], *, margin: float
) -> dict[str, Comparison]:
    """Compare the second of each (reference, arm) with the first, in pairs. The tested ones are one Holm family."""
    logs, left_out = {}, {}
    for case, (reference, results) in cases.items():
        by_seed, left_out[case] = log_ratios(reference, results)
        logs[case] = list(by_seed.values())
    times = {case: mean_of(values) for case, values in logs.items()}
    errors = {case: mean_of(list(excess(*sides).values())) for case, sides in cases.items()}
    steps, family = holm(times), len(tested(errors))
    return {
        case: _comparison(
            times[case],
            steps.get(case),
            unit="pair",
            left_out=left_out[case],
            accuracy=_accuracy(errors[case], margin, family),
            paired_logs=logs[case],
        )
        for case in cases
    }


def compare_sweeps(
    before: Mapping[str, Sequence[TrialResult]], after: Mapping[str, Sequence[TrialResult]], *, margin: float
) -> dict[str, Comparison]:
    """Compare each arm that both sweeps have, after with before: Welch's t on the logarithms, one value per seed.

    Errors do not depend on when or where a trial ran, so from MIN_PAIRS common seeds on they are compared in pairs.
    """
    sides = {arm: (before[arm], after[arm]) for arm in before if arm in after}
    times = {
        arm: welch_difference(*(_logs(result.time_s for result in side) for side in both))
        for arm, both in sides.items()
    }
    by_seed = {arm: list(excess(*both).values()) for arm, both in sides.items()}
    paired = {arm: values for arm, values in by_seed.items() if len(values) >= MIN_PAIRS}
    errors = {
        arm: mean_of(paired[arm])
        if arm in paired
        else welch_difference(_logs(result.mse for result in new), _logs(result.mse for result in old))
        for arm, (old, new) in sides.items()
    }
    steps, family = holm(times), len(tested(errors))
    return {
        arm: _comparison(
            times[arm],
            steps.get(arm),
            unit="trial",
            left_out=Counter(result.unfit for result in (*old, *new) if result.time_s is None),
            accuracy=_accuracy(errors[arm], margin, family, paired=arm in paired),
        )
        for arm, (old, new) in sides.items()
    }


def _comparison(
    mean: Mean | None,
    step: HolmStep | None,
    *,
    unit: str,
    left_out: Mapping[str, int],
    accuracy: Accuracy | None,
    paired_logs: Sequence[float] = (),
) -> Comparison:
    enough = len(paired_logs) >= BOOTSTRAP_MIN_PAIRS
    return Comparison(
        ratio=None if mean is None else math.exp(mean.value),
        interval=ratio_interval(mean, step.level) if mean and step else None,
        level=step.level if step else None,
        p=mean.p if mean and step else None,
        p_holm=step.p_holm if step else None,
        count=mean.count if mean else 0,
        unit=unit,
        bootstrap=bootstrap_interval(paired_logs, step.level) if step and enough else None,
        left_out=dict(left_out),
        accuracy=accuracy,
    )


def _accuracy(mean: Mean | None, margin: float, family: int, *, paired: bool = True) -> Accuracy | None:
    """`paired`: the mean is of relative differences, else a difference of logarithms. `family`: how many are tested."""
    if mean is None:
        return None
    relative = float if paired else math.expm1
    bounds = None
    if mean.count >= MIN_PAIRS:
        low, high = mean.value - mean.reach(ALPHA / family), mean.value + mean.reach(ALPHA)
        bounds = relative(low), relative(high)
    unit = "pair" if paired else "trial"
    return Accuracy(difference=relative(mean.value), bounds=bounds, count=mean.count, margin=margin, unit=unit)


def log_ratios(
    baseline: Sequence[TrialResult], results: Sequence[TrialResult]
) -> tuple[dict[str, float], Counter[str]]:
    """log(baseline's time / arm's) of every pair that counts, by seed, and why the other pairs do not count."""
    first, second = ({result.seed: result for result in side} for side in (baseline, results))
    ratios, left_out = dict[str, float](), Counter[str]()
    for seed in sorted(first.keys() | second.keys()):
        pair = [side[seed] for side in (first, second) if seed in side]
        times = [result.time_s for result in pair if result.time_s is not None]
        if len(pair) < 2:
            left_out[NO_PARTNER] += 1
        elif len(times) < 2:
            left_out[next(result.unfit for result in pair if result.time_s is None)] += 1
        elif pair[0].device != pair[1].device:
            left_out[TWO_DEVICES] += 1
        else:
            ratios[seed] = math.log(times[0] / times[1])
    return ratios, left_out


def excess(baseline: Sequence[TrialResult], results: Sequence[TrialResult]) -> dict[str, float]:
    """How much larger the arm's error is than the baseline's, relative to the baseline's, by seed."""
    baseline_mse = {result.seed: result.mse for result in baseline}
    by_seed = sorted(results, key=lambda result: result.seed)
    pairs = {result.seed: (baseline_mse.get(result.seed), result.mse) for result in by_seed}
    return {seed: second / first - 1 for seed, (first, second) in pairs.items() if first and second is not None}


def _logs(values: Iterable[float | None]) -> list[float]:
    return [math.log(value) for value in values if value]
