"""What is set in a process of ours before Ray, MLflow or torch is imported."""

from __future__ import annotations

import os
import resource
from collections.abc import MutableMapping

from tune.common.surroundings import complete_surroundings

# Settings of libraries, where the user has not set them
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nobody but the user hears of a sweep
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # stderr has our own progress
}
# The same, of processes that are ours alone. Threads of a CPU's step sleep while they wait for each other: threads that
# spin take the core from the one that they wait for as soon as anything else runs (docs/decisions/common.md)
_OURS = {"OMP_WAIT_POLICY": "PASSIVE"}
# Settings that a sweep does not work without, or not as it says, whatever the user has set
_OVERRULED = {
    "MPLBACKEND": "agg",  # a notebook's own draws into the notebook, and its package is not installed here
    "PYTHONSAFEPATH": "1",  # `python -m` and `python -c` of our processes import nothing from the current folder
    # Under `uv run` Ray would start workers with uv, in a copy of the current folder that has no environment
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "1",  # trials keep their files in their current folder until these are stored
}
# Code of other programs that Ray would load into a sweep
_FOREIGN = ("RAY_RUNTIME_ENV_HOOK", "RAY_TUNE_CALLBACKS")


def prepare_process() -> None:
    """Set up this process; call it once, before anything heavy is imported."""
    no_core_dumps()
    keep_libraries_quiet()
    for name, value in _OURS.items():
        os.environ.setdefault(name, value)
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(_OVERRULED)
    keep_to_absolute_paths(os.environ)
    complete_surroundings()


def keep_libraries_quiet() -> None:
    """The defaults alone: all that may be set in a process that is not ours."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def keep_to_absolute_paths(variables: MutableMapping[str, str]) -> None:
    """Leave out of PYTHONPATH what depends on the current folder: relative entries, and empty ones, which mean it."""
    if "PYTHONPATH" in variables:
        kept = [entry for entry in variables.pop("PYTHONPATH").split(os.pathsep) if os.path.isabs(entry)]
        variables.update({"PYTHONPATH": os.pathsep.join(kept)} if kept else {})  # Ray adds to an empty one with a colon


def no_core_dumps() -> None:
    """Make sure that neither this process nor one that it starts leaves its memory, and the secrets in it, in a file.

    A program that takes the dumps (a pipe in core_pattern) gets them at a limit of 0 too, but not at a limit of 1 byte,
    into which no file fits either. Where 0 is the most that is allowed, that program decides.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if most == 0 else 1, most))
