"""What a search found before its final: the shapes that no other one beats in both error and time.

Errors are of one seed, times of probes of some hundred steps; no verdict is drawn from either. Sweeps of earlier
versions have no probes: there is nothing to show of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tune.common.words import counted
from tune.report.work import EPOCH
from tune.tracking.reader import SweepRecord, TrialRecord

TAG = "search"  # of the sweep's run: what the search did, as the driver's `account` writes it
FASTEST, ACCURATE, BOTH = "fastest at no worse error", "most accurate", "fastest and most accurate"
HEAD = ("shape", "way", "val MSE", "probed s/epoch", "")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A shape that was trained, and the fastest way in which a cell of the same work was probed."""

    shape: str
    way: str | None  # None: not probed
    val_mse: float
    epoch_s: float | None  # of all training windows; None: not probed
    not_worse: bool  # whether its error is within the search's limit
    remark: str = ""  # FASTEST, ACCURATE, BOTH or ""


def account_of(record: SweepRecord) -> Mapping[str, Any]:
    """What the search did; empty for a sweep without one, or of an earlier version."""
    try:
        content = json.loads(record.tags.get(TAG, "{}"))
    except json.JSONDecodeError:  # a store that keeps the beginning only
        return {}
    return content if isinstance(content, dict) else {}


def found(record: SweepRecord) -> list[Found]:
    """The shapes that no other one beats in both error and probed time, the fastest first."""
    account = account_of(record)
    times = _times(record.trials)
    limit = account.get("limit_val_mse")
    shapes = [
        _found(trial, times, limit)
        for trial in record.trials
        if trial.tags.get("stage") == "search" and trial.status == "done" and {"shape", "work"} <= trial.tags.keys()
        and "final/val_mse" in trial.metrics
    ]  # fmt: skip
    front = [each for each in shapes if not any(_beats(other, each) for other in shapes)]
    return _with_remarks(sorted(front, key=lambda each: (each.epoch_s is None, each.epoch_s, each.val_mse)))


def _times(trials: Sequence[TrialRecord]) -> dict[str, tuple[float, str]]:
    """Work -> seconds of the fastest probe, and its way."""
    times: dict[str, tuple[float, str]] = {}
    for trial in trials:
        epoch_s = trial.metrics.get(EPOCH)
        if trial.tags.get("stage") == "probe" and trial.status == "done" and epoch_s is not None:
            work, way = trial.tags.get("work", ""), trial.tags.get("way", "")
            times[work] = min(times.get(work, (epoch_s, way)), (epoch_s, way))
    return times


def _found(trial: TrialRecord, times: Mapping[str, tuple[float, str]], limit: float | None) -> Found:
    epoch_s, way = times.get(trial.tags["work"], (None, None))
    val_mse = trial.metrics["final/val_mse"]
    not_worse = limit is not None and val_mse <= limit
    return Found(shape=trial.tags["shape"], way=way, val_mse=val_mse, epoch_s=epoch_s, not_worse=not_worse)


def _beats(one: Found, other: Found) -> bool:
    if one.epoch_s is None or other.epoch_s is None:  # a shape that was not probed stays only for its error
        return other.epoch_s is None and one.val_mse < other.val_mse
    no_worse = one.val_mse <= other.val_mse and one.epoch_s <= other.epoch_s
    return no_worse and (one.val_mse, one.epoch_s) != (other.val_mse, other.epoch_s)


def _with_remarks(front: Sequence[Found]) -> list[Found]:
    fastest = next((each for each in front if each.not_worse and each.epoch_s is not None), None)
    accurate = min(front, key=lambda each: each.val_mse, default=None)

    def remark(each: Found) -> str:
        if each is fastest:
            return BOTH if each is accurate else FASTEST
        return ACCURATE if each is accurate else ""

    return [Found(**{**asdict(each), "remark": remark(each)}) for each in front]


def rows(record: SweepRecord) -> list[list[str]]:
    """The cells of a table with HEAD; no row for a sweep without probes."""
    if not account_of(record):
        return []
    return [[each.shape, each.way or "-", f"{each.val_mse:.4f}", _seconds(each), each.remark] for each in found(record)]


def _seconds(each: Found) -> str:
    return "-" if each.epoch_s is None else f"{each.epoch_s:.4f}"


def as_json(record: SweepRecord) -> dict[str, Any] | None:
    """What the search did and found; None for a sweep without one, or of an earlier version."""
    account = account_of(record)
    return {**account, "found": [asdict(each) for each in found(record)]} if account else None


def search_notes(record: SweepRecord) -> list[str]:
    """Lines under the table: what the search did, and what it found."""
    account = account_of(record)
    if not account:
        return []
    more = f" ({account['of_polish']} beside the fastest)" if account.get("of_polish") else ""
    lines = [
        f"Search: {counted(account['trained'], 'shape')} trained{more}, {counted(account['probed'], 'cell')} probed. "
        "Errors are of one seed, "
        "times of some hundred steps: the final alone decides."
    ]
    if account.get("limit_val_mse") is not None:
        lines[0] += (
            f" A validation MSE of at most {account['limit_val_mse']:.4f} ({account['limit']}) counts as not worse."
        )
    for each in found(record):
        if each.remark:
            time = f", {each.epoch_s:.4f} s an epoch of all windows with {each.way}" if each.epoch_s is not None else ""
            lines.append(
                f"{each.remark[0].upper()}{each.remark[1:]}: {each.shape}, validation MSE {each.val_mse:.4f}{time}."
            )
    target = account.get("target_val_mse")
    if target is not None and not account.get("target_reached"):
        lines.append(f"No shape reached the target, a validation MSE of at most {target:g}.")
    if not account.get("complete"):
        lines.append("The search ended before every neighbour of the fastest cell was tried.")
    return lines
