"""The tables of the report as rows and columns of plain text, the same for Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.series.protocol import how_lines, shape_text
from tune.report import pareto
from tune.report.ablation import ERROR_NOTE, error_steps
from tune.report.arms import COLUMNS, ArmRow, environment_of, trials_by_arm
from tune.report.comparisons import percent_text
from tune.report.cost import GPUS, Cost, Price, costs, energy_text, hours_text, money_text, total
from tune.report.data import protocols_of_sweep
from tune.report.proof import proof_rows
from tune.report.series import errors_by_series
from tune.tracking.reader import SweepRecord, TrialRecord

TEXT_COLUMNS = ("arm", "status", "speed", "accuracy")  # the others hold numbers, aligned right


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table. `empty` says why there are no rows."""

    title: str  # "" for a table without a title
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]  # of each column
    caption: str = ""
    empty: str = ""


def arm_table(rows: Sequence[ArmRow]) -> Table:
    """One row an arm, as the terminal shows it."""
    return Table(
        title="",
        head=[name for name, _ in COLUMNS],
        rows=[[cell(row) for _, cell in COLUMNS] for row in rows],
        numeric=[name not in TEXT_COLUMNS for name, _ in COLUMNS],
    )


def closing_tables(record: SweepRecord, price: Price | None) -> list[Table]:
    """The tables that the report ends with."""
    data = [data_table(protocol) for protocol in protocols_of_sweep(record)]
    tables = [
        *changes_tables(record),
        *search_tables(record),
        *data,
        *series_tables(record),
    ]
    return [*tables, cost_table(record, price), not_done_table(record), proof_table(record), environment_table(record)]


def changes_tables(record: SweepRecord) -> list[Table]:
    """What each change of a sweep that asks for errors is worth; no table in any other sweep."""
    steps = error_steps(record)
    if not steps:
        return []
    return [
        Table(
            title="What each change does to the validation error",
            head=["change", "from", "to", "val MSE", "95 % interval", "pairs", "effect"],
            rows=[
                [
                    step.change,
                    step.before,
                    step.after,
                    "-" if step.difference is None else percent_text(step.difference),
                    " to ".join(map(percent_text, step.bounds)) if step.bounds else "-",
                    str(step.pairs),
                    step.effect or "too few pairs",
                ]
                for step in steps
            ],
            numeric=[False, False, False, True, True, True, False],
            caption=ERROR_NOTE,
        )
    ]


def data_table(protocol: Mapping[str, Any]) -> Table:
    """One row for each split of a data set."""
    windows = protocol["windows"]
    return Table(
        title="Data",
        head=["split", "rows", "first", "last", *map(_windows_head, windows)],
        rows=[
            [
                name,
                f"{part['rows']:,}",
                part["first"] or "-",
                part["last"] or "-",
                *(_count(pair, name) for pair in windows),
            ]
            for name, part in protocol["split"]["parts"].items()
        ],
        numeric=[False, True, False, False, *[True] * len(windows)],
        caption=f"{protocol['dataset']}: {shape_text(protocol)}; {'; '.join(how_lines(protocol))}.",
    )


def _windows_head(pair: Mapping[str, Any]) -> str:
    return f"windows of {pair['context_length']} + {pair['prediction_length']}"


def _count(pair: Mapping[str, Any], split: str) -> str:
    return "-" if pair[split] is None else f"{pair[split]:,}"


def series_tables(record: SweepRecord) -> list[Table]:
    """The errors of each series, where the file holds several; else no table."""
    errors = errors_by_series(record)
    if errors is None:
        return []
    head = ["series", "windows", "test MSE", "test MAE"]
    numeric = [False, True, True, True]
    return [Table(title=errors.title, head=head, rows=errors.rows, numeric=numeric, caption=errors.caption)]


