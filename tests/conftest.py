"""Fixtures and options shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fault_kit import Faults, soaking

REPO_ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", type=Path, metavar="FOLDER", help="write pictures of the MLflow UI there (test_mlflow_ui.py)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All of test_faults_*.py is part of a soak (tests/soak.py); what is marked `soak_only` runs nowhere else."""
    for item in items:
        if item.path.name.startswith("test_faults_"):
            item.add_marker(pytest.mark.soak)
    if not soaking():
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak_only")])
        items[:] = [item for item in items if not item.get_closest_marker("soak_only")]


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder with the real ETTh1.csv[.gz] and ETTm1.csv[.gz]; skips where there is none."""
    folder = Path(os.environ.get("TSF_DATA_DIR", REPO_ROOT.parent / "shared" / "data"))
    if not list(folder.glob("ETTh1.csv*")):
        pytest.skip(f"no ETTh1.csv in {folder}: set TSF_DATA_DIR to a folder with the ETT files")
    return folder


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """A fault test's random moments, and its notes for docs/reliability.md."""
    return Faults(request.node.name)
