"""Helpers for tests of trials' processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trial_kit import small_job

from tune.trial.job import TrialJob


def job_in(folder: Path, **changes: Any) -> TrialJob:
    """A small trial of two epochs, which another trial follows."""
    folder.mkdir(exist_ok=True)
    return replace(small_job(folder, train__epochs=2), prepare_next=True, **changes)


def until(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    """What `condition` returns, once that is true."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError("did not happen")
