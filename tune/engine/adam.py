"""Adam's update of all parameters in one kernel launch. Importing this file imports triton.

torch's fused Adam spreads 1.1 M numbers in 52 tensors over so few blocks that most of a GPU waits. Here each program
takes 1,024 numbers of one tensor and finds them through a table of addresses in GPU memory.

Shapes: T tensors.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers that one program updates
WARPS = 4  # of one program
# The table's columns, T numbers each: a tensor's first program, its size, whether 16 bytes can be read at a time, and
# five addresses: parameter, gradient, both moments, step.
COLUMNS = 8


@triton.jit
def _pointer(address: tl.tensor, TYPE: tl.constexpr, ALIGNED: tl.constexpr) -> tl.tensor:
    pointer = address.to(tl.pointer_type(TYPE))
    return tl.multiple_of(pointer, 16) if ALIGNED else pointer


@triton.jit
def _update(
    row: tl.tensor,
    T: tl.tensor,
    begin: tl.tensor,
    step_size: tl.tensor,
    correction2_sqrt: tl.tensor,
    beta1: tl.tensor,
    beta2: tl.tensor,
    eps: tl.tensor,
    grad_scale: tl.tensor,
    GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
) -> None:
    size = tl.load(row + T)
    if ALIGNED:
        size = tl.multiple_of(size, 4)
    at = begin + tl.arange(0, BLOCK)
    there = at < size
    params = _pointer(tl.load(row + 3 * T), tl.float32, ALIGNED) + at
    grads = _pointer(tl.load(row + 4 * T), GRAD, ALIGNED) + at
    exp_avgs = _pointer(tl.load(row + 5 * T), tl.float32, ALIGNED) + at
    exp_avg_sqs = _pointer(tl.load(row + 6 * T), tl.float32, ALIGNED) + at
    param = tl.load(params, mask=there)
    grad = tl.load(grads, mask=there).to(tl.float32)
    if grad_scale is not None:
        grad = tl.div_rn(grad, tl.load(grad_scale))
    exp_avg = beta1 * tl.load(exp_avgs, mask=there) + (1 - beta1) * grad
    exp_avg_sq = beta2 * tl.load(exp_avg_sqs, mask=there) + (1 - beta2) * (grad * grad)
    denominator = tl.div_rn(tl.sqrt_rn(exp_avg_sq), correction2_sqrt) + eps
    tl.store(params, param - tl.div_rn(step_size * exp_avg, denominator), mask=there)
    tl.store(exp_avgs, exp_avg, mask=there)
    tl.store(exp_avg_sqs, exp_avg_sq, mask=there)


@triton.jit(do_not_specialize=["T"])
def one_launch_adam(
    table: tl.tensor,
    T: tl.tensor,
    done: tl.tensor,
    lr: tl.tensor,
    grad_scale: tl.tensor,
    found_inf: tl.tensor,
    beta1: tl.tensor,
    beta2: tl.tensor,
    log_beta1: tl.tensor,
    log_beta2: tl.tensor,
    eps: tl.tensor,
    LR_IN_MEMORY: tl.constexpr,
    GRAD: tl.constexpr,
    TENSORS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One update of all tensors in `table` (COLUMNS, T). Grid: their programs.

    Every program reads its tensor's step. `done` counts finished programs; the last one adds 1 to all steps.
    """
    if found_inf is not None:  # noqa: SIM102
        if tl.load(found_inf) != 0:  # for all programs alike
            return
    program = tl.program_id(0)
    tensors = tl.arange(0, TENSORS)
    first = tl.load(table + tensors, mask=tensors < T, other=0)
    row = table + tl.sum(((first <= program) & (tensors < T)).to(tl.int32), 0) - 1
    begin = (program - tl.load(row)) * BLOCK
    # In fp64: 1 - beta2^step would lose its last four digits in fp32.
    step = (tl.load(_pointer(tl.load(row + 7 * T), tl.float32, False)) + 1).to(tl.float64)
    rate = tl.load(lr) if LR_IN_MEMORY else lr
    step_size = (rate / (1 - tl.exp(step * log_beta1))).to(tl.float32)
    correction2_sqrt = tl.sqrt(1 - tl.exp(step * log_beta2)).to(tl.float32)
    if tl.load(row + 2 * T) != 0:
        _update(row, T, begin, step_size, correction2_sqrt, beta1, beta2, eps, grad_scale, GRAD, BLOCK, True)
    else:
        _update(row, T, begin, step_size, correction2_sqrt, beta1, beta2, eps, grad_scale, GRAD, BLOCK, False)

    tl.debug_barrier()  # all threads of this program have read the step
    if tl.atomic_add(done, 1) == tl.num_programs(0) - 1:
        steps = tl.load(table + 7 * T + tensors, mask=tensors < T, other=0).to(tl.pointer_type(tl.float32))
        tl.store(steps, tl.load(steps, mask=tensors < T) + 1, mask=tensors < T)
        tl.store(done, 0)


GRADIENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


class OneLaunchAdam(torch.optim.Adam):
    """torch.optim.Adam(fused=True) with one launch for each parameter group, for fp32 parameters on one GPU.

    State, options and the use with GradScaler and CUDA graphs are those of torch's fused Adam, and each continues from
    the other's state. Moments are computed from betas rounded to fp32, as there; bias corrections exactly. Gradients
    that GradScaler scaled stay scaled. There is no weight decay, amsgrad or maximize.

    Step once outside before each capture. Replay a graph with a captured step on the default stream, or on one that
    waits for it, and only while its optimizer lives: the graph reads a table, 64 bytes a tensor, that the optimizer
    keeps for each captured step.
    """

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, lr, betas, eps, fused=True)
        self._launches: list[_Launch] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_launches", [])  # a copied optimizer makes its own

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Raises ValueError for options, parameters and gradients that the kernel does not support.
        """
        self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        while len(self._launches) < len(self.param_groups):
            self._launches.append(_Launch())
        for launch, group in zip(self._launches, self.param_groups, strict=True):
            if not group["fused"] or group["weight_decay"] or group["amsgrad"] or group["maximize"]:
                raise ValueError("OneLaunchAdam takes fused=True without weight_decay, amsgrad and maximize")
            columns: list[list[Tensor]] = [[] for _ in range(5)]  # param, grad, exp_avg, exp_avg_sq, step
            self._init_group(group, *columns[:4], [], columns[4])
            if columns[0]:
                launch(columns, group, getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
        return loss


class _Table:
    """The addresses of T tensors, in GPU memory that never moves."""

    def __init__(self, tensors: int, device: torch.device) -> None:
        self.device = torch.empty(COLUMNS * tensors, dtype=torch.int64, device=device)
        self.host = self.new_host()
        self.key: tuple[int, ...] = ()  # the sizes and addresses in it

    def fits(self, tensors: int) -> bool:
        return len(self.device) == COLUMNS * tensors

    def new_host(self) -> Tensor:
        return torch.empty(self.device.shape, dtype=torch.int64, pin_memory=self.device.is_cuda)

    def fill(self, key: tuple[int, ...], columns: Sequence[Sequence[Tensor]]) -> None:
        """Write the sizes and addresses of `key`, in order with the current stream's work."""
        _check(columns)
        count = len(columns[0])
        sizes, addresses = key[:count], key[count:]
        firsts = itertools.accumulate((_programs(size) for size in sizes[:-1]), initial=0)
        aligned = (
            size % 4 == 0 and not any(addresses[at + column * count] % 16 for column in range(4))
            for at, size in enumerate(sizes)
        )
        self.host.copy_(torch.tensor([*firsts, *sizes, *aligned, *addresses], dtype=torch.int64))
        self.device.copy_(self.host, non_blocking=True)
        self.key = key


