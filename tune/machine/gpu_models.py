"""GPU models that a plan can be made for without having one.

Compute capability: NVIDIA, "CUDA GPU Compute Capability" (developer.nvidia.com/cuda-gpus). Memory: each model's data
sheet; None for a model that is sold with several sizes. The names are those of Ray's `accelerator_type`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tune.common.errors import unknown_name
from tune.machine.device import DeviceFacts


@dataclass(frozen=True, kw_only=True)
class GpuModel:
    """What is known of a model without having one."""

    capability: tuple[int, int]
    memory_gib: float | None  # from the data sheet; the driver keeps some of it


GPU_MODELS: dict[str, GpuModel] = {
    "V100": GpuModel(capability=(7, 0), memory_gib=None),  # 16 or 32
    "T4": GpuModel(capability=(7, 5), memory_gib=16),
    "A100": GpuModel(capability=(8, 0), memory_gib=None),  # 40 or 80
    "A10G": GpuModel(capability=(8, 6), memory_gib=24),
    "L4": GpuModel(capability=(8, 9), memory_gib=24),
    "L40S": GpuModel(capability=(8, 9), memory_gib=48),
    "H100": GpuModel(capability=(9, 0), memory_gib=80),
    "H200": GpuModel(capability=(9, 0), memory_gib=141),
    "B200": GpuModel(capability=(10, 0), memory_gib=180),
}


def gpu_facts(name: str) -> DeviceFacts:
    """Assumed facts of a node with one GPU of this model. WrongInput with the nearest name for an unknown one."""
    if name not in GPU_MODELS:
        raise unknown_name("GPU model", name, GPU_MODELS)
    model = GPU_MODELS[name]
    return DeviceFacts(
        device_type="cuda",
        name=name,
        capability=model.capability,
        memory_gib=model.memory_gib,
        gpus=1,
        assumed=True,
        missing=None,
    )
