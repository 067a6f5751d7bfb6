"""Reads the last rows of each series of a file in long format, and writes forecasts in that format.

Shapes: L rows, C columns of values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError, nearest
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.series.long import column_name
from data_pipeline.series.steps import Step
from data_pipeline.series.tail import Table, check_table, decimals_of
from data_pipeline.source.readers import open_source

SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class LongTable:
    """Rows of several series."""

    id_column: str
    series: Mapping[str, Table]
    """By id."""


def is_long(path: Path, options: DataOptions) -> bool:
    """Whether the file has a column that names series. Raises DataError."""
    return open_source(path, options).id_column is not None


def read_long_tails(
    path: Path,
    *,
    columns: Sequence[str] | None,
    known: Collection[str] | None,
    rows: int,
    step: Step,
    options: DataOptions = DEFAULTS,
) -> LongTable:
    """The last `rows` rows by time of every series, whose rows may lie in any order.

    columns: of values; None: all.
    known: the ids that may occur; None: any.

    Memory holds that many rows of each series. Raises DataError for an unknown id, and as `read_tail` does.
    """
    source = open_source(path, options, columns)
    if source.id_column is None or source.timestamp_column is None:
        raise DataError(f"{path}: no column of ids and times: give the long format that the model was trained on")
    kept: dict[str, _Last] = {}
    for chunk in source.chunks():
        assert chunk.ids is not None
        names, numbers = np.unique(chunk.ids.astype(str), return_inverse=True)
        for number, name in enumerate(names.tolist()):
            mine = numbers == number
            last = kept.setdefault(name, _Last(len(source.columns)))
            last.add(chunk.timestamps[mine], chunk.exact[mine], rows)
    source.faults.raise_if_any()
    if known is not None and (unknown := [name for name in kept if name not in known]):
        shown = ", ".join(map(repr, unknown[:SHOWN]))
        raise DataError(
            f"{path}: the model does not know the series {shown}{', ...' if len(unknown) > SHOWN else ''}: leave their "
            f"rows out, or train on them{nearest(unknown[0], known)}"
        )
    tables = {}
    for name in sorted(kept):
        last = kept[name]
        if len(last.times) < rows:
            raise DataError(
                f"{path}: series {name!r} has {len(last.times)} rows, the model forecasts from {rows}: leave it out, "
                "or give more of it"
            )
        with np.errstate(over="ignore"):
            values = last.exact.astype(np.float32)
        tables[name] = Table(
            timestamp_column=source.timestamp_column,
            timestamps=last.times,
            zone=source.zone,
            columns=source.columns,
            values=values,
            decimals=decimals_of(last.exact),
        )
        check_table(f"{path}: series {name!r}", tables[name], step)
    return LongTable(id_column=source.id_column, series=tables)


class _Last:
    """The latest rows of one series."""

    def __init__(self, columns: int) -> None:
        self.times, self.exact = np.empty(0, np.int64), np.empty((0, columns))

    def add(self, times: np.ndarray, exact: np.ndarray, rows: int) -> None:
        times, exact = np.concatenate((self.times, times)), np.concatenate((self.exact, exact))
        order = np.argsort(times, kind="stable")[-rows:]
        self.times, self.exact = times[order], exact[order]


def side_by_side(path: Path, table: LongTable, columns: Sequence[str]) -> Table:
    """The series as columns, named as training names them: by id, or ID.COLUMN if there are several values.

    columns: which ones, in this order. Raises DataError for one that is missing or unknown, and for other times.
    """
    first = next(iter(table.series.values()))
    found = {}
    for name, series in table.series.items():
        if not np.array_equal(series.timestamps, first.timestamps):
            raise DataError(
                f"{path}: the last rows of series {name!r} are not at the times of the others, and the model forecasts "
                "all series together: end all series at one time"
            )
        for at, column in enumerate(series.columns):
            found[column_name(name, column, series.columns)] = series.values[:, at], series.decimals[at]
    if missing := [name for name in columns if name not in found]:
        raise DataError(
            f"{path}: no rows of {', '.join(map(repr, missing[:SHOWN]))}, which the model was trained on: add them"
        )
    if unknown := [name for name in found if name not in columns]:
        raise DataError(
            f"{path}: the model does not know the series {', '.join(map(repr, unknown[:SHOWN]))}: leave their rows "
            f"out, or train on them{nearest(unknown[0], columns)}"
        )
    return replace(
        first,
        columns=tuple(columns),
        values=np.stack([found[name][0] for name in columns], axis=1),
        decimals=tuple(found[name][1] for name in columns),
    )


def one_after_another(wide: Table, like: LongTable) -> LongTable:
    """What `side_by_side` put together, taken apart again."""
    series = {}
    for name, table in like.series.items():
        at = [wide.columns.index(column_name(name, column, table.columns)) for column in table.columns]
        decimals = tuple(wide.decimals[index] for index in at)
        series[name] = replace(wide, columns=table.columns, values=wide.values[:, at], decimals=decimals)
    return LongTable(id_column=like.id_column, series=series)