def search_tables(record: SweepRecord) -> list[Table]:
    """What a search found before its final; no table for any other sweep, or of an earlier version."""
    rows = pareto.rows(record)
    if not rows:
        return []
    caption = "Shapes that no other one beats in both error and time. Errors are of one seed, times of some hundred "
    caption += "steps in the fastest way: no verdict is drawn from them."
    numeric = [False, False, True, True, False]
    return [Table(title="Found by the search", head=pareto.HEAD, rows=rows, numeric=numeric, caption=caption)]


def not_done_table(record: SweepRecord) -> Table:
    """One row for the trials of an arm that are not done for the same reason."""
    alike: dict[tuple[str, str, str], list[TrialRecord]] = {}
    for trial in (trial for trials in trials_by_arm(record).values() for trial in trials):
        if trial.status != "done":
            alike.setdefault((trial.tags.get("arm", "-"), trial.status, trial.reason or "-"), []).append(trial)
    return Table(
        title="Trials that are not done",
        head=["arm", "trials", "status", "reason"],
        rows=[[arm, _which(trials), status, reason] for (arm, status, reason), trials in alike.items()],
        numeric=[False] * 4,
        empty="Every trial is done." if record.trials else "There is no trial.",
    )


def _which(trials: Sequence[TrialRecord]) -> str:
    """A single trial by its id, several of one arm by their seeds."""
    seeds = [trial.tags.get("seed") for trial in trials]
    if len(trials) == 1 or None in seeds:
        return ", ".join(trial.trial_id for trial in trials)
    return f"seeds {', '.join(sorted(map(str, seeds), key=lambda seed: (len(seed), seed)))}"


def cost_table(record: SweepRecord, price: Price | None) -> Table:
    """GPU-hours, energy and, with a price, money: of each arm and of all arms together."""
    by_arm = costs(record, trials_by_arm(record))
    head = ["arm", "trials that ran", "GPU-hours", "kWh"]
    if price is not None:
        head.append(f"cost, {price.currency}" if price.currency else "cost")
    no_gpu = record.tags.get(GPUS) == "0"
    named = {**by_arm, "all arms": total(by_arm)}
    return Table(
        title="Cost",
        head=head,
        rows=[] if no_gpu or not by_arm else [_cost_cells(arm, cost, price) for arm, cost in named.items()],
        numeric=[False, *[True] * (len(head) - 1)],
        caption="GPU-hours run from the start of a trial's process to its last work on the GPU, for failed trials too; "
        "they leave out what a lost process did after its last checkpoint. kWh is the GPU's own counter over the "
        "training epochs alone. '-': not known; 'at least': not known of every trial.",
        empty="No GPU was used." if no_gpu else "No trial has run.",
    )


def _cost_cells(arm: str, cost: Cost, price: Price | None) -> list[str]:
    cells = [arm, str(cost.trials), hours_text(cost), energy_text(cost)]
    return cells if price is None else [*cells, money_text(cost, price)]


def proof_table(record: SweepRecord) -> Table:
    """What each arm proved: its error over the gate's limit, and its kernels by name."""
    return Table(
        title="Gate and kernels",
        head=["arm", "largest error / its limit", "kernels of attention in a profiled step"],
        rows=proof_rows(trials_by_arm(record)),
        numeric=[False] * 3,
        caption="At most 1 passes. Errors are against fp64: of forecasts, of gradients, of the worst single series.",
        empty="No trial says that it passed the gate.",
    )


def environment_table(record: SweepRecord) -> Table:
    """What the driver saved of the machine, a row a value; a text where MLflow kept only the beginning."""
    environment = environment_of(record)
    known = isinstance(environment, dict)
    return Table(
        title="Environment",
        head=["", "value"],
        rows=[list(row) for row in _flat(environment)] if known else [],
        numeric=[False, False],
        empty=str(environment) if environment else "The environment was not recorded.",
    )


def _flat(content: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Without what is not known or empty, which says nothing."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None and value not in ([], ""):
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)
