"""The optimizer benchmark without a GPU: what it refuses, and whose parameters it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.optimizer import shapes_of

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_gpu_it_says_so_in_one_line_and_exits_2() -> None:
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "benchmarks/optimizer.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a CUDA GPU" in done.stderr and done.stderr.count("\n") == 1


def test_it_takes_the_trained_parameters_of_the_studys_model() -> None:
    assert sum(shape.numel() for shape in shapes_of("study")) == 1_112_672
