"""One training step: forward, backward and update at its learning rate; and a context that restores training state.

Shapes: B batch, C channels, L context, H horizon.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from data_pipeline.feed.batches import Feed
from tune.engine import kernel_threads
from tune.engine.lr import Rates
from tune.engine.precision import autocast, set_matmul_precision

WARM_UP_STEPS = 3


class Stepper:
    """Trains and evaluates one model, operator by operator, on batches that already are on the device.

    The training loss is summed on the device, so that a step needs no synchronisation; `take_train_mse` reads it once
    an epoch. After pruning, `close` this stepper and build another: compiled code belongs to the old shapes.

    rate: learning rate and beta1 of each step by its number; None keeps the optimizer's own.
    first_step: number of the next step, counted over all epochs.
    scaler: scales the loss, for fp16; `make_scaler` makes one. It outlives the stepper.
    """

    captured_peak_bytes = 0
    """Peak memory of tensors within a captured step, which the allocator does not count when the step is replayed."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str,
        rate: Rates | None = None,
        first_step: int = 0,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.device = next(model.parameters()).device
        self.precision = precision
        set_matmul_precision(precision)
        self.next_step = first_step
        self._rate = rate
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._windows = 0
        self._counted_from = (first_step, self._updates())
        self._loss = self._compiled(self.loss)
        self._forecast = self._compiled(self._predict)

    def _compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return function

    def loss(self, past_BLC: Tensor, future_BHC: Tensor) -> Tensor:
        """Mean squared error of the batch, uncompiled and differentiable; pruning scores are computed from it."""
        with autocast(self.device.type, self.precision):
            return self.model(past_values=past_BLC, future_values=future_BHC, return_dict=True).loss

    def _predict(self, past_BLC: Tensor) -> Tensor:
        with autocast(self.device.type, self.precision):
            return self.model(past_values=past_BLC, return_dict=True).prediction_outputs

    def batches(self, feed: Feed, epoch: int) -> Iterator[Any]:
        """The epoch's training batches, as `step` and `warm_up` take them."""
        return feed.train_batches(epoch)

    def step(self, batch: Any) -> None:
        """Train on one batch that has arrived. The model must be in training mode."""
        self.train_step(batch.past, batch.future)

    def train_step(self, past_BLC: Tensor, future_BHC: Tensor) -> None:
        """Forward, backward, update. The model must be in training mode."""
        self._set_rate()
        self._backward(past_BLC, future_BHC)
        self._update()
        self.optimizer.zero_grad(set_to_none=True)
        self._count(past_BLC.shape[0])

    def _set_rate(self) -> None:
        if self._rate is not None:
            rate = self._rate(self.next_step)
            for group in self.optimizer.param_groups:
                group["lr"], group["betas"] = rate.learning_rate, (rate.beta1, group["betas"][1])

    def _backward(self, past_BLC: Tensor, future_BHC: Tensor) -> None:
        loss = self._loss(past_BLC, future_BHC)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        self._loss_sum.add_(loss.detach(), alpha=past_BLC.shape[0])  # one kernel; a product first would be two

    def _update(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
        else:  # without synchronisation: the fused optimizer reads the scale, and whether to skip, on the device
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _count(self, windows: int) -> None:
        self._windows += windows
        self.next_step += 1

    def take_train_mse(self) -> float:
        """Mean training loss over the windows since the last call; NaN if there were none. Synchronises."""
        mean = self._loss_sum.item() / self._windows if self._windows else float("nan")
        self._loss_sum.zero_()
        self._windows = 0
        return mean

    def take_skipped_steps(self) -> int | None:
        """Steps since the last call that updated nothing because scaled gradients overflowed. Synchronises.

        None if the loss is not scaled.
        """
        before, now = self._counted_from, (self.next_step, self._updates())
        self._counted_from = now
        return None if self.scaler is None else (now[0] - before[0]) - (now[1] - before[1])

    def _updates(self) -> int:
        """Updates made so far, by Adam's own count."""
        return next((int(state["step"]) for state in self.optimizer.state.values() if "step" in state), 0)

    @property
    def last_learning_rate(self) -> float | None:
        """The last step's; None before the first step and without a schedule."""
        return None if self._rate is None or self.next_step == 0 else self._rate(self.next_step - 1).learning_rate

    def predict(self, past_BLC: Tensor) -> Tensor:
        """Forecast [B, H, C]. The model must be in evaluation mode and gradients off."""
        return self._forecast(past_BLC)

    def warm_up(self, batch: Any, eval_past_BLC: Tensor) -> None:
        """Compile and warm up every kernel on real shapes. Training state is restored afterwards."""
        with self.preserved():
            self.compile_ahead(batch.past, batch.future, eval_past_BLC)
            self.model.train()
            for _ in range(WARM_UP_STEPS):
                self.step(batch)
            self.model.eval()
            with torch.no_grad():
                self.predict(eval_past_BLC)

    def compile_ahead(self, past_BLC: Tensor, future_BHC: Tensor, eval_past_BLC: Tensor) -> None:
        """Compile the model's own Triton kernels in threads, where that is wanted. Training state is not restored."""
        if self.device.type != "cuda" or not kernel_threads.wanted():
            return
        try:
            with kernel_threads.compiled_in_threads():
                self.model.train()
                self.loss(past_BLC, future_BHC).backward()
                self.model.eval()
                with torch.no_grad():
                    self._predict(eval_past_BLC)
        except torch.OutOfMemoryError:  # compiled code may need less; the kernels are compiled one after another then
            torch.cuda.empty_cache()
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore training state at the end (see `preserving`).

        The training loss summed since the last `take_train_mse` is dropped.
        """
        step = self.next_step
        with preserving(self.model, self.optimizer, self.scaler):
            yield
        self.next_step = step
        self.take_train_mse()

    def close(self) -> None:
        """Release what was made for the model's present shapes."""


@contextmanager
def preserving(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, scaler: torch.amp.GradScaler | None = None
) -> Iterator[None]:
    """Restore, at the end, the state from before any training inside, in the same memory.

    Weights, buffers, training mode, moments, loss scale and torch's random state are restored; gradients are dropped.
    Moments that the optimizer created inside stay as zeros, as it would create them.
    """
    devices = [parameter.device for parameter in itertools.islice(model.parameters(), 1) if parameter.is_cuda]
    tensors = [*model.parameters(), *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    moments = {} if optimizer is None else {key: _cloned(state) for key, state in optimizer.state.items()}
    scale = None if scaler is None else scaler.state_dict()
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)
                for key, state in (optimizer.state if optimizer is not None else {}).items():
                    _restore(state, moments.get(key))
            if scaler is not None and scale is not None:
                scaler.load_state_dict(scale)
            for module, training in modes:
                module.training = training
            model.zero_grad(set_to_none=True)


def _cloned(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def _restore(state: dict[str, Any], before: dict[str, Any] | None) -> None:
    for name, value in state.items():
        if before:
            value.copy_(before[name])
        else:
            value.zero_()
