"""`make ui` over a recorded sweep, as a person sees it in Chromium.

`pytest tests/test_mlflow_ui.py --screenshots docs` renews the pictures in docs/.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from system_kit import system_program
from ui_kit import DEVICE, EPOCHS, ROOT, SEEDS, Ui, record_sweep

from tune.mlflow_notes import NOTE
from tune.mlflow_store import PROJECT, open_client
from tune.tracking import SweepRecord, read_sweep

# SQLAlchemy 2.1 warns of what MLflow 3.17 does on import.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ARMS = ("patch-12", "patch-24", "patch-48", "patch-96", "patch-192")
WAIT_MS = 20_000
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
# What a person has clicked once: the side bar for training, and the assistant that opens by itself closed.
CHOSEN = """localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");"""
CHART = "[data-testid='experiment-view-compare-runs-card']"


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ui")
    record_sweep(folder)
    return folder


@pytest.fixture(scope="module", name="record")
def record_fixture(folder: Path) -> SweepRecord:
    (sweep,) = [path for path in (folder / "runs").iterdir()] if (folder / "runs").exists() else [None]
    return read_sweep(f"sqlite:///{folder}/mlflow.db", PROJECT, sweep.name)


@pytest.fixture(scope="module", name="ui")
def ui_fixture(folder: Path) -> Iterator[Ui]:
    with Ui(folder) as ui:
        yield ui


@pytest.fixture(scope="module", name="browser")
def browser_fixture() -> Iterator[Any]:
    program = system_program("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(name="page")
def page_fixture(browser: Any, ui: Ui) -> Iterator[Any]:
    """A page of a fresh profile; whatever the UI does, it asks no other host than its own."""
    hosts: set[str] = set()
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=ui.url)
    context.set_default_timeout(WAIT_MS)
    context.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    context.add_init_script(CHOSEN)
    yield context.new_page()
    context.close()
    assert hosts - {"", urlsplit(ui.url).netloc} == set()
