"""SWEEPS: name -> function returning a SweepConfig. A new sweep is one function and one line in the dict.

An arm is a label and the fields it changes; everything else is shared, so that arms differ in one thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tune.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One configuration of the sweep: what is changed against the shared fields."""

    label: str  # unique in its sweep; part of the run name
    changes: Mapping[str, Any]  # field name -> value


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep before planning."""

    name: str
    question: str  # what the sweep answers, in one line
    baseline: str  # label of the arm the others are compared with
    arms: tuple[Arm, ...]
    shared: Mapping[str, Any] = field(default_factory=dict)  # fields every arm has, before the user's own

    @property
    def swept(self) -> frozenset[str]:
        """Fields that some arm changes; giving one of them by hand as well is wrong input."""
        return frozenset(name for arm in self.arms for name in arm.changes)


def _prune(score: str, count: int, schedule: str = "one_shot") -> Arm:
    changes = {"pruning.score": score, "pruning.heads_per_layer": count, "pruning.schedule": schedule}
    return Arm(label=f"{score}-{count}-{schedule}", changes=changes)


def _static(*heads: int) -> Arm:
    label = "static-" + "-".join(str(head) for head in heads)
    return Arm(label=label, changes={"pruning.score": "static", "pruning.heads": heads})


def pruning() -> SweepConfig:
    """Heads that really leave the model, by score, schedule and number."""
    return SweepConfig(
        name="pruning",
        question="How much faster is training once attention heads are removed, and what does it cost in accuracy?",
        baseline="none",
        arms=(
            Arm(label="none", changes={"pruning.score": "none"}),
            _static(0),
            _static(4, 8),
            _prune("magnitude", 1),
            _prune("magnitude", 2),
            _prune("magnitude", 5),
            _prune("magnitude", 8),
            _prune("taylor", 5),
            _prune("random", 5),
            _prune("magnitude", 5, "gradual"),
            _prune("taylor", 5, "gradual"),
        ),
    )


def num_workers() -> SweepConfig:
    """Loader processes for each feed that has them, beside the feed that needs none."""
    loaders = [(feed, workers) for feed in ("arrow", "tsfm") for workers in (0, 2, 4, 8, 16)]
    return SweepConfig(
        name="num_workers",
        question="Which feed, with how many loader processes, keeps the device from waiting for data?",
        baseline="arrow-0",
        arms=tuple(
            Arm(label=f"{feed}-{workers}", changes={"data.feed": feed, "data.num_workers": workers})
            for feed, workers in [*loaders, ("device", 0)]
        ),
    )


SWEEPS: dict[str, Callable[[], SweepConfig]] = {
    "num_workers": num_workers,
    "pruning": pruning,
}


def get_sweep(name: str) -> SweepConfig:
    """The named sweep; WrongInput with the nearest name if there is none."""
    if name not in SWEEPS:
        raise unknown_name("sweep", name, SWEEPS)
    return SWEEPS[name]()
