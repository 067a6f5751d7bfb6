"""Takes the pictures of the MLflow UI in docs/images/ from a real sweep: run list, view, comparison, report.

    PYTHONPATH=. python tests/ui_pictures.py FOLDER SWEEP_ID docs/images

FOLDER holds mlflow.db, and the sweep's run has its report.html. The comparison shows the first seed of the four
fastest arms.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path
from typing import Any

from ui_kit import CHARTS, CHOSEN, EXPANDER, Ui, chromium, lines, store

from tune.report.arms import arm_rows
from tune.tracking.reader import read_sweep
from tune.tracking.store import PROJECT, open_client
from tune.tracking.ui_links import sweep_path

COLOURS = 128  # few, so that a picture is a small file
SHOWN = 4  # arms in the comparison
WAIT_MS = 120_000


def main() -> None:
    """Start the UI, open four pages, write a picture of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sweep_id")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    record = read_sweep(store(options.folder), PROJECT, options.sweep_id)
    experiment = open_client(store(options.folder)).get_run(record.run_id).info.experiment_id
    with Ui(options.folder) as ui, chromium() as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(CHOSEN)
        url = f"{ui.url}/#/experiments/{experiment}/runs"
        timed = sorted((row.epoch_s, row.arm) for row in arm_rows(record) if row.epoch_s)
        _runs(page, f"{url}?searchFilter=tags.sweep_id%20%3D%20'{record.sweep_id}'")
        _write(page, options.out / "ui-experiment.png")
        _compared(page, [f"{arm}-s1" for _, arm in timed[:SHOWN]])
        _write(page, options.out / "ui-compare.png")
        page.goto(f"{ui.url}/{sweep_path(experiment, record.sweep_id)}")  # as the end of a sweep prints it
        page.get_by_text("Group by: arm").wait_for()
        page.get_by_role("link", name=re.compile(r"-s1$")).first.wait_for()
        _write(page, options.out / "ui-view.png")
        _report(page, f"{url}/{record.run_id}/artifacts/report.html")
        _write(page, options.out / "ui-report.png")


def _runs(page: Any, url: str) -> None:
    """Open the run list with the sweep unfolded, and the curves of its trials."""
    page.goto(f"{url}&compareRunsMode=CHART")
    page.locator(EXPANDER).first.click()
    page.get_by_role("link", name=re.compile(r"-s1$")).first.wait_for()
    page.get_by_placeholder("Search metric charts").fill("loss/|speed/")
    lines(page.locator(CHARTS).filter(has_text="loss/val_mse")).first.wait_for(state="attached")


def _compared(page: Any, names: list[str]) -> None:
    """Open the comparison of these trials."""
    for name in names:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        row.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare").click()
    page.locator(".parcoords .axis-title").first.wait_for(state="attached")


def _report(page: Any, url: str) -> None:
    """Open the report in MLflow's view of artifacts."""
    page.goto(url)
    report = page.frame_locator("iframe")
    report.locator("#chart-answer svg").locator("visible=true").first.wait_for()
    page.get_by_text("Path: file:").evaluate(
        "path => path.style.visibility = 'hidden'"
    )  # it names a folder of this machine


def _write(page: Any, file: Path) -> None:
    from PIL import Image

    shown = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    few = shown.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    part = file.with_name(f".{file.name}.part")
    few.save(part, format="PNG", optimize=True)
    part.replace(file)


if __name__ == "__main__":
    main()
