"""Names of kernels: which are attention's, which backend they belong to, and a short form. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from model.attention import BACKENDS, get_backend
from model.attention.base import Backend
from tune.common.errors import GateFailed

ATTENTION_LIKE = r"(?i)softmax|attention|attn|fmha|flash|sdpa"
OUR_LAYERS = {"hopper_": "Hopper kernels", "fused_": "plain Triton kernels"}  # beginnings of our layers' kernels
NAME_LENGTH = 200  # characters kept of a kernel's name
SHOWN = 4  # kernels named in a reason


def check_kernels(names: Sequence[str], *, attention: str, device_type: str) -> tuple[str, ...]:
    """Those of a step's kernels that belong to the backend `attention`.

    Raises GateFailed if one of its kernels is missing, or another backend's kernel ran. Kernels whose names only sound
    like attention prove nothing: inductor names the copies around an operator after it.
    """
    backend = get_backend(attention)
    own = _patterns(backend, device_type)
    like = [name for name in names if _matches(name, (*own, ATTENTION_LIKE))]
    seen = ", ".join(short(name) for name in like[:SHOWN]) or f"none among {len(names)} kernels"
    if not own:
        raise GateFailed(f"{backend.name} names no kernel that would prove it on {device_type}; seen: {seen}")
    if missing := [pattern for pattern in own if not any(re.search(pattern, name) for name in names)]:
        raise GateFailed(f"no kernel of a training step matches {backend.name}'s {missing[0]!r}; seen: {seen}")
    for other in BACKENDS.values():
        foreign = tuple(pattern for pattern in _patterns(other, device_type) if pattern not in own)
        if intruder := next((name for name in names if _matches(name, foreign)), None):
            raise GateFailed(f"a training step of {backend.name} ran a kernel of {other.name}: {short(intruder)}")
    return tuple(name[:NAME_LENGTH] for name in names if _matches(name, own))


def layers_path(names: Sequence[str]) -> str:
    """Which kernels computed the encoder's layers in a step that ran kernels of these names.

    The Hopper ones have plain Triton kernels around them.
    """
    return next(
        (who for start, who in OUR_LAYERS.items() if any(name.startswith(start) for name in names)), "PyTorch's"
    )


def _patterns(backend: Backend, device_type: str) -> tuple[str, ...]:
    return backend.kernel_patterns if device_type == "cuda" else backend.cpu_patterns


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def short(name: str) -> str:
    """A kernel's short name, at most 80 characters: the first word in it that sounds like attention, else the first.

    A template's own name, which comes first, may say nothing.
    """
    words = re.findall(r"[\w:.]+", name.removeprefix("void ").replace("(anonymous namespace)::", ""))
    telling = next((word for word in words if re.search(ATTENTION_LIKE, word.split("::")[-1])), (words or [name])[0])
    return "::".join(telling.split("::")[-2:])[:80]
