"""The data of a sweep, prepared before anything starts: downloaded if missing, converted, and checked for windows.

Planning-safe: imports none of torch, transformers, ray, mlflow.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.datasets import get_dataset, is_path
from data_pipeline.errors import DataError
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.split_rule import parse_split

if TYPE_CHECKING:
    from data_pipeline.series.store import Series
    from data_pipeline.series.windows import Bounds
    from tune.config.trial_config import DataConfig


MIB = 2**20
ENDLESS = 10**12  # rows: a split by months takes the same ones of every series that is long enough


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """The rows of each split, from which its number of windows follows."""

    every: tuple[Bounds, ...]  # of each series in the data
    apart: tuple[str, ...] = ()  # splits whose windows do not reach back into the split before

    @classmethod
    def of(cls, series: Series) -> SplitRows:
        """Those of a converted series."""
        return cls(every=series.every_bounds, apart=series.apart)

    @property
    def total(self) -> int:
        """Rows of all series."""
        spans = (zip(*bounds.values(), strict=True) for bounds in self.every)
        return sum(max(ends) - min(begins) for begins, ends in spans)

    def train_windows(self, context_length: int, prediction_length: int) -> int:
        """The number of training windows. Raises DataError if a split holds no window."""
        from data_pipeline.series.windows import window_starts

        return len(window_starts(self.every, context_length, prediction_length, self.apart)["train"])


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What planning knows of the data before it has read them; None where that is not known yet."""

    channels: int | None = None
    rows: SplitRows | None = None
    default_batch: int | None = None  # of the arms that name no batch size; None: not settled, or every arm names one

    def train_windows(self, context_length: int, prediction_length: int) -> int | None:
        """The number of training windows. Raises DataError if a split holds no window."""
        return None if self.rows is None else self.rows.train_windows(context_length, prediction_length)


UNREAD = DataFacts()


def facts_by_definition(dataset: str, options: DataOptions = DEFAULTS) -> DataFacts:
    """What the definition of a named data set says, without reading it; nothing of a file.

    Raises DataError for an unknown name, and for options that a named data set does not take.
    """
    spec = get_dataset(dataset, options)
    if is_path(dataset):
        return UNREAD
    return DataFacts(channels=len(spec.columns or ()) or None, rows=_rows_by_definition(spec.name, options))


@functools.cache
def _rows_by_definition(dataset: str, options: DataOptions) -> SplitRows | None:
    """The splits of a data set whose number of rows is published, or whose split does not depend on it."""
    from data_pipeline.series.splits import split_bounds
    from data_pipeline.series.steps import MICROSECONDS_PER_MINUTE, FixedStep

    spec = get_dataset(dataset, options)
    if spec.step_minutes is None:
        return None
    rows = len(spec.generate()[0]) if spec.generate is not None else spec.rows
    if spec.split.unit == "months":
        rows = ENDLESS
    if rows is None or spec.split.unit not in ("months", "fraction"):
        return None
    step = FixedStep(step_us=round(MICROSECONDS_PER_MINUTE * spec.step_minutes))
    return SplitRows(every=(split_bounds(spec.split, rows, step),))


def file_fields(data: DataConfig) -> dict[str, str]:
    """The fields of `data` that hold paths of files, whose content is what counts; none for a named data set."""
    if not is_path(data.dataset):
        return {}
    split = data.split
    files = {} if split is None or parse_split(split).files is None else {"split": split}
    return {"dataset": data.dataset, **files}


def cache_dir(storage_path: Path) -> Path:
    """The folder of converted series."""
    return storage_path / "arrow"


def prepare_data(data: DataConfig, *, data_dir: Path, storage_path: Path, quiet: bool) -> Series:
    """The series of `data`, mapped. It is converted once on a node. Raises DataError for anything wrong with it."""
    from data_pipeline.series.store import open_series

    fetch_if_missing(data.dataset, data_dir, quiet=quiet)
    return open_series(data.dataset, data_dir, cache_dir(storage_path), data.options)


def check_windows(rows: SplitRows, lengths: Iterable[tuple[int, int]]) -> None:
    """Raises DataError if no pair of (context, horizon) fits: a split then holds no window of any trial."""
    problem = None
    for context_length, prediction_length in dict.fromkeys(lengths):
        try:
            rows.train_windows(context_length, prediction_length)
            return
        except DataError as error:
            problem = problem or error
    if problem is not None:
        raise problem


def converted_rows(data: DataConfig, *, data_dir: Path, storage_path: Path) -> SplitRows | None:
    """The rows of the splits, if they are known without converting or downloading anything. Raises DataError."""
    series = known_data(data, data_dir=data_dir, storage_path=storage_path)
    return None if series is None else SplitRows.of(series)


def known_data(data: DataConfig, *, data_dir: Path, storage_path: Path) -> Series | None:
    """The series, if it is known without converting or downloading anything. Raises DataError for an unknown name."""
    from data_pipeline.series.store import known_series

    return known_series(data.dataset, data_dir, cache_dir(storage_path), data.options)


def channels_of(dataset: str, options: DataOptions) -> int | None:
    """The number of columns of a file, read from its head; None for a named data set, whose definition has it, and
    for a long format, of which only all rows tell.

    Raises DataError for a missing file, or one whose head is wrong.
    """
    if not is_path(dataset):
        return None
    from data_pipeline.series.store import locate
    from data_pipeline.source.readers import open_source

    locate(get_dataset(dataset, options), None)
    source = open_source(Path(dataset), options)
    return None if source.id_column else len(source.columns)  # a long format may become a column for each series


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
