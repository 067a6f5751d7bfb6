"""Where the windows of each split start: pure arithmetic on integers.

A window is `context_length` past rows followed by `prediction_length` future rows. A split owns the windows whose
future rows lie in it. The context of validation and test windows may reach back into the split before. No window
reaches across the border between two series of a file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from data_pipeline.errors import DataError

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "validation", "test")
Bounds = Mapping[str, tuple[int, int]]
"""Rows [start, stop) of each split of one series. The first row of train is the first of the series."""


@dataclass(frozen=True, kw_only=True)
class WindowStarts:
    """The first context rows of the windows of one split: those of the first series in time order, then the next's."""

    firsts: tuple[int, ...]
    """The first window's first row, for each series."""
    counts: tuple[int, ...]
    """How many windows each series has; 0 if it is too short for one."""

    def __len__(self) -> int:
        return sum(self.counts)

    def at(self, windows: np.ndarray) -> np.ndarray:
        """First rows [n] int64 of the windows with these numbers [n], each of [0, len)."""
        import numpy as np

        stops = self._stops()
        series = np.searchsorted(stops, windows, side="right")
        return np.asarray(self.firsts, np.int64)[series] + windows - (stops - np.asarray(self.counts))[series]

    def series_of(self, windows: np.ndarray) -> np.ndarray:
        """The number [n] int64 of the series that each of these windows [n] belongs to."""
        import numpy as np

        return np.searchsorted(self._stops(), windows, side="right").astype(np.int64)

    def _stops(self) -> np.ndarray:
        import numpy as np

        return np.array(list(accumulate(self.counts)), np.int64)


def window_starts(
    bounds: Bounds | Sequence[Bounds], context_length: int, prediction_length: int, apart: Collection[str] = ()
) -> dict[str, WindowStarts]:
    """Where the windows of each split start. `bounds` are those of one series, or of every series of a file.

    Windows of the splits `apart` do not reach back into the split before. A series that is too short for a window of a
    split has none in it. Raises DataError if a length is below 1, or if no series has a window in a split.
    """
    for name, value in (("context_length", context_length), ("prediction_length", prediction_length)):
        if value < 1:
            raise DataError(f"{name} is {value}: give at least 1")
    every = [bounds] if isinstance(bounds, Mapping) else list(bounds)
    return {split: _starts(split, every, context_length, prediction_length, split in apart) for split in every[0]}


def _starts(
    split: str, every: Sequence[Bounds], context_length: int, prediction_length: int, apart: bool
) -> WindowStarts:
    firsts, counts = [], []
    for bounds in every:
        first, stop = bounds[split]
        look_back = 0 if split == "train" or apart else min(context_length, first - bounds["train"][0])
        firsts.append(first - look_back)
        counts.append(max(0, stop - context_length - prediction_length + 1 - firsts[-1]))
    if not any(counts):
        longest = max(every, key=lambda bounds: bounds[split][1] - bounds[split][0])
        first, stop = longest[split]
        look_back = 0 if split == "train" or apart else min(context_length, first - longest["train"][0])
        which = "it has" if len(every) == 1 else f"the longest of its {len(every)} series has"
        raise DataError(
            f"the {split} split holds no window: {which} {stop - first} rows (and {look_back} before it), a window "
            f"needs {context_length} + {prediction_length}: use a shorter context or horizon, or a longer series"
        )
    return WindowStarts(firsts=tuple(firsts), counts=tuple(counts))
