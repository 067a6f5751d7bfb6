"""The rows of each split, and where its windows start: pure arithmetic on integers.

A window is `context_length` past rows followed by `prediction_length` future rows. A split owns the windows whose
future rows lie in it. The context of validation and test windows may reach back into the split before.
"""

from __future__ import annotations

from data_pipeline.datasets import SplitRule
from data_pipeline.errors import DataError

SPLITS = ("train", "validation", "test")


def split_bounds(rule: SplitRule, n_rows: int, step_minutes: float | None) -> dict[str, tuple[int, int]]:
    """Rows [start, stop) of each split.

    Months are 30 days long (the convention of the ETT papers), and later rows belong to no split. Fractions are rounded
    down for train and test, and validation gets the rest.

    Raises DataError if `n_rows` is too small for the rule.
    """
    if rule.unit == "months":
        if step_minutes is None:
            raise DataError("a split by months of 30 days needs a step of fixed minutes: split by fractions or dates")
        rows_per_month = 30 * 24 * 60 / step_minutes
        train, validation, test = (round(months * rows_per_month) for months in rule.parts)
        if n_rows < train + validation + test:
            raise DataError(
                f"{n_rows} rows given, but a split of {_slashes(rule)} months needs {train + validation + test} "
                f"at one row per {step_minutes:g} min: use the complete file"
            )
    else:
        train, test = int(rule.parts[0] * n_rows), int(rule.parts[2] * n_rows)
        validation = n_rows - train - test
        if min(train, validation, test) < 1:
            raise DataError(f"{n_rows} rows given, too few to split {_slashes(rule)}: give at least 10")
    return {
        "train": (0, train),
        "validation": (train, train + validation),
        "test": (train + validation, train + validation + test),
    }


def window_starts(bounds: dict[str, tuple[int, int]], context_length: int, prediction_length: int) -> dict[str, range]:
    """The first context row of every window of each split, in time order.

    Raises DataError if a length is below 1, or if a split holds no window.
    """
    for name, value in (("context_length", context_length), ("prediction_length", prediction_length)):
        if value < 1:
            raise DataError(f"{name} is {value}: give at least 1")
    starts = {}
    for split, (first, stop) in bounds.items():
        look_back = 0 if split == "train" else min(context_length, first)
        starts[split] = range(first - look_back, stop - context_length - prediction_length + 1)
        if not starts[split]:
            raise DataError(
                f"the {split} split holds no window: it has {stop - first} rows (and {look_back} before it), a window "
                f"needs {context_length} + {prediction_length}: use a shorter context or horizon, or a longer series"
            )
    return starts


def _slashes(rule: SplitRule) -> str:
    return "/".join(f"{part:g}" for part in rule.parts)
