"""Which sweep a command continues."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from tune.common.errors import WrongInput
from tune.storage import check_folder, open_sweep, sweep_dir
from tune.storage.moved import Command

CODE = {"git_commit": "a" * 40, "git_dirty": False, "code_sha256": "1" * 64}
OTHER_CODE = {"git_commit": "b" * 40, "git_dirty": True, "code_sha256": "2" * 64}


def _sweep(storage: Path, key: str = "k", created_s: float = 1.0, code: dict[str, Any] = CODE) -> sweep_dir.SweepDir:
    return open_sweep.create(storage, "pruning", {"key": key, "created_s": created_s, "code": code})


def _choose(storage: Path, **given: Any) -> tuple[sweep_dir.SweepDir | None, str]:
    return open_sweep.choose_sweep(
        storage, **({"command": Command(key="k"), "environment": CODE, "fresh": False, "resume": None} | given)
    )


def test_the_latest_unfinished_sweep_of_the_same_key_is_continued(tmp_path: Path) -> None:
    _sweep(tmp_path, created_s=1.0)
    latest = _sweep(tmp_path, created_s=2.0)
    _sweep(tmp_path, key="other", created_s=3.0)
    chosen, why = _choose(tmp_path)
    assert chosen == latest
    assert why.startswith(f"resuming {latest.sweep_id}")


def test_a_finished_sweep_is_not_touched_and_a_new_one_starts(tmp_path: Path) -> None:
    _sweep(tmp_path).update(state=sweep_dir.FINISHED)
    chosen, why = _choose(tmp_path)
    assert chosen is None
    assert "ran this same plan to its end; starting a new sweep" in why


def test_fresh_starts_anew(tmp_path: Path) -> None:
    _sweep(tmp_path)
    assert _choose(tmp_path, fresh=True)[0] is None


def test_other_code_is_refused_naming_both_ways_out_and_resume_by_name_waives_it(tmp_path: Path) -> None:
    started = _sweep(tmp_path, code=OTHER_CODE)
    with pytest.raises(
        WrongInput, match=f"commit bbbbbbbbbb with uncommitted changes.*--fresh.*--resume {started.sweep_id}"
    ):
        _choose(tmp_path)
    assert _choose(tmp_path, resume=started.sweep_id)[0] == started


@pytest.mark.parametrize(
    ("change", "message"),
    [({"key": "other"}, "another plan or data"), ({"state": sweep_dir.FINISHED}, "it is finished")],
)
def test_a_sweep_that_does_not_fit_cannot_be_resumed_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    started = _sweep(tmp_path)
    started.update(**change)
    with pytest.raises(WrongInput, match=message):
        _choose(tmp_path, resume=started.sweep_id)


def test_an_unknown_sweep_names_the_latest(tmp_path: Path) -> None:
    known = _sweep(tmp_path)
    with pytest.raises(WrongInput, match=f"no such sweep.*{known.sweep_id}"):
        _choose(tmp_path, resume="pruning-nope")


def test_a_sweep_folder_is_its_owners_alone(tmp_path: Path) -> None:
    assert stat.S_IMODE(_sweep(tmp_path).path.stat().st_mode) == 0o700


def test_attempts_never_share_a_folder(tmp_path: Path) -> None:
    sweep = _sweep(tmp_path)
    first = sweep.next_attempt()
    (sweep.path / first).mkdir()
    assert sweep.next_attempt() != first


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "{}", '{"key": "k", "state": "running", "created_s": 1.0}', b"\xff\xfe"], ids=repr
)
def test_a_record_that_is_empty_or_not_ours_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | bytes
) -> None:
    ours = _sweep(tmp_path)
    foreign = tmp_path / "foreign" / "sweep.json"
    foreign.parent.mkdir()
    foreign.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert _choose(tmp_path)[0] == ours
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(foreign) in lines[0]


@pytest.mark.parametrize("storage", ["file", "file/below", "dangling"])
def test_a_storage_folder_that_cannot_be_created_is_reported_in_one_line(tmp_path: Path, storage: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at-all")
    for attempt in (check_folder.check_storage, _sweep):
        with pytest.raises(WrongInput, match=f"--storage-path {tmp_path / storage}: ") as caught:
            attempt(tmp_path / storage)
        assert "\n" not in str(caught.value)


def test_a_storage_folder_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_folder.os, "access", lambda *_: False)
    with pytest.raises(WrongInput, match=f"{tmp_path} is not writable"):
        check_folder.check_storage(tmp_path / "new")


def test_checking_the_storage_folder_creates_nothing(tmp_path: Path) -> None:
    check_folder.check_storage(tmp_path / "new" / "newer")
    assert list(tmp_path.iterdir()) == []


RAN_ON = CODE | {"device": {"driver": "580.1"}, "versions": {"torch": "2.11.0", "flash-attn": None, "ray": "2.60.0"}}


def _started_on(storage: Path, environment: dict[str, Any]) -> sweep_dir.SweepDir:
    content = {"key": "k", "created_s": 1.0, "code": CODE, "environment": environment}
    return open_sweep.create(storage, "pruning", content)


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        ({"versions": RAN_ON["versions"] | {"torch": "2.12.0"}}, "torch 2.11.0, now 2.12.0"),
        ({"versions": RAN_ON["versions"] | {"flash-attn": "2.9"}}, "flash-attn not installed, now 2.9"),
        ({"device": {"driver": "590.2"}}, "driver 580.1, now 590.2"),
    ],
)
def test_other_versions_or_another_driver_are_refused_like_other_code(
    tmp_path: Path, now: dict[str, Any], difference: str
) -> None:
    started = _started_on(tmp_path, RAN_ON)
    ways_out = f"use --fresh to start anew, or --resume {started.sweep_id} to continue it anyway"
    with pytest.raises(WrongInput) as caught:
        _choose(tmp_path, environment=RAN_ON | now)
    assert str(caught.value) == (
        f"{started.sweep_id} is unfinished but was started with other versions ({difference}); {ways_out}"
    )
    assert _choose(tmp_path, environment=RAN_ON | now, resume=started.sweep_id)[0] == started


def test_a_sweep_is_continued_on_another_machine_with_the_same_versions_and_driver(tmp_path: Path) -> None:
    started = _started_on(tmp_path, RAN_ON)
    assert _choose(tmp_path, environment=RAN_ON | {"host_cpus": 64, "host_cpu": "another"})[0] == started


def test_a_sweep_resumed_by_name_lists_its_environments_and_then_goes_on_in_the_latest(tmp_path: Path) -> None:
    started = _started_on(tmp_path, RAN_ON)
    now = RAN_ON | OTHER_CODE | {"versions": RAN_ON["versions"] | {"torch": "2.12.0"}}
    for _ in range(2):
        started.run_on(now)
    content = started.read()
    assert (content["environment"], content["environments"], content["code"]) == (now, [RAN_ON, now], OTHER_CODE)
    assert _choose(tmp_path, environment=now)[0] == started
    with pytest.raises(WrongInput, match=r"by other code \(commit bbbbbbbbbb"):
        _choose(tmp_path, environment=RAN_ON)


def test_a_sweep_that_goes_on_where_it_ran_keeps_its_record_as_it_is(tmp_path: Path) -> None:
    started = _started_on(tmp_path, RAN_ON)
    before = started.read()
    started.run_on(RAN_ON)
    assert started.read() == before
