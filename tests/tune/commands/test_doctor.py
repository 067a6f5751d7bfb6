"""`doctor` tries what a sweep does, and its exit code says whether the default sweep can run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compiler_kit import path_with, path_without_compilers
from doctor_kit import doctor, one

from model.attention import BACKENDS
from tune.common.errors import DONE, WRONG_INPUT
from tune.doctor.checks import PARTS
from tune.engine import ENGINES

pytestmark = pytest.mark.cluster
TRAPS = ("model.py", "tune.py", "numpy.py", "yaml.py", "signal.py", "data_pipeline/__init__.py")
Ran = tuple[int, dict[str, Any], str]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files have the names of packages, and say so if somebody imports them."""
    folder = tmp_path_factory.mktemp("here")
    for trap in TRAPS:
        (folder / trap).parent.mkdir(exist_ok=True)
        (folder / trap).write_text(f"open({str(folder / 'sprung')!r}, 'a').write({trap!r})\n")
    return folder


@pytest.fixture(scope="module")
def ready(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run where a sweep can run, with no more on PATH than it needs."""
    programs = ("git", "sh", "env", "openssl", "g++", "gcc", "as", "ld")
    return doctor(here, PATH=str(path_with(tmp_path_factory.mktemp("bin"), *programs)))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """A run where as much as possible is wrong at once."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "file").write_text("x")
    long = folder / ("long" * 20)
    long.mkdir()
    yield doctor(
        folder, "--storage-path", "file",
        PATH=str(path_without_compilers(folder / "bin")),
        TMPDIR=str(long),
        RAY_TMPDIR=str(long),
        MLFLOW_TRACKING_URI="http://ann:secret@127.0.0.1:9",
    )  # fmt: skip


def test_where_a_sweep_can_run_every_check_that_it_needs_works_and_nothing_is_left(here: Path, ready: Ran) -> None:
    code, answer, said = ready
    assert [check for check in answer["checks"] if check["needed"] and not check["works"]] == []
    assert code == DONE and answer["ready"]
    assert {path.name for path in here.iterdir()} == {trap.partition("/")[0] for trap in TRAPS}
    assert "the sweep pruning can run here once it has its data" in said.splitlines()[-1]
    assert "put ETTh1.csv into data; --dataset demo needs none" in said.splitlines()[-1]


def test_ray_is_started_and_a_worker_imports_our_packages_whatever_lies_in_the_current_folder(ready: Ran) -> None:
    _, answer, _ = ready
    assert [one(answer, "Ray", name)["works"] for name in ("start", "worker", "probe")] == [True] * 3


def test_every_check_backend_and_engine_has_a_line_and_what_does_not_work_says_why(ready: Ran) -> None:
    _, answer, _ = ready
    kinds = {check["kind"] for check in answer["checks"]}
    assert {check.kind for part in PARTS.values() for check in part} <= kinds
    names = {kind: {check["name"] for check in answer["checks"] if check["kind"] == kind} for kind in kinds}
    assert names["attention"] == set(BACKENDS) and names["engine"] == set(ENGINES)
    assert all(len(check["found"]) > 10 for check in answer["checks"] if check["works"] is False)


def test_a_store_that_no_sweep_has_made_yet_is_named_as_such_and_not_made(ready: Ran) -> None:
    _, answer, _ = ready
    assert [check["found"] for check in answer["checks"] if check["kind"] == "MLflow store"] == [
        "not there yet, made by the first sweep"
    ]


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("MLflow store", None, "127.0.0.1:9"),
        ("storage", None, "give a folder that can be written"),
        ("compiler", "C++", "apt-get install g++"),
        ("engine", "compile", "the compile engine needs a working C++ compiler"),
        ("Ray", "start", "set RAY_TMPDIR to a short folder"),
    ],
)
def test_what_is_broken_says_in_one_line_what_was_tried_what_happened_and_what_to_do(
    kind: str, name: str | None, said: str, broken: Ran
) -> None:
    code, answer, table = broken
    check = one(answer, kind, name)
    assert (code, answer["ready"], check["works"]) == (WRONG_INPUT, False, False)
    assert said in check["found"] and "\n" not in check["found"] and check["tried"]
    lines = [line for line in table.splitlines() if line.endswith(f"tried to {check['tried']}: {check['found']}")]
    assert [line.split()[0] for line in lines] == ["NO"]


def test_what_is_broken_prints_no_traceback_and_no_password(broken: Ran) -> None:
    _, answer, table = broken
    assert "Traceback" not in table and "secret" not in table + json.dumps(answer)
    assert table.splitlines()[-1] == "the sweep pruning CANNOT run here"
    assert one(answer, "engine", "eager")["works"]
