"""Folders for PATH: one without compilers, and ones whose compilers are broken, each in its own way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

OWN_PATH = os.environ["PATH"]  # before a test replaces it
# What a script named g++, gcc and clang does instead of compiling
BROKEN = {
    "fails": "echo 'cc1plus: fatal error: no luck' >&2; exit 1",
    "lacks its linker": "echo 'collect2: fatal error: cannot find ld' >&2; exit 1",
    "lacks Python's headers": "echo 'source:1:10: fatal error: Python.h: No such file or directory' >&2; exit 1",
    "says nothing": "exit 3",
    "writes nothing": "exit 0",
    "writes no library": 'while [ "$1" != -o ]; do shift; done; echo no library > "$2"',
}


def path_with(folder: Path, *programs: str) -> Path:
    """A folder that holds links to these programs of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        found = shutil.which(program, path=OWN_PATH)
        assert found is not None, program
        (folder / program).symlink_to(found)
    return folder


def path_without_compilers(folder: Path) -> Path:
    return path_with(folder, "git", "sh", "env", "openssl")


def path_with_broken(folder: Path, what: str) -> Path:
    """What BROKEN calls `what` is the only compiler there."""
    path_without_compilers(folder)
    for name in ("g++", "gcc", "clang"):
        (folder / name).write_text(f"#!/bin/sh\n{BROKEN[what]}\n")
        os.chmod(folder / name, 0o755)
    return folder
