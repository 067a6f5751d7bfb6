"""`version`, or `--version`: which version this is, and of which commit."""

from __future__ import annotations

import argparse
import tomllib

from tune.commands.parser import Parser
from tune.common.errors import DONE
from tune.machine.code_identity import REPO_ROOT, code_identity


def parser() -> Parser:
    return Parser(prog="experiments.py version", description="Print the version.", allow_abbrev=False)


def run(_: argparse.Namespace) -> int:
    """Print name, version and commit."""
    project, code = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"], code_identity()
    commit = code["git_commit"]
    changed = ", changed since" if code["git_dirty"] else ""
    print(f"{project['name']} {project['version']}" + (f" (commit {commit[:10]}{changed})" if commit else ""))
    return DONE
