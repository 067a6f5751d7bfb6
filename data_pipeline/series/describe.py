"""What a series holds, and whether its splits resemble each other: for `data show NAME`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.series.protocol import Protocol, how_lines, protocol_of, shown_time
from data_pipeline.series.steps import Step, step_words
from data_pipeline.series.store import Series, open_series
from data_pipeline.series.windows import SPLITS, window_starts

BLOCK_ROWS = 8192
SHOWN_CHANNELS = 12


@dataclass(frozen=True, kw_only=True)
class SplitDescription:
    """One split of a series."""

    name: str
    rows: int
    first: str
    """Time of the first row, ISO 8601, on the clock of the source; its number if there are no times."""
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
    protocol: Protocol
    """How the series was read, split and scaled."""
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
    windows = dict.fromkeys(SPLITS, 0)
    protocol = protocol_of(series, [(context_length, prediction_length)])
    try:
        starts = window_starts(series.every_bounds, context_length, prediction_length, series.apart)
        windows = {split: len(rows) for split, rows in starts.items()}
    except DataError as error:
        problem = str(error)
    times = series.timestamps.view(np.int64)
    jumps = np.concatenate([np.diff(series.step.positions(times[slice(*span)])) for span in series.spans])
    moments = _Moments([series.values])
    mean, std = _train_scaling(series)
    splits = tuple(_split(series, split, windows[split], protocol) for split in SPLITS)
    return Description(
        name=series.name,
        source_sha256=series.source_sha256,
        rows=len(series.values),
        step=series.step,
        first=shown_time(series, int(series.timestamps.argmin())),
        last=shown_time(series, int(series.timestamps.argmax())),
        gaps=int((jumps > 1).sum()),
        missing_rows=int((jumps - 1).clip(min=0).sum()),
        duplicates=int((jumps == 0).sum()),
        missing_values=moments.not_finite,
        unused_rows=len(series.values) - sum(split.rows for split in splits),
        context_length=context_length,
        prediction_length=prediction_length,
        channels=tuple(
            ChannelDescription(
                name=column,
                minimum=float(moments.minimum[index]),
                maximum=float(moments.maximum[index]),
                mean=float(mean[index]),
                std=float(std[index]),
                constant=bool(moments.minimum[index] == moments.maximum[index]),
            )
            for index, column in enumerate(series.columns)
        ),
        splits=splits,
        notes=tuple(protocol["notes"]),
        protocol=protocol,
        problem=problem,
    )


def _split(series: Series, split: str, windows: int, protocol: Protocol) -> SplitDescription:
    moments = _Moments(_rows(series, series.scaled, split))
    part = protocol["split"]["parts"][split]
    return SplitDescription(
        name=split,
        rows=part["rows"],
        first=part["first"],
        last=part["last"],
        windows=windows,
        mean_shift=tuple(moments.mean.tolist()),
        std_ratio=tuple(moments.std.tolist()),
    )


def _train_scaling(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [C] of the training rows; of several groups, of all their rows together."""
    if len(series.groups) == 1:
        return series.mean, series.std
    moments = _Moments(_rows(series, series.values, "train"))
    return moments.mean, moments.std


def _rows(series: Series, array: np.ndarray, split: str) -> list[np.ndarray]:
    """The rows of a split, for each group that has some."""
    spans = [bounds[split] for bounds in series.every_bounds]
    return [array[start:stop] for start, stop in spans if start < stop]


class _Moments:
    """Range, mean and standard deviation [C] of all rows of `parts`, each [n, C], read in blocks."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        def blocks() -> Iterator[np.ndarray]:
            for rows in parts:
                for row in range(0, len(rows), BLOCK_ROWS):
                    yield rows[row : row + BLOCK_ROWS].astype(np.float64)

        count = sum(len(rows) for rows in parts)

        self.minimum = np.min([block.min(axis=0) for block in blocks()], axis=0)
        self.maximum = np.max([block.max(axis=0) for block in blocks()], axis=0)
        self.mean = np.sum([block.sum(axis=0) for block in blocks()], axis=0) / count
        squares = np.sum([np.square(block - self.mean).sum(axis=0) for block in blocks()], axis=0)
        self.std = np.sqrt(squares / count)
        self.not_finite = sum(int((~np.isfinite(block)).sum()) for block in blocks())


def render(description: Description) -> str:
    """The description as lines of text for a terminal."""
    gaps = f"{description.gaps} gaps ({description.missing_rows} rows missing)" if description.gaps else "no gaps"
    lines = [
        f"{description.name}: {description.rows:,} rows x {len(description.channels)} channels, "
        f"{step_words(description.step.text)}",
        f"from {description.first} to {description.last}; {gaps}, {description.duplicates} duplicate times, "
        f"{description.missing_values} missing values; {description.unused_rows:,} rows in no split",
        f"sha256 of the source {description.source_sha256}",
        *how_lines(description.protocol),
        "",
        f"{'split':12}{'rows':>9}{'windows':>9}  {'from':26} {'to':26} {'mean shift':>12}{'std ratio':>14}",
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
    return (
        f"{split.name:12}{split.rows:9,}{split.windows:9,}  {split.first:26} {split.last:26} {shift:+12.2f}{ratio:>14}"
    )


def _channel_line(channel: ChannelDescription) -> str:
    constant = "  constant" if channel.constant else ""
    return (
        f"{channel.name[:15]:16}{channel.minimum:12.5g}{channel.maximum:12.5g}{channel.mean:12.5g}{channel.std:12.5g}"
        f"{constant}"
    )
