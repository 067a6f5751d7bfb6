"""What must be the same in all arms of a sweep, although `auto` settled it for each: arms differ in one thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tune.config.sweeps import SweepConfig
from tune.config.trial_config import TrialConfig
from tune.plan import memory

LAYERS = "model.layers"


def settled_fields(configs: Iterable[TrialConfig], sweep: SweepConfig, overrides: Mapping[str, Any]) -> dict[str, str]:
    """The fields that all trials get where `auto` differs between `configs`, those of the trials that can run.

    Layers become transformers'. Layers are computed again in all, if one needs it, unless that refuses as many as it
    helps. Empty for a field that does not differ, or that the sweep or the user chose.
    """
    configs = list(configs)
    settled = {}
    for name, kinds, value in (
        (LAYERS, {config.model.layers for config in configs}, "transformers"),
        (memory.FIELD, {config.model.recompute for config in configs}, _recompute(configs)),
    ):
        chosen = name in sweep.swept | sweep.shared.keys() or overrides.get(name, "auto") != "auto"
        if len(kinds) > 1 and not chosen:
            settled[name] = value
    return settled


def _recompute(configs: Sequence[TrialConfig]) -> str:
    """What leaves more of them: those that do not fit are lost by "never", those that cannot by "always"."""
    need = sum(config.model.recompute == "always" for config in configs)
    cannot = sum(memory.recompute_reason(memory.with_recompute(config, "always")) is not None for config in configs)
    return "always" if need > cannot else "never"
