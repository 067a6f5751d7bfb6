"""GPUs that a sweep holds, one by one and known by their UUIDs; blocks of trials run on them.

Tune hands out GPUs by number, and another one to each new actor. A lease is our own placement group with one GPU: Ray
gives this GPU to nobody else while the group exists, whatever becomes of a trial. A task in the group tells where the
GPU is. The trial's Ray actor computes nothing. It asks Ray for no GPU but for a sliver of the GPU's node, and shows its
processes the leased GPU only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from tune.cluster.share import Share
from tune.machine.device import nvml, visible_gpus

POLL_S = 1.0  # how often Ray is asked which nodes are alive
SETTLED_S = 60.0  # how long a GPU on which a block began is waited for


@dataclass(frozen=True, kw_only=True)
class GpuLocation:
    """Where a leased GPU is."""

    node_id: str  # of Ray
    address: str  # of the node
    visible: str  # the value of CUDA_VISIBLE_DEVICES by which its node knows it
    uuid: str | None  # None if NVML cannot tell

    @property
    def gpu(self) -> str:
        """A name of this very GPU."""
        return self.uuid or f"GPU-{self.visible}-of-{self.address}"


class GpuLease:
    """One GPU that is held. While `location` is None, it is waited for."""

    def __init__(self, ray: Any, index: int, share: Share) -> None:
        from ray.util.placement_group import placement_group

        self.index, self.location = index, None
        self._ray = ray
        self._group = placement_group([{"CPU": share.cpus, "GPU": 1, **share.resources}])
        self._asked = self._ask()

    location: GpuLocation | None

    def _ask(self) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        inside = PlacementGroupSchedulingStrategy(placement_group=self._group)
        task = self._ray.remote(num_cpus=0, num_gpus=1, max_calls=1, scheduling_strategy=inside)(_locate)
        return task.remote()

    def update(self, living: Collection[str]) -> None:
        """Learn where the GPU is, or that its node is not among the `living`: Ray then finds another GPU if it can."""
        from ray.exceptions import RayError, RayTaskError

        if self.location is not None and self.location.node_id not in living:
            self.location, self._asked = None, self._ask()
        if self._asked is None or not self._ray.wait([self._asked], timeout=0)[0]:
            return
        try:
            location = GpuLocation(**self._ray.get(self._asked))
        except RayTaskError:  # what fails there fails everywhere
            raise
        except RayError:  # its process or node was lost
            self._asked = self._ask()
            return
        self.location, self._asked = (location, None) if location.node_id in living else (None, self._ask())

    def resources(self) -> dict[str, float]:
        """What a trial's actor asks Ray for: its node. The amount tells leases apart, as an actor serves only one."""
        assert self.location is not None
        return {f"node:{self.location.address}": round(0.001 + 0.0001 * self.index, 4)}

    def release(self) -> None:
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)


class GpuLeases:
    """The leases of one sweep. As a context manager it gives them back.

    most: how many are used.
    wanted: GPUs on which blocks have begun. They are among the leases if they can be had.
    """

    def __init__(self, ray: Any, share: Share, *, most: int, wanted: Collection[str]) -> None:
        self._ray, self._most, self._wanted = ray, most, set(wanted)
        count = max(most, count_gpus(ray, share)) if wanted else most
        self._leases = [GpuLease(ray, index, share) for index in range(count)]
        self._settled, self._until_s = False, time.monotonic() + SETTLED_S
        self._updated_s = -POLL_S

    def __enter__(self) -> GpuLeases:
        return self

    def __exit__(self, *error: object) -> None:
        for lease in self._leases:
            lease.release()

    def __len__(self) -> int:
        return self._most

    def update(self) -> None:
        """See what has become of the GPUs; at most once in POLL_S seconds."""
        if time.monotonic() - self._updated_s < POLL_S:
            return
        self._updated_s = time.monotonic()
        living = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        for lease in self._leases:
            lease.update(living)
        if not self._settled and (all(lease.location for lease in self._leases) or time.monotonic() > self._until_s):
            self._settle()

    def _settle(self) -> None:
        """Of more leases than are used, keep those on a wanted GPU, then those whose GPU is there."""
        self._settled = True
        self._leases.sort(
            key=lambda lease: (lease.location is None, not lease.location or lease.location.gpu not in self._wanted)
        )
        for lease in self._leases[self._most :]:
            lease.release()
        del self._leases[self._most :]

    @property
    def usable(self) -> list[GpuLease]:
        """Those whose GPU is there. None of them before it is known which ones are kept."""
        held = [lease for lease in self._leases if lease.location is not None]
        return held if self._settled or len(self._leases) == self._most else []

    @property
    def gpus(self) -> set[str] | None:
        """The GPUs of the usable leases; None while some are unknown."""
        return {lease.location.gpu for lease in self.usable if lease.location} if self._settled else None


def count_gpus(ray: Any, share: Share) -> int:
    """How many whole GPUs of the sweep's model the living nodes have."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(node.get("GPU", 0)) for node in nodes if share.resources.keys() <= node.keys())


def _locate() -> dict[str, Any]:
    """Where this task runs, and which GPU Ray gave it."""
    import ray

    context = ray.get_runtime_context()
    visible = os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(context.get_accelerator_ids()["GPU"])
    with nvml() as lib:
        handles = visible_gpus(lib)
        uuid = str(lib.nvmlDeviceGetUUID(handles[0])) if handles else None
    return asdict(
        GpuLocation(node_id=context.get_node_id(), address=ray.util.get_node_ip_address(), visible=visible, uuid=uuid)
    )


def enter(location: GpuLocation) -> None:
    """In a trial's actor: show this process, and what it starts, the leased GPU and no other.

    Raises RuntimeError if the actor runs on another node: the GPU's node was started anew.
    """
    import ray

    if ray.get_runtime_context().get_node_id() != location.node_id:
        raise RuntimeError(
            f"the node {location.address} was started anew, its GPUs are not held for this sweep any more"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = location.visible
