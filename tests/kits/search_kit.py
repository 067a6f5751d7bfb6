"""A search without Ray: its steps are carried out at once, with made-up errors and times."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tune.config.sweeps import get_sweep
from tune.driver.search_history import POLISH, PROBE, SEARCH, History
from tune.driver.search_steps import Final, Step, Train, next_step
from tune.machine.device import DeviceFacts
from tune.plan.cells import Labels
from tune.plan.search_plan import SearchPlan
from tune.plan.space import plan_sweep
from tune.storage.trial_log import TrialLog

CPU = DeviceFacts(device_type="cpu", name="some CPU")
H100 = DeviceFacts(device_type="cuda", name="NVIDIA H100", capability=(9, 0), memory_gib=79.6, missing={})
SMALL = {"data.dataset": "demo", "data.context_length": 96, "data.prediction_length": 24}


def search_plan(
    *, draws: int = 6, device: DeviceFacts = H100, overrides: Mapping[str, Any] = SMALL, seed: int = 1,
    repeats: int = 2, target: float | None = None, **dimensions: int,
) -> SearchPlan:  # fmt: skip
    """The full sweep with the given number of choices of each named dimension, and all of each other."""
    full = get_sweep("full")
    space = {name: choices[: dimensions.get(name, len(choices))] for name, choices in full.space.items()}
    plan = plan_sweep(
        replace(full, space=space), draws=draws, overrides=overrides, repeats=repeats, seed=seed, device=device,
        target_val_mse=target,
    )  # fmt: skip
    assert isinstance(plan, SearchPlan)
    return plan


@dataclass
class World:
    """Errors and times of cells, and the records that a search has made of them so far."""

    plan: SearchPlan
    error: Callable[[dict[str, str]], float | None]  # labels by dimension -> validation MSE; None: the trial fails
    epoch_s: Callable[[dict[str, str]], float | None]  # None: the probe fails
    at_a_time: int = 3
    logs: dict[str, TrialLog] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def labels(self, cell: Labels) -> dict[str, str]:
        return dict(zip(self.plan.choices, cell, strict=True))

    @property
    def history(self) -> History:
        return History(self.plan, self.logs)

    def run(self, *, most_steps: int = 100, time_is_up: bool = False) -> Final:
        """Carry out steps until the final is reached."""
        for _ in range(most_steps):
            step = next_step(self.plan, self.history, at_a_time=self.at_a_time, time_is_up=time_is_up)
            self.steps.append(step)
            if isinstance(step, Final):
                return step
            self.carry_out(step)
        raise AssertionError(f"no final after {most_steps} steps")

    def carry_out(self, step: Any, *, only: int | None = None) -> None:
        """Record the trials of one step as ended; `only`: so many of them, the others as planned."""
        for at, cell in enumerate(step.cells):
            if isinstance(step, Train):
                tags = {"stage": SEARCH, "batch": str(step.batch), **({POLISH: "true"} if step.polish else {})}
                known = {each.cell: each.trial.trial_id for each in self.history.trained}
                trial = self.plan.search_trial(cell, 1 + len(known))
                metrics = _metrics("final/val_mse", self.error(self.labels(cell)))
            else:
                tags = {"stage": PROBE}
                known = {each.cell: each.trial.trial_id for each in self.history.probed}
                trial = self.plan.probe_trial(cell, 1 + len(known))
                metrics = _metrics("final/epoch_all_windows_s", self.epoch_s(self.labels(cell)))
            trial_id = known.get(cell, trial.trial_id)
            log = self.logs.setdefault(trial_id, TrialLog())
            log.tags.update(tags, arm=trial.arm, cell=json.dumps(cell))
            if only is None or at < only:
                log.metrics, log.status = metrics, "done" if metrics else "failed"
                if isinstance(step, Train) and metrics:
                    log.epochs[1] = {"loss/val_mse": metrics["final/val_mse"]}


def _metrics(name: str, value: float | None) -> dict[str, float]:
    return {} if value is None else {name: value}
