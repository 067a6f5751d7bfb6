"""What was done to the data of a result: how they were read, split, scaled and cut into windows, and what was noted.

The protocol is JSON: it goes into the plan, the report, the tracking store and the saved model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.series.groups import left_out
from data_pipeline.series.steps import step_words, time_text
from data_pipeline.series.windows import SPLITS, WindowStarts, window_starts

if TYPE_CHECKING:
    from data_pipeline.series.store import Series

Protocol = Mapping[str, Any]


def protocol_of(series: Series, lengths: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """The protocol of `series`, with the windows at each of the `lengths` (context, horizon).

    Windows are None where a split holds none at these lengths.
    """
    pairs = list(dict.fromkeys(lengths))
    short = [line for pair in pairs for line in _left_out(series, *pair)]
    return {
        "dataset": series.name,
        "source_sha256": series.source_sha256,
        "rows": len(series.values),
        "columns": len(series.columns),
        "series": len(series.groups),
        "step": series.step.text,
        "zone": series.zone,
        "split": {
            "rule": series.split_rule,
            "parts": {split: _part(series, split) for split in SPLITS},
            "unused_rows": len(series.values) - sum(_rows(series, split) for split in SPLITS),
        },
        "scaling": _scaling(series),
        "windows": [_windows(series, *pair) for pair in pairs],
        "reading": dict(series.reading),
        "notes": [*series.notes, *dict.fromkeys(short)],
    }


def protocol_lines(protocol: Protocol) -> Iterator[str]:
    """The protocol as lines of text."""
    yield shape_text(protocol)
    for name, part in protocol["split"]["parts"].items():
        yield f"{name}: {part_text(name, part, protocol['windows'])}"
    yield from how_lines(protocol)


def shape_text(protocol: Protocol) -> str:
    """Rows, columns, step and zone in words."""
    zone = protocol["zone"]
    many = f", {protocol['series']:,} series" if protocol["series"] > 1 else ""
    told = "" if zone is None else f", times in {zone}"
    return f"{protocol['rows']:,} rows x {protocol['columns']:,} columns{many}, {step_words(protocol['step'])}{told}"


def how_lines(protocol: Protocol) -> Iterator[str]:
    """How the rows were split, scaled and read, and what was noted."""
    split, reading = protocol["split"], protocol["reading"]
    unused = f"; {split['unused_rows']:,} rows in no split" if split["unused_rows"] else ""
    yield f"split {split['rule']}{unused}"
    yield f"scaled: {protocol['scaling']}"
    if reading:
        yield "read as: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in reading.items())
    yield from (f"note: {note}" for note in protocol["notes"])


def part_text(name: str, part: Mapping[str, Any], windows: Iterable[Mapping[str, Any]]) -> str:
    """One split in words: its rows, its range, its windows."""
    counts = [
        f"{pair[name]:,} windows of {pair['context_length']} + {pair['prediction_length']}"
        for pair in windows
        if pair[name] is not None
    ]
    span = f", {part['first']} to {part['last']}" if part["rows"] else ""
    return f"{part['rows']:,} rows{span}" + (f", {', '.join(counts)}" if counts else "")


def _rows(series: Series, split: str) -> int:
    return sum(stop - start for start, stop in (group.bounds[split] for group in series.groups))


def _part(series: Series, split: str) -> dict[str, Any]:
    """The rows of a split, and the times of the first and the last of them."""
    bounds = [group.bounds[split] for group in series.groups if group.bounds[split][1] > group.bounds[split][0]]
    if not bounds:
        return {"rows": 0, "first": None, "last": None}
    first = min((start for start, _ in bounds), key=lambda row: series.timestamps[row])
    last = max((stop - 1 for _, stop in bounds), key=lambda row: series.timestamps[row])
    return {"rows": _rows(series, split), "first": shown_time(series, first), "last": shown_time(series, last)}


def shown_time(series: Series, row: int) -> str:
    """The time of a row, or its number, from 1, if there are no times."""
    if not series.timed:
        return f"row {row + 1}"
    return time_text(int(series.timestamps[row].astype("datetime64[us]").astype(np.int64)), series.zone)


def _scaling(series: Series) -> str:
    each = "each column" if len(series.groups) == 1 else "each column of each series"
    rows = _rows(series, "train")
    return f"{each} to mean 0 and deviation 1 of its {rows:,} training rows"


def _windows(series: Series, context_length: int, prediction_length: int) -> dict[str, int | None]:
    starts = _starts(series, context_length, prediction_length)
    counts = {split: None if starts is None else len(starts[split]) for split in SPLITS}
    return {"context_length": context_length, "prediction_length": prediction_length, **counts}


def _left_out(series: Series, context_length: int, prediction_length: int) -> list[str]:
    """A line for each split that leaves out series which are too short for a window."""
    starts = _starts(series, context_length, prediction_length)
    return [] if starts is None else left_out(series.groups, starts)


def _starts(series: Series, context_length: int, prediction_length: int) -> dict[str, WindowStarts] | None:
    try:
        return window_starts(series.every_bounds, context_length, prediction_length, series.apart)
    except DataError:
        return None
