"""A check that hangs, dies or raises ends in one line, and takes nothing but the rest of its part with it."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import psutil
import pytest
from doctor_kit import run_script

from tune.doctor.checks import PARTS
from tune.doctor.finding import Check

SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from doctor_kit import check
from tune.doctor.finding import Place
from tune.doctor.runner import run_parts
place = Place(data_dir=Path.cwd(), storage=Path.cwd(), tracking_uri="sqlite:///mlflow.db")
parts = {name: [check(each) for each in name.split()] for name in %r}
print(json.dumps([asdict(finding) for finding in run_parts(parts, place, limit_s=%r)]))
"""
BAD = ["fine hangs fine", "killed fine", "exits", "raises fine", "fine"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("parts")
    process = run_script(SCRIPT % (BAD, 10.0), folder)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    findings: list[dict[str, Any]] = json.loads(out)
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    assert not any(_alive(pid) for pid in pids)
    return findings


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _of(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in found if each["kind"] == kind]


def test_findings_keep_the_order_of_their_parts(found: list[dict[str, Any]]) -> None:
    kinds = ["fine", "hangs", "fine", "killed", "fine", "exits", "raises", "raises", "fine", "fine"]
    assert [each["kind"] for each in found] == kinds


def test_a_check_that_hangs_is_ended_with_all_it_started_and_says_so(found: list[dict[str, Any]]) -> None:
    (line,) = _of(found, "hangs")
    assert line["works"] is False and line["needed"] and line["tried"] == "try hangs"
    assert "did not end within 10 s and was ended" in line["found"]


@pytest.mark.parametrize(
    ("kind", "said"), [("killed", "ended by SIGKILL: last words of a library"), ("exits", "ended by exit code 7")]
)
def test_a_check_whose_process_dies_says_how(found: list[dict[str, Any]], kind: str, said: str) -> None:
    (line,) = _of(found, kind)
    assert line["works"] is False and said in line["found"]


def test_a_check_that_raises_keeps_what_it_found_and_those_after_it_are_tried(found: list[dict[str, Any]]) -> None:
    first, last = _of(found, "raises")
    assert first["works"] and last["found"] == "RuntimeError: no luck" and last["works"] is False
    assert [each["works"] for each in _of(found, "fine")] == [True, None, None, True, True]
    assert "not tried, as the check before it (killed) did not end" in [each["found"] for each in _of(found, "fine")]


def test_parts_end_with_the_process_that_runs_them(tmp_path: Path) -> None:
    process = run_script(SCRIPT % (["hangs"], 500.0), tmp_path)
    while not (tmp_path / "pids").exists() or not (pids := (tmp_path / "pids").read_text().split()):
        time.sleep(0.05)
    os.kill(process.pid, 9)
    process.communicate(timeout=60)
    while any(_alive(int(pid)) for pid in pids):  # the test's own time limit ends this
        time.sleep(0.05)


@pytest.mark.parametrize("check", list(itertools.chain(*PARTS.values())), ids=lambda check: check.function)
def test_every_check_says_what_it_tries_and_has_a_function(check: Check) -> None:
    assert resolve_name(check.function).__doc__
    assert check.tried and "tried" not in check.tried
