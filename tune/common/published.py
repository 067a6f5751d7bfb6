"""What differs for an arm of the study that this project replaces. Every other file asks ArmRules for what it needs.

Such an arm shows the replaced study as it was published ("true") or put right in part ("partly"). The two fields
`model.as_published` and `pruning.as_published` make it one; the tag of that name stores which of the two it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

TAG = "as_published"  # of a trial; an ordinary arm's trial has no such tag
SHOWN_AS = {"true": "as published", "partly": "partly as published"}  # values of the tag
NOT_ENFORCED = "not passed, not enforced: "  # begins the tag `gate` of a trial that fails a gate which is not enforced

PublishedModel = Literal["vanilla", "flash", "flash_bidirectional", "flash_complete"]  # classes in model/
PublishedPruning = Literal["zeroed", "dynamic"]
Zeroing = Literal["given", "weakest"]  # which heads lose their columns

_UNCHANGED = ("vanilla", "flash")  # models that are the study's own
_WITHOUT_OUTPUT_PROJECTION = ("flash", "flash_bidirectional")
_ZEROING: dict[str | None, Zeroing] = {"zeroed": "given", "dynamic": "weakest"}


class PublishedFault(Exception):
    """An arm of the replaced study fails with the study's own error: expected, and no failure of the sweep."""


@dataclass(frozen=True, kw_only=True)
class ArmRules:
    """How an arm is treated. The defaults are those of an ordinary arm."""

    gate_enforced: bool = True  # False: the gate measures and reports, and stops nothing
    compared: bool = True  # with the baseline; the arm can get a verdict
    keeps_model: bool = True  # False: a loaded model would compute another function
    uses_backend: bool = True  # attention is the function that the backend registers
    attention_precision: str | None = None  # what attention casts its inputs to; None: the trial's precision
    projections: int = 4  # of a layer's attention: q, k, v, out
    zeroing: Zeroing | None = None  # before epoch 1, columns of these heads become zero, and no head leaves
    published_timer: bool = False  # the study's timer runs too
    shown_as: str = ""  # in plans and reports
    tags: Mapping[str, str] = field(default_factory=dict)  # of its trials


ORDINARY = ArmRules()


def rules_for(model: PublishedModel | None, pruning: PublishedPruning | None, *, feed: str) -> ArmRules:
    """The rules for an arm with these values of `model.as_published`, `pruning.as_published` and `data.feed`."""
    if model is None and pruning is None:
        return ORDINARY
    untouched = model in _UNCHANGED and feed == "tsfm"
    return replace(
        _rules("true" if untouched else "partly"),
        uses_backend=model is None,
        attention_precision="fp16" if (model or "").startswith("flash") else None,
        projections=3 if model in _WITHOUT_OUTPUT_PROJECTION else 4,
        zeroing=_ZEROING.get(pruning),
        published_timer=True,
    )


def stored_rules(tags: Mapping[str, str], params: Mapping[str, Any] | None = None) -> ArmRules:
    """The rules for a stored trial: what its tags say and, with `params` (values by field name), its zeroing."""
    if TAG not in tags:
        return ORDINARY
    return replace(_rules(tags[TAG]), zeroing=_ZEROING.get((params or {}).get("pruning.as_published")))


def _rules(value: str) -> ArmRules:
    return ArmRules(
        gate_enforced=False, compared=False, keeps_model=False, shown_as=SHOWN_AS.get(value, ""), tags={TAG: value}
    )
