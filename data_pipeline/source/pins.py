"""Pins: the sha256 of a file's first download, kept beside it. Without a published sha256, this one must not change.

FILE.sha256   one line for each source: sha256, two spaces, URL
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.source.replacing import replacing


def pin_file(folder: Path, file: str) -> Path:
    """The file with the pins of `file` in `folder`, which may be compressed."""
    return folder / f"{file}.sha256"


def read_pins(path: Path) -> dict[str, str]:
    """URL -> sha256 of its content; empty if there is no file. Raises DataError if it holds anything else."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}): delete it and the file beside it, to fetch both") from error
    pins = {}
    for line in lines:
        pin = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if pin is None:
            raise DataError(
                f"{path}: {line[:60]!r} is no sha256 and URL: delete it and the file beside it, to fetch both"
            )
        pins[pin.group(2)] = pin.group(1)
    return pins


def write_pins(path: Path, pins: dict[str, str]) -> None:
    """Write all pins, or none. Raises OSError."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{sha256}  {url}\n" for url, sha256 in pins.items())
        file.flush()
        os.fsync(file.fileno())
