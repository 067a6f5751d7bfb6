"""An encoder's passes as CUDA graphs, for a training loop that knows nothing of them.

Small models wait for the host, which starts each kernel by itself. Here it starts one graph for the forward pass and
one for the backward pass. Gradients reach the parameters through autograd as ever, so that optimizers, clipping,
gradient accumulation and the `Trainer` see no difference.

Shapes: B batch, C channels, N patches, P patch length, D model width.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.guard import compute_type
from tune.engine.graph import Capture, CudaCapture
from tune.engine.step import WARM_UP_STEPS

GRAPHS = 8  # that one encoder captures in its life; each keeps its activations
Compute = Callable[[Tensor], Tensor]


class Captures:
    """The graphs of one encoder, one for each kind of input. A copy or a pickle of it is empty.

    A kind that is seen for the second time is captured; what is rare runs as before. So does a pass that a graph would
    compute otherwise: inside another capture, with a gradient asked for the input, with layers that are computed
    again, with hooks on the layers, in a replica of DataParallel, and while an earlier pass waits for its backward.
    """

    def __init__(self, capture: Callable[[], Capture] = CudaCapture) -> None:
        self._capture = capture
        self._seen: Counter[Any] = Counter()
        self._graphs: dict[Any, _Graphs] = {}
        self._left = GRAPHS

    def __reduce__(self) -> Any:
        return Captures, (self._capture,)

    def run(self, encoder: nn.Module, compute: Compute, x: Tensor) -> Tensor:
        """`compute(x)` for x [B, C, N, P], the encoder's input: [B, C, N, D]."""
        learns = torch.is_grad_enabled()
        if _must_run(encoder, x, learns):
            return compute(x)
        trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad] if learns else []
        key = _kind(encoder, x, bool(trained))
        graphs = self._graphs.get(key)
        if graphs is None:
            self._seen[key] += 1
            if self._seen[key] < 2 or not self._left or _has_hooks(encoder):
                return compute(x)
            self._drop_those_of_other_memory(key)
            self._left -= 1
            graphs = self._graphs[key] = _Graphs(self._capture(), encoder, compute, x, trained)
        if graphs.waits:
            return compute(x)
        if not trained:
            return graphs.forward(x)
        result: Tensor = _Replay.apply(graphs, x, *trained)
        return result

    def _drop_those_of_other_memory(self, key: Any) -> None:
        """Weights that moved leave graphs behind that nobody can replay."""
        for other in [other for other in self._graphs if other[0] != key[0]]:
            self._graphs.pop(other).release()


class _Turn:
    """One forward pass by a graph, as long as autograd may ask for its backward pass."""

    ended = False


class _Graphs:
    """A forward pass and, for trained parameters, its backward pass."""

    def __init__(
        self, capture: Capture, encoder: nn.Module, compute: Compute, x: Tensor, trained: list[nn.Parameter]
    ) -> None:
        self._capture, self._trained = capture, trained
        self._input = x.detach().clone()
        self._turn: weakref.ref[_Turn] | None = None
        self._present: list[bool] = []
        self._flat: Tensor | None = None
        self._grad = torch.empty(0)
        self._replay_backward: Callable[[], None] | None = None
        with _unchanged(encoder, x.device), _autocast_without_cache(x.device):
            with capture.warming_up():
                for _ in range(WARM_UP_STEPS):
                    output = compute(self._input)
                    if trained:
                        torch.autograd.grad(output, trained, torch.zeros_like(output), allow_unused=True)
            del output
            self._output: Tensor | None = None
            self._replay = capture.record(lambda: self._keep_output(compute))
            assert self._output is not None
            self._grad = torch.zeros_like(self._output)
            if trained:
                self._replay_backward = capture.record(self._keep_gradients)
        self._output = self._output.detach()

    @property
    def waits(self) -> bool:
        """Whether a forward pass of it may still get its backward pass."""
        turn = self._turn() if self._turn else None
        return turn is not None and not turn.ended

    def forward(self, x: Tensor) -> Tensor:
        """The pass; its result is the caller's own."""
        assert self._output is not None
        self._input.copy_(x)
        self._replay()
        return self._output.clone()

    def begin(self) -> _Turn:
        """A turn for the pass that follows."""
        turn = _Turn()
        self._turn = weakref.ref(turn)
        return turn

    def backward(self, grad: Tensor, turn: _Turn) -> list[Tensor | None]:
        """Gradients of the trained parameters, the caller's own. RuntimeError for a second backward pass of a turn."""
        if turn.ended:
            raise RuntimeError(
                "a second backward pass through an accelerated encoder: its graph keeps activations for one. Call "
                "restore(model) and accelerate(model, cuda_graph=False)"
            )
        turn.ended = True
        assert self._replay_backward is not None and self._flat is not None
        self._grad.copy_(grad)
        self._replay_backward()
        there = [parameter for parameter, known in zip(self._trained, self._present, strict=True) if known]
        parts = iter(self._flat.clone().split([parameter.numel() for parameter in there]))
        return [
            next(parts).view_as(parameter) if known else None
            for parameter, known in zip(self._trained, self._present, strict=True)
        ]

    def release(self) -> None:
        """Give the memory back."""
        self._input = self._grad = torch.empty(0)
        self._output = self._flat = None
        self._capture.release()

    def _keep_output(self, compute: Compute) -> None:
        self._output = compute(self._input)

    def _keep_gradients(self) -> None:
        assert self._output is not None
        found = torch.autograd.grad(self._output, self._trained, self._grad, allow_unused=True)
        self._present = [grad is not None for grad in found]
        self._flat = torch.cat([grad.reshape(-1) for grad in found if grad is not None])


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graphs: _Graphs, x: Tensor, *trained: nn.Parameter) -> Tensor:
        ctx.graphs, ctx.turn = graphs, graphs.begin()
        return graphs.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.graphs.backward(grad, ctx.turn)


def _must_run(encoder: Any, x: Tensor, learns: bool) -> bool:
    """Whether this pass cannot be a graph's."""
    return (
        (learns and x.requires_grad)
        or encoder.gradient_checkpointing
        or getattr(encoder, "_is_replica", False)
        or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _kind(encoder: nn.Module, x: Tensor, learns: bool) -> tuple[Any, ...]:
    """What a graph freezes: where weights lie and which learn, modes, rates of dropout, and the input's form."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    memory = tuple((tensor.data_ptr(), tensor.requires_grad) for tensor in tensors)
    modes = tuple((module.training, getattr(module, "p", None)) for module in encoder.modules())
    return memory, modes, tuple(x.shape), x.dtype, x.device, compute_type(x), learns


def _has_hooks(encoder: nn.Module) -> bool:
    inside = (module for module in encoder.modules() if module is not encoder)
    return any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in inside)


class _unchanged:
    """Buffers and the random state are afterwards what they were before."""

    def __init__(self, encoder: nn.Module, device: torch.device) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in encoder.buffers()]
        self._random = torch.random.fork_rng([device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self._random.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._random.__exit__(*error)
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)


def _autocast_without_cache(device: torch.device) -> Any:
    """The autocast of the moment, whose cache would keep what only a graph may use."""
    kind = device.type
    return torch.autocast(
        kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False
    )
