"""The report's charts as plain data in plotly's form: dicts, lists, strings and finite numbers.

plotly.js interprets some HTML in texts, so every text from the store is escaped here too.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.measure.bottleneck import PARTS, mean_of, settled
from tune.report.arms import ArmRow
from tune.report.bottlenecks import epochs_of
from tune.report.comparisons import TrialsByArm, ratio_text
from tune.stats.pairs import MARGIN, Comparison
from tune.tracking.reader import TrialRecord

# Okabe and Ito's colours, which colour-blind readers tell apart, without black and yellow (jfly.uni-koeln.de/color)
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
DASHES = ("solid", "dot", "dashdot", "longdash")  # the next one each time the colours repeat
SHAPES = ("circle", "square", "triangle-up", "pentagon")  # of points, likewise
PART_NAMES = ("training steps", "copies to the device", "waiting for data", "launching kernels", "other")  # of PARTS
POINT_PX, FRONT_PX = 10, 15  # a point of the scatter, and a point on the front
ROW_PX, FRAME_PX = 34, 130  # height of a bar, and of everything around the bars


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure and a caption that says what it shows. Without data there is nothing to show."""

    key: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def charts(rows: Sequence[ArmRow], arms: TrialsByArm) -> list[Chart]:
    """All charts of a sweep, from `arm_rows` and `trained_by_arm`."""
    return [
        speed_chart(rows),
        total_chart(rows),
        pareto_chart(rows),
        curve_chart(arms, "validation"),
        curve_chart(arms, "training"),
        time_chart(arms),
    ]


def speed_chart(rows: Sequence[ArmRow]) -> Chart:
    """The baseline's time per trained window over each arm's, with its interval where it has one."""
    what = "Geometric mean of the pairs' training time of an epoch of all training windows"
    return _ratios("speed", "Speed-up of an epoch", what, [(row, row.comparison) for row in rows])


def total_chart(rows: Sequence[ArmRow]) -> Chart:
    """As `speed_chart`, for the whole training."""
    what = "The same for all training epochs together; for a pruned arm, with those before its heads left"
    return _ratios("total", "Speed-up of the whole training", what, [(row, row.total_comparison) for row in rows])


def _ratios(key: str, title: str, what: str, pairs: Sequence[tuple[ArmRow, Comparison | None]]) -> Chart:
    data: list[dict[str, Any]] = []
    names: list[str] = []
    ends = [1.0]  # of every point and interval
    looks = _styled([row for row, _ in pairs])
    for (row, (colour, _, _)), (_, comparison) in zip(looks, pairs, strict=True):
        ratio = comparison.ratio if comparison else None
        if ratio is None or not math.isfinite(ratio):
            continue
        names.append(_text(row.arm))
        point: dict[str, Any] = {"type": "scatter", "x": [ratio], "y": names[-1:], "name": names[-1]}
        point |= {
            "mode": "markers+text",
            "text": [ratio_text(comparison)],
            "textposition": "top center",
            "cliponaxis": False,
        }
        low, high = (comparison and comparison.interval) or (math.nan, math.nan)
        ends += [end for end in (low, ratio, high) if math.isfinite(end)]
        if math.isfinite(low) and math.isfinite(high):
            reach = {"array": [high - ratio], "arrayminus": [ratio - low]}
            point["error_x"] = {"type": "data", "symmetric": False, "thickness": 2, "width": 6, **reach}
        data.append(
            point | {"marker": {"color": colour, "size": 10}, "hovertemplate": "%{y}: %{x:.3f}x<extra></extra>"}
        )
    equal = {"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dash", "width": 1}}
    return Chart(
        key=key,
        title=title,
        caption=f"{what}, baseline's over arm's: above 1 the arm is faster. Bars are the table's intervals; a point "
        "hides an interval that is narrower than itself. An arm without numbers in brackets has too few pairs.",
        data=data,
        layout={
            "xaxis": _axis("x baseline", range=_with_room(min(ends), max(ends))),
            "yaxis": _names_axis(names),
            "shapes": [equal],
            "showlegend": False,
            "height": FRAME_PX + ROW_PX * len(names),
        },
    )


