"""The report's charts: which values of a sweep each one holds, and what its caption says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from tune.measure.bottleneck import PARTS, mean_of, settled
from tune.report.arms import ArmRow
from tune.report.bottlenecks import epochs_of
from tune.report.comparisons import TrialsByArm, is_of_search
from tune.report.marks import COLOURS, Answer, Answers, Bars, Line, Lines, Look, Marks, Part, Point, Points, look
from tune.report.row_verdict import error_kind, row_verdict
from tune.report.work import REFUSED
from tune.stats.intervals import Bounds
from tune.stats.pairs import MARGIN
from tune.tracking.reader import TrialRecord

PART_NAMES = ("training steps", "copies to the device", "waiting for data", "launching kernels", "other")  # of PARTS
MOST_NAMES = 12  # points of a scatter that all have their names; of more, only those on the front or compared
MOST_BANDS = 3  # lines that may have bands around them
VALIDATION, TRAINING = "loss/val_mse", "loss/train_mse"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure and a caption that says what it shows."""

    key: str
    title: str
    caption: str
    marks: Marks

    @property
    def has_data(self) -> bool:
        return bool(self.marks.items)


def charts(rows: Sequence[ArmRow], arms: TrialsByArm, *, margin: float = MARGIN) -> list[Chart]:
    """All charts of a sweep, from `arm_rows` and `trained_by_arm`."""
    return [
        answer_chart(rows, margin),
        pareto_chart(rows),
        difference_chart(rows, arms, margin),
        curve_chart(arms, VALIDATION),
        curve_chart(arms, TRAINING),
        time_chart(arms),
    ]


def answer_chart(rows: Sequence[ArmRow], margin: float) -> Chart:
    """Each compared arm's speed-up beside its error, as the table has them."""
    baseline = next((row.arm for row in rows if row.is_baseline), "the baseline")
    items = [answer for row in rows if (answer := _answer(row)) is not None]
    return Chart(
        key="answer",
        title="Speed and error beside the baseline",
        caption=f"Left: the time of {baseline} over the arm's, for an epoch of all training windows; right of 1x the "
        f"arm is faster. Right: the arm's validation error relative to {baseline}'s; the dashed line is the limit, "
        f"{100 * margin:+g} %. Lines are the intervals of the table. A dot hides an interval narrower than itself. "
        "An arm without a line has too few pairs for one.",
        marks=Answers(items=items, baseline=baseline, margin=margin),
    )


def _answer(row: ArmRow) -> Answer | None:
    """None where there is no ratio to draw."""
    comparison = row.comparison
    if comparison is None or comparison.ratio is None or not 0 < comparison.ratio < math.inf:
        return None
    accuracy = comparison.accuracy
    return Answer(
        arm=row.arm,
        ratio=comparison.ratio,
        interval=_finite(comparison.interval),
        error=accuracy.difference if accuracy and math.isfinite(accuracy.difference) else None,
        error_bounds=_finite(accuracy.bounds) if accuracy else None,
        error_kind=error_kind(accuracy),
        verdict=row_verdict(row),
    )


def _finite(bounds: Bounds | None) -> Bounds | None:
    return bounds if bounds is not None and all(map(math.isfinite, bounds)) else None


def pareto_chart(rows: Sequence[ArmRow]) -> Chart:
    """Time against error, one point an arm; smaller is better in both."""
    points = {row.arm: both for row in rows if (both := _time_and_error(row))}
    front = pareto_front({row.arm: points[row.arm] for row in rows if row.arm in points and not row.shown_as})
    looks = _looks([row.status == "unsupported" for row in rows])
    items = [
        Point(
            name=row.arm,
            x=points[row.arm][0],
            y=points[row.arm][1],
            look=own,
            on_front=row.arm in front,
            named=row.arm in front or len(points) <= MOST_NAMES or row.comparison is not None or row.is_baseline,
            alone=row.timing_valid == "true",
        )
        for row, own in zip(rows, looks, strict=True)
        if row.arm in points
    ]
    return Chart(
        key="pareto",
        title="Time and error",
        caption="Mean of each arm; down and left is better. Large points are on the Pareto front: no other arm's mean "
        "is better in one and at least as good in the other. The table says whether two errors really differ. Arms of "
        "the replaced study are never on the front. A hollow point is not known to have been alone on its device, so "
        f"its time may be too long. The axis of errors spans at least {200 * MARGIN:g} % of them.",
        marks=Points(
            items=items,
            front=[points[arm] for arm in front],
            x_title="seconds to train an epoch of all windows",
            y_title="validation MSE",
            y_range=_wide_enough([y for _, y in points.values()]),
        ),
    )


def _wide_enough(errors: Sequence[float]) -> Bounds | None:
    """A range, where their own would make errors that count as equal look far apart."""
    low, high = min(errors, default=0.0), max(errors, default=0.0)
    middle = (low + high) / 2
    return (middle * (1 - MARGIN), middle * (1 + MARGIN)) if high - low < 2 * MARGIN * middle else None


