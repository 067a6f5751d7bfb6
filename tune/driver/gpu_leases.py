"""GPUs held for a sweep, one by one and known by their UUIDs: lanes in which its blocks of trials run.

Tune hands out GPUs by number, and another one to each new actor. A lane is a placement group of ours with one GPU: Ray
lets nobody else have this GPU while the group exists, whatever becomes of a trial. A task in the group tells where it
is. The trial's Ray actor itself, which computes nothing, asks Ray for no GPU but for a sliver of the lane's node, and
shows its processes the lane's GPU only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from tune.cluster.share import Share
from tune.machine.device import nvml, visible_gpus

LOOK_S = 1.0  # how often Ray is asked which nodes live
SETTLED_S = 60.0  # a GPU that has not been had by then is not waited for, where a block began on it


@dataclass(frozen=True, kw_only=True)
class GpuLocation:
    """Where a lane's GPU is."""

    node_id: str  # of Ray
    address: str  # of the node
    visible: str  # CUDA_VISIBLE_DEVICES, by which its node knows it
    uuid: str | None  # None where NVML does not tell

    @property
    def gpu(self) -> str:
        """One word for this very GPU."""
        return self.uuid or f"GPU-{self.visible}-of-{self.address}"


class GpuLease:
    """One GPU that is held; or, while `place` is None, waited for."""

    def __init__(self, ray: Any, index: int, share: Share) -> None:
        from ray.util.placement_group import placement_group

        self.index, self.place = index, None
        self._ray = ray
        self._group = placement_group([{"CPU": share.cpus, "GPU": 1, **share.resources}])
        self._asked = self._ask()

    place: GpuLocation | None

    def _ask(self) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        inside = PlacementGroupSchedulingStrategy(placement_group=self._group)
        task = self._ray.remote(num_cpus=0, num_gpus=1, max_calls=1, scheduling_strategy=inside)(_here)
        return task.remote()

    def look(self, living: Collection[str]) -> None:
        """Learn where its GPU is, or that its node is not among the `living`: Ray then finds another GPU if it can."""
        from ray.exceptions import RayError, RayTaskError

        if self.place is not None and self.place.node_id not in living:
            self.place, self._asked = None, self._ask()
        if self._asked is None or not self._ray.wait([self._asked], timeout=0)[0]:
            return
        try:
            place = GpuLocation(**self._ray.get(self._asked))
        except RayTaskError:  # what fails there fails everywhere
            raise
        except RayError:  # its process or node was lost
            self._asked = self._ask()
            return
        self.place, self._asked = (place, None) if place.node_id in living else (None, self._ask())

    def resources(self) -> dict[str, float]:
        """What a trial's actor asks Ray for: its node. The amount tells lanes apart, for an actor serves one only."""
        assert self.place is not None
        return {f"node:{self.place.address}": round(0.001 + 0.0001 * self.index, 4)}

    def release(self) -> None:
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)


class GpuLeases:
    """The lanes of one sweep. As a context manager: they are given back.

    most: how many are wanted.
    wanted: GPUs on which blocks have begun. They are among the lanes where they can be had.
    """

    def __init__(self, ray: Any, share: Share, *, most: int, wanted: Collection[str]) -> None:
        self._ray, self._most, self._wanted = ray, most, set(wanted)
        count = max(most, gpus_there(ray, share)) if wanted else most
        self._lanes = [GpuLease(ray, index, share) for index in range(count)]
        self._settled, self._until_s = False, time.monotonic() + SETTLED_S
        self._looked_s = -LOOK_S

    def __enter__(self) -> GpuLeases:
        return self

    def __exit__(self, *error: object) -> None:
        for lane in self._lanes:
            lane.release()

    def __len__(self) -> int:
        return self._most

    def look(self) -> None:
        """See what has become of the GPUs; at most once in LOOK_S seconds."""
        if time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        living = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        for lane in self._lanes:
            lane.look(living)
        if not self._settled and (all(lane.place for lane in self._lanes) or time.monotonic() > self._until_s):
            self._settle()

    def _settle(self) -> None:
        """Of more lanes than wanted, those on a wanted GPU stay, then those whose GPU is there."""
        self._settled = True
        self._lanes.sort(key=lambda lane: (lane.place is None, not lane.place or lane.place.gpu not in self._wanted))
        for lane in self._lanes[self._most :]:
            lane.release()
        del self._lanes[self._most :]

    @property
    def open(self) -> list[GpuLease]:
        """Those whose GPU is there; none before it is known which of them stay."""
        there = [lane for lane in self._lanes if lane.place is not None]
        return there if self._settled or len(self._lanes) == self._most else []

    @property
    def there(self) -> set[str] | None:
        """The GPUs of the open lanes; None while some are still to be known."""
        return {lane.place.gpu for lane in self.open if lane.place} if self._settled else None


def gpus_there(ray: Any, share: Share) -> int:
    """How many whole GPUs of the sweep's model the living nodes have."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(node.get("GPU", 0)) for node in nodes if share.resources.keys() <= node.keys())


def _here() -> dict[str, Any]:
    """Where this task runs, and which GPU Ray has given to it."""
    import ray

    context = ray.get_runtime_context()
    visible = os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(context.get_accelerator_ids()["GPU"])
    with nvml() as lib:
        handles = visible_gpus(lib)
        uuid = str(lib.nvmlDeviceGetUUID(handles[0])) if handles else None
    return asdict(
        GpuLocation(node_id=context.get_node_id(), address=ray.util.get_node_ip_address(), visible=visible, uuid=uuid)
    )


def enter(place: GpuLocation) -> None:
    """In a trial's actor: show this process, and what it starts, the lane's GPU and no other.

    Raises RuntimeError where the actor is on another node: the lane's was started anew.
    """
    import ray

    if ray.get_runtime_context().get_node_id() != place.node_id:
        raise RuntimeError(f"the node {place.address} was started anew, its GPUs are not held for this sweep any more")
    os.environ["CUDA_VISIBLE_DEVICES"] = place.visible
