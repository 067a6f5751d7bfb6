"""The optimizer and the loss scale of a trial."""

from __future__ import annotations

import torch
from torch import nn


def make_optimizer(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """Adam over all trainable parameters; on a GPU in one launch."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable[0].is_cuda:
        return torch.optim.Adam(trainable, lr=learning_rate)
    from tune.engine.adam import OneLaunchAdam  # imports triton, which a CPU may lack

    return OneLaunchAdam(trainable, lr=learning_rate)


def make_scaler(device_type: str, precision: str) -> torch.amp.GradScaler | None:
    """A loss scale for fp16, whose smallest number is 6e-8; steps that overflow are skipped. None for others."""
    return torch.amp.GradScaler(device_type) if precision == "fp16" else None
