"""The data of a sweep, prepared before anything starts: downloaded if missing, converted, and checked for windows.

Planning-safe: imports none of torch, transformers, ray, mlflow.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.datasets import FILE_ENDINGS, get_dataset
from data_pipeline.errors import DataError

if TYPE_CHECKING:
    from data_pipeline.series.store import Series
    from tune.config.trial_config import DataConfig


MIB = 2**20
ENDLESS = 10**12  # rows: a split by months takes the same ones of every series that is long enough
Bounds = Mapping[str, Any]  # the rows of each split, as `window_starts` takes them


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What planning knows of the data before it has read them; None where that is not known yet."""

    channels: int | None = None
    bounds: Bounds | None = None
    default_batch: int | None = None  # of the arms that name no batch size; None: not settled, or every arm names one

    def train_windows(self, context_length: int, prediction_length: int) -> int | None:
        """The number of training windows. Raises DataError if a split holds no window."""
        return None if self.bounds is None else count_train_windows(self.bounds, context_length, prediction_length)


UNREAD = DataFacts()


def count_train_windows(bounds: Bounds, context_length: int, prediction_length: int) -> int:
    """The number of training windows. Raises DataError if a split holds no window."""
    from data_pipeline.series.windows import window_starts

    return len(window_starts(bounds, context_length, prediction_length)["train"])  # type: ignore[arg-type]


def facts_by_definition(dataset: str, timestamp_column: str | None = None) -> DataFacts:
    """What the definition of a named data set says, without reading it; nothing of a file.

    Raises DataError for an unknown name, and for a time stamp column that is given for a named data set.
    """
    spec = get_dataset(dataset, timestamp_column)
    if dataset.endswith(FILE_ENDINGS):
        return UNREAD
    return DataFacts(channels=len(spec.columns or ()) or None, bounds=_bounds_by_definition(dataset))


@functools.cache
def _bounds_by_definition(dataset: str) -> Bounds | None:
    """The splits of a data set whose number of rows is published, or whose split does not depend on it."""
    from data_pipeline.series.windows import split_bounds

    spec = get_dataset(dataset)
    if spec.step_minutes is None:
        return None
    rows = len(spec.generate()[0]) if spec.generate is not None else spec.rows
    if spec.split.unit == "months":
        rows = ENDLESS
    return None if rows is None else split_bounds(spec.split, rows, spec.step_minutes)


def cache_dir(storage_path: Path) -> Path:
    """The folder of converted series."""
    return storage_path / "arrow"


def prepare_data(data: DataConfig, *, data_dir: Path, storage_path: Path, quiet: bool) -> Series:
    """The series of `data`, mapped. It is converted once on a node. Raises DataError for anything wrong with it."""
    from data_pipeline.series.store import open_series

    fetch_if_missing(data.dataset, data_dir, quiet=quiet)
    column = data.timestamp_column
    series = open_series(data.dataset, data_dir, cache_dir(storage_path), timestamp_column=column)
    if not quiet:
        for note in series.notes:
            print(f"{data.dataset}: {note}", file=sys.stderr)
    return series


def check_windows(bounds: Bounds, lengths: Iterable[tuple[int, int]]) -> None:
    """Raises DataError if no pair of (context, horizon) fits: a split then holds no window of any trial."""
    problem = None
    for context_length, prediction_length in dict.fromkeys(lengths):
        try:
            count_train_windows(bounds, context_length, prediction_length)
            return
        except DataError as error:
            problem = problem or error
    if problem is not None:
        raise problem


def converted_bounds(data: DataConfig, *, data_dir: Path, storage_path: Path) -> Bounds | None:
    """The splits, if they are known without converting or downloading anything. Raises DataError."""
    from data_pipeline.series.store import known_bounds

    return known_bounds(data.dataset, data_dir, cache_dir(storage_path), timestamp_column=data.timestamp_column)


def channels_of(dataset: str, timestamp_column: str | None) -> int | None:
    """The number of columns of a file, read from its head; None for a named data set, whose definition has it.

    Raises DataError for a missing file, or one whose head is wrong.
    """
    if not dataset.endswith(FILE_ENDINGS):
        return None
    from data_pipeline.series.store import locate
    from data_pipeline.source.readers import open_source

    locate(get_dataset(dataset, timestamp_column), None)
    return len(open_source(Path(dataset), timestamp_column).columns)


def fetch_if_missing(dataset: str, data_dir: Path, *, quiet: bool) -> None:
    """Download a named data set that is not in `data_dir` yet. Raises DataError, for example if offline."""
    from data_pipeline.series.store import locate
    from data_pipeline.source.download import fetch

    spec = get_dataset(dataset)
    if not spec.urls:
        return
    try:
        locate(spec, data_dir)
    except DataError:
        fetch(spec, data_dir, None if quiet else _download_line(spec.file))


def _download_line(file: str) -> Callable[[int, int | None], None]:
    shown = -1

    def progress(done: int, total: int | None) -> None:
        nonlocal shown
        step = done // (10 * MIB) if total is None else 10 * done // max(total, 1)
        if step > shown:
            shown = step
            size = "" if total is None else f" of {total / MIB:.0f}"
            print(f"downloading {file}: {done / MIB:.0f}{size} MiB", file=sys.stderr, flush=True)

    return progress
