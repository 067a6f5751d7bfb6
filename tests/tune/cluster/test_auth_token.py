"""Ray's token: our own for a Ray that we start, a cluster's for a cluster, and one line where it is the wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from job_cluster_kit import LocalCluster, local_cluster
from port_kit import free_port

from tune.cluster.auth_token import FILE, MODE, TEXT, check_cluster_token, own_token
from tune.common.errors import WrongInput

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (MODE, TEXT, FILE, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as cluster:
        yield cluster


def target(cluster: LocalCluster) -> tuple[str, int]:
    host, _, port = cluster.address.partition(":")
    return host, int(port)


def private(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


ASKS = "the cluster asks for a token"


def test_a_cluster_that_asks_for_a_token_says_which_settings_send_one(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(WrongInput) as refused:
        check_cluster_token("--address X", target(cluster))
    line = str(refused.value)
    assert line.startswith(f"--address X: {ASKS}: RAY_AUTH_MODE=token (and RAY_AUTH_TOKEN_PATH")
    assert str(tmp_path / "home" / ".ray" / "auth_token") in line and "\n" not in line


# How the token is named, which is not the cluster's -> what is said to be wrong with it
WRONG = {
    "another in the file": ("file", "holds another"),
    "another in the variable": ("text", f"{TEXT} holds another"),
    "no file": ("missing", "holds none"),
    "an empty file": ("empty", "holds none"),
    "a folder": ("folder", "holds none"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_token_that_is_not_the_clusters_is_named(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind, said = WRONG[name]
    monkeypatch.setenv(MODE, "token")
    files = {
        "file": private(tmp_path / "other", "b" * 64),
        "empty": private(tmp_path / "empty", ""),
        "folder": str(tmp_path),
        "missing": str(tmp_path / "none"),
    }
    monkeypatch.setenv(*((TEXT, "c" * 64) if kind == "text" else (FILE, files[kind])))
    with pytest.raises(WrongInput, match=f"{ASKS}, and .*{said}: name a file of mode 600 .* in RAY_AUTH_TOKEN_PATH"):
        check_cluster_token("--address X", target(cluster))


@pytest.mark.parametrize("kind", ["file", "text", "home"])
def test_the_clusters_own_token_passes(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    text = Path(cluster.clients[FILE]).read_text()
    monkeypatch.setenv(MODE, "token")
    if kind == "home":
        (tmp_path / "home" / ".ray").mkdir(parents=True)
        private(tmp_path / "home" / ".ray" / "auth_token", f"{text}\n")
    else:
        monkeypatch.setenv(*((FILE, cluster.clients[FILE]) if kind == "file" else (TEXT, text)))
    check_cluster_token("--address X", target(cluster))


def test_what_is_no_head_of_a_cluster_is_left_to_ray() -> None:
    check_cluster_token("--address X", ("127.0.0.1", free_port()))


@pytest.mark.parametrize("address", ["its own", "auto"])
def test_the_command_answers_in_one_line(cluster: LocalCluster, tmp_path: Path, address: str) -> None:
    given = cluster.address if address == "its own" else "auto"
    left = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments.py"), "--sweep", "pruning", "--dataset", "demo", "--address", given],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=left | ({} if address == "its own" else {"RAY_ADDRESS": cluster.address}),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    joining, line = done.stderr.splitlines()
    assert joining == f"joining Ray at {given} ..."
    assert line.startswith(f"error: --address {given}") and f": {ASKS}: RAY_AUTH_MODE=token (and RAY_AUTH_TOK" in line


def test_our_own_token_is_private_the_same_each_time_and_leaves_the_settings_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEXT, "a cluster's")
    with own_token():
        file = Path(os.environ[FILE])
        first = file.read_text()
        assert os.environ[MODE] == "token" and TEXT not in os.environ
    assert file.stat().st_mode & 0o777 == 0o600 and len(first) == 64
    assert file.parent == tmp_path / f"ray-{os.getuid()}"
    with own_token():
        assert file.read_text() == first
    assert (os.environ[TEXT], MODE in os.environ, FILE in os.environ) == ("a cluster's", False, False)
    assert not (tmp_path / "home").exists()


def test_processes_that_make_our_token_at_once_have_the_same(tmp_path: Path) -> None:
    program = "import os\nfrom tune.cluster.auth_token import own_token\n"
    program += "with own_token(): print(open(os.environ['RAY_AUTH_TOKEN_PATH']).read())"

    def made(_: int) -> str:
        command = [sys.executable, "-c", program]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=True).stdout

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(made, range(8)))) == 1
    assert [path.name for path in (tmp_path / f"ray-{os.getuid()}").iterdir()] == ["token"]


def test_a_user_who_switched_tokens_off_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE, "disabled")
    with own_token():
        assert os.environ[MODE] == "disabled" and FILE not in os.environ
