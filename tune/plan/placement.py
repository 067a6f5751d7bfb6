"""Which feed a sweep takes that names none: by what is free where its trials will run. All arms get the same one.

Planning-safe: imports none of torch, transformers, ray, mlflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipeline.feed.placement import Placement, Room, choose_placement
from tune.config.sweeps import SweepConfig
from tune.machine.device import GIB, DeviceFacts

FIELD, AUTO, TAG = "data.feed", "auto", "data.placement"
USUAL = "device"
UNREAD = Placement(feed=USUAL, reason="the size of the series is not known yet")


def placement_of(
    sweep: SweepConfig, overrides: Mapping[str, Any], device: DeviceFacts, protocol: Mapping[str, Any] | None
) -> Placement | None:
    """The feed for `sweep` on `device`; None if the sweep or the user names one.

    protocol: what is known of the data; None: nothing is.
    """
    if FIELD in sweep.swept or FIELD in sweep.shared or overrides.get(FIELD, AUTO) != AUTO:
        return None
    if protocol is None:
        return UNREAD
    rows, columns = protocol["rows"], protocol["columns"]
    # an epoch's order takes 8 bytes a window beside the series
    return choose_placement(4 * rows * columns + 8 * rows, _room(device))


def _room(device: DeviceFacts) -> Room:
    """What a trial may take. The host's memory is shared by the trials of its GPUs."""
    if device.device_type == "cpu":
        return Room(device=None, host=_bytes(device.host_free_gib))
    free_gib = device.memory_gib if device.memory_free_gib is None else device.memory_free_gib
    host_gib = None if device.host_free_gib is None else device.host_free_gib / max(1, device.gpus)
    return Room(device=_bytes(free_gib), host=_bytes(host_gib))


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * GIB)
