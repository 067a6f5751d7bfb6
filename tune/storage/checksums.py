"""A manifest of a folder's files: after a crash of a machine, files may be cut short, empty or full of zeros."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

MANIFEST = "files.json"  # path of each file -> sha256 of its content


def write_manifest(folder: Path) -> None:
    """Write the checksums of all files in `folder`. A manifest that is cut short counts as damage."""
    (folder / MANIFEST).write_text(json.dumps(_digests(folder), indent=1))


def find_damage(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest; None if all its files are as they were written."""
    try:
        written = json.loads((folder / MANIFEST).read_text())
        now = _digests(folder)
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})" if folder.is_dir() else "the folder is missing"
    if not isinstance(written, dict):
        return f"{MANIFEST} lists no files"
    missing = sorted(written.keys() - now.keys())
    if missing:
        return f"{missing[0]} is missing"
    changed = sorted(name for name, digest in written.items() if now[name] != digest)
    return f"{changed[0]} is not as it was written" if changed else None


def first_intact(folders: Iterable[str]) -> tuple[str | None, str | None]:
    """The first undamaged folder, None if there is none; and what is wrong with the folders before it."""
    damages: list[str] = []
    for folder in folders:
        if (damage := find_damage(Path(folder))) is None:
            return folder, "; ".join(damages) or None
        damages.append(f"{folder}: {damage}")
    return None, "; ".join(damages) or None


def _digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
