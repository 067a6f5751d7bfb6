"""What a trial reports: an `EpochReport` after each epoch, and one `TrialEnd`.

Both are objects everywhere but in Ray Tune, which wants plain dicts: `as_result` makes one, `from_result` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """One epoch. Its folder is a checkpoint."""

    epoch: int  # from 1
    metrics: Mapping[str, float | None]  # by MLflow name
    tags: Mapping[str, str]  # of the trial so far: this may be its last report


@dataclass(frozen=True, kw_only=True)
class TrialEnd:
    """How a trial ended.

    Its folder, if any, holds the best model under `model/`, raw samples under `samples/`, and forecasts of the test set
    under `forecasts/` if the job asks for them.
    """

    status: str  # done, failed, oom, nan, stopped, failed_gate or unsupported
    reason: str | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # by MLflow name
    tags: Mapping[str, str] = field(default_factory=dict)


Report = EpochReport | TrialEnd
Reporter = Callable[[Report, Path | None], None]  # is given a report and the folder that comes with it


def as_result(report: Report) -> dict[str, Any]:
    """`report` in plain values, as Ray Tune takes a result."""
    return dict(vars(report))


def from_result(result: Mapping[str, Any]) -> Report | None:
    """The report in a result of Ray Tune, which adds keys of its own; None if there is none."""
    common: dict[str, Any] = {"metrics": result.get("metrics", {}), "tags": result.get("tags", {})}
    if "status" in result:
        return TrialEnd(status=result["status"], reason=result["reason"], **common)
    if "epoch" in result:
        return EpochReport(epoch=result["epoch"], **common)
    return None
