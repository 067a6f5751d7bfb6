"""Fixtures and options shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fault_kit import Faults

REPO_ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", type=Path, metavar="FOLDER", help="write pictures of the MLflow UI there (test_mlflow_ui.py)"
    )


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
