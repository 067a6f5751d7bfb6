"""The training step captured once as a CUDA graph and replayed: the host launches one graph for each step.

A captured step gathers the windows (device feed), runs forward and backward through torch.compile, adds the loss to its
sum, and updates. The forecast for evaluation is a second graph in the same memory pool. Values that change from step to
step are read from memory that never moves: inputs, learning rate, weights, moments, loss scale, and the random state,
which PyTorch registers with every graph (CUDA semantics, "CUDA Graphs", torch 2.11).

Shapes: B batch, C channels, L context, H horizon.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data_pipeline.feed.batches import Feed
from data_pipeline.feed.device import DeviceFeed, WindowStarts
from tune.engine.compiled import CompiledStepper
from tune.engine.step import WARM_UP_STEPS


class Capture(Protocol):
    """Records work, and replays it on the same memory."""

    peak_bytes: int
    """Peak memory of tensors while something was recorded."""

    def warming_up(self) -> AbstractContextManager[None]:
        """Run the work inside on the stream on which it will be recorded."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work` once to record it; the result replays it."""
        ...

    def release(self) -> None:
        """Release everything recorded, and its memory."""
        ...


class CudaCapture:
    """Graphs of one model that share a stream and a memory pool."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stream = _side_stream(torch.cuda.current_device())
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.reset_peak_memory_stats()
        # thread_local: a feed's own thread may copy meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated())
        self._graphs.append(graph)
        return graph.replay

    def release(self) -> None:
        torch.cuda.synchronize()
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()
        gc.collect()
        # cuBLAS keeps a workspace for this capture's stream: each stage of gradual pruning would add one
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """The only stream that this process captures on.

    Once a process has used two streams besides the default one, each kernel of its graphs starts 0.3 us later, which is
    3.5 % of the study model's step (docs/measurements.md).
    """
    return torch.cuda.Stream(device)


class GraphStepper(CompiledStepper):
    """Replays a captured step. `warm_up` captures it.

    If beta1 changes from step to step (one_cycle), the update runs after the graph: the fused Adam takes beta1 as a
    number, which a graph would freeze. Raises ValueError unless the optimizer is a fused one.

    capture: None for CUDA's own.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, capture: Capture | None = None, **options: Any
    ) -> None:
        super().__init__(model, optimizer, **options)
        if not all(group["fused"] for group in optimizer.param_groups):
            raise ValueError("the graph engine updates with a fused optimizer: build it with fused=True")
        self.capture = CudaCapture() if capture is None else capture
        self._trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._learning_rate = float(optimizer.param_groups[0]["lr"])
        self._lr = torch.tensor(self._learning_rate, dtype=torch.float32, device=self.device)
        for group in optimizer.param_groups:
            group["lr"] = self._lr
        self._update_follows = self._rate is not None and self._rate.beta1_moves
        self._grads: list[Tensor | None] = []
        self._inputs: tuple[Tensor, ...] = ()
        self._eval_inputs: tuple[Tensor, ...] = ()
        self._eval_outputs: tuple[Tensor, ...] = ()
        self._gather: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
        self._replay_step: Callable[[], None] | None = None
        self._replay_forecast: Callable[[], None] | None = None

    def batches(self, feed: Feed, epoch: int) -> Iterator[Any]:
        """Batches; from the device feed only the windows' first rows, which the graph gathers."""
        return feed.train_starts(epoch) if isinstance(feed, DeviceFeed) else feed.train_batches(epoch)

    def step(self, batch: Any) -> None:
        """Copy the batch (for the device feed: first rows) to the memory that the graph reads, and replay.

        Raises ValueError for a batch of another shape or kind than the captured one.
        """
        if self._replay_step is None:
            raise RuntimeError("nothing is captured yet: call warm_up first")
        self._set_rate()
        _fill(self._inputs, _inputs_of(batch))
        self._replay_step()
        if self._update_follows:
            for parameter, grad in zip(self._trained, self._grads, strict=True):
                parameter.grad = grad
            self._update()
        self._count(len(self._inputs[0]))

    def train_step(self, past_BLC: Tensor, future_BHC: Tensor) -> None:
        """Not available: the captured step takes what `batches` yields."""
        raise NotImplementedError("the graph engine steps on batches of Stepper.batches: call step(batch)")

    def predict(self, past_BLC: Tensor) -> Tensor:
        """Forecast [B, H, C] for a batch of the captured shape; ValueError for another."""
        if self._replay_forecast is None:
            raise RuntimeError("nothing is captured yet: call warm_up first")
        _fill(self._eval_inputs, (past_BLC,))
        self._replay_forecast()
        return self._eval_outputs[0].clone()

    def warm_up(self, batch: Any, eval_past_BLC: Tensor) -> None:
        """Compile, warm up and capture on real shapes. Training state is restored afterwards, in the same memory."""
        self._gather = batch.gather if isinstance(batch, WindowStarts) else None
        self._inputs = tuple(tensor.clone() for tensor in _inputs_of(batch))
        self._eval_inputs = (eval_past_BLC.clone(),)
        with self.preserved():
            past_BLC, future_BHC = self._gather(*self._inputs) if self._gather else self._inputs
            self.compile_ahead(past_BLC, future_BHC, eval_past_BLC)
            del past_BLC, future_BHC
            with self.capture.warming_up():
                self.model.train()
                for _ in range(WARM_UP_STEPS):
                    self._set_rate()
                    self._work()
                    if self._update_follows:
                        self._update()
                        self.optimizer.zero_grad(set_to_none=True)
                self.model.eval()
                with torch.no_grad():
                    self._forecast_work()
            self.model.train()
            self._replay_step = self._record(self._work)
            self.captured_peak_bytes = self.capture.peak_bytes
            self._grads = [parameter.grad for parameter in self._trained]
            self.model.eval()
            with torch.no_grad():
                self._replay_forecast = self._record(self._forecast_work)

    def _record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record with an optimizer that knows it is captured; without that it would warn."""
        groups = self.optimizer.param_groups
        for group in groups:
            group["capturable"] = True
        try:
            return self.capture.record(work)
        finally:
            for group in groups:
                group["capturable"] = False

    def _work(self) -> None:
        past_BLC, future_BHC = self._gather(*self._inputs) if self._gather else self._inputs
        self._backward(past_BLC, future_BHC)
        if not self._update_follows:
            self._update()
            self.optimizer.zero_grad(set_to_none=True)

    def _forecast_work(self) -> None:
        self._eval_outputs = (self._forecast(*self._eval_inputs),)

    def _set_rate(self) -> None:
        if self._rate is None:
            return
        rate = self._rate(self.next_step)
        if rate.learning_rate != self._learning_rate:
            self._learning_rate = rate.learning_rate
            self._lr.fill_(rate.learning_rate)
        for group in self.optimizer.param_groups:
            group["betas"] = (rate.beta1, group["betas"][1])

    def close(self) -> None:
        """Release the graphs and their memory; the optimizer gets a plain learning rate again."""
        self._replay_step = self._replay_forecast = None
        self._inputs = self._eval_inputs = self._eval_outputs = ()
        self._grads = []
        self.optimizer.zero_grad(set_to_none=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate
        super().close()
        self.capture.release()


def _inputs_of(batch: Any) -> tuple[Tensor, ...]:
    return (batch.starts,) if isinstance(batch, WindowStarts) else (batch.past, batch.future)


def _fill(captured_inputs: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy without broadcasting. Raises ValueError if a shape differs."""
    shapes = [tuple(tensor.shape) for tensor in values]
    captured = [tuple(tensor.shape) for tensor in captured_inputs]
    if shapes != captured:
        raise ValueError(f"the captured step takes tensors of shapes {captured} and got {shapes}")
    for captured_input, value in zip(captured_inputs, values, strict=True):
        captured_input.copy_(value)
