"""The data of a sweep, prepared before anything starts: downloaded if missing, converted, and checked for windows.

Planning-safe: imports none of torch, transformers, ray, mlflow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.datasets import get_dataset, is_path
from data_pipeline.errors import DataError

if TYPE_CHECKING:
    from data_pipeline.options import DataOptions
    from data_pipeline.series.store import Series
    from tune.config.trial_config import DataConfig


MIB = 2**20


def cache_dir(storage_path: Path) -> Path:
    """The folder of converted series."""
    return storage_path / "arrow"


def prepare_data(data: DataConfig, *, data_dir: Path, storage_path: Path, quiet: bool) -> Series:
    """The series of `data`, mapped. It is converted once on a node.

    Raises DataError for anything wrong with the source, and if a split holds no window.
    """
    from data_pipeline.series.store import open_series
    from data_pipeline.series.windows import window_starts

    fetch_if_missing(data.dataset, data_dir, quiet=quiet)
    series = open_series(data.dataset, data_dir, cache_dir(storage_path), data.options)
    window_starts(series.every_bounds, data.context_length, data.prediction_length, series.apart)
    return series


def check_windows(data: DataConfig, *, data_dir: Path, storage_path: Path) -> bool:
    """Whether the number of rows is known without converting or downloading anything.

    Raises DataError if it is known and a split holds no window.
    """
    from data_pipeline.series.store import known_bounds
    from data_pipeline.series.windows import window_starts

    bounds = known_bounds(data.dataset, data_dir, cache_dir(storage_path), data.options)
    if bounds is not None:
        window_starts(bounds, data.context_length, data.prediction_length)
    return bounds is not None


def known_data(data: DataConfig, *, data_dir: Path, storage_path: Path) -> Series | None:
    """The series, if it is known without converting or downloading anything. Raises DataError for an unknown name."""
    from data_pipeline.series.store import known_series

    return known_series(data.dataset, data_dir, cache_dir(storage_path), data.options)


def channels_of(dataset: str, options: DataOptions) -> int | None:
    """The number of columns of a file, read from its head; None for a named data set, whose definition has it.

    Raises DataError for a missing file, or one whose head is wrong.
    """
    if not is_path(dataset):
        return None
    from data_pipeline.series.store import locate
    from data_pipeline.source.readers import open_source

    locate(get_dataset(dataset, options), None)
    return len(open_source(Path(dataset), options).columns)


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
