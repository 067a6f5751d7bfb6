"""NVML of a node that Ray was told has GPUs: four, each with a UUID that says where it is. For tests only."""

from __future__ import annotations

COUNT = 4


def nvmlInit() -> None:
    pass


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return COUNT


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetUUID(handle: int) -> str:
    import ray

    return f"GPU-{ray.util.get_node_ip_address()}-{handle}"
