"""Choices by timing beside other processes: postponed, made later on arguments of the same form, or refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._inductor.runtime.benchmarking import benchmarker
from torch._inductor.runtime.triton_heuristics import CachingAutotuner

from tune.engine import tile_timing, timed_choices
from tune.engine.timed_choices import NeedsDeviceAlone, make_now, postponed


class Launcher:
    """A tiling."""

    def __init__(self, name: str) -> None:
        self.name, self.n_spills = name, 0


class Tuner:
    """What the product uses of inductor's CachingAutotuner."""

    def __init__(self) -> None:
        self.launchers: list[Any] = [Launcher(name) for name in "abc"]
        self.fn = SimpleNamespace(__name__="kernel")
        self.inductor_meta: dict[str, Any] = {}
        self.custom_kernel = False
        self.calls: list[tuple[list[Any], dict[str, Any], int]] = []

    def autotune_to_one_config(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append((list(args), kwargs, len(self.launchers)))

    def clone_args(self, *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        return list(args), kwargs

    def reset_to_zero_args(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to reset."""


def _first_call(tuner: Tuner, *args: Any, **kwargs: Any) -> None:
    CachingAutotuner.autotune_to_one_config(tuner, *args, **kwargs)  # type: ignore[arg-type]


def test_beside_others_a_kernel_runs_its_first_tiling_and_nothing_is_timed() -> None:
    tuner = Tuner()
    with postponed() as choices:
        _first_call(tuner, torch.ones(4))
    assert [launcher.name for launcher in tuner.launchers] == ["a"] and len(choices) == 1
    assert tuner.calls == []


def test_a_postponed_choice_is_made_among_all_tilings_on_arguments_of_the_same_form() -> None:
    tuner = Tuner()
    strided, rows, many = torch.ones(6, 4)[:, ::2], torch.tensor([3, 1, 2]), torch.ones(2, 3, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch, postponed() as choices:
        patch.setattr(timed_choices, "KEPT_ELEMENTS", 3)
        _first_call(tuner, strided, rows, many, 7, scale=strided)
    make_now(choices)
    (args, kwargs, tilings), *others = tuner.calls
    assert tilings == 3 and others == [] and choices == []
    for made, given in zip([*args[:3], kwargs["scale"]], [strided, rows, many, strided], strict=True):
        assert (made.size(), made.stride(), made.dtype) == (given.size(), given.stride(), given.dtype)
        assert made.data_ptr() != given.data_ptr()
    assert args[1].tolist() == [3, 1, 2]  # they may say where a kernel reads
    assert args[2].tolist() == [[0] * 3] * 2  # too many to keep
    assert args[3] == 7


def test_what_cannot_wait_is_refused_and_only_beside_others() -> None:
    with postponed(), pytest.raises(NeedsDeviceAlone, match="alone on the device"):
        benchmarker.benchmark_cpu(lambda: None)
    assert benchmarker.benchmark_cpu(lambda: None, warmup=1, rep=1) >= 0


def test_tritons_own_autotuner_is_refused_beside_others() -> None:
    autotuner = pytest.importorskip("triton.runtime.autotuner", reason="Triton is not installed")
    with postponed(), pytest.raises(NeedsDeviceAlone, match="Triton's autotuner"):
        autotuner.Autotuner._bench(None)


def test_whether_matrix_products_are_padded_is_settled_without_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config, "shape_padding", True)
    timed_choices.settle()
    assert torch._inductor.config.shape_padding is False


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ([3.0, 2.0, 1.0], 2),
        ([1.0, 2.0], 0),
        ([1.009, 1.0, 2.0], 0),  # equal: the first
        ([1.02, 1.009, 1.0], 1),
        ([1.0], 0),
    ],
)
def test_the_first_tiling_within_one_percent_of_the_fastest_is_chosen(times: list[float], chosen: int) -> None:
    assert tile_timing.choose(times) == chosen


def test_the_caller_finds_the_chosen_tiling_by_its_shortest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = _timings(monkeypatch, Tuner(), {"a": 1.005, "b": 1.0, "c": 3.0})
    assert min(timings, key=timings.__getitem__) == "a" and timings["c"] == 3.0


def test_tilings_that_spill_registers_are_left_out_unless_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = Tuner()
    tuner.launchers[1].n_spills = 100
    assert _timings(monkeypatch, tuner, {"a": 2.0, "b": 1.0, "c": 3.0}).keys() == {"a", "c"}
    for launcher in tuner.launchers:
        launcher.n_spills = 100
    assert _timings(monkeypatch, tuner, {"a": 2.0, "b": 1.0, "c": 3.0}).keys() == {"a", "b", "c"}


def _timings(monkeypatch: pytest.MonkeyPatch, tuner: Tuner, times: dict[str, float]) -> dict[str, float]:
    """The times by tiling, where each round of a tiling takes as long as `times` says; one round is disturbed."""
    monkeypatch.setattr(tile_timing, "_recorded", lambda launcher, *_: launcher.name)

    def in_turns(names: list[str]) -> list[list[float]]:
        return [[times[name] for name in names]] * 4 + [[times[name] * 9 for name in names]]

    monkeypatch.setattr(tile_timing, "_in_turns", in_turns)
    found = tile_timing.timed(tuner, torch.ones(2))
    return {launcher.name: time for launcher, time in found.items()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="timing kernels needs a CUDA GPU")
def test_on_a_gpu_the_tiling_that_takes_half_as_long_is_chosen() -> None:
    buffer = torch.ones(2**24, device="cuda")

    def launcher(parts: int) -> Any:
        def launch(tensor: torch.Tensor, stream: int) -> None:
            tensor[: len(tensor) // parts].mul_(1.0)

        launch.n_spills = 0  # type: ignore[attr-defined]
        return launch

    tuner = Tuner()
    tuner.launchers = [launcher(1), launcher(2)]
    timings = tile_timing.timed(tuner, buffer)
    assert min(timings, key=timings.__getitem__) is tuner.launchers[1]
