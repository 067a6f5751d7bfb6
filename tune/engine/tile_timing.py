"""Times the tilings of a compiled kernel exactly enough that two processes choose the same one.

PyTorch's compiler times a tiling by the shortest of up to 100 launches, each between two events with an emptied cache.
A kernel of a small model takes about 10 us, an event has a resolution of half of one, and two sweeps of one arm then
differ by up to 1 % of a step (docs/measurements.md). Here a tiling is launched many times inside one CUDA graph, the
graphs of all tilings replay in turns, and the first one within TIE of the fastest is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

LAUNCHES = 20  # inside one graph
ROUNDS = 15  # replays of each graph, in turns with the others
TIE = 0.01  # tilings this close are equal: the first in the compiler's order is taken
SPILLS = 16  # registers that a kernel of the compiler's may spill: its own limit


def timed(tuner: Any, *args: Any, **kwargs: Any) -> dict[Any, float]:
    """Milliseconds of one launch by launcher, as `CachingAutotuner.benchmark_all_configs` returns them.

    The chosen one's time is made the shortest, as the caller takes the minimum. Uses the device alone, and a stream of
    its own: a process that has called it should train nothing (tune/engine/graph.py says why).
    """
    able = [launcher for launcher in tuner.launchers if not _spills(tuner, launcher)] or list(tuner.launchers)
    given, named = tuner.clone_args(*args, **kwargs)  # what a kernel changes is a copy
    replays = [_recorded(launcher, given, named) for launcher in able]
    times = [statistics.median(rounds) for rounds in zip(*_in_turns(replays), strict=True)]
    tuner.reset_to_zero_args(*args, **kwargs)
    chosen = choose(times)
    return {
        launcher: time if at != chosen else 0.0 for at, (launcher, time) in enumerate(zip(able, times, strict=True))
    }


def choose(times: Sequence[float]) -> int:
    """Index of the first time within TIE of the shortest."""
    limit = min(times) * (1 + TIE)
    return next(at for at, time in enumerate(times) if time <= limit)


def _spills(tuner: Any, launcher: Any) -> bool:
    limit = tuner.inductor_meta.get("spill_threshold", SPILLS)
    return bool(not tuner.custom_kernel and launcher.n_spills is not None and launcher.n_spills > limit)


def _recorded(launcher: Any, given: Sequence[Any], named: dict[str, Any]) -> Callable[[], None]:
    import torch

    def launch(times: int) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        for _ in range(times):
            launcher(*given, **named, stream=stream)

    launch(1)  # loads the kernel, which a capture may not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch(LAUNCHES)
    return graph.replay


def _in_turns(replays: Sequence[Callable[[], None]]) -> list[list[float]]:
    """For each round the milliseconds of one launch of each. The first round warms up and is left out."""
    import torch

    rounds = []
    for _ in range(ROUNDS + 1):
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in replays]
        for (begin, end), replay in zip(pairs, replays, strict=True):
            begin.record()
            replay()
            end.record()
        torch.cuda.synchronize()
        rounds.append([begin.elapsed_time(end) / LAUNCHES for begin, end in pairs])
    return rounds[1:]
