"""Tables by what a sweep varies: batch size, patch size, workers, pruning or any other field.

A sweep of one dimension gives one table, with a row for each value. A cross (`--over`) gives one table for each
dimension: its values stand side by side, with a row for each combination of the others. There every ratio is against
the arm that differs in this dimension only. Ratios and intervals are those of tune/stats/pairs.py, from pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune.config.trial_config import parse_params
from tune.report.arms import ArmRow, arm_rows, epoch_text, total_text, trained_by_arm
from tune.report.comparisons import is_of_search, ratio_text, trial_results
from tune.report.tables import Table
from tune.stats.pairs import MARGIN, Comparison, TrialResult, compare_each
from tune.tracking.reader import SweepRecord, TrialRecord

Params = Mapping[str, Any]
Point = tuple[str, ...]  # an arm's value of each dimension


def _patch(params: Params) -> str:
    length, stride = params["model.patch_length"], params["model.patch_stride"]
    return f"{length}" if stride in (length, None) else f"{length}, stride {stride}"


def _pruning(params: Params) -> str:
    score = params["pruning.score"]
    if score in ("none", None):
        return "none"
    if score == "static":
        return f"heads {' '.join(str(head) for head in params['pruning.heads'] or ())}"
    heads, schedule = params["pruning.heads_per_layer"], str(params["pruning.schedule"]).replace("_", " ")
    return f"{score}, {heads} a layer, {schedule}"


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """Fields that vary together, and the text of a value of theirs."""

    name: str
    fields: tuple[str, ...]
    text: Callable[[Params], str]


def _plain(field: str, name: str = "") -> Dimension:
    return Dimension(
        name=name or field.split(".", 1)[-1].replace("_", " "),
        fields=(field,),
        text=lambda params: str(params.get(field)),
    )


def _named(dimension: Dimension, value: str) -> str:
    """A value as a heading: a number alone would not say what it counts."""
    return value if value[:1].isalpha() else f"{dimension.name} {value}"


JOINT = (
    Dimension(name="patch size", fields=("model.patch_length", "model.patch_stride"), text=_patch),
    Dimension(
        name="pruning",
        fields=("pruning.score", "pruning.schedule", "pruning.heads_per_layer", "pruning.heads"),
        text=_pruning,
    ),
    _plain("data.num_workers", "workers"),
)


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """The arms of a sweep by their values of the dimensions that vary."""

    dimensions: tuple[Dimension, ...]
    arms: Mapping[Point, ArmRow]  # in the order of the definition
    results: Mapping[str, Sequence[TrialResult]]  # by arm
    origin: Point  # the baseline's point


def dimension_tables(record: SweepRecord, *, margin: float = MARGIN) -> list[Table]:
    """A table for each dimension that varies between arms; none where no two arms differ in one thing only.

    Arms as others published them are left out: they differ from every other arm in several things.
    """
    if "swept" not in record.tags:
        text = "Which fields the sweep varies was not recorded."
        return [Table(title="By dimension", head=[], rows=[], numeric=[], empty=text)]
    grid = _grid(record, arm_rows(record, margin=margin), record.tags["swept"].split(","))
    if grid is None:
        return []
    if len(grid.dimensions) == 1:
        return [_single(grid)]
    crosses = [_cross(grid, index, margin) for index in range(len(grid.dimensions))]
    return [table for table in crosses if table.rows]


def _grid(record: SweepRecord, rows: Sequence[ArmRow], swept: Sequence[str]) -> _Grid | None:
    """None where the baseline's point is not known, or nothing varies."""
    trials = trained_by_arm(record)
    used = [row for row in rows if not row.shown_as and _configured(trials[row.arm])]
    params = {row.arm: parse_params(trials[row.arm][0].params, record.format) for row in used}
    dimensions = _dimensions(field for field in swept if field)
    varying = tuple(each for each in dimensions if len({each.text(values) for values in params.values()}) > 1)
    arms: dict[Point, ArmRow] = {}
    for row in used:  # of two arms that are the same computation, the first
        arms.setdefault(tuple(dimension.text(params[row.arm]) for dimension in varying), row)
    origin = next((point for point, row in arms.items() if row.is_baseline), None)
    if origin is None or not varying:
        return None
    results = {row.arm: trial_results(trials[row.arm]) for row in used}
    return _Grid(dimensions=varying, arms=arms, results=results, origin=origin)


