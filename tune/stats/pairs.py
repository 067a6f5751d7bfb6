"""How arms are compared: pairs of one seed on one device, a t interval, Holm over the arms. Pure arithmetic.

Times are compared as logarithms, so a ratio is a geometric mean: the reference's time over the arm's, above 1 where the
arm is faster. Inside a sweep the reference is the baseline arm, pair by pair; across two sweeps it is the same arm
earlier, and since nothing pairs their times the interval is Welch's; errors of one seed are pairs there too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tune.common.errors import WrongInput
from tune.stats.intervals import (
    ALPHA,
    BOOTSTRAP_FROM,
    ENOUGH,
    Bounds,
    _bootstrap,
    _family,
    _holm,
    _interval,
    _Mean,
    _mean,
    _Step,
    _welch,
)

MARGIN = 0.01  # a validation error at most this much above another, relative to that one, counts as equal to it


def margin_of(percent: float) -> float:
    """--margin-pct as a fraction. WrongInput unless it is above 0 and at most 100."""
    if not 0 < percent <= 100:
        raise WrongInput(f"--margin-pct {percent:g}: give a number above 0, at most 100; a sweep itself takes 1")
    return percent / 100


FASTER, SLOWER, SAME = "faster", "slower", "no difference shown"
NOT_WORSE, WORSE, NOT_SHOWN = "not worse", "worse", "not shown"
NO_PARTNER, TWO_DEVICES = "without a finished partner", "on different devices"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trial as a comparison sees it."""

    seed: str
    device: str = ""  # equal for two trials exactly if they ran on the very same device
    time_s: float | None = None  # what is compared: of an epoch or of the whole training; None: it does not count
    unfit: str = ""  # why it does not count
    mse: float | None = None  # validation error; None: unknown


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """An arm's validation error beside the reference's. Differences are relative: 0.01 is 1 % more."""

    difference: float
    bounds: Bounds | None  # the upper holds with 95 %, the lower with 95 % for all arms together; None below ENOUGH
    count: int  # common seeds, on whatever GPU they ran; unpaired: trials of the side that has fewer
    margin: float
    unit: str = "pair"  # what is counted: pair or trial

    @property
    def verdict(self) -> str:
        """NOT_WORSE: the upper bound is under the margin. WORSE: it is not, and the lower one is above 0."""
        if self.bounds is None:
            return NOT_SHOWN
        low, high = self.bounds
        return NOT_WORSE if high < self.margin else WORSE if low > 0 else NOT_SHOWN


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm's speed and error beside the reference's."""

    ratio: float | None  # None where there is nothing to compare
    interval: Bounds | None  # at `level`; None below ENOUGH. It leaves out 1 exactly if p_holm is under ALPHA
    level: float | None  # the error that Holm's step allows this interval: ALPHA / (arms not yet found different)
    p: float | None
    p_holm: float | None
    count: int  # pairs; unpaired: trials of the side that has fewer
    unit: str  # what is counted: pair or trial
    bootstrap: Bounds | None  # BCa at the same level, from BOOTSTRAP_FROM pairs
    left_out: Mapping[str, int]  # reason -> seeds
    accuracy: Accuracy | None  # None without a common seed whose error is known

    @property
    def verdict(self) -> str:
        if self.ratio is None or self.p_holm is None:
            return f"no verdict ({counted(self.count, self.unit)}, {ENOUGH} needed)"
        if self.p_holm >= ALPHA:
            return SAME
        return FASTER if self.ratio > 1 else SLOWER


def counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"


def compare_arms(baseline: Sequence[Run], arms: Mapping[str, Sequence[Run]], *, margin: float) -> dict[str, Comparison]:
    """Each arm against the baseline of the same sweep, in pairs; the arms with ENOUGH of them are one Holm family."""
    return compare_each({arm: (baseline, runs) for arm, runs in arms.items()}, margin=margin)


def compare_each(cells: Mapping[str, tuple[Sequence[Run], Sequence[Run]]], *, margin: float) -> dict[str, Comparison]:
    """Of each (reference, arm) the second against the first, in pairs; those with ENOUGH are one Holm family."""
    logs, left_out = {}, {}
    for cell, (reference, runs) in cells.items():
        logs[cell], left_out[cell] = _log_ratios(reference, runs)
    times = {cell: _mean(values) for cell, values in logs.items()}
    errors = {cell: _mean(_excess(*both)) for cell, both in cells.items()}
    steps, family = _holm(times), _family(errors)
    return {
        cell: _comparison(
            times[cell],
            steps.get(cell),
            unit="pair",
            left_out=left_out[cell],
            accuracy=_accuracy(errors[cell], margin, family),
            bootstrap=_bootstrap(logs[cell], steps[cell].level) if len(logs[cell]) >= BOOTSTRAP_FROM else None,
        )
        for cell in cells
    }


def compare_sweeps(
    before: Mapping[str, Sequence[Run]], after: Mapping[str, Sequence[Run]], *, margin: float
) -> dict[str, Comparison]:
    """Each arm that both sweeps have, after against before: Welch's t on the logarithms, one value per seed.

    Errors are compared in pairs of one seed where there are ENOUGH: they do not depend on when or where a trial ran.
    """
    both = {arm: (before[arm], after[arm]) for arm in before if arm in after}
    times = {arm: _welch(*(_logs(run.time_s for run in runs) for runs in pair)) for arm, pair in both.items()}
    paired = {arm: excess for arm, pair in both.items() if len(excess := _excess(*pair)) >= ENOUGH}
    errors = {
        arm: _mean(paired[arm])
        if arm in paired
        else _welch(_logs(run.mse for run in new), _logs(run.mse for run in old))
        for arm, (old, new) in both.items()
    }
    steps, family = _holm(times), _family(errors)
    return {
        arm: _comparison(
            times[arm],
            steps.get(arm),
            unit="trial",
            left_out=Counter(run.unfit for run in (*old, *new) if run.time_s is None),
            accuracy=_accuracy(errors[arm], margin, family, paired=arm in paired),
        )
        for arm, (old, new) in both.items()
    }


def _comparison(
    mean: _Mean | None,
    step: _Step | None,
    *,
    unit: str,
    left_out: Mapping[str, int],
    accuracy: Accuracy | None,
    bootstrap: Bounds | None = None,
) -> Comparison:
    return Comparison(
        ratio=None if mean is None else math.exp(mean.value),
        interval=_interval(mean, step.level) if mean and step else None,
        level=step.level if step else None,
        p=mean.p if mean and step else None,
        p_holm=step.p_holm if step else None,
        count=mean.count if mean else 0,
        unit=unit,
        bootstrap=bootstrap,
        left_out=dict(left_out),
        accuracy=accuracy,
    )


def _accuracy(mean: _Mean | None, margin: float, family: int, *, paired: bool = True) -> Accuracy | None:
    """`paired`: the mean is of relative differences, else a difference of logarithms; `family`: how many are judged."""
    if mean is None:
        return None
    relative = float if paired else math.expm1
    bounds = None
    if mean.count >= ENOUGH:
        low, high = mean.value - mean.reach(ALPHA / family), mean.value + mean.reach(ALPHA)
        bounds = relative(low), relative(high)
    unit = "pair" if paired else "trial"
    return Accuracy(difference=relative(mean.value), bounds=bounds, count=mean.count, margin=margin, unit=unit)


def _log_ratios(baseline: Sequence[Run], runs: Sequence[Run]) -> tuple[list[float], Counter[str]]:
    """log(baseline's time / arm's) of every pair that counts, in the order of seeds; and why others do not."""
    first, second = ({run.seed: run for run in side} for side in (baseline, runs))
    ratios, left_out = [], Counter[str]()
    for seed in sorted(first.keys() | second.keys()):
        pair = [side[seed] for side in (first, second) if seed in side]
        times = [run.time_s for run in pair if run.time_s is not None]
        if len(pair) < 2:
            left_out[NO_PARTNER] += 1
        elif len(times) < 2:
            left_out[next(run.unfit for run in pair if run.time_s is None)] += 1
        elif pair[0].device != pair[1].device:
            left_out[TWO_DEVICES] += 1
        else:
            ratios.append(math.log(times[0] / times[1]))
    return ratios, left_out


def _excess(baseline: Sequence[Run], runs: Sequence[Run]) -> list[float]:
    """How much larger the arm's error is than the baseline's, relative to that, seed by seed."""
    own = {run.seed: run.mse for run in baseline}
    pairs = [(own.get(run.seed), run.mse) for run in sorted(runs, key=lambda run: run.seed)]
    return [second / first - 1 for first, second in pairs if first and second is not None]


def _logs(values: Iterable[float | None]) -> list[float]:
    return [math.log(value) for value in values if value]