def _time_and_error(row: ArmRow) -> tuple[float, float] | None:
    """None where no trial is done, or time or error is no finite number."""
    x, y = row.epoch_s, row.val_mse
    if not row.trials or x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return None
    return x, y


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names, fastest first, for which no other is smaller in one value and at most equal in the other."""
    front: list[str] = []
    for name in sorted(points, key=lambda name: points[name]):
        if not front or points[name][1] < points[front[-1]][1] or points[name] == points[front[-1]]:
            front.append(name)
    return front


def difference_chart(rows: Sequence[ArmRow], arms: TrialsByArm, margin: float) -> Chart:
    """Each compared arm's validation error relative to the baseline's, epoch by epoch, from pairs of one seed."""
    baseline = next((row.arm for row in rows if row.is_baseline), "")
    compared = {row.arm for row in rows if row.comparison is not None and row.comparison.count}
    own = dict(zip(arms, _looks_of(arms), strict=True))
    base = arms.get(baseline, ())
    items = [line for arm in arms if arm in compared and (line := _difference(arm, base, arms[arm], own[arm]))]
    few = len(items) <= MOST_BANDS
    items = items if few else [replace(line, band=()) for line in items]
    bands = " The band reaches from the lowest seed to the highest." if few else ""
    return Chart(
        key="difference",
        title="Error beside the baseline, by epoch",
        caption="Validation MSE relative to the baseline's after the same epoch with the same seed, mean over the "
        f"seeds.{bands} Below 0 the arm's error is lower. Dashed: the limit for 'not worse', {100 * margin:g} %. The "
        "verdict itself compares best epochs.",
        marks=Lines(items=items, y_title="difference in validation MSE", margin=margin),
    )


def _difference(arm: str, base: Sequence[TrialRecord], trials: Sequence[TrialRecord], own: Look) -> Line | None:
    """None without a common seed, or without an epoch that all common seeds have."""
    sides = [_curves_by_seed(side) for side in (base, trials)]
    seeds = [seed for seed in sides[1] if seed in sides[0]]
    epochs = [set(sides[0][seed]) & set(sides[1][seed]) for seed in seeds]
    common = sorted(set.intersection(*epochs)) if epochs else []
    if not common:
        return None
    each = {epoch: [sides[1][seed][epoch] / sides[0][seed][epoch] - 1 for seed in seeds] for epoch in common}
    band = [(min(values), max(values)) for values in each.values()] if len(seeds) > 1 else []
    return Line(name=arm, x=common, y=[fmean(values) for values in each.values()], band=band, look=own)


def _curves_by_seed(trials: Sequence[TrialRecord]) -> dict[str, dict[int, float]]:
    """Seed -> epoch -> validation MSE above 0, of done trials that are in comparisons."""
    fit = [trial for trial in trials if trial.status == "done" and "seed" in trial.tags and REFUSED not in trial.tags]
    return {
        trial.tags["seed"]: {epoch: mse for epoch, mse in _points(trial, VALIDATION).items() if 0 < mse < math.inf}
        for trial in fit
        if not is_of_search(trial)
    }


def curve_chart(arms: TrialsByArm, metric: str) -> Chart:
    """Errors by epoch, one line an arm: the mean over its trials. `metric`: VALIDATION or TRAINING."""
    split = "Validation" if metric == VALIDATION else "Training"
    items = [
        _mean_curve(arm, curves, own)
        for (arm, trials), own in zip(arms.items(), _looks_of(arms), strict=True)
        if (curves := [points for trial in trials if not is_of_search(trial) and (points := _points(trial, metric))])
    ]
    how = "" if metric == VALIDATION else " It is measured while the weights change, with dropout on."
    return Chart(
        key="validation" if metric == VALIDATION else "training",
        title=f"{split} error by epoch",
        caption=f"{split} MSE of each arm, mean over its trials.{how}",
        marks=Lines(items=items, y_title=f"{split.lower()} MSE"),
    )


def _mean_curve(arm: str, curves: Sequence[Mapping[int, float]], own: Look) -> Line:
    """An epoch in which a trial's error is no finite number is a gap."""
    epochs = sorted({epoch for curve in curves for epoch in curve})
    means = [fmean(curve[epoch] for curve in curves if epoch in curve) for epoch in epochs]
    return Line(name=arm, x=epochs, y=[mean if math.isfinite(mean) else None for mean in means], look=own)


def _points(trial: TrialRecord, metric: str) -> dict[int, float]:
    return {epoch: value for epoch, value in trial.history.get(metric, []) if epoch > 0}


def time_chart(arms: TrialsByArm) -> Chart:
    """The parts of an epoch's training time, stacked."""
    timed = {arm: trials for arm, trials in arms.items() if not is_of_search(trials[0])} or arms
    measured = {arm: times for arm, trials in timed.items() if (times := _parts(trials))}
    items = [
        Part(name=name, values=[times[part] for times in measured.values()], colour=colour)
        for part, name, colour in zip(PARTS, PART_NAMES, COLOURS, strict=False)
    ]
    return Chart(
        key="times",
        title="Where an epoch's training time goes",
        caption="Mean over the arm's done trials and their epochs, without each trial's first epoch and without "
        "validation. For a pruned arm, only epochs after the last head left count. The table has the median, with the "
        "first epoch, for all training windows.",
        marks=Bars(items=items if measured else [], names=list(measured), x_title="seconds"),
    )


def _parts(trials: Sequence[TrialRecord]) -> dict[str, float]:
    """Seconds by part; empty where no done trial has all parts."""
    keys = [f"time/{part}_s" for part in PARTS]
    fit = [trial for trial in trials if trial.status == "done" and all(trial.history.get(key) for key in keys)]
    epochs = [epoch for trial in fit for epoch in settled(epochs_of(trial))]
    means = {part: mean_of(epochs, key) for part, key in zip(PARTS, keys, strict=True)}
    return {part: mean for part, mean in means.items() if mean is not None} if None not in means.values() else {}


def _looks_of(arms: TrialsByArm) -> list[Look]:
    return _looks([all(trial.status == "unsupported" for trial in trials) for trials in arms.values()])


def _looks(unsupported: Sequence[bool]) -> list[Look]:
    """Each arm's look. Arms that never run come last: they take no colour from the others."""
    order = sorted(range(len(unsupported)), key=lambda index: unsupported[index])
    return [look(order.index(index)) for index in range(len(unsupported))]
