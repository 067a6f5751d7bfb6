"""The barriers of warpgroups that take turns, simulated: no order of events leaves them waiting or mixes their slices.

Each function below has the waits and arrivals of one partition of a kernel in model/fused/hopper/, in their order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

Wait = tuple["Barrier", int]


class Barrier:
    """An mbarrier: a phase ends with its count of arrivals; a wait for a parity passes once such a phase has ended."""

    def __init__(self, count: int) -> None:
        self.count, self.missing, self.phase = count, count, 0

    def arrive(self) -> None:
        self.missing -= 1
        assert self.missing >= 0
        if not self.missing:
            self.phase, self.missing = self.phase + 1, self.count

    def passes(self, parity: int) -> bool:
        return self.phase & 1 != parity & 1


class Ring:
    """Buffers that one loader fills and all groups free, and the groups' turns."""

    def __init__(self, buffers: int, groups: int) -> None:
        self.buffers, self.groups = buffers, groups
        self.full = [Barrier(1) for _ in range(buffers)]
        self.empty = [Barrier(groups) for _ in range(buffers)]
        self.turns = [Barrier(1) for _ in range(groups)]
        self.held = [-1] * buffers  # the number of what a buffer holds
        self.taken: list[tuple[int, int]] = []

    def load(self, items: int) -> Iterator[Wait]:
        for k in range(items):
            yield self.empty[k % self.buffers], (k // self.buffers & 1) ^ 1
            self.held[k % self.buffers] = k
            self.full[k % self.buffers].arrive()

    def arrived(self, k: int) -> Wait:
        return self.full[k % self.buffers], k // self.buffers & 1

    def turn(self, group: int, number: int) -> Wait:
        return self.turns[group], (number & 1) ^ (group == 0)

    def pass_on(self, group: int, number: int, *reads: int) -> None:
        assert all(self.held[k % self.buffers] == k for k in reads)
        self.taken.append((number, group))
        self.turns[(group + 1) % self.groups].arrive()

    def free(self, k: int) -> None:
        self.empty[k % self.buffers].arrive()


def _run(partitions: list[Iterator[Wait]], ring: Ring, seed: int) -> None:
    """All partitions to their ends, one event at a time in random order."""
    chance = random.Random(seed)
    waits = {at: next(partition, None) for at, partition in enumerate(partitions)}
    while any(waits.values()):
        free = [at for at, wait in waits.items() if wait and wait[0].passes(wait[1])]
        assert free, "all wait"
        at = chance.choice(free)
        waits[at] = next(partitions[at], None)
    assert ring.taken == sorted(ring.taken)


def _compute(ring: Ring, group: int, has_tile: list[bool], slices: int) -> Iterator[Wait]:
    for r, there in enumerate(has_tile):
        turn, first = r * (slices + 1), r * slices
        if there:
            yield ring.arrived(first)
            yield ring.turn(group, turn)
            ring.pass_on(group, turn, first)
            for k in range(first, first + slices - 1):
                yield ring.arrived(k + 1)
                yield ring.turn(group, turn + k - first + 1)
                ring.pass_on(group, turn + k - first + 1, k, k + 1)
                ring.free(k)
            yield ring.turn(group, turn + slices)
            ring.pass_on(group, turn + slices, first + slices - 1)
            ring.free(first + slices - 1)
            continue
        for k in range(first, first + slices):
            yield ring.arrived(k)
            ring.free(k)
            yield ring.turn(group, turn + k - first)
            ring.pass_on(group, turn + k - first)
        yield ring.turn(group, turn + slices)
        ring.pass_on(group, turn + slices)


def _own_columns(ring: Ring, group: int, tiles: int) -> Iterator[Wait]:
    yield ring.arrived(0)
    yield ring.turn(group, 0)
    ring.pass_on(group, 0, 0)
    for i in range(tiles - 1):
        yield ring.arrived(i + 1)
        yield ring.turn(group, i + 1)
        ring.pass_on(group, i + 1, i, i + 1)
        ring.free(i)
    yield ring.turn(group, tiles)
    ring.pass_on(group, tiles, tiles - 1)


@pytest.mark.parametrize("slices", [2, 4, 6, 8])
@pytest.mark.parametrize("last_round", [1, 2, 3])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_forward_pass_ends_in_any_order_of_events(rounds: int, last_round: int, slices: int) -> None:
    for seed in range(20):
        ring = Ring(4, 3)
        groups = [_compute(ring, group, [*[True] * (rounds - 1), group < last_round], slices) for group in range(3)]
        _run([ring.load(rounds * slices), *groups], ring, seed)


@pytest.mark.parametrize("tiles", [1, 2, 3, 4, 5, 18])
def test_the_backward_pass_ends_in_any_order_of_events(tiles: int) -> None:
    for seed in range(20):
        ring = Ring(4, 2)
        _run([ring.load(tiles), *(_own_columns(ring, group, tiles) for group in range(2))], ring, seed)
