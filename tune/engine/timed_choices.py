"""Choices that compilers make by timing kernels on the GPU: beside a neighbour they would be made by chance.

PyTorch's compiler times the tilings of a kernel at its first call and keeps the fastest, on disk too. A process that
compiles beside others postpones that: its kernels run their first tiling, and once no other process works on the GPU it
times all of them (`make_now`). The first tiling for good would be no way out: the study's eager arm then takes 29 to
56 % longer (docs/measurements.md). Whether matrix products are padded is timed while compiling, so it would be fixed in
the code: it is decided once and for all, they are not. Where anything else has to be timed (templates, Triton's own
autotuner), a process beside others gives up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from tune.engine import tile_timing

KEPT_ELEMENTS = 2**20  # of an argument of whole numbers, such as row numbers: larger ones become zeros

_made: list[str] = []  # names of the kernels whose tiling this process has timed


class NeedsDeviceAlone(RuntimeError):
    """Something must be timed now, and other processes use the device too."""


def settle() -> None:
    """Fix what can be fixed, and from now on time tilings exactly (`tune.engine.tile_timing`). To be called first."""
    import torch._inductor.config
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    torch._inductor.config.shape_padding = False
    CachingAutotuner.benchmark_all_configs = _timed_here


def _timed_here(tuner: Any, *args: Any, **kwargs: Any) -> dict[Any, float]:
    _made.append(tuner.fn.__name__)
    return tile_timing.timed(tuner, *args, **kwargs)


def made_here() -> bool:
    """Whether this process has timed a kernel's tilings."""
    return bool(_made)


@contextmanager
def postponed() -> Iterator[list[Postponed]]:
    """Inside, kernels run their first tiling and nothing is kept of it; NeedsDeviceAlone where that is not enough.

    Yields the kernels that did, for `make_now`.
    """
    from torch._inductor.runtime.benchmarking import benchmarker
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    open_choices: list[Postponed] = []

    def take_the_first(tuner: Any, *args: Any, **kwargs: Any) -> None:
        open_choices.append(Postponed.of(tuner, args, kwargs))
        tuner.launchers = tuner.launchers[:1]

    replacements: list[tuple[Any, str, Any]] = [(CachingAutotuner, "autotune_to_one_config", take_the_first)]
    for name in ("benchmark", "benchmark_gpu", "benchmark_cpu"):
        replacements.append((benchmarker, name, _refuse(f"inductor's {name}")))
    if find_spec("triton") is not None:
        from triton.runtime.autotuner import Autotuner

        replacements.append((Autotuner, "_bench", _refuse("Triton's autotuner")))
    with ExitStack() as stack:
        for owner, name, value in replacements:
            stack.enter_context(_replaced(owner, name, value))
        yield open_choices


def make_now(open_choices: list[Postponed]) -> None:
    """Time the tilings that were postponed, and keep what is chosen on disk. Needs the device alone."""
    while open_choices:
        open_choices.pop().make()


@dataclass(frozen=True, kw_only=True)
class Postponed:
    """A kernel whose tiling is not chosen yet."""

    tuner: Any  # inductor's CachingAutotuner
    launchers: list[Any]  # one for each tiling
    args: tuple[Any, ...]  # of its first call; a tensor as a function that makes one like it
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, tuner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Postponed:
        """Remember a kernel at its first call. Holds no memory of the device."""
        named = {name: _description(value) for name, value in kwargs.items()}
        described = tuple(_description(value) for value in args)
        return cls(tuner=tuner, launchers=list(tuner.launchers), args=described, kwargs=named)

    def make(self) -> None:
        """Choose now."""
        self.tuner.launchers = self.launchers
        args = (_made_again(value) for value in self.args)
        self.tuner.autotune_to_one_config(*args, **{name: _made_again(value) for name, value in self.kwargs.items()})


class _Like:
    """A tensor's form; its values too if they are a few whole numbers, as they may say where a kernel reads."""

    def __init__(self, tensor: Any) -> None:
        self._form = {"size": tensor.size(), "stride": tensor.stride(), "dtype": tensor.dtype, "device": tensor.device}
        whole = not (tensor.is_floating_point() or tensor.is_complex())
        self._values = tensor.cpu() if whole and tensor.numel() <= KEPT_ELEMENTS else None

    def make(self) -> Any:
        import torch

        tensor = torch.empty_strided(**self._form).zero_()
        if self._values is not None:
            tensor.copy_(self._values)
        elif tensor.is_floating_point():
            tensor.normal_()
        return tensor


def _description(value: Any) -> Any:
    import torch

    return _Like(value) if isinstance(value, torch.Tensor) else value


def _made_again(value: Any) -> Any:
    return value.make() if isinstance(value, _Like) else value


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before) if own else delattr(owner, name)


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NeedsDeviceAlone(f"{what} has to time something, alone on the device")

    return refuse
