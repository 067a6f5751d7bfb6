"""The files that a submitted sweep takes along: our sources and the configuration, nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tune.common.errors import WrongInput
from tune.config.yaml_file import write_config
from tune.machine.code_identity import CODE, IDENTITY_FILE, REPO_ROOT, code_identity, tracked_files

MOST_MIB = 20.0  # our sources are a fiftieth of that; Ray keeps every package in the memory of the cluster's head
CONFIG = "sweep.yaml"  # the configuration, as the command on the cluster names it
MIB = 2**20


@contextmanager
def packed(config: Mapping[str, Any] | None) -> Iterator[Path]:
    """A temporary folder with our sources, their identity, and `config`, if any, as CONFIG.

    Raises WrongInput if a source file is not tracked by git, or all are larger than MOST_MIB.
    """
    names = source_files()
    check_size({name: (REPO_ROOT / name).stat().st_size for name in names})
    with TemporaryDirectory(prefix="sweep-") as temporary:
        folder = Path(temporary)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO_ROOT / name, folder / name)
        (folder / IDENTITY_FILE).write_text(json.dumps(code_identity(), sort_keys=True))
        if config is not None:
            write_config(folder / CONFIG, config)
        yield folder


def source_files() -> list[str]:
    """Our source files, as paths from the project's folder: the files that git tracks; outside git all Python files.

    Raises WrongInput if a Python file is not tracked: the cluster would run other code than this machine.
    """
    tracked = tracked_files(CODE)
    if not tracked:
        sources = [REPO_ROOT / CODE[0], *(file for entry in CODE[1:] for file in (REPO_ROOT / entry).rglob("*.py"))]
        return sorted(str(file.relative_to(REPO_ROOT)) for file in sources)
    left_out = [name for name in tracked_files(CODE, others=True) or [] if name.endswith(".py")]
    if left_out:
        raise WrongInput(
            f"--submit sends what git tracks, and {', '.join(left_out[:3])} is not tracked: `git add` or remove it"
        )
    return sorted(name for name in tracked if (REPO_ROOT / name).is_file())


def check_size(sizes_bytes: Mapping[str, int]) -> None:
    """Raises WrongInput, naming the largest files, if their sum is over MOST_MIB."""
    total_mib = sum(sizes_bytes.values()) / MIB
    if total_mib > MOST_MIB:
        largest = sorted(sizes_bytes, key=lambda name: -sizes_bytes[name])[:3]
        raise WrongInput(
            f"--submit: the sources are {total_mib:.0f} MiB, {MOST_MIB:.0f} can be sent; the largest are "
            f"{_with_sizes(largest, sizes_bytes)}: keep data out of the source folders"
        )


def _with_sizes(names: Iterable[str], sizes_bytes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({sizes_bytes[name] / MIB:.1f} MiB)" for name in names)
