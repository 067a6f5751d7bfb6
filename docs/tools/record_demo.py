"""Record the sweep of `make demo` as text into docs/getting-started.md.

    python docs/tools/record_demo.py        # two quiet cores, a few minutes

The sweep runs in a fresh clone, with the packages of this checkout, and prints to a pipe: a line an
event, no live table.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "getting-started.md"
PLACE = re.compile(r"<!-- demo -->.*<!-- end of demo -->", re.DOTALL)
HOME = "~/patchtst-sweeps"  # stands for the clone


def demo() -> list[str]:
    """The words of the sweep that `make demo` runs, behind experiments.py."""
    (line,) = re.findall(r"^demo:.*\n\t\S+ experiments\.py (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return line.split()


def record(words: list[str], folder: Path) -> tuple[str, float]:
    """What the sweep prints in a clone that `folder` gets, and its seconds from command to exit."""
    clone = folder / "patchtst-sweeps"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", clone], check=True)
    (clone / ".venv").symlink_to((ROOT / ".venv").resolve())
    command = [".venv/bin/python", "experiments.py", *words]
    began = time.monotonic()
    done = subprocess.run(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return done.stdout.replace(str(clone), HOME), time.monotonic() - began


def page_part(words: list[str], text: str, seconds: float) -> str:
    """The part of the page between its two marks."""
    cores, load = os.cpu_count(), os.getloadavg()[2]
    lines = "\n".join(line.rstrip() for line in text.rstrip().splitlines())
    where = f"{date.today()}, {cores} CPU cores, no GPU, mean load of the last 15 minutes {load:.1f}"
    said = f"The sweep, recorded on {where}: {seconds:.0f} s from command to answer."
    if "not trustworthy" in text:
        said += " Other programs ran beside it, so it says itself that its timings are not trustworthy."
    session = f"```text\n$ .venv/bin/python experiments.py {' '.join(words)}\n{lines}\n```"
    return f"<!-- demo -->\n{said}\n\n{session}\n<!-- end of demo -->"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        part = page_part(demo(), *record(demo(), Path(made)))
    page, places = PLACE.subn(lambda _: part, PAGE.read_text())
    assert places == 1, f"{PAGE} lacks its marks"
    PAGE.write_text(page)
