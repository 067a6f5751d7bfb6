"""Several users at once: of two starts of one sweep exactly one opens it, and the other hears who has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tune.common.errors import WrongInput
from tune.common.process import user_name
from tune.machine.code_identity import REPO_ROOT
from tune.storage import check_folder, open_sweep
from tune.storage.outbox import Outbox

USERS = 5
# Opens a sweep as the runner does, says so, and holds it until its standard input ends.
OPEN = """
import sys, time
from pathlib import Path
from tune.common.errors import WrongInput
from tune.storage import open_sweep
from tune.storage.moved import Command
from tune.storage.outbox import Outbox
storage, key = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
try:
    with open_sweep.sweep_lock(storage, key):
        how = {"environment": {"code_sha256": "c"}, "fresh": False, "resume": None}
        sweep, _ = open_sweep.choose_sweep(storage, command=Command(key=key), **how)
        content = {"key": key, "created_s": time.time(), "code": {"code_sha256": "c"}}
        outbox = Outbox((sweep or open_sweep.create(storage, "custom", content)).outbox)
    print("opened", flush=True)
    sys.stdin.readline()
    outbox.close()
except WrongInput as error:
    print(error, flush=True)
"""


def _start(storage: Path, key: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, str(storage), key],
        cwd=REPO_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _at_once(users: list[subprocess.Popen[str]]) -> list[str]:
    """What each user hears after all were ready and began together."""
    for user in users:
        assert user.stdout is not None and user.stdout.readline() == "ready\n"
    for user in users:
        assert user.stdin is not None
        user.stdin.write("go\n")
        user.stdin.flush()
    return [user.stdout.readline().strip() for user in users if user.stdout is not None]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.mark.soak
def test_of_users_who_start_one_sweep_at_once_exactly_one_runs_it(storage: Path) -> None:
    users = [_start(storage, "same") for _ in range(USERS)]
    heard = _at_once(users)
    assert heard.count("opened") == 1
    (folder,) = storage.glob("custom-*")
    first = users[heard.index("opened")]
    for line in heard:
        if line != "opened":
            assert line.startswith(f"{folder.name} is running as process {first.pid} on ")
            assert f" of {user_name()} since " in line and line.endswith("its command then continues it")
    first.kill()  # what a killed run held is free, and its sweep goes on
    first.wait()
    again = _start(storage, "same")
    assert _at_once([again]) == ["opened"]
    for user in [*users, again]:
        user.communicate()
    assert list(storage.glob("custom-*")) == [folder]


def test_users_of_different_sweeps_do_not_wait_for_each_other(storage: Path) -> None:
    users = [_start(storage, f"sweep {number}") for number in range(USERS)]
    assert _at_once(users) == ["opened"] * USERS
    for user in users:
        user.communicate()
    assert len(list(storage.glob("custom-*"))) == USERS


def test_a_command_that_asks_for_what_runs_is_refused_before_it_waits_for_gpus(storage: Path) -> None:
    sweep = open_sweep.create(storage, "custom", {"key": "k", "created_s": 1.0, "code": {}, "asked": "this"})
    outbox = Outbox(sweep.outbox)
    open_sweep.check_not_running(storage, "that")
    with pytest.raises(WrongInput, match=f"{sweep.sweep_id} is running as process"):
        open_sweep.check_not_running(storage, "this")
    outbox.close()
    open_sweep.check_not_running(storage, "this")


def test_a_lock_that_is_not_given_back_is_told_in_one_line(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_sweep, "OPENING_S", 0.1)
    with (
        open_sweep.sweep_lock(storage, "k"),
        pytest.raises(WrongInput, match="another command has been opening a sweep of this plan for 0.1 s"),
        open_sweep.sweep_lock(storage, "k"),
    ):
        pass


def test_a_glance_at_a_lock_does_not_keep_its_owner_out(storage: Path) -> None:
    sweep = open_sweep.create(storage, "custom", {"key": "k", "created_s": 1.0, "code": {}})
    Outbox(sweep.outbox).close()
    looking = "import sys; from pathlib import Path; from tune.storage.outbox import in_use_by\n"
    looking += "print('looking', flush=True)\nwhile True: in_use_by(Path(sys.argv[1]))"
    other = subprocess.Popen(
        [sys.executable, "-c", looking, str(sweep.outbox)], cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "looking\n"
        for _ in range(20):
            Outbox(sweep.outbox).close()
    finally:
        other.kill()
        other.communicate()


def test_the_storage_of_another_account_is_refused(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_sweep.sweep_lock(storage, "k"):
        pass
    check_folder.check_storage(storage)
    monkeypatch.setattr(check_folder.os, "getuid", lambda: 12345678)
    monkeypatch.setattr(check_folder, "keeps_private", lambda _: True)  # or the folder's owner would mean nothing
    with pytest.raises(WrongInput, match="another account runs sweeps there"):
        check_folder.check_storage(storage)


def test_a_holders_file_names_host_pid_user_and_since(storage: Path) -> None:
    outbox = Outbox(storage / "outbox.jsonl")
    written = json.loads((storage / "outbox.jsonl.holder").read_text())
    outbox.close()
    assert set(written) == {"user", "host", "pid", "since", "job", "boot", "pids", "ticks"}
    assert not (storage / "outbox.jsonl.holder").exists()
