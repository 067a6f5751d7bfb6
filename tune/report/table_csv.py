"""A table as CSV: one row a cell, with what a reader needs to cite it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from tune.config.trial_config import as_settings
from tune.report.arms import tag_text
from tune.report.table import Cell, cells, set_by_hand
from tune.tracking.reader import SweepRecord

COLUMNS: dict[str, Callable[[Cell], Any]] = {
    "dataset": lambda cell: cell.dataset,
    "horizon": lambda cell: cell.horizon,
    "preset": lambda cell: cell.preset,
    "seeds": lambda cell: " ".join(cell.done),
    "test_mse": lambda cell: cell.test_mse,
    "test_mse_sd": lambda cell: cell.test_sd,
    "test_mse_low": lambda cell: cell.test_bounds and cell.test_bounds[0],
    "test_mse_high": lambda cell: cell.test_bounds and cell.test_bounds[1],
    "test_mae": lambda cell: cell.test_mae,
    "naive_mse": lambda cell: cell.naive_mse,
    "published_mse": lambda cell: cell.published,
    "tfb_mse": lambda cell: cell.tfb,
    "val_mse": lambda cell: cell.val_mse,
    "epochs": lambda cell: cell.epochs,
    "train_s": lambda cell: cell.train_s,
    "commit": lambda cell: " then ".join(cell.commits),
    "cell": lambda cell: cell.name,
    "not_run": lambda cell: cell.not_run,
}


def table_csv(record: SweepRecord) -> str:
    """A head and one row for each cell; a value that is not known is empty. Errors are of standardised values.

    Columns test_mse_low and _high are the 95 % t interval of the mean over seeds; train_s is of trials that share a
    GPU. The last columns name the sweep, the device, and the fields that were set by hand for all cells.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "sweep_id", "device", "set"])
    changed = as_settings(set_by_hand(record))
    for cell in cells(record):
        values = [_written(value(cell)) for value in COLUMNS.values()]
        writer.writerow([*values, record.sweep_id, tag_text(record, "device"), changed])
    return text.getvalue()


def _written(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
