"""SCHEDULES: name -> when heads are removed. Pure; importable without torch.

A schedule is f(heads_to_remove, epochs) -> cumulative heads removed per layer before epoch 1, 2, ..., `epochs`.
"""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[int, int], tuple[int, ...]]


def one_shot(heads_to_remove: int, epochs: int) -> tuple[int, ...]:
    """All at once after the first third of the epochs; before the first epoch if there are fewer than three."""
    first = epochs // 3
    return tuple(heads_to_remove if done >= first else 0 for done in range(epochs))


def gradual(heads_to_remove: int, epochs: int) -> tuple[int, ...]:
    """Many at first, fewer later, all removed after half of the epochs.

    The cubic ramp of Zhu and Gupta, "To prune, or not to prune" (2017), equation 1, from no head: after e of the E
    ramp epochs the share 1 - (1 - e/E)^3 is removed, rounded to a number of heads.
    """
    ramp = epochs // 2
    if ramp == 0:
        return (heads_to_remove,) * epochs
    return tuple(round(heads_to_remove * (1 - (1 - min(done / ramp, 1)) ** 3)) for done in range(epochs))


SCHEDULES: dict[str, Schedule] = {"one_shot": one_shot, "gradual": gradual}
