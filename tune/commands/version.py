"""`version`, or `--version`: which version this is, and of which commit."""

from __future__ import annotations

import argparse
import tomllib
from importlib import metadata

from tune.commands.parser import Parser
from tune.common.errors import DONE
from tune.common.program import PROGRAM
from tune.machine.code_identity import REPO_ROOT, code_identity

NAME = "patchtst-sweeps"


def parser() -> Parser:
    return Parser(prog=f"{PROGRAM} version", description="Print the version.", allow_abbrev=False)


def run(_: argparse.Namespace) -> int:
    """Print name, version and commit."""
    code = code_identity()
    commit = code["git_commit"]
    changed = ", changed since" if code["git_dirty"] else ""
    print(f"{NAME} {_version()}" + (f" (commit {commit[:10]}{changed})" if commit else ""))
    return DONE


def _version() -> str:
    """Of the checkout that this is; otherwise of the installed package."""
    project = REPO_ROOT / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text())["project"]["version"])
    return metadata.version(NAME)
