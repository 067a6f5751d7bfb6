"""A trial's test errors for each series of its file: all of them as a table, the best and the worst as a tag."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tune.measure.accuracy import ForecastErrors

FILE = "series_errors.csv"
TAG = "series_errors"
SHOWN = 5
"""Of the best and of the worst series in the tag."""
ID_LETTERS = 60


def write_table(folder: Path, errors: ForecastErrors, ids: Sequence[str | None]) -> None:
    """Write FILE into `folder`: id, windows, mse and mae (standardised units) of each series that has a window."""
    with open(folder / FILE, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "windows", "mse", "mae"])
        writer.writerows([ids[of.series], of.windows, of.mse, of.mae] for of in errors.by_series)


def as_tag(errors: ForecastErrors, ids: Sequence[str | None]) -> str | None:
    """The text of TAG, for `read_tag`; None if the file holds one series. It is bounded, however many there are."""
    if not errors.by_series:
        return None
    ranked = sorted(errors.by_series, key=lambda of: (-of.mse, of.series))
    shown = ranked if len(ranked) <= 2 * SHOWN else [*ranked[:SHOWN], *ranked[-SHOWN:]]
    content = {
        "series": len(ids),
        "with_windows": len(ranked),
        "shown": [[(ids[of.series] or "")[:ID_LETTERS], of.windows, of.mse, of.mae] for of in shown],
    }
    return json.dumps(content)


def read_tag(text: str | None) -> dict[str, Any] | None:
    """What `as_tag` wrote, with a dict for each series shown, the worst first; None for anything else."""
    try:
        content = json.loads(text or "")
        shown = [dict(zip(("id", "windows", "mse", "mae"), row, strict=True)) for row in content["shown"]]
        return {**content, "shown": shown}
    except (ValueError, KeyError, TypeError):
        return None
