"""Fields whose values are names in a registry. They are checked here and not in TrialConfig, whose types know no names.

So a new member of a registry is one entry of its dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipeline.feed import FEEDS
from model.attention import get_backend
from model.presets import PRESETS
from model.pruning import SCORES
from model.pruning.schedules import SCHEDULES
from tune.common.errors import WrongInput, unknown_name
from tune.engine import ENGINES
from tune.engine.lr import LR_SCHEDULES

UNSCORED = ("none", "static")  # values of pruning.score that need no score
# field -> (what the name is of, its registry, names beside those in the registry)
NAMED: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]] = {
    "model.preset": ("preset", PRESETS, ()),
    "data.feed": ("feed", FEEDS, ()),
    "train.engine": ("engine", ENGINES, ()),
    "train.schedule": ("learning rate schedule", LR_SCHEDULES, ()),
    "pruning.score": ("pruning score", SCORES, UNSCORED),
    "pruning.schedule": ("pruning schedule", SCHEDULES, ()),
}
ATTENTION = "model.attention"


def check_name(field: str, name: str) -> None:
    """Raises WrongInput, with the nearest name, if `field` takes names and `name` is none of them."""
    if field == ATTENTION:
        backend_name(name)
    elif field in NAMED:
        kind, registry, others = NAMED[field]
        if name not in registry and name not in others:
            raise unknown_name(kind, name, (*others, *registry))


def backend_name(name: str) -> str:
    """The key in BACKENDS of a name or alias, or "auto"; WrongInput for an unknown name."""
    try:
        return "auto" if name == "auto" else get_backend(name).name
    except ValueError as error:
        raise WrongInput(str(error)) from None
