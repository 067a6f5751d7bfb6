"""Names of kernels: which of them are attention's, whose they are, and how to write them short. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from model.attention import BACKENDS, get_backend
from model.attention.base import Backend
from tune.common.errors import GateFailed

ATTENTION_LIKE = r"(?i)softmax|attention|attn|fmha|flash|sdpa"
NAME_LENGTH = 200  # characters kept of a kernel's name
SHOWN = 4  # kernels named in a reason


def check(names: Sequence[str], *, attention: str, device_type: str) -> tuple[str, ...]:
    """Those of a step's kernels that are the backend's. Raises GateFailed where one is missing, or another's is there.

    Kernels that only sound like attention prove nothing: inductor names the copies around an operator after it.
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


def _patterns(backend: Backend, device_type: str) -> tuple[str, ...]:
    return backend.kernel_patterns if device_type == "cuda" else backend.cpu_patterns


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def short(name: str) -> str:
    """What tells a kernel from others, at most 80 characters: the first name in it that sounds like attention.

    A template's own name may say nothing; for a kernel of nothing like attention it is all there is.
    """
    words = re.findall(r"[\w:.]+", name.removeprefix("void ").replace("(anonymous namespace)::", ""))
    telling = next((word for word in words if re.search(ATTENTION_LIKE, word.split("::")[-1])), (words or [name])[0])
    return "::".join(telling.split("::")[-2:])[:80]
