"""What a series holds, and whether its splits resemble each other: for `data show NAME`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.series.steps import Step
from data_pipeline.series.store import Series, open_series
from data_pipeline.series.windows import window_starts

BLOCK_ROWS = 8192
SHOWN_CHANNELS = 12


@dataclass(frozen=True, kw_only=True)
class SplitDescription:
    """One split of a series."""

    name: str
    rows: int
    first: str
    """Time of the first row, ISO 8601."""
    last: str
    windows: int
    """0 if the split is too short for one."""
    mean_shift: tuple[float, ...]
    """Per channel: (mean of the split - mean of train) / standard deviation of train."""
    std_ratio: tuple[float, ...]
    """Per channel: standard deviation of the split / that of train."""


@dataclass(frozen=True, kw_only=True)
class ChannelDescription:
    """One column, in the units of the source."""

    name: str
    minimum: float
    maximum: float
    mean: float
    """Of the training rows."""
    std: float
    """Of the training rows; 1 if the channel is constant there."""
    constant: bool
    """Over all rows."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """A series as training sees it."""

    name: str
    source_sha256: str
    rows: int
    step: Step
    first: str
    last: str
    gaps: int
    """Places where rows are missing."""
    missing_rows: int
    duplicates: int
    """Repeated times; always 0, because conversion refuses a file with any."""
    missing_values: int
    """NaN or infinite cells; always 0, because conversion refuses a file with any."""
    unused_rows: int
    """Rows that belong to no split."""
    context_length: int
    prediction_length: int
    channels: tuple[ChannelDescription, ...]
    splits: tuple[SplitDescription, ...]
    notes: tuple[str, ...]
    problem: str | None
    """Why there are no windows, else None."""


def describe(
    name: str,
    data_dir: Path | None,
    cache_dir: Path,
    context_length: int,
    prediction_length: int,
    options: DataOptions = DEFAULTS,
) -> Description:
    """Measure the series `name`. Raises DataError if it cannot be opened."""
    series = open_series(name, data_dir, cache_dir, options)
    problem = None
    windows = dict.fromkeys(series.bounds, 0)
    try:
        starts = window_starts(series.bounds, context_length, prediction_length)
        windows = {split: len(rows) for split, rows in starts.items()}
    except DataError as error:
        problem = str(error)
    jumps = np.diff(series.step.positions(series.timestamps.view(np.int64)))
    moments = _Moments(series.values)
    return Description(
        name=series.name,
        source_sha256=series.source_sha256,
        rows=len(series.values),
        step=series.step,
        first=_time(series, 0),
        last=_time(series, -1),
        gaps=int((jumps > 1).sum()),
        missing_rows=int((jumps - 1).clip(min=0).sum()),
        duplicates=int((jumps == 0).sum()),
        missing_values=moments.not_finite,
        unused_rows=len(series.values) - series.bounds["test"][1],
        context_length=context_length,
        prediction_length=prediction_length,
        channels=tuple(
            ChannelDescription(
                name=column,
                minimum=float(moments.minimum[index]),
                maximum=float(moments.maximum[index]),
                mean=float(series.mean[index]),
                std=float(series.std[index]),
                constant=bool(moments.minimum[index] == moments.maximum[index]),
            )
            for index, column in enumerate(series.columns)
        ),
        splits=tuple(_split(series, split, windows[split]) for split in series.bounds),
        notes=series.notes,
        problem=problem,
    )


def _split(series: Series, split: str, windows: int) -> SplitDescription:
    start, stop = series.bounds[split]
    moments = _Moments(series.scaled[start:stop])
    return SplitDescription(
        name=split,
        rows=stop - start,
        first=_time(series, start),
        last=_time(series, stop - 1),
        windows=windows,
        mean_shift=tuple(moments.mean.tolist()),
        std_ratio=tuple(moments.std.tolist()),
    )


class _Moments:
    """Range, mean and standard deviation [C] of rows [T, C], read in blocks."""

    def __init__(self, rows: np.ndarray) -> None:
        def blocks() -> Iterator[np.ndarray]:
            for row in range(0, len(rows), BLOCK_ROWS):
                yield rows[row : row + BLOCK_ROWS].astype(np.float64)

        self.minimum = np.min([block.min(axis=0) for block in blocks()], axis=0)
        self.maximum = np.max([block.max(axis=0) for block in blocks()], axis=0)
        self.mean = np.sum([block.sum(axis=0) for block in blocks()], axis=0) / len(rows)
        squares = np.sum([np.square(block - self.mean).sum(axis=0) for block in blocks()], axis=0)
        self.std = np.sqrt(squares / len(rows))
        self.not_finite = sum(int((~np.isfinite(block)).sum()) for block in blocks())


def render(description: Description) -> str:
    """The description as lines of text for a terminal."""
    gaps = f"{description.gaps} gaps ({description.missing_rows} rows missing)" if description.gaps else "no gaps"
    lines = [
        f"{description.name}: {description.rows:,} rows x {len(description.channels)} channels, one row per "
        f"{description.step.text}",
        f"from {description.first} to {description.last}; {gaps}, {description.duplicates} duplicate times, "
        f"{description.missing_values} missing values; {description.unused_rows:,} rows in no split",
        f"sha256 of the source {description.source_sha256}",
        *(f"note: {note}" for note in description.notes),
        "",
        f"{'split':12}{'rows':>9}{'windows':>9}  {'from':20}{'to':20}{'mean shift':>12}{'std ratio':>14}",
        *(_split_line(split) for split in description.splits),
        f"windows of {description.context_length} + {description.prediction_length} rows; mean shift: largest of any "
        "channel, in standard deviations of train; std ratio: smallest to largest",
        *([f"problem: {description.problem}"] if description.problem else []),
        "",
        f"{'channel':16}{'minimum':>12}{'maximum':>12}{'train mean':>12}{'train std':>12}",
        *(_channel_line(channel) for channel in description.channels[:SHOWN_CHANNELS]),
    ]
    if len(description.channels) > SHOWN_CHANNELS:
        lines.append(f"... and {len(description.channels) - SHOWN_CHANNELS} channels more")
    return "\n".join(lines)


def _split_line(split: SplitDescription) -> str:
    shift = max(split.mean_shift, key=abs)
    ratio = f"{min(split.std_ratio):.2f} to {max(split.std_ratio):.2f}"
    return f"{split.name:12}{split.rows:9,}{split.windows:9,}  {split.first:20}{split.last:20}{shift:+12.2f}{ratio:>14}"


def _channel_line(channel: ChannelDescription) -> str:
    constant = "  constant" if channel.constant else ""
    return (
        f"{channel.name[:15]:16}{channel.minimum:12.5g}{channel.maximum:12.5g}{channel.mean:12.5g}{channel.std:12.5g}"
        f"{constant}"
    )


def _time(series: Series, row: int) -> str:
    return str(series.timestamps[row].astype("datetime64[s]"))
