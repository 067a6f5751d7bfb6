"""All faults of one file in one answer: what is wrong, where it first is, how often, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from data_pipeline.errors import DataError, DataFaults

MOST_LINES = 10
"""Of an answer, with the line that names the file."""


@dataclass(kw_only=True)
class _Fault:
    text: str
    remedy: str
    row: int | None
    count: int


class Faults:
    """Collects the faults of one file. Those of one kind in one column are told together, at the first row."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._faults: dict[tuple[str, str | None], _Fault] = {}

    def __bool__(self) -> bool:
        return bool(self._faults)

    def add(
        self, kind: str, text: str, remedy: str, *, column: str | None = None, row: int | None = None, count: int = 1
    ) -> None:
        """Add `count` faults of one kind. `row` is the first data row, from 1; None if the fault is of no row.

        `text` says what is wrong at that row, with what was given; `remedy` says what is allowed and what to do.
        """
        known = self._faults.get((kind, column))
        if known is None:
            self._faults[kind, column] = _Fault(text=text, remedy=remedy, row=row, count=count)
        else:
            known.count += count

    def absorb(self, others: Faults) -> None:
        """Add the faults that another reader of the same file found."""
        for key, fault in others._faults.items():
            self._faults.setdefault(key, fault)

    def raise_if_any(self) -> None:
        """Raise DataError for one kind of fault, and DataFaults for several, those of the first rows first."""
        if not self._faults:
            return
        in_order = sorted(self._faults.items(), key=lambda item: item[1].row or 0)
        lines = [_line(column, fault) for (_, column), fault in in_order]
        if len(lines) == 1:
            raise DataError(f"{self.source}: {lines[0]}")
        told = lines if len(lines) < MOST_LINES else lines[: MOST_LINES - 2]
        more = [] if len(told) == len(lines) else [f"and {len(lines) - len(told)} kinds of fault more"]
        raise DataFaults([f"{self.source}: {len(lines)} kinds of fault", *told, *more])


def _line(column: str | None, fault: _Fault) -> str:
    where = [] if fault.row is None else [f"data row {fault.row}"]
    where += [] if column is None else [f"column {column!r}"]
    place = f"{', '.join(where)}: " if where else ""
    more = f" ({fault.count - 1} more of this kind)" if fault.count > 1 else ""
    return f"{place}{fault.text}{more}: {fault.remedy}"
