"""How the rows of a series are divided into train, validation and test: the rule, as a data set or a user gives it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from data_pipeline.errors import DataError

FORMS = (
    "write fractions that sum to 1 (0.7/0.1/0.2), the first dates of validation and test (2021-06-01/2021-09-01), or "
    "the files of validation and test beside the one of train (val.csv,test.csv)"
)
SUM_TOLERANCE = 1e-3
"""Thirds are written 0.333/0.333/0.333."""


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How rows are divided, in time order, into train, validation and test."""

    unit: Literal["months", "fraction", "dates", "files"]
    """Months of 30 days, fractions of all rows, the first times of validation and test, or a file for each."""
    parts: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of months and fractions: train, validation, test, in that unit."""
    dates: tuple[str, str] | None = None
    """The first times of validation and test, ISO 8601, on the clock of the source."""
    files: tuple[str, str] | None = None
    """The paths of validation and test. The data set's own file is train."""

    @property
    def text(self) -> str:
        """The rule in a few words."""
        if self.dates is not None:
            return f"validation from {self.dates[0]}, test from {self.dates[1]}"
        if self.files is not None:
            return f"a file for each: validation {self.files[0]}, test {self.files[1]}"
        parts = "/".join(f"{part:g}" for part in self.parts)
        return f"{parts} months of 30 days" if self.unit == "months" else f"{parts} of all rows"


def parse_split(text: str) -> SplitRule:
    """The rule that a user writes as `data.split`. Raises DataError for anything else."""
    given = [part.strip() for part in text.split("/")]
    if "," in text:
        return _files(text)
    if len(given) == 3 and all(_number(part) is not None for part in given):
        train, validation, test = (float(part) for part in given)
        if not (min(train, validation, test) > 0 and abs(train + validation + test - 1) <= SUM_TOLERANCE):
            raise DataError(
                f"data.split={text}: the fractions sum to {train + validation + test:g} and the smallest is "
                f"{min(train, validation, test):g}; give three above 0 that sum to 1, as 0.7/0.1/0.2"
            )
        return SplitRule(unit="fraction", parts=(train, validation, test))
    if len(given) == 2 and all(_date(part) is not None for part in given):
        return _dates(text, given[0], given[1])
    raise DataError(f"data.split={text}: {FORMS}")


def checked_split(text: str | None) -> str | None:
    """`text`, if it is None or a rule. Raises DataError otherwise."""
    if text is not None:
        parse_split(text)
    return text


def with_absolute_files(text: str, folder: Path) -> str:
    """The rule `text` with the paths of its files made absolute from `folder`. Raises DataError for no rule."""
    files = parse_split(text).files
    return text if files is None else ",".join(str(folder.absolute() / Path(file).expanduser()) for file in files)


def _dates(text: str, validation: str, test: str) -> SplitRule:
    first, second = _date(validation), _date(test)
    assert first is not None and second is not None
    if first.tzinfo is not None or second.tzinfo is not None:
        raise DataError(f"data.split={text}: write the times without a zone, as the clock of the file shows them")
    if first >= second:
        raise DataError(f"data.split={text}: test begins at {test}, not after validation: give two dates in time order")
    return SplitRule(unit="dates", dates=(validation, test))


def _files(text: str) -> SplitRule:
    files = [part.strip() for part in text.split(",")]
    if len(files) != 2 or "" in files or files[0] == files[1]:
        raise DataError(
            f"data.split={text}: give two files, validation and test; the file of the data set itself is train"
        )
    return SplitRule(unit="files", files=(files[0], files[1]))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _date(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
