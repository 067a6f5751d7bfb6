"""The attention backends by name. Importable without torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from model.attention.base import Backend, Workload
from model.attention.eager import Eager
from model.attention.flash_attention_2 import FlashAttention2
from model.attention.flash_attention_3 import FlashAttention3
from model.attention.flash_attention_4 import FlashAttention4
from model.attention.flex import Flex
from model.attention.patch import Patch
from model.attention.sdpa_cudnn import SdpaCudnn
from model.attention.sdpa_efficient import SdpaEfficient
from model.attention.sdpa_flash import SdpaFlash

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Eager(),
        SdpaEfficient(),
        SdpaFlash(),
        SdpaCudnn(),
        FlashAttention2(),
        FlashAttention3(),
        FlashAttention4(),
        Flex(),
        Patch(),
    )
}

# Other names that a user may give -> the backend.
ALIASES: dict[str, str] = {"vanilla": "eager", "flash": "flash_attention_2"}

# What `auto` tries, fastest at PatchTST's shapes first (docs/measurements.md); names not in BACKENDS are skipped.
AUTO_ORDER: tuple[str, ...] = ("patch", "sdpa_efficient", "eager")


def get_backend(name: str) -> Backend:
    """The backend of this name or alias; ValueError with the nearest name for an unknown one."""
    key = ALIASES.get(name, name)
    if key in BACKENDS:
        return BACKENDS[key]
    known = [*BACKENDS, *(alias for alias, target in ALIASES.items() if target in BACKENDS)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown attention {name!r}: choose one of {', '.join(known)}.{hint}")


def resolve_auto(work: Workload, missing: Mapping[str, str] = MappingProxyType({})) -> str:
    """The first backend of AUTO_ORDER that can do `work`; `missing`: backend -> why its package cannot be used.

    Call it once, when planning, and log the name: nothing falls back later. ValueError where none runs.
    """
    reasons = {}
    for name in AUTO_ORDER:
        if name in BACKENDS:
            reason = BACKENDS[name].unsupported_reason(work) or missing.get(name)
            if reason is None:
                return name
            reasons[name] = reason
    raise ValueError("no attention backend runs here: " + "; ".join(reasons.values()))
