"""A cluster's nodes see the sweep's folders, or are named before it starts: real nodes, and fakes that see less."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import NodeDiedError, RayTaskError
from secret_kit import plant_modules

from tune.cluster import connect, shared_folders
from tune.cluster.share import Share
from tune.cluster.shared_folders import check_nodes
from tune.common.errors import WrongInput

pytestmark = pytest.mark.cluster

CPU = Share(cpus=1, gpus=0, at_a_time=1)
HEAD, FIRST, SECOND, SMALL = (digits * 28 for digits in ("0a", "01", "02", "03"))  # ids as Ray's own
NAMES = {HEAD: "head", FIRST: "first", SECOND: "second", SMALL: "small"}


class FakeRay:
    """Nodes of these names, of which `node` gives a way to answer; those that fit no trial are asked nothing."""

    def __init__(self, **answers: Callable[..., Any]) -> None:
        self.answers = {node: answers[name] for node, name in NAMES.items() if name in answers}
        self.asked: list[str] = []
        self.silent: list[str] = []

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: HEAD)

    def nodes(self) -> list[dict[str, Any]]:
        cpus = {HEAD: 4, FIRST: 4, SECOND: 4, SMALL: 0}
        known = [node for node in cpus if node in (HEAD, SMALL, *self.answers)]
        return [
            {"NodeID": node, "NodeManagerAddress": f"of-{NAMES[node]}", "Alive": True, "Resources": {"CPU": cpus[node]}}
            for node in known
        ]

    def remote(self, **options: Any) -> Any:
        assert options["num_cpus"] == 0 and not options["scheduling_strategy"].soft
        return lambda task: SimpleNamespace(remote=lambda node, *rest: self._run(task, node, rest))

    def _run(self, task: Callable[..., Any], node: str, rest: tuple[str, ...]) -> Any:
        self.asked.append(node)
        return lambda: self.answers[node](task, node, *rest)

    def wait(self, references: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert num_returns == len(references)
        waiting = [one for one, node in zip(references, self.asked, strict=True) if node in self.silent]
        return [reference for reference in references if reference not in waiting], waiting

    def get(self, reference: Any) -> Any:
        return reference()


def sees_all(task: Callable[..., Any], *question: str) -> Any:
    return task(*question)


def sees_its_own_storage(task: Callable[..., Any], node: str, folder: str, *rest: str) -> Any:
    return task(node, str(Path(folder).parent / "its-own" / Path(folder).name), *rest)


def writes_its_own_storage(task: Callable[..., Any], node: str, folder: str, *rest: str) -> Any:
    try:
        return task(node, folder, *rest)
    finally:
        os.remove(Path(folder) / node)


def has_no_data(task: Callable[..., Any], node: str, folder: str, token: str, data_dir: str, dataset: str) -> Any:
    return task(node, folder, token, data_dir + "-none", dataset)


def dies(*_: Any) -> Any:
    raise NodeDiedError("gone")


def fails(*_: Any) -> Any:
    raise RayTaskError("look", "Traceback", ImportError("no numpy\nhere"))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.setattr(shared_folders, "SEEN_WITHIN_S", 0.3)
    data = tmp_path / "data"
    data.mkdir()
    (data / "ETTh1.csv").touch()
    yield {"storage": tmp_path / "runs", "data_dir": data, "dataset": "ETTh1"}
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_every_node_that_could_run_a_trial_is_asked_and_nothing_is_left(folders: dict[str, Any]) -> None:
    fake = FakeRay(first=sees_all, second=sees_all)
    check_nodes(fake, CPU, **folders)
    assert sorted(fake.asked) == [FIRST, SECOND]


def test_where_only_the_drivers_node_runs_trials_nobody_is_asked(folders: dict[str, Any]) -> None:
    fake = FakeRay()
    check_nodes(fake, CPU, **folders)
    assert fake.asked == [] and not folders["storage"].exists()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (sees_its_own_storage, "what this machine writes in .* is not seen there"),
        (writes_its_own_storage, "what it writes in .*runs is not seen on this machine"),
        (has_no_data, "there is no ETTh1.csv or ETTh1.csv.gz in .*data-none"),
        (fails, "looking at its folders failed: ImportError: no numpy;"),
    ],
)
def test_a_node_that_misses_a_folder_is_named_with_what_to_do(
    answer: Callable[..., Any], problem: str, folders: dict[str, Any]
) -> None:
    with pytest.raises(WrongInput, match=f"^node of-second: {problem}.* mount one file system there") as refused:
        check_nodes(FakeRay(first=sees_all, second=answer), CPU, **folders)
    assert "\n" not in str(refused.value)


def test_a_node_that_does_not_answer_is_named(folders: dict[str, Any]) -> None:
    fake = FakeRay(first=sees_all, second=sees_all)
    fake.silent = [SECOND]
    with pytest.raises(WrongInput, match="node of-second did not answer within 120 s; see `ray status`"):
        check_nodes(fake, CPU, **folders)


def test_a_node_that_is_lost_meanwhile_is_named_and_delays_nothing(
    folders: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    check_nodes(FakeRay(first=dies, second=sees_all), CPU, **folders)
    assert capsys.readouterr().err == "node of-first was lost while it was asked: NodeDiedError\n"


def test_a_real_node_answers_for_itself_and_imports_nothing_from_the_drivers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's own is a head that runs no trial. The second time the data is not there."""
    from ray.cluster_utils import Cluster

    here, executed = tmp_path / "here", tmp_path / "executed"
    plant_modules(here, executed, ("model", "tune", "data_pipeline/__init__.py", "numpy", "yaml", "torch"))
    monkeypatch.setattr(shared_folders, "SEEN_WITHIN_S", 30.0)
    head = {"num_cpus": 0, "num_gpus": 0, "node_ip_address": "127.0.0.30", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, num_gpus=0, node_ip_address="127.0.0.31")
        asked = {"storage": tmp_path / "runs", "data_dir": tmp_path}
        with chdir(here), connect.connected(cluster.address) as ray:
            cluster.wait_for_nodes()
            searched = ray.get(ray.remote(num_cpus=1)(lambda: __import__("sys").path).remote())
            assert not [path for path in searched if path in ("", str(here), str(connect.REPO_ROOT))]
            check_nodes(ray, CPU, **asked, dataset="demo")
            assert list((tmp_path / "runs").iterdir()) == []
            with pytest.raises(WrongInput, match=r"^node 127.0.0.31: there is no ETTm1.csv"):
                check_nodes(ray, CPU, **asked, dataset="ETTm1")
        assert not executed.exists()
    finally:
        cluster.shutdown()