def _with_room(low: float, high: float) -> list[float]:
    """A range that keeps the text over an outermost point within the axes."""
    room = 0.12 * (high - low) or 0.1
    return [low - room, high + room]


def pareto_chart(rows: Sequence[ArmRow]) -> Chart:
    """Time against error, one point an arm; smaller is better in both."""
    points = {row.arm: both for row in rows if (both := _time_and_error(row))}
    front = pareto_front({row.arm: points[row.arm] for row in rows if row.arm in points and not row.shown_as})
    data: list[dict[str, Any]] = []
    for row, (colour, _, shape) in _styled(rows):
        if row.arm not in points:
            continue
        x, y = points[row.arm]
        symbol = shape + ("" if row.timing_valid == "true" else "-open")
        marker = {"color": colour, "size": FRONT_PX if row.arm in front else POINT_PX, "symbol": symbol}
        hover = "%{fullData.name}: %{x:.4g} s, %{y:.4f}<extra></extra>"
        point = {"type": "scatter", "mode": "markers", "x": [x], "y": [y], "name": _text(row.arm)}
        data.append(point | {"marker": marker, "hovertemplate": hover})
    if front:
        x_front, y_front = zip(*(points[arm] for arm in front), strict=True)
        line = {"type": "scatter", "mode": "lines", "x": list(x_front), "y": list(y_front), "name": "Pareto front"}
        look = {"shape": "hv", "dash": "dot", "width": 1, "color": "#888888"}
        data.append(line | {"line": look, "hoverinfo": "skip"})
    return Chart(
        key="pareto",
        title="Time and accuracy",
        caption="Mean of each arm; down and left is better. Large points are on the Pareto front: no other arm's mean "
        "is better in one and at least as good in the other. The table says whether two errors really differ. Arms of "
        "the replaced study are never on the front. A hollow point is not known to have been alone on its device, so "
        f"its time may be too long. The axis of errors spans at least {200 * MARGIN:g} % of them.",
        data=data,
        layout={
            "xaxis": _axis("training time of an epoch of all training windows, s"),
            "yaxis": _axis("validation MSE", **_wide_enough([y for _, y in points.values()])),
        },
    )


def _wide_enough(errors: Sequence[float]) -> dict[str, Any]:
    """A range, where plotly's own would make errors that count as equal look far apart."""
    low, high = min(errors, default=0.0), max(errors, default=0.0)
    middle = (low + high) / 2
    return {"range": [middle * (1 - MARGIN), middle * (1 + MARGIN)]} if high - low < 2 * MARGIN * middle else {}


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


def curve_chart(arms: TrialsByArm, split: str) -> Chart:
    """Errors by epoch, one line a trial. `split`: validation or training."""
    metric = {"validation": "loss/val_mse", "training": "loss/train_mse"}[split]
    data: list[dict[str, Any]] = []
    places = _colour_order([all(trial.status == "unsupported" for trial in trials) for trials in arms.values()])
    for index, (arm, trials) in zip(places, arms.items(), strict=True):
        colour, dash, _ = _style(index)
        curves = [line for trial in trials if (line := _curve(trial, metric))]
        for number, line in enumerate(curves):
            look = {"name": _text(arm), "legendgroup": f"arm {index}", "line": {"color": colour, "dash": dash}}
            data.append(line | look | {"showlegend": number == 0})
    how = "" if split == "validation" else " It is measured while the weights change, with dropout on."
    return Chart(
        key="curves" if split == "validation" else "training",
        title=f"{split.capitalize()} error by epoch",
        caption=f"{split.capitalize()} MSE, one line a trial, coloured by arm.{how} A click on a name in the legend "
        "hides or shows the arm.",
        data=data,
        layout={"xaxis": _epochs_axis(data), "yaxis": _axis(f"{split} MSE")},
    )


