"""What this program is called: the command of an installed wheel, or experiments.py in a checkout."""

from __future__ import annotations

from pathlib import Path

INSTALLED = "patchtst-sweeps"
_IN_A_WHEEL = Path(__file__).resolve().parents[2].name == "_code"  # patchtst_sweeps/location.py: PRIVATE

PROGRAM = INSTALLED if _IN_A_WHEEL else "experiments.py"
"""In usage lines, and in texts beside the name of a command."""
COMMAND = INSTALLED if _IN_A_WHEEL else "python experiments.py"
"""In examples and in commands to copy."""
