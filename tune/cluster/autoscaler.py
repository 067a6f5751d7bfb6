"""Ask a cluster's autoscaler for the nodes that will run the trials, and wait for them.

A cluster's head has no GPU, and its workers may start from zero. A sweep asks for nodes by placement groups. The
autoscaler starts nodes for them, and Ray drops them when the driver ends, also when it is killed:
`ray.autoscaler.sdk.request_resources` would keep paid nodes up for a killed sweep.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ACCELERATOR = "accelerator_type:"  # how Ray's resources name the GPU model of a node
LOOK_EVERY_S = 2.0
SAY_EVERY_S = 30.0
Node = Mapping[str, float]  # a node's resources, as Ray names them


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the trials need: `count` GPUs, or one node with a CPU."""

    gpu: bool
    count: int = 1
    model: str | None = None  # Ray's name of the GPU model; None: any

    @property
    def bundle(self) -> dict[str, float]:
        """One GPU or CPU, as a bundle of a placement group."""
        if not self.gpu:
            return {"CPU": 1}
        pinned = {} if self.model is None else {f"{ACCELERATOR}{self.model}": 0.001}
        return {"GPU": 1, "CPU": 1, **pinned}

    def available(self, nodes: list[Node]) -> int:
        """How many of them the nodes have, free or in use."""
        if not self.gpu:
            return sum(node.get("CPU", 0) >= 1 for node in nodes)
        of_model = [node for node in nodes if self.model is None or f"{ACCELERATOR}{self.model}" in node]
        return sum(int(node.get("GPU", 0)) for node in of_model)

    def __str__(self) -> str:
        if not self.gpu:
            return "a node with a CPU"
        return f"{self.count} {self.model or 'GPU'}{'' if self.count == 1 or self.model else 's'}"


def alive_nodes(ray: Any) -> list[Node]:
    """The resources of each living node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def wait_for(ray: Any, wanted: Wanted, *, limit_s: float) -> list[Node]:
    """The nodes, once they have what is wanted or `limit_s` seconds have passed.

    Says on stderr what it waits for: at once, when something has joined, and every SAY_EVERY_S seconds.
    """
    nodes = alive_nodes(ray)
    if limit_s <= 0 or wanted.available(nodes) >= wanted.count:
        return nodes
    started = said = time.monotonic()
    seen = wanted.available(nodes)
    _say(wanted, seen, waited_s=0, limit_s=limit_s)
    with _asked_for(ray, wanted):
        while seen < wanted.count and (waited_s := time.monotonic() - started) < limit_s:
            time.sleep(min(LOOK_EVERY_S, limit_s - waited_s))
            nodes = alive_nodes(ray)
            before, seen = seen, wanted.available(nodes)
            if seen != before or time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                _say(wanted, seen, waited_s=said - started, limit_s=limit_s)
    if 0 < seen < wanted.count:
        print(f"going on with {seen} of {wanted}: no more within {limit_s:g} s", file=sys.stderr)
    return nodes


def _say(wanted: Wanted, seen: int, *, waited_s: float, limit_s: float) -> None:
    if seen >= wanted.count:
        print(f"the cluster has {wanted}, after {waited_s:.0f} s", file=sys.stderr, flush=True)
        return
    have = f", has {seen}" if seen else ""
    line = f"waiting for {wanted} to join the cluster{have}: {waited_s:.0f} of at most {limit_s:g} s"
    print(f"{line} (--wait-for-gpus); `ray status` shows what is starting", file=sys.stderr, flush=True)


@contextmanager
def _asked_for(ray: Any, wanted: Wanted) -> Iterator[None]:
    """Inside, the autoscaler is asked for each wanted GPU or CPU by a placement group of its own, until that fits."""
    groups = [ray.util.placement_group([wanted.bundle]) for _ in range(wanted.count)]
    try:
        yield
    finally:
        for group in groups:
            ray.util.remove_placement_group(group)
