"""The sweep `recipe`: from transformers' PatchTST to the official one, a change at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune.config.arms import AblationStep, Arm, SweepConfig

BASELINE = "transformers"
USUAL: Mapping[str, Any] = {
    "model.init": "transformers",
    "model.positions": "sincos",
    "model.attention_output_dropout": 0.0,
    "model.end_padding": False,
    "model.residual_attention": False,
}
# Each arm has the changes of those before it, too. Field, value, the change in words.
CHANGES: Mapping[str, tuple[str, Any, str]] = {
    "init": ("model.init", "torch", "linear layers initialised as torch does"),
    "positions": ("model.positions", "learned", "learned positions"),
    "dropout": ("model.attention_output_dropout", None, "a second dropout after attention, of model.dropout"),
    "end-padding": ("model.end_padding", True, "a patch more, of the last value"),
    "residual-attention": ("model.residual_attention", True, "scores added up over the layers"),
}


def recipe() -> SweepConfig:
    """One change after the other, each kept. It asks for errors: arms train as their preset says, with its patience."""
    fields, arms, steps = dict(USUAL), [Arm(label=BASELINE, changes=USUAL)], []
    for label, (name, value, words) in CHANGES.items():
        fields |= {name: value}
        steps.append(AblationStep(before=arms[-1].label, after=label, change=words, of="error"))
        arms.append(Arm(label=label, changes=dict(fields)))
    return SweepConfig(
        name="recipe",
        question="What is each change from transformers' model to the official one worth in validation error?",
        baseline=BASELINE,
        arms=tuple(arms),
        shared={
            "model.preset": "etth",  # of the default data; a preset without dropout would have none to double
            "model.layers": "auto",  # said, so that residual attention does not slow the other arms
        },
        ablation=tuple(steps),
        untimed=True,
        repeats=5,
    )
