"""Long formats: several series under each other, as a table, as a file, and as a pivot made by pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data_pipeline.options import DataOptions
from data_pipeline.series.store import open_series


def series_of(name, first, count, seed=0, columns=("y",), freq="h"):
    """`count` hourly rows of one series from hour `first` of 2020 on."""
    random = np.random.default_rng([seed, *map(ord, str(name))])
    level = 10 * random.normal(size=len(columns))
    table = pd.DataFrame((level + random.normal(size=(count, len(columns)))).round(3), columns=list(columns))
    table.insert(0, "ds", pd.date_range("2020-01-01", periods=first + count, freq=freq)[first:])
    table.insert(0, "unique_id", str(name))
    return table


def unequal(columns=("y",)):
    """Three series that begin and end at different hours, and one too short for validation and test."""
    spans = {"north": (0, 300), "south": (20, 250), "10": (50, 250), "9": (0, 120)}
    return pd.concat([series_of(name, *span, columns=columns) for name, span in spans.items()], ignore_index=True)


def equal(columns=("y",), names=("b", "a", "10", "9")):
    """Four series with the same 200 times."""
    return pd.concat([series_of(name, 0, 200, columns=columns) for name in names], ignore_index=True)


ORDERS = {
    "by id": lambda table: table,
    "by time": lambda table: table.sort_values("ds", kind="stable"),
    "shuffled": lambda table: table.sample(frac=1, random_state=1),
    "ids backwards": lambda table: table.iloc[::-1],
}


def opened(table, tmp_path, ending="csv", name="long", **options):
    """The series of the table, written to a file."""
    path = tmp_path / f"{name}.{ending}"
    if ending == "parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return open_series(str(path), None, tmp_path / "cache", DataOptions(**options))
