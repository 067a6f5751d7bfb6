"""Fixtures and options shared by all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_kit import Faults, soaking
from hypothesis import settings

REPO_ROOT = Path(__file__).resolve().parents[1]

# Before torch is imported, here and in what the tests start. Models are tiny: threads that wait for each other at full
# speed took ten times the CPU time of the sums, from everything that runs beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's processes wait until the tests beside them have ended


# What hypothesis draws is the same in every run, so that a test fails for whoever changed something; a soak draws anew.
settings.register_profile("steady", derandomize=True)
settings.load_profile("default" if soaking() else "steady")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All of tests/faults/ is part of a soak (tests/soak.py); what is marked `soak_only` runs nowhere else."""
    for item in items:
        if item.path.parent.name == "faults":
            item.add_marker(pytest.mark.soak)
    if not soaking():
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak_only")])
        items[:] = [item for item in items if not item.get_closest_marker("soak_only")]


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Several processes that share out whole files, as `make test` asks for, run one real sweep at a time."""
    from xdist_kit import OneSweepAtATime

    return OneSweepAtATime(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def _leaves_the_checkout_as_it_was() -> Iterator[None]:
    """A file that a test leaves there would be committed with the next `git add`."""
    before = set(os.listdir(REPO_ROOT))
    yield
    assert {name for name in os.listdir(REPO_ROOT) if not name.startswith(".")} <= before


@pytest.fixture(autouse=True)
def _leaves_the_environment_as_it_was() -> Iterator[None]:
    """A command that a test calls sets up the whole process, and the next test starts others from it."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder with the real ETTh1.csv[.gz] and ETTm1.csv[.gz]; skips where there is none."""
    folder = Path(os.environ.get("TSF_DATA_DIR", REPO_ROOT.parent / "shared" / "data"))
    if not list(folder.glob("ETTh1.csv*")):
        pytest.skip(f"no ETTh1.csv in {folder}: set TSF_DATA_DIR to a folder with the ETT files")
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables in a SQLite file, to be copied: making them takes a second, most of what a small test does."""
    from tune.tracking.store import open_client

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_client(f"sqlite:///{file}")
    return file


@pytest.fixture
def new_store(empty_store: Path, tmp_path: Path) -> str:
    """Tracking URI of an empty SQLite store in the test's own folder."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """A fault test's random moments, and its notes for docs/reliability.md."""
    return Faults(request.node.name)
