"""The folder in which the tests of wrong input give their commands."""

from __future__ import annotations

from pathlib import Path

import pytest


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `folder` the current one, with a file, a folder and configurations in it; no store from the environment."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder / "file").write_text("x")
    (folder / "folder").mkdir()
    (folder / "list.yaml").write_text("- sweep: pruning\n")
    (folder / "unknown.yaml").write_text("swep: pruning\n")
