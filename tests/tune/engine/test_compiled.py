"""Traces of a model with an autograd.Function are cached, and a change in its body is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tune.engine.compiled import CompiledStepper

pytestmark = pytest.mark.timeout(300)


factor = 2.0  # of the gradient, so that the test can change the body of `backward`


class Doubled(torch.autograd.Function):
    """2 x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2.0 * x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return factor * dy


def test_the_trace_of_an_autograd_function_is_cached_and_another_body_is_another_key() -> None:
    global factor
    from torch._dynamo.utils import counters
    from torch._inductor.utils import fresh_cache

    layer = torch.nn.Linear(4, 4)
    stepper = CompiledStepper(layer, torch.optim.SGD(layer.parameters()), precision="fp32")
    hits, gradients = [], []
    with fresh_cache():
        for value in (2.0, 5.0, 2.0):
            factor = value
            torch._dynamo.reset()
            before, x = counters["aot_autograd"]["autograd_cache_hit"], torch.ones(3, 4, requires_grad=True)
            stepper._compiled(lambda x: Doubled.apply(x).sum())(x).backward()
            assert x.grad is not None
            gradients.append(x.grad[0, 0].item())
            hits.append(counters["aot_autograd"]["autograd_cache_hit"] - before)
    stepper.close()
    assert (hits, gradients) == ([0, 0, 1], [2.0, 5.0, 2.0])
