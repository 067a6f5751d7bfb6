"""The sizes that decide what a training step of a configuration costs."""

from __future__ import annotations

from collections.abc import Sequence

from model.flops import StepShape
from tune.config.trial_config import TrialConfig


def step_shape(config: TrialConfig, *, channels: int, heads: Sequence[int] | None = None) -> StepShape:
    """The shape of a trial's training step. heads: in each layer; None: all."""
    data, model = config.data, config.model
    return StepShape(
        batch_size=config.train.batch_size,
        num_channels=channels,
        context_length=data.context_length,
        prediction_length=data.prediction_length,
        patch_length=model.patch_length,
        patch_stride=model.patch_stride,
        end_padding=model.end_padding,
        d_model=model.d_model,
        num_heads=model.num_heads,
        num_layers=model.num_layers,
        ffn_dim=model.ffn_dim,
        heads_kept=heads,
        projections=config.rules.projections,
    )