def _curve(trial: TrialRecord, metric: str) -> dict[str, Any]:
    """Empty where the trial has no epoch. An error that is no finite number leaves a gap."""
    points = {epoch: value for epoch, value in trial.history.get(metric, []) if epoch > 0}
    if not points:
        return {}
    values = [value if math.isfinite(value) else None for value in points.values()]
    kind = {"type": "scatter", "mode": "lines+markers", "marker": {"size": 4}, "text": _text(trial.trial_id)}
    return kind | {
        "x": list(points),
        "y": values,
        "hovertemplate": "%{text}<br>epoch %{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
    }


def time_chart(arms: TrialsByArm) -> Chart:
    """The parts of an epoch's training time, stacked."""
    measured = {arm: times for arm, trials in arms.items() if (times := _parts(trials))}
    names = [_text(arm) for arm in measured]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label,
            "x": [times[part] for times in measured.values()],
            "y": names,
            "marker": {"color": COLOURS[index]},
            "hovertemplate": "%{y}: %{x:.4g} s<extra>%{fullData.name}</extra>",
        }
        for index, (part, label) in enumerate(zip(PARTS, PART_NAMES, strict=True))
    ]
    return Chart(
        key="times",
        title="Where an epoch's training time goes",
        caption="Mean over the arm's done trials and their epochs, without each trial's first epoch and without "
        "validation. For a pruned arm, only epochs after the last head left count. The table has the median, with the "
        "first epoch, for all training windows.",
        data=data if names else [],
        layout={
            "barmode": "relative",
            "xaxis": _axis("s"),
            "yaxis": _names_axis(names),
            "height": FRAME_PX + 30 + ROW_PX * len(names),
            "legend": {"traceorder": "normal"},
        },
    )


def _parts(trials: Sequence[TrialRecord]) -> dict[str, float]:
    """Seconds by part; empty where no done trial has all parts."""
    keys = [f"time/{part}_s" for part in PARTS]
    fit = [trial for trial in trials if trial.status == "done" and all(trial.history.get(key) for key in keys)]
    epochs = [epoch for trial in fit for epoch in settled(epochs_of(trial))]
    means = {part: mean_of(epochs, key) for part, key in zip(PARTS, keys, strict=True)}
    return {part: mean for part, mean in means.items() if mean is not None} if None not in means.values() else {}


def _styled(rows: Sequence[ArmRow]) -> list[tuple[ArmRow, tuple[str, str, str]]]:
    places = _colour_order([row.status == "unsupported" for row in rows])
    return [(row, _style(place)) for row, place in zip(rows, places, strict=True)]


def _colour_order(unsupported: Sequence[bool]) -> list[int]:
    """Each arm's place in the order of colours. Arms that never run come last: they take no colour from the others."""
    order = sorted(range(len(unsupported)), key=lambda index: unsupported[index])
    return [order.index(index) for index in range(len(unsupported))]


def _style(index: int) -> tuple[str, str, str]:
    """Colour, dash and shape of the arm at this place. An arm looks the same in all charts."""
    turn = index // len(COLOURS)
    return COLOURS[index % len(COLOURS)], DASHES[turn % len(DASHES)], SHAPES[turn % len(SHAPES)]


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "automargin": True, **more}


def _epochs_axis(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A tick for each epoch where they are few: plotly would put ticks between epochs."""
    longest = max((len(curve["x"]) for curve in curves), default=0)
    return _axis("epoch", tickformat="d") | ({"dtick": 1} if longest <= 10 else {})


def _names_axis(names: Sequence[str]) -> dict[str, Any]:
    """The first name is on top. A name that looks like a number or a date stays a name."""
    return {"type": "category", "categoryorder": "array", "categoryarray": list(names[::-1]), "automargin": True}


def _text(text: str) -> str:
    return html.escape(text)
