"""What a sweep is before planning: arms, each a label and the fields that it changes.

All other fields are shared, so that arms differ in one thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One configuration of the sweep: its changes to the shared fields."""

    label: str  # unique in its sweep; part of the run name
    changes: Mapping[str, Any]  # field name -> value
    repeats: int | None = None  # of a table's cell: how often it is trained; None: as often as every arm


@dataclass(frozen=True, kw_only=True)
class AblationStep:
    """Two arms of a sweep that differ in one thing. The report shows what that change is worth."""

    before: str  # an arm's label
    after: str  # an arm's label
    change: str  # what differs, in words
    of: Literal["time", "error"] = "time"  # in what it is shown


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep before planning: a fixed list of arms or, with a `space`, a search that also draws arms from it."""

    name: str
    question: str  # that the sweep answers, in one line
    baseline: str  # label of the arm that the others are compared with
    arms: tuple[Arm, ...]
    shared: Mapping[str, Any] = field(default_factory=dict)  # fields of every arm; the user's own come later and win
    space: Mapping[str, tuple[Arm, ...]] = field(default_factory=dict)  # dimension -> choices; empty: no search
    ablation: tuple[AblationStep, ...] = ()  # pairs of arms that are compared with each other, besides the baseline
    repeats: int | None = None  # the default of --repeats; None: the usual one
    seed: int = 1  # the default of --seed
    untimed: bool = False  # it asks for errors only, so its trials may share a GPU
    table: bool = False  # its arms are cells, each with data of its own, and none is compared with another
    more: tuple[Arm, ...] = ()  # cells that run only where --only names them

    @property
    def swept(self) -> frozenset[str]:
        """Fields that some arm or choice changes. To set one of them by hand is wrong input."""
        choices = (choice for dimension in self.space.values() for choice in dimension)
        return frozenset(name for arm in (*self.arms, *self.more, *choices) for name in arm.changes)

    def drawn(self, labels: Mapping[str, str]) -> Arm:
        """The arm with one choice of each dimension; `labels` maps dimensions to labels, in any order.

        Raises KeyError for an unknown dimension or label, and for a missing dimension.
        """
        if labels.keys() != self.space.keys():
            raise KeyError(f"{sorted(labels)} are not the dimensions {sorted(self.space)}")
        chosen = [{choice.label: choice for choice in self.space[name]}[labels[name]] for name in self.space]
        changes = {name: value for choice in chosen for name, value in choice.changes.items()}
        return Arm(label="-".join(choice.label for choice in chosen), changes=changes)
