"""How important each attention head is. Importable without torch.

Tensor names: K heads left in a layer, E head width, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from model.heads import attention_layers, heads_per_layer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LossBatches = Iterable[Callable[[], "Tensor"]]


class ScoreFunction(Protocol):
    """model: PatchTSTForPrediction. loss_batches: thunks, each computing the scalar loss of one training batch.
    generator: a CPU generator, the only source of chance. Returns per layer a [K] float64 CPU tensor."""

    def __call__(
        self, model: nn.Module, *, loss_batches: LossBatches | None, generator: torch.Generator
    ) -> list[Tensor]: ...


def random(model: nn.Module, *, loss_batches: LossBatches | None, generator: torch.Generator) -> list[Tensor]:
    """Uniform numbers, [K] per layer: the control for every other score."""
    import torch

    return [torch.rand(len(kept), generator=generator, dtype=torch.float64) for kept in heads_per_layer(model)]


def magnitude(model: nn.Module, *, loss_batches: LossBatches | None, generator: torch.Generator) -> list[Tensor]:
    """L2 norm of the head's own weights: its rows of q, k and v with their biases, its columns of out_proj."""
    return [_total(part.square() for part in parts).sqrt() for parts in _by_layer(_weights_by_head, model)]


def taylor(model: nn.Module, *, loss_batches: LossBatches | None, generator: torch.Generator) -> list[Tensor]:
    """First-order importance: sum over batches of |sum over the head's parameters of gradient x weight|.

    The inner sum estimates how much the loss changes without the head; its absolute value keeps batches from
    cancelling out (Molchanov et al. 2017, equation 2 with a head's parameters as the group; Michel et al. 2019,
    equation 2, take the same product at the head's gate). Weights, gradients, batch-norm statistics, training mode and
    random state are restored. Raises ValueError without a batch.
    """
    import torch

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    totals: list[Tensor] | None = None
    with _untouched(model, parameters):
        for loss in loss_batches or ():
            model.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss().backward()
            batch = [_total(parts).abs() for parts in _by_layer(_products_by_head, model)]
            totals = batch if totals is None else [a + b for a, b in zip(totals, batch, strict=True)]
    if totals is None:
        raise ValueError("the taylor score needs at least one training batch")
    return totals


def _total(parts: Iterable[Tensor]) -> Tensor:
    """[K]: the sum over each head's elements in all tensors."""
    import torch

    return torch.stack([part.sum(1) for part in parts]).sum(0)


def _by_layer(read: Callable[[Tensor], Tensor], model: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    """Per layer: `read` of each tensor that belongs to heads, as [K, elements] in float64 on the CPU."""
    for attention in attention_layers(model):
        heads = attention.q_proj.out_features // attention.head_dim
        tensors = [(p.weight, False) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        tensors += [(p.bias, False) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        tensors.append((attention.out_proj.weight, True))
        yield tuple(_rows(read(tensor), heads, transposed) for tensor, transposed in tensors)


def _rows(tensor: Tensor, heads: int, transposed: bool) -> Tensor:
    rows = tensor.t() if transposed else tensor
    return rows.reshape(heads, -1).double().cpu()


def _weights_by_head(parameter: Tensor) -> Tensor:
    return parameter.detach()


def _products_by_head(parameter: Tensor) -> Tensor:
    import torch

    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.detach() * parameter.grad


@contextmanager
def _untouched(model: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Put gradients, buffers, training mode and random state back at the end."""
    import torch

    gradients = [parameter.grad for parameter in parameters]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    modes = [(module, module.training) for module in model.modules()]
    devices = [parameters[0].device] if parameters[0].is_cuda else []
    model.train()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(buffers[name])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
