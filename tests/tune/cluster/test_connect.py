"""Joining Ray, a share of a cluster, the probe: fakes for the decisions, real Ray and sockets for the joining."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from tune.cluster import connect
from tune.cluster import probe as cluster_probe
from tune.cluster.probe import probe
from tune.cluster.share import Share, choose_share
from tune.common.errors import WrongInput
from tune.machine.device import available_cpus, cpu_facts

ROOT = Path(__file__).resolve().parents[3]
HEAD = {"CPU": 0.0, "node:__internal_head__": 1.0}


def gpu_node(cpus: float, gpus: float, model: str = "H100") -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, f"accelerator_type:{model}": 1.0}


def share_of(*nodes: dict[str, float], dead: tuple[dict[str, float], ...] = (), **asked: Any) -> Share:
    listed = [{"Alive": True, "Resources": node} for node in nodes]
    listed += [{"Alive": False, "Resources": node} for node in dead]
    request = {"gpus_per_trial": None, "max_concurrent": None, "joined": True, **asked}
    return choose_share(types.SimpleNamespace(nodes=lambda: listed), **request)


# (nodes, what was asked, the share)
SHARES: dict[str, tuple[list[dict[str, float]], dict[str, Any], Share]] = {
    "one_gpu": ([gpu_node(16, 1)], {}, Share(cpus=16, gpus=1, at_a_time=1)),
    "cpus_of_a_cpu_node_do_not_count": (
        [HEAD, {"CPU": 64}, gpu_node(16, 1), gpu_node(16, 1)], {}, Share(cpus=16, gpus=1, at_a_time=2),
    ),
    "the_poorest_gpu_node_decides": ([gpu_node(32, 2), gpu_node(24, 8)], {}, Share(cpus=3, gpus=1, at_a_time=10)),
    "fewer_cpus_than_gpus": ([gpu_node(3, 8), gpu_node(8, 4)], {}, Share(cpus=1, gpus=1, at_a_time=7)),
    "a_gpu_node_without_cpus_runs_nothing": ([gpu_node(0, 4), gpu_node(8, 1)], {}, Share(cpus=8, gpus=1, at_a_time=1)),
    "half_gpus": ([gpu_node(16, 2)], {"gpus_per_trial": 0.5}, Share(cpus=4, gpus=0.5, at_a_time=4)),
    "no_trial_spans_two_gpus": ([gpu_node(16, 2)], {"gpus_per_trial": 0.4}, Share(cpus=4, gpus=0.4, at_a_time=4)),
    "fewer_at_a_time": ([gpu_node(64, 8)], {"max_concurrent": 3}, Share(cpus=8, gpus=1, at_a_time=3)),
    "one_of_two_models": (
        [gpu_node(8, 1), gpu_node(4, 2, "L4")], {"gpu_model": "L4"},
        Share(cpus=2, gpus=1, at_a_time=2, accelerator="L4"),
    ),
    "one_model_beside_one_that_ray_does_not_know": (
        [gpu_node(8, 1), {"CPU": 4.0, "GPU": 2.0}], {"gpu_model": "H100"},
        Share(cpus=8, gpus=1, at_a_time=1, accelerator="H100"),
    ),
    "only_gpus_that_ray_does_not_know": ([{"CPU": 4.0, "GPU": 2.0}] * 2, {}, Share(cpus=2, gpus=1, at_a_time=4)),
    "cpu_asked_for": ([HEAD, {"CPU": 8}, {"CPU": 4}], {"gpus_per_trial": 0}, Share(cpus=8, gpus=0, at_a_time=1)),
    "cpu_of_this_machine": ([{"CPU": 2}], {"joined": False}, Share(cpus=2, gpus=0, at_a_time=1)),
    "one_at_a_time_on_cpu": ([{"CPU": 2}], {"joined": False, "max_concurrent": 1}, Share(cpus=2, gpus=0, at_a_time=1)),
}  # fmt: skip

NOT_YET = "the cluster has no GPU (nodes: 2, CPUs: 8), also after --wait-for-gpus 0 seconds: see `ray status` "
REFUSED: dict[str, tuple[list[dict[str, float]], dict[str, Any], str]] = {
    "no_gpu_has_joined": ([HEAD, {"CPU": 8}], {}, "was refused; --gpus-per-trial 0 runs on the CPU"),
    "no_gpu_has_joined_and_one_is_asked_for": ([HEAD, {"CPU": 8}], {"gpus_per_trial": 1}, NOT_YET),
    "no_gpu_here": ([{"CPU": 2}], {"joined": False, "gpus_per_trial": 0.5}, "--gpus-per-trial 0.5: Ray sees no GPU"),
    "several_at_a_time_on_cpu": ([{"CPU": 2}], {"joined": False, "max_concurrent": 2}, "--max-concurrent 2: on a CPU"),
    "several_on_an_asked_for_cpu": ([gpu_node(8, 1)], {"gpus_per_trial": 0, "max_concurrent": 2}, "--max-concurrent 2"),
    "two_models": ([gpu_node(8, 1), gpu_node(8, 1, "L4")], {}, "GPUs of several models (H100, L4)"),
    "a_model_and_one_that_ray_does_not_know": (
        [gpu_node(8, 1), {"CPU": 8.0, "GPU": 1.0}], {}, "GPUs of several models (H100, of no model that Ray knows)",
    ),
    "a_model_that_ray_does_not_know": (
        [{"CPU": 8.0, "GPU": 1.0}], {"gpu_model": "T4"}, "the cluster has none; its GPUs are of no model that Ray",
    ),
    "another_model": (
        [gpu_node(8, 1), gpu_node(8, 1, "L4")], {"gpu_model": "T4"}, "--gpu-model T4: the cluster has none; its GPUs "
        "are H100, L4",
    ),
    "a_model_where_there_is_no_gpu": ([{"CPU": 2}], {"joined": False, "gpu_model": "T4"}, "--gpu-model T4: Ray sees"),
    "a_model_where_none_has_joined": ([HEAD, {"CPU": 8}], {"gpu_model": "T4"}, NOT_YET),
    "gpus_without_cpus": ([{"CPU": 8}, gpu_node(0, 1)], {}, "the nodes with GPUs have no CPU"),
    "no_cpu_anywhere": ([HEAD], {"gpus_per_trial": 0}, "no node has a CPU"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARES)
def test_a_share_fits_the_nodes_that_will_run_the_trials(name: str) -> None:
    nodes, asked, expected = SHARES[name]
    assert share_of(*nodes, **asked) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_cluster_cannot_run_comparably_is_refused_in_one_line(name: str) -> None:
    nodes, asked, said = REFUSED[name]
    with pytest.raises(WrongInput) as refused:
        share_of(*nodes, **asked)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_share_of_one_model_asks_ray_for_a_node_with_that_model() -> None:
    share = share_of(gpu_node(8, 1), gpu_node(4, 2, "L4"), gpu_model="L4")
    assert share.resources == {"accelerator_type:L4": 0.001}
    assert share_of(gpu_node(8, 1)).resources == {}


def test_a_dead_node_counts_for_nothing() -> None:
    assert share_of(gpu_node(8, 1), dead=(gpu_node(2, 4, "L4"),)) == Share(cpus=8, gpus=1, at_a_time=1)


class FakeRay:
    """Answers a probe in the `answers_at`-th wait, with a result or an error."""

    def __init__(self, result: Any, *, answers_at: int = 1) -> None:
        self.result, self.answers_at, self.waits = result, answers_at, list[float]()

    def remote(self, **_: Any) -> Any:
        return lambda task: types.SimpleNamespace(remote=lambda *asked: "reference")

    def wait(self, references: list[str], *, timeout: float) -> tuple[list[str], list[str]]:
        self.waits.append(timeout)
        return (references, []) if len(self.waits) >= self.answers_at else ([], references)

    def get(self, reference: str) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


RUNS = Path("runs")
ONE_GPU = Share(cpus=4, gpus=1, at_a_time=1)


def test_a_probe_says_what_it_waits_for_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    facts = cpu_facts()
    assert probe(FakeRay((facts, {"versions": {}}, None), answers_at=2), ONE_GPU, RUNS) == (facts, {"versions": {}})
    said = capsys.readouterr().err
    assert "(CPUs: 4, GPUs: 1)" in said and said.count("\n") == 1


def test_a_probe_is_given_up_in_the_end() -> None:
    ray = FakeRay(None, answers_at=3)
    with pytest.raises(WrongInput, match=r"no answer within 600 s .*\(CPUs: 4, GPUs: 1\)"):
        probe(ray, ONE_GPU, RUNS)
    assert sum(ray.waits) == cluster_probe.PROBE_LIMIT_S


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RayTaskError("look_here", "Traceback:\n  ...", RuntimeError("NVML: no GPU\nat all")), "NVML: no GPU"),
        (
            RayTaskError("look_here", "Traceback:\n  ...", ModuleNotFoundError("no torch")).as_instanceof_cause(),
            "ModuleNotFoundError: no torch",
        ),
        (WorkerCrashedError(), "WorkerCrashedError"),
    ],
)  # fmt: skip
def test_a_probe_that_fails_says_why_in_one_line(error: Exception, said: str) -> None:
    with pytest.raises(WrongInput) as refused:
        probe(FakeRay(error), ONE_GPU, RUNS)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_gpu_that_torch_cannot_use_is_refused() -> None:
    with pytest.raises(WrongInput, match="cannot use it"):
        probe(FakeRay((None, {}, "torch cannot use it")), ONE_GPU, RUNS)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:  # bound, so nobody else takes it; not listening, so a connection is refused
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_refused(scheme: str, closed_port: int) -> None:
    address = f"{scheme}127.0.0.1:{closed_port}"
    with pytest.raises(WrongInput, match=f"--address {address}: nothing answers there"), connect.connected(address):
        pass


def test_auto_means_ray_address_where_it_is_set(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    with pytest.raises(WrongInput, match=r"--address auto \(RAY_ADDRESS=127"), connect.connected("auto"):
        pass


@pytest.mark.parametrize(
    "address", ["", "local", "head", "head:", ":6379", "head:port", "http://head:8265", "head:99999"]
)
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(WrongInput, match="write HOST:PORT"), connect.connected(address):
        pass


@pytest.mark.parametrize("error", [ConnectionError(), RuntimeError("Version mismatch:\nRay 2.60"), ValueError("no")])
@pytest.mark.parametrize("address", [None, "auto"])
def test_whatever_ray_says_to_joining_becomes_one_line(
    error: Exception, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(WrongInput) as refused, connect.connected(address):
        pass
    said = str(refused.value)
    assert (str(error).split("\n")[0] or "ConnectionError") in said and "\n" not in said
    assert said.startswith("Ray did not start on this machine" if address is None else "--address auto")


def _make_open(own: Path) -> None:
    own.mkdir()
    own.chmod(0o777)


def _make_link(own: Path) -> None:
    (own.parent / "elsewhere").mkdir(mode=0o700)
    own.symlink_to(own.parent / "elsewhere")


@pytest.mark.parametrize(
    ("made", "said"), [(_make_open, "can be written by others"), (_make_link, "is a link"), (Path.touch, "File exists")]
)
def test_a_session_folder_that_others_could_change_is_refused(
    made: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    own = tmp_path / f"ray-{os.getuid()}"
    made(own)
    with pytest.raises(WrongInput, match=f"{own}.* {said}|{said}.*{own}") as refused, connect.connected(None):
        pass
    assert "name another folder in RAY_TMPDIR" in str(refused.value) and "\n" not in str(refused.value)


def test_the_command_answers_in_one_line_where_no_cluster_listens(closed_port: int, tmp_path: Path) -> None:
    command = ["--sweep", "pruning", "--dataset", "demo", "--address", f"127.0.0.1:{closed_port}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments.py"), *command],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    joining, line = done.stderr.splitlines()
    assert joining == f"joining Ray at 127.0.0.1:{closed_port} ..."
    assert line.startswith(f"error: --address 127.0.0.1:{closed_port}: nothing answers there")


LOCAL = """
from pathlib import Path
from tune.cluster import connect, probe, share as shares
with connect.connected(None) as ray:
    share = shares.choose_share(ray, gpus_per_trial=0, max_concurrent=None)
    facts, environment = probe.probe(ray, share, Path("runs"))
    print(share.cpus, facts.device_type, facts.assumed, environment["versions"]["ray"] == ray.__version__)
"""


def test_ray_address_does_not_disturb_a_local_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCAL],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.split() == [str(available_cpus()), "cpu", "False", "True"], done.stderr


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_a_containers_cpu_quota_limits_the_cpus(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cpus(tmp_path) == expected


def test_a_share_on_a_cpu_names_no_accelerator() -> None:
    assert Share(cpus=2, gpus=0, at_a_time=1).resources == {}
