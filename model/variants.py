"""What the official PatchTST does otherwise than transformers', put into a model that transformers has built.

The official code is github.com/yuqinie98/PatchTST, PatchTST_supervised/layers. Changes of weights are made once, after
construction. Other changes are kept in the model's config under names of ours, so that a saved model has them again.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PatchTSTConfig, PatchTSTForPrediction
from transformers.models.patchtst.modeling_patchtst import PatchTSTPatchify

from model.residual.encoder import use_residual_attention

INITS = ("transformers", "torch")
POSITIONS = ("sincos", "learned")
RESIDUAL_MARK = " with residual attention (load it with MLflow or model.patchtst.load_model)"
NOT_STOCK = ("end_padding", "residual_attention", "kept_heads")  # names of ours in a config
LEARNED_POSITION = 0.02  # the official PatchTST_layers.py draws from U(-.02, .02); transformers from N(0, 1)


def construct(config: PatchTSTConfig) -> PatchTSTForPrediction:
    """The model of a config that may hold names of ours, with random weights."""
    model = _with_end_padding(config) if getattr(config, "end_padding", False) else PatchTSTForPrediction(config)
    rate = getattr(config, "attention_path_dropout", None)
    if rate is not None:
        for layer in model.model.encoder.layers:
            layer.dropout_path1 = nn.Dropout(rate) if rate > 0 else nn.Identity()
    if getattr(config, "residual_attention", False):
        use_residual_attention(model)
    return model


def not_stock(config: PatchTSTConfig) -> tuple[str, ...]:
    """What a model has that stock transformers does not: end_padding, residual_attention, kept_heads (if pruned)."""
    return tuple(name for name in NOT_STOCK if getattr(config, name, None))


def as_stored(config: PatchTSTConfig) -> PatchTSTConfig:
    """The config for a file. Stock transformers would compute no residual attention, so it must refuse the file."""
    stored: Any = copy.deepcopy(config)
    if getattr(stored, "residual_attention", False):
        stored.norm_type += RESIDUAL_MARK
    return stored


def read_config(folder: Path) -> PatchTSTConfig:
    """What `as_stored` gave, as it was."""
    config: Any = PatchTSTConfig.from_pretrained(folder)  # a local folder  # nosec B615
    config.norm_type = config.norm_type.removesuffix(RESIDUAL_MARK)
    return config


def _with_end_padding(config: Any) -> PatchTSTForPrediction:
    """transformers builds positions and head for the patches of a context that is one stride longer."""
    context_length = config.context_length
    try:
        config.context_length += config.patch_stride
        model = PatchTSTForPrediction(config)
    finally:
        config.context_length = context_length
    model.model.patchifier = EndPaddedPatchify(config)
    return model


class EndPaddedPatchify(PatchTSTPatchify):
    """Cuts a context that is lengthened by a stride of its last value, as the official ReplicationPad1d((0, stride)).

    N = (L - P) // stride + 2 patches that begin at steps 0, stride, 2 stride, ... So every value is in a patch, also
    where the stride does not divide L - P: transformers' own drops the oldest steps then.
    """

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__(config)
        self.num_patches += 1
        self.sequence_start = 0

    def forward(self, past_values: Tensor) -> Tensor:
        """[B, L, C] -> [B, C, N, P], contiguous. ValueError for another L."""
        if past_values.shape[1] != self.sequence_length:
            raise ValueError(f"a context of {past_values.shape[1]} steps: this model takes {self.sequence_length}")
        last = past_values[:, -1:].expand(-1, self.patch_stride, -1)
        patches_BNCP = torch.cat((past_values, last), dim=1).unfold(1, self.patch_length, self.patch_stride)
        return patches_BNCP.transpose(1, 2).contiguous()


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
