"""ENGINES: how one training step is executed. A new engine is one class and one line in the dict.

Planning-safe: torch is imported only when an engine builds a stepper.

Shapes: B batch, C channels, L context, H horizon.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WARM_UP_STEPS = 3


class Engine(Protocol):
    """How forward, backward and update of one step are run."""

    name: str
    description: str

    def unsupported_reason(self, *, device_type: str) -> str | None:
        """Why this engine cannot run there; None if it can."""
        ...

    def wrap(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The forward function as this engine runs it."""
        ...

    def forget(self) -> None:
        """Drop what was compiled for a model whose shapes are gone."""
        ...


class Eager:
    name = "eager"
    description = "PyTorch operators one by one"

    def unsupported_reason(self, *, device_type: str) -> str | None:
        return None

    def wrap(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return function

    def forget(self) -> None:
        pass


class Compile:
    name = "compile"
    description = "forward and backward through torch.compile; the optimizer is PyTorch's own"

    def unsupported_reason(self, *, device_type: str) -> str | None:
        return None

    def wrap(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        import torch

        return torch.compile(function, dynamic=False, fullgraph=True)

    def forget(self) -> None:
        import torch

        torch._dynamo.reset()  # every stage of gradual pruning would count as a recompilation; dynamo gives up after 8


ENGINES: dict[str, Engine] = {"eager": Eager(), "compile": Compile()}


class Stepper:
    """Trains and evaluates one model on batches that already lie on the device.

    The training loss is summed on the device, so that a step needs no synchronisation; `take_train_mse` reads it once
    an epoch. After surgery on the model build a new Stepper: compiled code belongs to the old shapes.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, engine: str, precision: str) -> None:
        import torch

        self.model, self.optimizer = model, optimizer
        self.device = next(model.parameters()).device
        self.precision = precision
        set_matmul_precision(precision)
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._windows = 0
        self._loss = ENGINES[engine].wrap(self._loss_eager)
        self._predict = ENGINES[engine].wrap(self._predict_eager)

    def _loss_eager(self, past_BLC: Tensor, future_BHC: Tensor) -> Tensor:
        with autocast(self.device.type, self.precision):
            return self.model(past_values=past_BLC, future_values=future_BHC, return_dict=True).loss

    def _predict_eager(self, past_BLC: Tensor) -> Tensor:
        with autocast(self.device.type, self.precision):
            return self.model(past_values=past_BLC, return_dict=True).prediction_outputs

    def loss(self, past_BLC: Tensor, future_BHC: Tensor) -> Tensor:
        """Mean squared error of the batch, uncompiled and differentiable (pruning scores are taken from it)."""
        return self._loss_eager(past_BLC, future_BHC)

    def train_step(self, past_BLC: Tensor, future_BHC: Tensor) -> None:
        """Forward, backward, update. The model must be in training mode."""
        loss = self._loss(past_BLC, future_BHC)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss_sum += loss.detach() * past_BLC.shape[0]
        self._windows += past_BLC.shape[0]

    def take_train_mse(self) -> float:
        """Mean training loss over the windows since the last call; synchronises. NaN if there were none."""
        mean = self._loss_sum.item() / self._windows if self._windows else float("nan")
        self._loss_sum.zero_()
        self._windows = 0
        return mean

    def predict(self, past_BLC: Tensor) -> Tensor:
        """Forecast [B, H, C]. The model must be in evaluation mode and gradients off."""
        return self._predict(past_BLC)

    def warm_up(self, past_BLC: Tensor, future_BHC: Tensor, eval_past_BLC: Tensor) -> None:
        """Compile and warm every kernel on real shapes, then put weights, moments, statistics and RNG back."""
        import torch

        with self.preserved():
            self.model.train()
            for _ in range(WARM_UP_STEPS):
                self.train_step(past_BLC, future_BHC)
            self.model.eval()
            with torch.no_grad():
                self.predict(eval_past_BLC)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Whatever is trained inside leaves no trace: weights, moments, statistics and RNG are put back.

        The training loss that was summed since the last `take_train_mse` is dropped.
        """
        import torch

        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        moments = copy.deepcopy(self.optimizer.state_dict())
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            yield
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(moments)
        self.take_train_mse()


def autocast(device_type: str, precision: str) -> Any:
    """The context in which a forward pass has this precision: lower for bf16 and fp16, nothing changed for others."""
    import torch

    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device_type, dtype=dtype, enabled=precision in ("bf16", "fp16"))


def set_matmul_precision(precision: str) -> None:
    """fp32 means fp32: tf32 is used only where it was asked for."""
    import torch

    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def make_optimizer(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """Adam over all trainable parameters; the fused kernel on a GPU."""
    import torch

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trainable, lr=learning_rate, fused=True if trainable[0].is_cuda else None)
