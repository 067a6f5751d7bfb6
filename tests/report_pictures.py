"""Takes the pictures of the report in docs/images/: the page wide, narrow and dark, and the terminal at two widths.

    PYTHONPATH=.:tests/kits python tests/report_pictures.py STORE SWEEP_ID docs/images

STORE is a tracking address that holds the sweep.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from ui_kit import chromium

from tune.report.arms import arm_rows
from tune.report.render.page import html_page
from tune.report.render.short import print_short
from tune.stats.pairs import MARGIN
from tune.tracking.reader import SweepRecord, read_sweep
from tune.tracking.store import PROJECT

COLOURS = 64  # few, so that a picture is a small file
PAGES = {"report": (1440, 900, "light"), "report-390": (390, 844, "light"), "report-dark": (1440, 900, "dark")}
TERMINALS = (80, 120)  # columns


def main() -> None:
    """Read the sweep, and write a picture for each of PAGES and TERMINALS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("sweep_id")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    record = read_sweep(options.store, PROJECT, options.sweep_id)
    _pages(html_page(record), options.out)
    for columns in TERMINALS:
        (options.out / f"terminal-{columns}.svg").write_text(_terminal(record, columns))


def _pages(page: str, out: Path) -> None:
    from PIL import Image

    with chromium() as browser:
        for name, (width, height, scheme) in PAGES.items():
            shown = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            shown.set_content(page)
            picture = Image.open(io.BytesIO(shown.screenshot(animations="disabled"))).convert("RGB")
            few = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(out / f"{name}.png", optimize=True)


def _terminal(record: SweepRecord, columns: int) -> str:
    """The short report as an SVG of a terminal, which loads no font."""
    from rich.console import Console

    console = Console(width=columns, record=True, file=io.StringIO(), force_terminal=True, highlight=False)
    print_short(record, arm_rows(record), console, margin=MARGIN, price=None)
    text = console.export_svg(title=f"experiments.py report {record.sweep_id}")
    return re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)


if __name__ == "__main__":
    main()
