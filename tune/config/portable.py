"""Paths of data files in a configuration file: from its folder, or as a person wrote them in full.

So a project's folder can be moved or copied with its file. Planning-safe.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.datasets import DATASETS, is_path
from data_pipeline.errors import DataError
from data_pipeline.split_rule import parse_split

DATASET, SPLIT = "data.dataset", "data.split"


def names_file(dataset: Any, folder: Path) -> bool:
    """Whether a data set, as given in `folder`, is a file or a folder of files, and no data set with a name."""
    known = not isinstance(dataset, str) or dataset in ("", *DATASETS)
    return not known and is_path(absolute(dataset, folder))


def absolute(path: str, folder: Path) -> str:
    """The path, from `folder` if it is relative; ~ is the home of whoever asks."""
    return str(folder.absolute() / os.path.expanduser(path))


def in_full(fields: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The paths of `fields`, as given, that need no folder: absolute ones, and those that begin with ~.

    The absolute path of each -> as it was written.
    """
    paths = [fields[DATASET]] if names_file(fields.get(DATASET), folder) else []
    paths += _split_files(fields.get(SPLIT))
    return {absolute(path, folder): path for path in paths if os.path.isabs(path) or path.startswith("~")}


def portable(fields: Mapping[str, Any], folder: Path, written: Mapping[str, str]) -> dict[str, Any]:
    """`fields`, whose paths are absolute, for a file in `folder`. `written`: what `in_full` said of them."""
    changed: dict[str, Any] = {}
    if names_file(fields.get(DATASET), folder):
        changed[DATASET] = _from(fields[DATASET], folder, written)
    if files := _split_files(fields.get(SPLIT)):
        changed[SPLIT] = ",".join(_from(file, folder, written) for file in files)
    return {**fields, **changed}


def _from(path: str, folder: Path, written: Mapping[str, str]) -> str:
    if path in written:
        return written[path]
    relative = os.path.relpath(path, folder.absolute())
    if (folder.absolute() / relative).resolve() != Path(path).resolve():  # `..` of a folder that is a link
        return path
    return os.path.join(".", relative) if relative in DATASETS else relative


def _split_files(split: Any) -> list[str]:
    try:
        files = parse_split(split).files if isinstance(split, str) else None
    except DataError:  # said where all fields are checked
        files = None
    return list(files or ())
