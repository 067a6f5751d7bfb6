"""The sha256 of a first download, kept beside its file: what no publisher vouches for must at least stay the same.

FILE.sha256   one line for each source: sha256, two spaces, URL
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from data_pipeline.errors import DataError


def pin_file(folder: Path, file: str) -> Path:
    """Where the pins of `file` in `folder` are, compressed or not."""
    return folder / f"{file}.sha256"


def read_pins(path: Path) -> dict[str, str]:
    """URL -> sha256 of its content; empty where there is no file. Raises DataError where it holds something else."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}): delete it, and the file beside it to fetch both") from error
    pins = {}
    for line in lines:
        found = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if found is None:
            raise DataError(
                f"{path}: {line[:60]!r} is no sha256 and URL: delete it, and the file beside it to fetch both"
            )
        pins[found.group(2)] = found.group(1)
    return pins


def write_pins(path: Path, pins: dict[str, str]) -> None:
    """Write them whole or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(f"{sha256}  {url}\n" for url, sha256 in pins.items())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
