"""Standardises a series by the mean and deviation of its training rows.

Shapes: n rows, C columns.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.series.arrow_file import Scratch


def train_statistics(scratch: Scratch, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation [C] float64 of the training rows [start, stop), in two passes over blocks.

    Both sum differences to the first row, so a constant column has a deviation of exactly 0.
    """
    first = scratch.array("values", start, start + 1)[0].astype(np.float64)
    rows = stop - start
    shift = sum((block - first).sum(axis=0) for block in scratch.values(start, stop)) / rows
    squares = sum(np.square(block - first - shift).sum(axis=0) for block in scratch.values(start, stop))
    return first + shift, np.sqrt(squares / rows)


def scale(label: str, columns: tuple[str, ...], values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(values - mean) / std [n, C], computed in float64, rounded once to float32. Raises DataError for an overflow."""
    with np.errstate(over="ignore"):
        scaled = ((values - mean) / std).astype(np.float32)
    finite = np.isfinite(scaled).all(axis=0)
    if not finite.all():
        name = columns[int(np.argmin(finite))]
        raise DataError(
            f"{label}: column {name!r} varies so little over the training rows that standardised later values overflow "
            "32-bit floats: drop it or rescale it"
        )
    return scaled
