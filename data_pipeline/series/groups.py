"""The series of one file: which rows are whose, and what each is scaled by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.series.windows import Bounds, WindowStarts

SHOWN = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """One series of a file. A file in wide format, or whose series were put side by side, is one group."""

    id: str | None
    """Its name in the id column; None if the file holds no others."""
    rows: tuple[int, int]
    """Its rows [start, stop) in the file's arrays."""
    bounds: Bounds
    """Rows [start, stop) of train, validation and test, in the file's arrays."""
    mean: np.ndarray
    """[C] float64, of its training rows."""
    std: np.ndarray
    """[C] float64, population standard deviation of its training rows; 1 for a column that is constant there."""

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "id": self.id,
            "rows": list(self.rows),
            "bounds": {split: list(rows) for split, rows in self.bounds.items()},
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Group:
        """The group that `as_json` wrote."""
        return Group(
            id=content["id"],
            rows=(int(content["rows"][0]), int(content["rows"][1])),
            bounds={split: (int(start), int(stop)) for split, (start, stop) in content["bounds"].items()},
            mean=np.array(content["mean"]),
            std=np.array(content["std"]),
        )


def left_out(groups: Sequence[Group], starts: Mapping[str, WindowStarts]) -> list[str]:
    """A line for each split in which some series have no window: how many, and which."""
    lines = []
    for split, windows in starts.items():
        short = [group.id or "" for group, count in zip(groups, windows.counts, strict=True) if not count]
        if short:
            lines.append(f"{len(short)} of {len(groups)} series are too short for a window of {split}, and left out "
                         f"of it: {few(short)}")  # fmt: skip
    return lines


def few(names: Sequence[str], shown: int = SHOWN) -> str:
    """At most `shown` of the names, and how many there are if there are more."""
    text = ", ".join(names[:shown])
    return text if len(names) <= shown else f"{text}, ... ({len(names)})"
