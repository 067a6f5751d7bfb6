"""Which code this is: our packages, their hashes, the git commit."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

REPO_ROOT = Path(__file__).resolve().parents[2]
OURS = ("tune", "model", "data_pipeline")  # packages
CODE = ("experiments.py", *OURS)
IDENTITY_FILE = "code_identity.json"  # beside experiments.py in a copy sent to a cluster, which has no git


def code_identity() -> dict[str, Any]:
    """Git commit and dirty flag (None outside git), and a hash over our own source files."""
    sha256 = _code_sha256()
    sent = _sent_identity()
    if sent.get("code_sha256") == sha256:
        return sent
    return {"git_commit": _git("rev-parse", "HEAD"), "git_dirty": _git_dirty(), "code_sha256": sha256}


def _sent_identity() -> dict[str, Any]:
    try:
        content = json.loads((REPO_ROOT / IDENTITY_FILE).read_text())
        return {name: content[name] for name in ("git_commit", "git_dirty", "code_sha256")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def tracked_files(entries: Iterable[str], *, others: bool = False) -> list[str] | None:
    """Paths from REPO_ROOT of the files under `entries` that git tracks; None outside git.

    others: those that it neither tracks nor ignores instead.
    """
    listed = _git("ls-files", "-z", *(["--others", "--exclude-standard"] if others else []), "--", *entries)
    return None if listed is None else [name for name in listed.split("\0") if name]


@functools.cache
def _is_checkout() -> bool:
    """Whether git tracks this program: an installed copy may lie in the folder of another project's repository."""
    return bool(_git_output("ls-files", "--", CODE[0]))


def _git(*arguments: str) -> str | None:
    return _git_output(*arguments) if _is_checkout() else None


def _git_output(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(REPO_ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_dirty() -> bool | None:
    if _git("rev-parse", "HEAD") is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def _code_sha256() -> str:
    digest = hashlib.sha256()
    for entry in CODE:
        path = REPO_ROOT / entry
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{source.relative_to(REPO_ROOT)}\0".encode())
            digest.update(source.read_bytes() + b"\0")
    return digest.hexdigest()


def package_dir(name: str) -> Path:
    """The folder from which this process imports our package `name`; Ray may put each package into its own.

    Raises RuntimeError if the package is missing.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the package {name} is missing: {REPO_ROOT} is not a complete copy of the project")
    return Path(spec.submodule_search_locations[0])


@functools.cache
def packages_sha256() -> str:
    """Hash of our packages as this process imports them; the driver and all of its workers have the same."""
    digest = hashlib.sha256()
    for name in OURS:
        folder = package_dir(name)
        for source in sorted(folder.rglob("*.py")):
            digest.update(f"{name}/{source.relative_to(folder)}\0".encode())
            digest.update(source.read_bytes() + b"\0")
    return digest.hexdigest()
