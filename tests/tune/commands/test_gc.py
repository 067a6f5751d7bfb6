"""`gc`: shows what can go, removes it with --yes, and touches nothing that anybody needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tune.commands.main import main
from tune.common.errors import DONE, WRONG_INPUT
from tune.storage import open_sweep
from tune.storage.outbox import Outbox
from tune.storage.sweep_dir import FINISHED, SweepDir

MOMENTS = "attempt-1/t/checkpoint_000000/moments.safetensors"
Make = Callable[..., SweepDir]


@pytest.fixture(name="make")
def make_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    (tmp_path / "ray").mkdir()

    def make(*, finished: bool = True) -> SweepDir:
        sweep = open_sweep.create(Path("runs"), "custom", {"key": "k", "created_s": 1.0, "code": {}})
        for file in (MOMENTS, "attempt-1/t/checkpoint_000001/model/model.safetensors", "attempt-1/tuner.pkl"):
            (sweep.path / file).parent.mkdir(parents=True, exist_ok=True)
            (sweep.path / file).write_bytes(b"x" * 2**20)
        sweep.save_checkpoint("t", str(sweep.path.absolute() / "attempt-1/t/checkpoint_000000"))
        outbox = Outbox(sweep.outbox)
        outbox.append({"kind": "end", "model_dir": str(sweep.path.absolute() / "attempt-1/t/checkpoint_000001/model")})
        outbox.close()
        if finished:
            sweep.update(state=FINISHED)
        return sweep

    return make


def _listed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["gc", "--json", "-", *options]) == DONE
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_it_only_shows_unless_told_to_remove(
    make: Make, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    sweep = make()
    assert main(["gc", *options]) == DONE
    out = capsys.readouterr().out
    assert "checkpoints of a finished sweep" in out and sweep.sweep_id in out
    assert "2.0 MiB can be removed: the same command with --yes does it" in out
    assert (sweep.path / MOMENTS).exists()


def test_yes_removes_what_was_shown_and_a_second_time_nothing_is_left(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make()
    shown = _listed(capsys)["items"]
    assert main(["gc", "--yes"]) == DONE
    assert "2.0 MiB removed" in capsys.readouterr().out
    assert not any(os.path.lexists(path) for item in shown for path in item["paths"])
    assert (sweep.path / "attempt-1/t/checkpoint_000001/model/model.safetensors").exists()
    assert main(["gc"]) == DONE
    assert "nothing to remove" in capsys.readouterr().out


def test_an_unfinished_sweep_keeps_what_it_goes_on_from(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make(finished=False)
    (item,) = _listed(capsys, "--yes")["items"]
    assert item["what"] == "older checkpoints of an unfinished sweep"
    assert (sweep.path / MOMENTS).exists() and not (sweep.path / "attempt-1/tuner.pkl").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_running_sweep_is_not_touched(make: Make, capsys: pytest.CaptureFixture[str], finished: bool) -> None:
    """A finished one is run by `flush`."""
    sweep = make(finished=finished)
    running = Outbox(sweep.outbox)
    (Path("runs") / "compile" / "key").mkdir(parents=True)
    (Path("runs") / "compile" / "key" / "about.json").write_text(json.dumps({"versions": {"torch": "1.0"}}))
    before = {path for path in sweep.path.rglob("*") if "outbox" not in path.name}
    assert _listed(capsys, "--yes")["items"] == []
    running.close()
    assert {path for path in sweep.path.rglob("*") if "outbox" not in path.name} == before


@pytest.mark.parametrize(
    ("versions", "goes"),
    [
        ({"torch": metadata.version("torch")}, False),
        ({"torch": metadata.version("torch").split("+")[0] + "+cu130"}, False),
        ({"torch": "1.0"}, True),
        ({"torch": metadata.version("torch"), "triton": "1.0"}, True),
        ({"torch": metadata.version("torch"), "transformers": "1.0"}, False),
        (None, False),
    ],
    ids=["this torch", "built for a GPU", "another torch", "another triton", "this compiler", "not known"],
)
def test_compiled_code_goes_if_another_version_made_it(
    make: Make, capsys: pytest.CaptureFixture[str], versions: dict[str, str] | None, goes: bool
) -> None:
    folder = Path("runs") / "compile" / "key"
    folder.mkdir(parents=True)
    (folder / "about.json").write_text("{" if versions is None else json.dumps({"versions": versions}))
    (folder / "kernel").write_bytes(b"x")
    _listed(capsys, "--yes")
    assert folder.exists() != goes


def test_sessions_and_unfinished_files_of_killed_processes_go(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    session = Path("ray", f"ray-{os.getuid()}", "s", f"session_2026-01-01_00-00-00_000001_{ended.pid}")
    session.mkdir(parents=True, mode=0o700)
    session.parents[1].chmod(0o700)
    os.utime(session, (0, 0))
    draft = sweep.path / f".sweep.json.{ended.pid}.tmp"
    draft.touch()
    kinds = [item["what"] for item in _listed(capsys, "--yes")["items"]]
    assert kinds[1:] == ["unfinished files of killed processes", "1 Ray sessions of ended processes"]
    assert not session.exists() and not draft.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--yes", "--dry-run"], "one removes, the other only shows"),
        (["--storage-path", "missing"], "--storage-path missing: there is no such folder"),
        (["--json", "no/folder.json"], "--json no/folder.json"),
    ],
)
def test_wrong_input_is_one_line(
    make: Make, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    sweep = make()
    assert main(["gc", *options]) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert (sweep.path / MOMENTS).exists()
