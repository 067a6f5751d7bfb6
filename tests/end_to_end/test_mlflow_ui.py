"""`make ui` over a recorded sweep, as a person sees it in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ui_kit import CHARTS, CHOSEN, EXPANDER, ROOT, SEEDS, Ui, chromium, lines, record_sweep, store

from tune.tracking.reader import SweepRecord, read_sweep
from tune.tracking.store import PROJECT, open_client

# SQLAlchemy 2.1 warns of what MLflow 3.17 does on import.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ARMS = ("patch-12", "patch-24", "patch-48", "patch-96", "patch-192")
WAIT_MS = 120_000
CLICK_MS, CLICKS = 15_000, 8  # how long a click may take to lead somewhere, and how many a person would try
SECTIONS = "[data-testid='experiment-view-compare-runs-section-header']"


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ui")


@pytest.fixture(scope="module", name="record")
def record_fixture(folder: Path) -> SweepRecord:
    return read_sweep(store(folder), PROJECT, record_sweep(folder))


@pytest.fixture(scope="module", name="ui")
def ui_fixture(folder: Path, record: SweepRecord) -> Iterator[Ui]:
    with Ui(folder) as ui:
        yield ui


@pytest.fixture(scope="module", name="browser")
def browser_fixture() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


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


def follow(page: Any, link: str, to: str) -> None:
    """Click a link until the page is where it leads: a click is lost where the UI just then draws the link anew."""
    from playwright.sync_api import TimeoutError as TookTooLong

    for left in reversed(range(CLICKS)):
        page.get_by_role("link", name=link).click()
        try:
            return page.wait_for_url(re.compile(to), timeout=CLICK_MS)
        except TookTooLong:
            if not left:
                raise


@pytest.fixture(scope="module", name="list_url")
def list_url_fixture(record: SweepRecord, ui: Ui, folder: Path) -> str:
    experiment = open_client(store(folder)).get_run(record.run_id).info.experiment_id
    return f"{ui.url}/#/experiments/{experiment}/runs"


def test_the_list_has_the_sweep_with_its_trials_below_and_charts_at_once(
    page: Any, record: SweepRecord, list_url: str
) -> None:
    page.goto(f"{list_url}?compareRunsMode=CHART")
    page.get_by_role("link", name=record.name).wait_for()
    assert page.get_by_role("link", name=re.compile(r"-s\d$")).count() == 0  # the sweep is folded
    page.locator(CHARTS).locator(".barlayer .point").first.wait_for()
    assert page.locator(SECTIONS).first.inner_text().split()[:2] == ["arm_epoch_s", f"({len(ARMS)})"]
    assert page.get_by_text("Each run at the top is a sweep").is_visible()
    page.locator(EXPANDER).first.click()
    page.get_by_role("link", name=f"{ARMS[0]}-s1").wait_for()
    names = page.get_by_role("link", name=re.compile(r"-s\d$")).all_inner_texts()
    assert sorted(names) == sorted(f"{arm}-s{seed}" for arm in ARMS for seed in range(1, SEEDS + 1))
    page.get_by_placeholder("Search metric charts").fill("loss/|speed/")
    lines(page.locator(CHARTS).filter(has_text="loss/val_mse")).first.wait_for(state="attached")


def test_the_printed_link_opens_the_sweeps_view_of_model_training_for_a_new_reader(
    browser: Any, ui: Ui, record: SweepRecord
) -> None:
    every, newest = (line.split(": ", 1)[1] for line in ui.said() if "/#/" in line)
    context = browser.new_context(viewport={"width": 1280, "height": 800})  # a fresh profile, without CHOSEN
    context.set_default_timeout(WAIT_MS)
    for link, wanted in ((every, record.name), (newest, f"{ARMS[0]}-s1")):
        page = context.new_page()
        page.goto(link)
        page.get_by_role("link", name=wanted, exact=True).first.wait_for()
        assert "workflowType=machine_learning" in page.url
        assert page.get_by_role("link", name="Models", exact=True).count() == 1  # the side bar of model training
        assert page.get_by_role("link", name="Judges", exact=True).count() == 0  # and not of GenAI
    page.get_by_text("Group by: arm").wait_for()
    context.close()


def test_the_sweeps_description_leads_to_its_arms_side_by_side(page: Any, record: SweepRecord, list_url: str) -> None:
    page.goto(f"{list_url}/{record.run_id}")
    page.get_by_text("Answer: ").first.wait_for()  # it leads, so nobody has to unfold anything
    page.get_by_text("Show more").click()
    for said in ("How much faster is training with longer patches", "tick them and press", "arm_speedup/ARM"):
        page.get_by_text(said).first.wait_for()
    assert page.get_by_role("cell", name="patch-192", exact=True).is_visible()  # of the table of results
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Arms side by side").click()
    arms = opened.value
    arms.get_by_text("Group by: arm").wait_for()
    arms.get_by_placeholder("Search metric charts").fill("loss/val_mse")
    chart = arms.locator(CHARTS).filter(has_text="loss/val_mse")
    lines(chart).nth(len(ARMS) - 1).wait_for(state="attached")
    assert lines(chart).count() == len(ARMS) and all(arm in chart.inner_text() for arm in ARMS)


def test_the_view_of_a_sweep_has_what_its_arms_differ_in_as_columns(
    page: Any, record: SweepRecord, list_url: str
) -> None:
    page.goto(list_url)
    page.get_by_test_id("saved-views-trigger").click()
    page.get_by_role("menuitem", name=record.name).click()
    page.get_by_role("columnheader", name="model.patch_length").first.wait_for()
    results = ["final/val_mse", "final/test_mse", "final/epoch_all_windows_s"]
    wanted = ["model.patch_length", "train.seed", *results, "status"]
    places = {name: page.locator(f"[role=columnheader][col-id*='`{name}`']").bounding_box()["x"] for name in wanted}
    assert sorted(wanted, key=lambda name: places[name]) == wanted


def test_four_ticked_trials_compare_as_parallel_coordinates_and_as_curves(page: Any, list_url: str) -> None:
    page.goto(list_url)
    page.locator(EXPANDER).first.click()
    for arm in ARMS[:4]:
        page.get_by_role("row").filter(has_text=f"{arm}-s1").get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 4 Runs from 1 Experiment").wait_for()
    axes = page.locator(".parcoords .axis-title")
    axes.first.wait_for(state="attached")
    assert axes.all_text_contents()[0] == "model.patch_length" and axes.all_text_contents()[-1] == "loss/val_mse"
    follow(page, "loss/val_mse", to="#/metric")
    lines(page).nth(3).wait_for(state="attached")
    assert lines(page).count() == 4


def test_the_report_draws_its_charts_in_the_artifact_view(page: Any, record: SweepRecord, list_url: str) -> None:
    page.goto(f"{list_url}/{record.run_id}/artifacts/report.html")
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="How much faster is training with longer patches").wait_for()
    for chart in ("answer", "pareto", "difference", "validation", "times"):
        report.locator(f"#chart-{chart} svg").locator("visible=true").first.wait_for()


def test_the_searches_of_the_documents_find_what_they_say(record: SweepRecord, folder: Path) -> None:
    text = (ROOT / "docs" / "tracking.md").read_text()
    searches = re.findall(r"^    ((?:tags|params)\..*?)\s+# (\w+)", text, re.MULTILINE)
    client = open_client(store(folder))
    experiment = client.get_run(record.run_id).info.experiment_id
    results = {
        what: client.search_runs([experiment], query.replace("SWEEP_ID", record.sweep_id)) for query, what in searches
    }
    assert [run.info.run_id for run in results["sweeps"]] == [record.run_id]
    assert {run.info.run_name for run in results["one"]} == {f"{ARMS[0]}-s{seed}" for seed in range(1, SEEDS + 1)}
    assert results["trials"] == [] and len(results) == 3
