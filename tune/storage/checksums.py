"""Whether a folder is as it was written: a crash of a machine may leave files cut short, empty or full of zeros."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

SEAL = "files.json"  # path of each file -> sha256 of its content


def write_manifest(folder: Path) -> None:
    """Write down what the files in `folder` hold, once all are there. A seal that is cut short counts as none."""
    (folder / SEAL).write_text(json.dumps(_digests(folder), indent=1))


def find_damage(folder: Path) -> str | None:
    """What is wrong with a folder that was sealed; None if it is whole."""
    try:
        sealed = json.loads((folder / SEAL).read_text())
        now = _digests(folder)
    except (OSError, ValueError) as error:
        return f"{SEAL} cannot be read ({type(error).__name__})" if folder.is_dir() else "it is not there"
    if not isinstance(sealed, dict):
        return f"{SEAL} holds no files"
    missing = sorted(sealed.keys() - now.keys())
    if missing:
        return f"{missing[0]} is missing"
    changed = sorted(name for name, digest in sealed.items() if now[name] != digest)
    return f"{changed[0]} is not as it was written" if changed else None


def first_intact(folders: Iterable[str]) -> tuple[str | None, str | None]:
    """The first of these sealed folders that is whole, None if there is none; and what was wrong with those before."""
    wrong: list[str] = []
    for folder in folders:
        if (problem := find_damage(Path(folder))) is None:
            return folder, "; ".join(wrong) or None
        wrong.append(f"{folder}: {problem}")
    return None, "; ".join(wrong) or None


def _digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != SEAL)
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
