"""Each node that may run trials has one fork server as long as the sweep's Ray job. Real Ray, nodes on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError
from supervisor_kit import until

from tune.cluster.connect import connected
from tune.cluster.share import Share
from tune.worker.node_forkserver import NodeForkServer, NodeForkServers, _remove_dead
from tune.worker.process import ForkServer

SHARE = Share(cpus=2, gpus=0, at_a_time=1)
HEAD, FIRST, SECOND = "127.0.0.40", "127.0.0.41", "127.0.0.42"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that is too small for a trial, and two nodes that are not."""
    head = {"num_cpus": 1, "num_gpus": 0, "node_ip_address": HEAD, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for address in (FIRST, SECOND):
            cluster.add_node(num_cpus=2, num_gpus=0, node_ip_address=address)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def _fork_servers(sockets: list[str]) -> list[psutil.Process]:
    """The living processes whose last argument is one of these."""
    processes = [each for each in psutil.process_iter(["cmdline", "status"]) if each.info["status"] != "zombie"]
    return [each for each in processes if (each.info["cmdline"] or [""])[-1] in sockets]


def _lose(cluster: Cluster, address: str) -> None:
    (node,) = (node for node in cluster.worker_nodes if node.node_ip_address == address)
    cluster.remove_node(node, allow_graceful=False)


def test_nodes_that_fit_a_trial_have_a_fork_server_each_until_the_job_or_the_node_ends(cluster: Cluster) -> None:
    with connected(cluster.address) as ray:
        fork_servers = NodeForkServers(ray, SHARE)
        address_of = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        sockets = {address_of[node]: path for node, path in fork_servers.sockets.items()}
        assert sorted(sockets) == [FIRST, SECOND]
        paths = sorted(sockets.values())
        for path in paths:
            assert Path(path).parent.stat().st_mode & 0o077 == 0
            until(Path(path).exists)
            with ForkServer.reach(path).fork() as forked:
                assert forked.responds(60.0)
        processes = _fork_servers(paths)
        assert len(processes) == 2
        assert all(process.environ().get("CUDA_VISIBLE_DEVICES") != "" for process in processes)
        _lose(cluster, FIRST)
        until(lambda: len(_fork_servers(paths)) == 1)
        again = dict(NodeForkServers(ray, SHARE).sockets)
        assert len(again) == 1 and not Path(sockets[FIRST]).exists() and Path(sockets[SECOND]).exists()
    until(lambda: not _fork_servers([*paths, *again.values()]))


def test_a_node_that_is_lost_before_it_answers_takes_no_fork_server_from_the_others(cluster: Cluster) -> None:
    with connected(cluster.address) as ray:
        fork_servers = NodeForkServers(ray, SHARE)
        _lose(cluster, FIRST)
        (left,) = (node["NodeID"] for node in ray.nodes() if node["NodeManagerAddress"] == SECOND)
        assert left in fork_servers.sockets


@pytest.mark.parametrize("spoil", ["a link", "open to others"])
def test_sockets_are_made_only_in_a_folder_that_nobody_else_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, elsewhere = tmp_path / f"forkservers-{os.getuid()}", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    if spoil == "a link":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(RuntimeError, match="not trusted"):
        NodeForkServer("a0")
    assert (elsewhere / "kept").exists()


def test_a_fork_server_sees_the_gpus_that_ray_hides_from_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(ForkServer, "start", lambda **how: seen.append(os.environ.get("CUDA_VISIBLE_DEVICES")))
    for hidden in ("", "1"):  # "1": by whoever started Ray
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        NodeForkServer("a0")
    assert seen == [None, "1"]


def test_a_node_whose_folder_cannot_be_trusted_has_none_and_a_warning_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def get(reference: Any) -> Any:
        raise RayActorError(error_msg=f"The actor died.\n  Traceback\nRuntimeError: {reference} is a link")

    fork_servers = NodeForkServers.__new__(NodeForkServers)
    fork_servers._ray = SimpleNamespace(
        wait=lambda asked, **how: (asked[:1], asked[1:]), get=get, kill=lambda actor: None
    )
    fork_servers._actors = {name: SimpleNamespace(socket=SimpleNamespace(remote=lambda at=name: at)) for name in "ab"}
    assert fork_servers.sockets == {}
    says = "each GPU's first trial imports by itself there"
    assert set(capsys.readouterr().err.splitlines()) == {
        f"node a: {says}: RuntimeError: a is a link",
        f"node b: {says}: no answer within 30 s",
    }


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    _remove_dead(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
