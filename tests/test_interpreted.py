"""The Triton kernels in Triton's interpreter, on a CPU: all files of tests/kits that need it, in one process of theirs.

Triton decides when it is imported whether it interprets, and inductor, which other tests use, imports it too. Each
process imports torch and transformers, which takes it longer than most of the kits; tests/model/fused/test_hopper.py
starts another one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KITS = ("accelerate", "adam", "embedding", "fused", "gather", "patch")
pytestmark = pytest.mark.timeout(1200)  # on a machine that others load


@pytest.fixture(scope="module")
def said() -> str:
    """What pytest says of every test in the kits."""
    pytest.importorskip("triton", reason="triton is not installed")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    kits = [f"tests/kits/interpreted_{kit}.py" for kit in KITS]
    command = [sys.executable, "-m", "pytest", "-v", "-n0", "-p", "no:cacheprovider", *kits]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("kit", KITS)
def test_the_kernels_are_right_in_tritons_interpreter(kit: str, said: str) -> None:
    results = re.findall(rf"^tests/kits/interpreted_{kit}\.py::.* ([A-Z]+)(?: +\[ *\d+%\])?$", said, re.MULTILINE)
    assert results and set(results) == {"PASSED"}, said[-6000:]


def test_every_kit_for_the_interpreter_is_run() -> None:
    files = {file.stem.removeprefix("interpreted_") for file in (ROOT / "tests" / "kits").glob("interpreted_*.py")}
    assert files == {*KITS, "hopper"}
