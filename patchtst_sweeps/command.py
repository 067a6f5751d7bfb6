"""The command `patchtst-sweeps`: experiments.py, from where this package is installed."""

from __future__ import annotations

import runpy
import sys

from patchtst_sweeps.location import CODE


def main() -> None:
    """Run the command line as `python experiments.py` does, and end the process."""
    program = str(CODE / "experiments.py")
    sys.argv[0] = program
    runpy.run_path(program, run_name="__main__")
