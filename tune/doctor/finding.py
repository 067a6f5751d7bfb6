"""What checks are given, and what they find."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a sweep would run. Paths are absolute."""

    data_dir: Path
    storage: Path
    tracking_uri: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table."""

    kind: str
    name: str
    works: bool | None  # None: not tried, not known, or not needed
    found: str  # what it is; if it does not work, what happened and what to do
    needed: bool = False  # whether the default sweep needs it
    tried: str | None = None  # what was done to find out


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something that is tried. Its function may give several findings, which need not say what was tried."""

    kind: str
    tried: str  # in words that can follow "tried to"
    function: str  # module:function, from a Place to findings
    needed: bool = False  # whether the default sweep needs it, where the function fails or hangs
