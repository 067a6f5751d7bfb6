"""What is set in a process of ours before Ray, MLflow or torch is imported."""

from __future__ import annotations

import os

from tune.common.surroundings import complete_surroundings

# Settings of libraries, where the user has not set them
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nobody but the user hears of a sweep
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # stderr has our own progress
}


def prepare_process() -> None:
    """Set up this process; call it once, before anything heavy is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    complete_surroundings()
