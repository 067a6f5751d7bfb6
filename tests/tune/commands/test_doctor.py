"""`doctor` says what works and what does not, and its exit code whether the default sweep can run; `list runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model.attention import BACKENDS
from tune.commands import doctor
from tune.commands.main import main
from tune.common.errors import DONE, WRONG_INPUT
from tune.engine import ENGINES
from tune.tracking.store import PROJECT
from tune.tracking.tracker import Tracker


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").write_text("x")


def _json(capsys: pytest.CaptureFixture[str], expected: int, *arguments: str) -> Any:
    assert main([*arguments, "--json", "-"]) == expected
    return json.loads(capsys.readouterr().out)


def test_every_backend_and_engine_has_a_line_and_what_does_not_work_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = _json(capsys, DONE, "doctor")
    lines = {(check["kind"], check["name"]): check for check in answer["checks"]}
    assert {name for kind, name in lines if kind == "attention"} == set(BACKENDS)
    assert {name for kind, name in lines if kind == "engine"} == set(ENGINES)
    assert answer["ready"] and all(len(check["found"]) > 10 for check in answer["checks"] if check["works"] is False)
    assert list(Path().iterdir()) == [Path("file")]


def test_the_last_line_says_what_the_default_sweep_still_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data-dir", "empty"]) == DONE
    last = capsys.readouterr().out.splitlines()[-1]
    assert "can run here once it has its data" in last and "put ETTh1.csv into empty; --dataset demo needs none" in last
    Path("empty").mkdir()
    Path("empty/ETTh1.csv").write_text("date,OT\n")
    assert main(["doctor", "--data-dir", "empty"]) == DONE
    assert capsys.readouterr().out.splitlines()[-1] == "the sweep pruning can run here"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--storage-path", "file"], "storage"),
        (["--storage-path", "/proc/x"], "storage"),
        (["--tracking-uri", "http://127.0.0.1:9"], "MLflow store"),
        (["--tracking-uri", "sqlite:///nowhere/x.db"], "MLflow store"),
    ],
)
def test_what_the_default_sweep_needs_and_lacks_is_exit_code_2(
    arguments: list[str], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = _json(capsys, WRONG_INPUT, "doctor", *arguments)
    assert not answer["ready"]
    assert [check["kind"] for check in answer["checks"] if check["needed"] and not check["works"]] == [kind]
    assert doctor.STORE_ANSWERS_WITHIN_S <= 15


def test_sources_that_every_process_would_compile_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def check() -> dict[str, Any]:
        return next(check for check in _json(capsys, DONE, "doctor")["checks"] if check["kind"] == "start-up")

    assert torch.__spec__ is not None
    monkeypatch.setattr(torch.__spec__, "cached", str(tmp_path / "file"))
    assert check()["works"]
    monkeypatch.setattr(torch.__spec__, "cached", str(tmp_path / "none.pyc"))
    place = Path(torch.__file__).parents[1]
    assert not check()["works"] and check()["found"].endswith(f"or run: python -m compileall -q {place}")
    monkeypatch.setattr(torch, "__spec__", None)
    assert check()["works"] is None


def test_a_store_that_no_sweep_has_made_yet_is_named_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    for file, said in (("new.db", "not there yet, made by the first sweep"), ("file", "answers")):
        checks = _json(capsys, DONE, "doctor", "--tracking-uri", f"sqlite:///{file}")["checks"]
        assert [check["found"] for check in checks if check["kind"] == "MLflow store"] == [said]


def test_a_password_in_the_stores_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:9")
    assert main(["doctor"]) == WRONG_INPUT
    said = capsys.readouterr()
    assert "127.0.0.1:9" in said.out and "secret" not in said.out + said.err


def test_list_runs_shows_the_sweeps_of_the_store(
    tmp_path: Path, new_store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = (tmp_path / "artifacts").as_uri()
    with Tracker(
        outbox_path=tmp_path / "outbox.jsonl", tracking_uri=new_store, experiment=PROJECT, artifact_root=root
    ) as tracker:
        tracker.begin_sweep(sweep_id="s-1", name="s-1", tags={"device": "some CPU"}, params={"trials": 3}, files={})
        tracker.end_sweep(status="done", metrics={}, files={})
    (row,) = _json(capsys, DONE, "list", "runs", "--tracking-uri", new_store)["sweeps"]
    assert row["started"].endswith("UTC")
    assert row | {"started": ""} == {
        "sweep_id": "s-1", "status": "done", "trials": 3, "device": "some CPU", "started": "",
    }  # fmt: skip
