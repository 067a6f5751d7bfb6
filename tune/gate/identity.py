"""What the gate's results and compiled code depend on."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import torch

from tune.machine.code_identity import package_dir
from tune.machine.device import node_facts
from tune.machine.environment import versions

NO_NUMERICS = frozenset({"python", "granite-tsfm", "ray", "mlflow", "pandas", "pyarrow", "numpy"})
SOURCES = (("model", "**/*.py"), ("tune", "engine/*.py"), ("tune", "gate/*.py"))
SETTINGS = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # environment variables that change numerics


def platform_identity(device: torch.device) -> dict[str, Any]:
    """The device, versions, settings and sources that numerics and compiled code depend on."""
    return {
        "device": node_facts(use_gpu=device.type == "cuda").name,
        "versions": {name: version for name, version in versions().items() if name not in NO_NUMERICS}
        | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
        "settings": {name: os.environ.get(name) for name in SETTINGS},
        "sources_sha256": _sources_sha256(),
    }


def _sources_sha256() -> str:
    digest = hashlib.sha256()
    for package, pattern in SOURCES:
        folder = package_dir(package)
        sources = sorted(folder.glob(pattern))
        if not sources:
            raise RuntimeError(f"{folder} has no {pattern}, on which the gate's results depend")
        for source in sources:
            digest.update(f"{package}/{source.relative_to(folder)}\0".encode())
            digest.update(source.read_bytes() + b"\0")
    return digest.hexdigest()
