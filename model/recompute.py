"""Layers of the encoder that are computed again in the backward pass, so that only their inputs are kept.

Exact: dropout draws the same numbers again, and running statistics of batch norm move once. PyTorch's checkpoint does
it (torch.utils.checkpoint, non-reentrant); compiled code gets it from PyTorch's partitioner.

The partitioner (torch 2.11) recomputes what was marked while it was traced. Operators inside of an autograd.Function
are not marked, and of an operator with several results none is kept where a layer ends, so that all layers would be
computed again at once. Fused layers therefore name operators whose results are kept, and every other one is marked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import PatchTSTForPrediction
from transformers.models.patchtst.modeling_patchtst import PatchTSTEncoderLayer


def recompute_layers(model: PatchTSTForPrediction) -> None:
    """Make the model's encoder, of any kind, compute its layers again. Names and weights stay."""
    encoder = model.model.encoder
    # It warns of operators in place where some are kept; `run_layer` keeps them.
    logging.getLogger("torch._higher_order_ops.wrap").addFilter(_is_no_warning_of_kept)
    encoder.gradient_checkpointing = True  # transformers' own field: it has no effect on its PatchTST
    for layer in encoder.layers:
        layer.__class__ = RecomputedLayer


def _is_no_warning_of_kept(record: logging.LogRecord) -> bool:
    return "context_fn is passed to torch.utils.checkpoint" not in str(record.msg)


class RecomputedLayer(PatchTSTEncoderLayer):
    """Replaces the class of a layer of transformers and stores nothing of its own."""

    def forward(self, hidden_state: Tensor, output_attentions: bool | None = None) -> Any:
        """As the layer itself."""
        return run_layer(self, super().forward, hidden_state, output_attentions)


def run_layer(layer: nn.Module, function: Callable[..., Any], *inputs: Any, kept: Sequence[Any] = ()) -> Any:
    """function(*inputs), a layer's work; in training its activations are dropped, and computed again when needed.

    kept: operators whose results a compiled step keeps. Those that change a buffer must be among them.
    """
    if not (layer.training and torch.is_grad_enabled()):
        return function(*inputs)
    if torch.compiler.is_compiling():  # the compiled backward pass holds no update of running statistics
        if not kept:
            return checkpoint(function, *inputs, use_reentrant=False)
        selected = partial(create_selective_checkpoint_contexts, list(kept))
        return checkpoint(function, *inputs, use_reentrant=False, context_fn=selected)

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
