"""Columns of values that count the rows: they stay, and a note names them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_pipeline.source.columns import Column, Roles


class Counters:
    """Follows the columns that count in the first rows."""

    def __init__(self, roles: Roles) -> None:
        self._found: dict[int, tuple[Column, float]] = {
            roles.values.index(column): (column, float(column.texts[0])) for column in roles.counters
            if column in roles.values
        }  # fmt: skip

    def add(self, exact: np.ndarray, done: int) -> None:
        """Add values [n, C] that follow `done` rows."""
        for at, (_, start) in list(self._found.items()):
            if not np.array_equal(exact[:, at], np.arange(start + done, start + done + len(exact))):
                del self._found[at]

    def notes(self) -> Iterator[str]:
        """The columns that count in all rows."""
        for column, _ in self._found.values():
            yield f"column {column.name!r} counts the rows; --set data.ignore={column.name} leaves it out"
