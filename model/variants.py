"""What the official PatchTST does otherwise than transformers', put into a model that transformers has built.

The official code is github.com/yuqinie98/PatchTST, PatchTST_supervised/layers. Changes of weights are made once, after
construction. Other changes are kept in the model's config under names of ours, so that a saved model has them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PatchTSTConfig, PatchTSTForPrediction

INITS = ("transformers", "torch")
POSITIONS = ("sincos", "learned")
LEARNED_POSITION = 0.02  # the official PatchTST_layers.py draws from U(-.02, .02); transformers from N(0, 1)


def construct(config: PatchTSTConfig) -> PatchTSTForPrediction:
    """The model of a config that may hold names of ours, with random weights."""
    model = PatchTSTForPrediction(config)
    rate = getattr(config, "attention_path_dropout", None)
    if rate is not None:
        for layer in model.model.encoder.layers:
            layer.dropout_path1 = nn.Dropout(rate) if rate > 0 else nn.Identity()
    return model


def initialise(model: PatchTSTForPrediction, *, init: str, positions: str) -> None:
    """Draw the weights anew where transformers does not draw as asked. ValueError for an unknown name.

    init: "torch" draws all linear layers as nn.Linear does, weights and biases from U(+-1 / sqrt(inputs)).
    positions: "learned" draws them from U(+-0.02).
    """
    for name, given, known in (("init", init, INITS), ("positions", positions, POSITIONS)):
        if given not in known:
            raise ValueError(f"{name}={given!r}: give one of {', '.join(known)}")
    if init == "torch":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    if positions == "learned":  # last, so that the other weights are those of a model with fixed positions
        encoder: Any = model.model.encoder.positional_encoder
        table = torch.empty_like(encoder.position_enc).uniform_(-LEARNED_POSITION, LEARNED_POSITION)
        encoder.position_enc = nn.Parameter(table)
        config: Any = model.config
        config.positional_encoding_type = "random"  # transformers' word: it loads the table as a trained one


def joint_rate(first: float, second: float) -> float:
    """The rate of one dropout that drops as often as two, one after the other: 1 - (1 - p) (1 - q).

    An element stays if it stays in both, and what stays is divided by the same product.
    """
    return first + second - first * second  # exactly one of them where the other is 0
