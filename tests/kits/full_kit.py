"""The full sweep with few choices, as a program: 2 x 2 shapes, each with 2 backends on a CPU."""

from __future__ import annotations

from pathlib import Path

from sweep_kit import ROOT

SMALL = (  # noqa: SIM905
    "--sweep full --dataset demo --epochs 2 --repeats 1 --set data.context_length=96 --set data.prediction_length=24 "
    "--set model.d_model=16 --set model.ffn_dim=16 --set train.engine=eager --json out.json"
).split()
_FEW = """
import sys
from dataclasses import replace
sys.path.insert(0, {root!r})
from tune.commands.main import main
from tune.config import sweeps
full = sweeps.full()
KEPT = ("eager", "sdpa_flash", "patch-12", "patch-24", "batch-128", "device-0", "none", "random-1-one_shot")
space = {{name: tuple(each for each in choices if each.label in KEPT) for name, choices in full.space.items()}}
sweeps.SWEEPS["full"] = lambda: replace(full, space=space)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def few(folder: Path) -> Path:
    """Write the program into `folder`."""
    program = folder / "few.py"
    program.write_text(_FEW.format(root=str(ROOT)))
    return program
