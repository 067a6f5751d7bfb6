"""SIGKILL of a trial's process inside a compilation, and its cut file: the same trial then runs to its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fault_kit import Faults

ROOT = Path(__file__).resolve().parents[2]
# A compiler that optimises nothing, which is faster. While $ARMED is there, it lets so many kernels through as that
# file says, cuts the next one in half, and kills the process of the trial.
COMPILER = """#!/bin/bash
"$REAL" "${@/#-O3/-O0}" || exit
if [[ "$*" == *.main.so* && -e "$ARMED" ]]; then
    exec 9> "$ARMED.lock"; flock 9
    left=$(cat "$ARMED")
    echo $((left - 1)) > "$ARMED"
    if [[ $left == 0 ]]; then
        while [[ $1 != -o ]]; do shift; done
        truncate -s $(($(stat -c %s "$2") / 2)) "$2"
        echo "$2" > "$ARMED.cut"
        kill -9 $(cat "$ARMED.pid")
    fi
fi
"""
# The gate and the profiled step compile nothing that the epochs do not, and cost half of the time.
TRIAL = """
import os, sys
from pathlib import Path
from trial_kit import run_small
from tune.trial.session import Session

folder = Path(sys.argv[1])
(folder / "armed.pid").write_text(str(os.getpid()))
Session.pass_gate = Session.prove_kernels = lambda session: None
trial = run_small(folder, compile_dir=folder / "compile", train__epochs=1, train__engine="compile")
print(trial.final["status"], trial.final["reason"])
"""
KERNELS = 8  # of which the random moment is one


def _run(folder: Path) -> subprocess.CompletedProcess[str]:
    given = {"CXX": str(folder / "g++"), "REAL": str(shutil.which("g++")), "ARMED": str(folder / "armed")}
    given["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "kits")])
    command = [sys.executable, "-c", TRIAL, str(folder)]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, timeout=500)


@pytest.mark.timeout(600)  # on a machine that others load
def test_a_trial_whose_process_is_killed_inside_a_compilation_runs_to_its_end(tmp_path: Path, faults: Faults) -> None:
    compiler, armed = tmp_path / "g++", tmp_path / "armed"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    armed.write_text(str(through := faults.moments.randrange(KERNELS)))
    killed = _run(tmp_path)
    armed.unlink()
    assert killed.returncode == -9, killed.stderr
    cut = Path((tmp_path / "armed.cut").read_text().strip())
    size_bytes = cut.stat().st_size
    assert cut.is_relative_to(tmp_path / "compile")

    again = _run(tmp_path)
    faults.injected(
        "SIGKILL of a trial's process inside a compilation",
        lost=int(again.stdout.strip() != "done None"),
        detail=f"{through} kernels were compiled, the next one was cut to {size_bytes} bytes",
    )
    assert again.stdout.strip() == "done None", again.stderr
    assert "left by a process that did not end its compiling" in again.stderr
    assert cut.stat().st_size > size_bytes
