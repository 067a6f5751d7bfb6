"""Plain tables for a terminal."""

from __future__ import annotations

from typing import Any

from tune.common.errors import printable


def table(columns: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """Lines of a plain table. None is an empty cell.

    Control characters are removed: in jobs and sweeps of a shared store they are anybody's.
    """
    texts = [columns, *(["" if row[name] is None else printable(str(row[name])) for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in texts) for index in range(len(columns))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in texts]