def _configured(trials: Sequence[TrialRecord]) -> bool:
    """Whether MLflow has the arm's configuration, and its trials are none of a search, which are in no pairs."""
    return bool(trials[0].params) and not is_of_search(trials[0])


def _dimensions(fields: Iterable[str]) -> list[Dimension]:
    """The dimensions that the fields belong to, each once."""
    joint = {field: dimension for dimension in JOINT for field in dimension.fields}
    return list({each.name: each for each in (joint.get(field) or _plain(field) for field in fields)}.values())


def _single(grid: _Grid) -> Table:
    """A row for each value: seconds of an epoch and of all epochs, beside the baseline's."""
    (dimension,), base = grid.dimensions, _named(grid.dimensions[0], grid.origin[0])
    baseline = grid.arms[grid.origin]
    head = [
        dimension.name,
        f"{base}: s/epoch",
        "s/epoch",
        f"x {base}",
        f"{base}: total s",
        "total s",
        f"x {base}, total",
    ]
    rows = []
    for (value,), row in grid.arms.items():
        if row.is_baseline:
            continue
        epoch = [epoch_text(baseline), _seconds(row, epoch_text), ratio_text(row.comparison)]
        rows.append([value, *epoch, total_text(baseline), _seconds(row, total_text), ratio_text(row.total_comparison)])
    return Table(
        title=f"By {dimension.name}",
        head=head,
        rows=rows,
        numeric=[False, *[True] * 6],
        caption=f"The baseline is {base}. Seconds are means over trials, for all training windows; ratios are those of "
        "the table of arms.",
    )


def _cross(grid: _Grid, index: int, margin: float) -> Table:
    """The values of dimension `index` side by side; a row for each combination of the others."""
    compared, base = grid.dimensions[index], grid.origin[index]
    values = list(dict.fromkeys(point[index] for point in grid.arms if point[index] != base))
    others = list(dict.fromkeys(point[:index] + point[index + 1 :] for point in grid.arms))
    rows, ratios = _compared(grid, index, others, values, margin)
    names = [dimension.name for position, dimension in enumerate(grid.dimensions) if position != index]
    first = _named(compared, base)
    sides = [cell for value in values for cell in (f"{_named(compared, value)}: s/epoch", f"x {first}")]
    tested = sum(comparison.interval is not None for comparison in ratios.values())
    family = f", Holm over the {tested} ratios that have one" if tested > 1 else ""
    return Table(
        title=f"{compared.name.capitalize()} by {', '.join(names)}",
        head=[*names, f"{first}: s/epoch", *sides],
        rows=rows,
        numeric=[*[False] * len(names), *[True] * (1 + len(sides))],
        caption=f"Seconds are for all training windows. Each ratio is against {first} in its own row, from pairs of "
        "equal seed on one device; " + (f"intervals: 95 %{family}." if tested else "too few pairs for intervals."),
    )


def _compared(
    grid: _Grid, index: int, others: Sequence[Point], values: Sequence[str], margin: float
) -> tuple[list[list[str]], dict[str, Comparison]]:
    """The rows that have a baseline and another arm, and all ratios of the table. `others`: values of the others."""

    def at(other: Point, value: str) -> ArmRow | None:
        return grid.arms.get((*other[:index], value, *other[index:]))

    base = grid.origin[index]
    sides = {
        arm.arm: (grid.results[baseline.arm], grid.results[arm.arm])
        for other in others
        if (baseline := at(other, base))
        for value in values
        if (arm := at(other, value))
    }
    ratios = compare_each(sides, margin=margin)
    rows = []
    for other in others:
        own, arms = at(other, base), [at(other, value) for value in values]
        if own is not None and any(arms):
            cells = [(_seconds(arm, epoch_text), ratio_text(ratios[arm.arm])) if arm else ("-", "-") for arm in arms]
            rows.append([*other, _seconds(own, epoch_text), *(text for pair in cells for text in pair)])
    return rows, ratios


def _seconds(row: ArmRow, text: Callable[[ArmRow], str]) -> str:
    """The arm's seconds, or why it has none."""
    return text(row) if row.epoch_s is not None else "refused" if row.refused else row.status
