"""The soak runner itself: other seeds, a stop at the first failure, a table of what was injected and lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fault_kit import Faults

ROOT = Path(__file__).resolve().parents[2]
FAULTY = f"""
import sys
from pytest import mark
sys.path.insert(0, {str(ROOT / "tests")!r})
from fault_kit import Faults

@mark.soak
def test_something_is_lost_with_seed_3():
    faults = Faults("faulty")
    lost = int(faults.seed == 3)
    faults.injected("a fault", times=2, lost=lost)
    assert lost == 0
"""


def _soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "tests/soak.py", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("soak") / "log"


@pytest.fixture(scope="module")
def failed(log: Path) -> subprocess.CompletedProcess[str]:
    test = log.with_name("test_faulty.py")
    test.write_text(FAULTY)
    return _soak("--runs", "4", "--first-seed", "2", "--log", str(log), str(test))


def test_a_soak_stops_at_the_first_failure_and_says_how_to_repeat_it(
    failed: subprocess.CompletedProcess[str], log: Path
) -> None:
    assert failed.returncode == 1
    assert "run 1 of 4 passed" in failed.stderr and "ETA" in failed.stderr
    assert "run 2 of 4 failed; exactly this run again: python tests/soak.py --runs 1 --first-seed 3" in failed.stderr
    notes = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(note["run"], note["passed"]) for note in notes if "run" in note] == [(2, True), (3, False)]


def test_the_table_adds_up_what_was_injected_and_lost(failed: subprocess.CompletedProcess[str], log: Path) -> None:
    assert failed.stdout.splitlines()[-1].split() == ["a", "fault", "2", "4", "1"]
    again = _soak("--table", "--markdown", "--log", str(log))
    assert again.stdout.splitlines()[-1] == "| a fault | 2 | 4 | 1 |"
    assert again.stdout.startswith("1 of 2 runs passed")


def test_another_seed_draws_other_moments_and_the_same_seed_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for seed in ("1", "2", "1"):
        monkeypatch.setenv("SOAK_SEED", seed)
        drawn.append(Faults("one").moments.random())
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_log_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = _soak("--table", "--log", str(tmp_path / "none"))
    assert done.returncode == 2 and "no such file" in done.stderr
