"""Paths of files inside a sweep's folder, which may be moved or copied.

They are stored relative to the folder. Earlier versions stored absolute ones: the part behind the sweep's id counts. So
a copy never reads or writes the folder that it was copied from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDERS = ("model_dir", "samples_dir", "forecasts_dir")  # fields of an outbox record that name a folder


def stored_path(path: Path | str, folder: Path) -> str:
    """`path` as it is stored: relative to `folder`, the sweep's, if it lies inside."""
    path, folder = Path(path).absolute(), folder.absolute()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def found_path(text: str, folder: Path) -> Path:
    """The path that `stored_path` or an earlier version stored in `folder`, which may have moved since."""
    path, folder = Path(text), folder.absolute()
    if not path.is_absolute():
        return folder / path
    parts = path.parts
    if folder.name not in parts:
        return path
    behind = len(parts) - parts[::-1].index(folder.name)
    return folder.joinpath(*parts[behind:])


def as_stored(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """An outbox record with its folders as `stored_path` gives them."""
    return {**record, **{name: stored_path(record[name], folder) for name in FOLDERS if record.get(name) is not None}}


def as_found(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """An outbox record with its folders as `found_path` gives them."""
    return {**record, **{name: str(found_path(record[name], folder)) for name in FOLDERS if record.get(name)}}