class _Launch:
    """One parameter group's launches, and what they need on the device."""

    def __init__(self) -> None:
        self._done: Tensor | None = None
        self._now: _Table | None = None  # for steps outside captures
        self._spare: _Table | None = None  # for the next capture: memory allocated inside does not outlive its graph
        self._captured: list[_Table] = []

    def __call__(
        self, columns: Sequence[Sequence[Tensor]], group: dict[str, Any], grad_scale: Any, found_inf: Any
    ) -> None:
        params, grads = columns[:2]
        sizes = tuple(param.numel() for param in params)
        key = sizes + tuple(tensor.data_ptr() for column in columns for tensor in column)
        lr = group["lr"]
        if not isinstance(lr, Tensor) or lr.device != params[0].device:
            lr = float(lr)
        beta1, beta2 = (ctypes.c_float(beta).value for beta in group["betas"])
        with torch.cuda.device_of(params[0]):
            if params[0].is_cuda and torch.cuda.is_current_stream_capturing():
                table = self._for_capture(key, columns)
            else:
                table = self._for_now(key, columns)
            one_launch_adam[(sum(map(_programs, sizes)),)](
                table.device, len(params), self._done, lr, grad_scale, found_inf,
                beta1, beta2, _log(beta1), _log(beta2), float(group["eps"]),
                LR_IN_MEMORY=isinstance(lr, Tensor), GRAD=GRADIENTS[grads[0].dtype],
                TENSORS=triton.next_power_of_2(len(params)), BLOCK=BLOCK, num_warps=WARPS,
            )  # fmt: skip

    def _for_now(self, key: tuple[int, ...], columns: Sequence[Sequence[Tensor]]) -> _Table:
        count, device = len(columns[0]), columns[0][0].device
        if self._done is None:
            self._done = torch.zeros((), dtype=torch.int32, device=device)
        if self._spare is None or not self._spare.fits(count):
            self._spare = _Table(count, device)
        if self._now is None or not self._now.fits(count):
            self._now = _Table(count, device)
        if self._now.key != key:
            self._now.host = self._now.new_host()  # the old one may still be copied; torch waits before reusing it
            self._now.fill(key, columns)
        return self._now

    def _for_capture(self, key: tuple[int, ...], columns: Sequence[Sequence[Tensor]]) -> _Table:
        """The captured step's own table, filled now, because a replay copies nothing to it."""
        known = next((table for table in self._captured if table.key == key), None)
        if known is not None:
            return known
        if self._spare is None or not self._spare.fits(len(columns[0])):
            raise RuntimeError("step once outside before each capture: OneLaunchAdam can allocate nothing within one")
        table, self._spare = self._spare, None
        with torch.cuda.stream(torch.cuda.default_stream(table.device.device)):  # which is not captured
            table.fill(key, columns)
        self._captured.append(table)
        return table


def _check(columns: Sequence[Sequence[Tensor]]) -> None:
    """Raises ValueError for tensors that the kernel does not support."""
    first, grad_type = columns[0][0], columns[1][0].dtype
    for param, grad, exp_avg, exp_avg_sq, step in zip(*columns, strict=True):
        for tensor in (param, exp_avg, exp_avg_sq, grad, step):
            wanted = grad_type if tensor is grad else torch.float32
            if tensor.dtype != wanted or wanted not in GRADIENTS or tensor.device != first.device:
                raise ValueError(
                    "OneLaunchAdam takes fp32 parameters and states and gradients of one type, fp32 or bf16, all on "
                    f"one device, and got {tensor.dtype} on {tensor.device}: use torch.optim.Adam"
                )
        dense = torch.ops.aten.is_non_overlapping_and_dense(param)
        if not dense or any(_strides(tensor) != _strides(param) for tensor in (grad, exp_avg, exp_avg_sq)):
            raise ValueError(
                "OneLaunchAdam takes dense parameters, and gradients and moments of the same strides, and got "
                f"{param.stride()} and {grad.stride()}: use torch.optim.Adam"
            )


def _strides(tensor: Tensor) -> list[int]:
    """The strides of dimensions with several elements; the others may be anything."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def _programs(size: int) -> int:
    return max(1, triton.cdiv(size, BLOCK))


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf
