"""Layers of the encoder that are computed again in the backward pass, so that only their inputs are kept.

Exact: dropout draws the same numbers again, and running statistics of batch norm move once. PyTorch's checkpoint does
it (torch.utils.checkpoint, non-reentrant); compiled code gets it from PyTorch's partitioner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PatchTSTForPrediction
from transformers.models.patchtst.modeling_patchtst import PatchTSTEncoderLayer


def recompute_layers(model: PatchTSTForPrediction) -> None:
    """Make the model's encoder, of any kind, compute its layers again. Names and weights stay."""
    encoder = model.model.encoder
    encoder.gradient_checkpointing = True  # transformers' own field: it has no effect on its PatchTST
    for layer in encoder.layers:
        layer.__class__ = RecomputedLayer


class RecomputedLayer(PatchTSTEncoderLayer):
    """Replaces the class of a layer of transformers and stores nothing of its own."""

    def forward(self, hidden_state: Tensor, output_attentions: bool | None = None) -> Any:
        """As the layer itself."""
        return run_layer(self, super().forward, hidden_state, output_attentions)


def run_layer(layer: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """function(*inputs), a layer's work; in training its activations are dropped, and computed again when needed."""
    if not (layer.training and torch.is_grad_enabled()):
        return function(*inputs)
    if torch.compiler.is_compiling():  # the compiled backward pass holds no update of running statistics
        return checkpoint(function, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _on_copies_of_buffers(layer)

    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _on_copies_of_buffers(layer: nn.Module) -> Iterator[None]:
    """Inside, what moves running statistics moves copies of them."""
    kept = [(module, name, value) for module in layer.modules() for name, value in module._buffers.items()]
    for module, name, value in kept:
        module._buffers[name] = None if value is None else value.clone()
    try:
        yield
    finally:
        for module, name, value in kept:
            module._buffers[name] = value
