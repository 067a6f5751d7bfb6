"""GPU time of a function in a CUDA graph, by events: with its inputs in the L2 cache as far as they fit, or not."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SAMPLE_MS = 2.0  # a sample lasts at least this long, so that the events' resolution of 0.5 us does not matter


@dataclass(frozen=True, kw_only=True)
class Timing:
    """GPU time of one call."""

    median_ms: float
    fastest_ms: float
    slowest_ms: float
    samples: int
    kernels: dict[str, float]  # name -> ms of one call, from one profiled replay; empty where not asked for


def time_in_graph(calls: list[Callable[[], Any]], *, samples: int, kernels: bool = False) -> Timing:
    """The time of one call, where one graph holds all `calls` in their order.

    `calls` do the same work on inputs of their own: many of them leave nothing of the first in the cache when it is
    called again. They are called three times before, outside of the graph. Raises what they raise.
    """
    graph = capture(calls)
    repeats = repeats_of(graph)
    times = [elapsed_ms(graph, repeats) / len(calls) for _ in range(samples)]
    return Timing(
        median_ms=statistics.median(times),
        fastest_ms=min(times),
        slowest_ms=max(times),
        samples=samples,
        kernels=_kernels(graph, len(calls)) if kernels else {},
    )


def capture(calls: list[Callable[[], Any]]) -> Any:
    """A CUDA graph of all `calls` in their order, which are called three times before, outside of it."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in [*calls[:1] * 2, *calls]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):  # autograd's nodes belong to the stream that they first ran on
        for call in calls:
            call()
    return graph


def repeats_of(graph: Any) -> int:
    """How many replays make a sample of SAMPLE_MS."""
    return max(1, int(SAMPLE_MS / max(elapsed_ms(graph, 3), 1e-4)))


def sets_to_flush(bytes_of_a_set: int) -> int:
    """How many sets of inputs three times the L2 cache holds, at least 2."""
    import torch

    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return max(2, -(-3 * cache // max(1, bytes_of_a_set)))


def elapsed_ms(graph: Any, repeats: int) -> float:
    """Milliseconds of one replay, the mean of `repeats` in a row."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


def _kernels(graph: Any, calls: int) -> dict[str, float]:
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        graph.replay()
        torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.name] = times.get(event.name, 0.0) + event.device_time / 1e3 / calls
    return dict(sorted(times.items(), key=lambda item: -item[1]))
