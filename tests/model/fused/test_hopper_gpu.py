"""The Hopper kernels on a Hopper GPU: each launch against its emulation, then timed; prints one table a shape.

Run alone: .venv/bin/python -m pytest tests/model/fused/test_hopper_gpu.py -q -s -n0
"""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")
import emulated_hopper  # noqa: E402
from gluon_kit import a_layer, recorded  # noqa: E402

from model.fused.hopper import launch  # noqa: E402

HERE = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
pytestmark = pytest.mark.skipif(
    HERE is None or HERE[0] != 9, reason=f"Hopper kernels need compute capability 9.0 and this machine has {HERE}"
)
RUN = launch.run
SETS = 4  # of inputs, so that no timed launch finds its own in L2
ROUNDING = 5e-3  # relative error that bf16 factors and outputs may leave; sums of them are well below
LEAST_NORM = 0.1  # of one row's normalised values all are 0, and a kernel's are 1e-5
# Rows, width of all heads, FFN width; then whether norms come after the sublayers, and dropout's rate.
STUDY, ETTM = (37_632, 128, 512, False, 0.0), (36_736, 128, 256, True, 0.2)
SHAPES = [
    STUDY, ETTM, *((rows, 128, 512, False, 0.0) for rows in (1, 63, 65, 4_097)), (4_097, 88, 512, False, 0.0),
    (4_097, 88, 256, False, 0.0), *((rows, 128, 256, True, 0.2) for rows in (1, 65)), (4_097, 88, 512, True, 0.3),
    (4_097, 64, 512, False, 0.0), (4_097, 24, 128, False, 0.0), (4_097, 128, 384, False, 0.2),
    (4_097, 128, 128, True, 0.0),
]  # fmt: skip


def _tensors(given: launch.Launch) -> dict[str, Tensor]:
    """A launch's tensors by name, those of TMA descriptors too."""
    found = {name: getattr(value, "base", value) for name, value in given.arguments.items()}
    return {name: value for name, value in found.items() if isinstance(value, Tensor) and value.numel()}


def _check(given: launch.Launch, errors: dict[str, dict[str, float]]) -> None:
    """Run it and leave its outputs; errors are relative Frobenius norms of the difference from the emulation."""
    before = {name: value.clone() for name, value in _tensors(given).items()}
    emulated_hopper.emulate(given)
    wanted = {name: value.double() for name, value in _tensors(given).items() if not torch.equal(value, before[name])}
    for name in wanted:
        _tensors(given)[name].fill_(float("nan"))
    RUN(given)
    torch.cuda.synchronize()
    found = errors.setdefault(f"{len(errors):2} {given.kernel.__name__}", {})
    for name, value in wanted.items():
        scale = value.norm().clamp_min(LEAST_NORM)
        found[name] = ((_tensors(given)[name].double() - value).norm() / scale).item()


def _microseconds(sets: list[launch.Launch]) -> float:
    """Of one launch, by replays of a graph of two launches for each set of inputs."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for given in sets * 2:
            RUN(given)
    times = []
    for _ in range(15):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        graph.replay()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) * 1e3 / (2 * len(sets)))
    return statistics.median(times)


@pytest.mark.parametrize(("rows", "width", "ffn", "post", "rate"), SHAPES)
def test_each_kernel_computes_what_its_emulation_does(rows: int, width: int, ffn: int, post: bool, rate: float) -> None:
    errors: dict[str, dict[str, float]] = {}
    with recorded(lambda given: _check(given, errors), programs=None):
        a_layer(rows, width, ffn, device="cuda", post=post, rate=rate)
    times: dict[str, float] = {}
    if rows >= 4_097:
        sets: list[list[launch.Launch]] = []
        for seed in range(SETS):
            with recorded(RUN, programs=None) as launches:
                a_layer(rows, width, ffn, device="cuda", seed=seed, post=post, rate=rate)
            sets.append(launches)
        times = {name: _microseconds(list(same)) for name, same in zip(errors, zip(*sets, strict=True), strict=True)}
    model = f"{rows} rows, heads {width} wide, FFN {ffn}, norms {'after' if post else 'before'}, dropout {rate}"
    print(f"\n{model}; us a launch (cold L2) and relative errors to fp64")
    for name, by_output in errors.items():
        values = "  ".join(f"{output} {error:.1e}" for output, error in by_output.items())
        print(f"  {name:34} {times.get(name, float('nan')):8.2f}  {values}")
    worst = {name: error for name, found in errors.items() for error in found.values() if not error < ROUNDING}
    assert not worst, worst


def test_gradients_are_the_same_to_the_last_bit_every_time() -> None:
    found: list[list[Tensor]] = []
    for _ in range(2):
        with recorded(RUN, programs=None) as launches:
            a_layer(4_097, 120, 512, device="cuda", seed=3)
            a_layer(4_097, 120, 256, device="cuda", seed=3, post=True, rate=0.2)
        found.append([value.clone() for given in launches for value in _tensors(given).values()])
    differ = [at for at, (a, b) in enumerate(zip(*found, strict=True)) if not torch.equal(a, b)]
    assert not differ, differ
