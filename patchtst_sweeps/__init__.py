"""Fast and fair sweeps over PatchTST training, from Python.

    from patchtst_sweeps import run, load, forecast

    sweep = run("pruning", dataset="my.csv", epochs=10)
    print(sweep)
    sweep.verdicts
    forecast(sweep, frame)

Nothing heavy is imported before a name is used. The signatures, with their types, are in `__init__.pyi`. From this
import on, transformers knows our attention: `attn_implementation="patch"`.
"""

from __future__ import annotations

import importlib
from typing import Any

from patchtst_sweeps.attention import register_when_imported
from patchtst_sweeps.location import put_on_path

put_on_path()
register_when_imported()

# name -> the module that has it
_NAMES = {
    "run": "tune.api.run",
    "load": "tune.api.sweep",
    "forecast": "tune.api.forecast",
    "Sweep": "tune.api.sweep",
    "accelerate": "tune.api.accelerate",
    "restore": "tune.api.accelerate",
    "register_attention": "tune.api.accelerate",
    "Acceleration": "tune.api.accelerate",
    "CannotAccelerate": "tune.api.accelerate",
    "PartlyAccelerated": "tune.api.accelerate",
    "WrongInput": "tune.common.errors",
    "TrialsFailed": "tune.api.run",
    "Unfinished": "tune.api.errors",
    "SweepError": "tune.api.errors",
}
__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_NAMES)}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
