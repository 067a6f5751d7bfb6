"""The record of a fault test: its random moments and their seed, what was injected, what was lost."""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path

SEED, LOG = "SOAK_SEED", "SOAK_LOG"  # set by `make soak`; a test alone draws the same moments every time


def soaking() -> bool:
    """Whether this is a soak, in which a test may inject more; `make test` is short."""
    return SEED in os.environ


@dataclass(frozen=True, kw_only=True)
class Injected:
    """One fault of one test. lost: epochs, points or records that are missing; counted, not assumed."""

    fault: str
    times: int
    lost: int
    seed: int
    detail: str


class Faults:
    """Draws a test's random moments, and logs its faults for docs/reliability.md."""

    def __init__(self, name: str) -> None:
        self.seed = int(os.environ.get(SEED, "1"))
        self.moments = random.Random(f"{self.seed}/{name}")

    def injected(self, fault: str, *, times: int = 1, lost: int, detail: str = "") -> None:
        """Log an injected fault; call it before the test asserts that `lost` is 0."""
        entry = Injected(fault=fault, times=times, lost=lost, seed=self.seed, detail=detail)
        if path := os.environ.get(LOG):
            with Path(path).open("a") as file:
                file.write(json.dumps(asdict(entry)) + "\n")
