"""The fields of an outbox record: only texts and known numbers, ids that can be folders, statuses that are defined."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ID = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_.:=-]{0,199}")  # a folder's name, never hidden and never ..


def values(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """The metrics that are known."""
    return {key: float(value) for key, value in metrics.items() if value is not None}


def texts(items: Mapping[str, Any]) -> dict[str, str]:
    """The items that are known, as texts."""
    return {str(key): str(value) for key, value in items.items() if value is not None}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str | None]:
    """The new and changed tags, and None for each that is gone: most of a trial's tags stay the same."""
    names = sorted(before.keys() | now.keys())
    return {name: now.get(name) for name in names if now.get(name) != before.get(name)}


def check_id(name: str, value: str) -> None:
    """Raises ValueError for an id that could not be a folder's name."""
    if not _ID.fullmatch(value):
        raise ValueError(f"{name} {value!r}: allowed are up to 200 letters, digits and _ . : = -")


def check_status(status: str, allowed: Mapping[str, str]) -> None:
    """Raises ValueError for a status that is not one of `allowed`."""
    if status not in allowed:
        raise ValueError(f"status {status!r} is not one of {', '.join(allowed)}")
