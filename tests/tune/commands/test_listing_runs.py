"""`list runs` looks at the process of a running sweep: the store alone shows a killed one as running for ever."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tune.commands.main import main
from tune.common.errors import DONE
from tune.common.process import PROCESS_TAG, ProcessInfo, this_process
from tune.tracking.store import PROJECT
from tune.tracking.tracker import Tracker

THIS = this_process()
assert THIS.pid is not None and THIS.ticks is not None
PROCESSES = {
    "this": (THIS, ("running", f"{THIS.pid} on this machine")),
    "ended": (replace(THIS, pid=2**22 + 1), ("dead", None)),  # above the largest number that Linux gives
    "its number is another's": (replace(THIS, ticks=THIS.ticks - 1), ("dead", None)),
    "the machine was started anew": (replace(THIS, boot="another"), ("dead", None)),
    "another machine": (
        replace(THIS, host="gpu-7", pid=12),
        ("running", "12 on gpu-7, cannot be seen from here"),
    ),
    "a container of this machine": (
        replace(THIS, pids="pid:[1]"),
        ("running", f"{THIS.pid} on {socket.gethostname()}, cannot be seen from here"),
    ),
}


def _row(folder: Path, uri: str, tags: dict[str, str], closed: str | None) -> dict[str, object]:
    root = (folder / "artifacts").as_uri()
    with Tracker(
        outbox_path=folder / "outbox.jsonl", tracking_uri=uri, experiment=PROJECT, artifact_root=root
    ) as tracker:
        tracker.begin_sweep(sweep_id="s-1", name="s-1", tags=tags, params={"trials": 3}, files={})
        if closed is not None:
            tracker.end_sweep(status=closed, metrics={}, files={})
    assert main(["list", "runs", "--tracking-uri", uri, "--json", str(folder / "rows.json")]) == DONE
    (row,) = json.loads((folder / "rows.json").read_text())["sweeps"]
    return row


@pytest.mark.parametrize("name", PROCESSES)
def test_a_sweep_that_was_not_closed_runs_only_if_its_process_does(name: str, tmp_path: Path, new_store: str) -> None:
    process, expected = PROCESSES[name]
    row = _row(tmp_path, new_store, {PROCESS_TAG: process.as_json()}, None)
    assert (row["status"], row["process"]) == expected


@pytest.mark.parametrize("status", ["done", "failed", "interrupted"])
def test_a_closed_sweep_has_no_process(
    status: str, tmp_path: Path, new_store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = _row(tmp_path, new_store, {"device": "some CPU", PROCESS_TAG: THIS.as_json()}, status)
    assert str(row["started"]).endswith("UTC")
    assert row | {"started": ""} == {
        "sweep_id": "s-1", "status": status, "trials": 3, "device": "some CPU", "started": "", "process": None,
        "refused": 0,
    }  # fmt: skip
    assert ("the same command again goes on" in capsys.readouterr().out) == (status == "interrupted")


def test_a_sweep_of_an_earlier_version_is_shown_as_the_store_has_it(tmp_path: Path, new_store: str) -> None:
    row = _row(tmp_path, new_store, {}, None)
    assert (row["status"], row["process"]) == ("running", None)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "7", "ticks": [], "boot": 3}'])
def test_a_broken_note_of_a_process_is_nothing_known(text: str) -> None:
    assert ProcessInfo.from_json(text).runs is None
