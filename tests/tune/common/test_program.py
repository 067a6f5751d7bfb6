"""The program has one name in all that it says: experiments.py in a checkout, patchtst-sweeps in an installation."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tune.common.program import COMMAND, PROGRAM

ROOT = Path(__file__).resolve().parents[3]
# Where the file itself is meant, which an installation has in its private folder.
THE_FILE = {
    "tune/common/program.py", "tune/machine/code_identity.py", "tune/api/run.py", "tune/cluster/job_server.py",
}  # fmt: skip


def texts(file: Path) -> Iterator[str]:
    """The strings of a module that are no docstrings."""
    tree = ast.parse(file.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def test_a_checkout_starts_by_its_file() -> None:
    assert (PROGRAM, COMMAND) == ("experiments.py", "python experiments.py")


def test_no_text_names_a_file_that_an_installation_does_not_show() -> None:
    files = [file for package in ("tune", "model", "data_pipeline") for file in (ROOT / package).rglob("*.py")]
    naming = {str(file.relative_to(ROOT)) for file in files if any("experiments.py" in text for text in texts(file))}
    assert naming == THE_FILE
