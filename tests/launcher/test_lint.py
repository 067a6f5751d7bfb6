"""The lint of cluster files: one line for each fault, by Ray's loader or by a rule of ours; none for a right file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.lint import RULES, findings, main

ROOT = Path(__file__).resolve().parents[2]
Config = dict[str, Any]


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Config]:
    """Our two files as a user would fill them in, beside the files that they name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (".ray/auth_token", ".ssh/key"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    configs = {}
    for name in ("cluster.yaml", "cluster.local.yaml"):
        text = (ROOT / name).read_text().replace("~/.ssh/REPLACE-ME", "~/.ssh/key")
        text = text.replace("head_ip: REPLACE-ME", "head_ip: 10.0.0.1").replace("[REPLACE-ME]", "[10.0.0.2, 10.0.0.3]")
        configs[name] = yaml.safe_load(text.replace("REPLACE-ME", "mine"))
    return configs


def lint(config: Config, folder: Path) -> list[str]:
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    return findings(file)


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.local.yaml"])
def test_our_files_are_clean_once_filled_in(name: str, filled: dict[str, Config], tmp_path: Path) -> None:
    assert lint(filled[name], tmp_path) == []


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.local.yaml"])
def test_the_files_as_shipped_have_only_placeholders_left(name: str, filled: dict[str, Config]) -> None:
    lines = (ROOT / name).read_text().splitlines()
    expected = [
        number for number, line in enumerate(lines, 1) if "REPLACE-ME" in line.split(" #")[0] and line[0] != "#"
    ]
    assert expected
    assert findings(ROOT / name) == [
        f"line {number}: REPLACE-ME is left in it; write your own value" for number in expected
    ]


def _set(*path: Any, to: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for step in path[:-1]:
            config = config[step]
        config[path[-1]] = to

    return change


def _drop(*path: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for step in path[:-1]:
            config = config[step]
        del config[path[-1]]

    return change


def _edit(key: str, old: str, new: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        changed = [command.replace(old, new) for command in config[key]]
        assert changed != config[key]
        config[key] = changed

    return change


def _loose(*parts: str) -> Callable[[Config], None]:
    return lambda config: Path.home().joinpath(*parts).chmod(0o644)


AWS, LOCAL = "cluster.yaml", "cluster.local.yaml"
GPU, HEAD = ("available_node_types", "gpu"), ("available_node_types", "head")
ON_HEAD, ON_WORKER = (f"{kind}_start_ray_commands[1]: `ray start` is without" for kind in ("head", "worker"))
# name of the fault -> (the file, the change that makes the fault, how the only finding begins)
FAULTS: dict[str, tuple[str, Callable[[Config], Any], str]] = {
    "unknown_top_key": (AWS, _set("idle_timeout", to=5), "Ray's loader refuses it: "),
    "no_head_type": (AWS, _set("head_node_type", to="hed"), "Ray's loader refuses it: "),
    "types_for_local": (LOCAL, _set("available_node_types", to={"x": {}}), "Ray's loader refuses it: "),
    "another_cloud": (AWS, _set("provider", "type", to="gcp"), "provider.type is gcp; this lint knows aws and local"),
    "no_provider": (AWS, _drop("provider"), "provider.type is missing; this lint knows aws and local"),
    "unknown_provider_key": (AWS, _set("provider", "availability_zones", to="a"), "provider.availability_zones: Ray"),
    "aws_key_for_local": (LOCAL, _set("provider", "region", to="a"), "provider.region: Ray ignores this key for local"),
    "loopback": (LOCAL, _set("provider", "head_ip", to="127.0.0.1"), "provider: Ray replaces 127.0.0.1 by"),
    "a_machine_twice": (LOCAL, _set("provider", "head_ip", to="10.0.0.2"), "provider: 10.0.0.2 is there 2 times"),
    "workers_left_out": (LOCAL, _set("max_workers", to=1), "Ray's loader refuses it: "),
    "no_ssh_key": (LOCAL, _set("auth", "ssh_private_key", to="~/.ssh/none"), "auth.ssh_private_key: ~/.ssh/none is"),
    "ssh_key_for_all": (LOCAL, _loose(".ssh", "key"), "auth.ssh_private_key: others may read"),
    "token_for_all": (AWS, _loose(".ray", "auth_token"), "file_mounts.~/.ray/auth_token: others may read"),
    "no_token": (AWS, _drop("file_mounts", "~/.ray/auth_token"), "file_mounts: ~/.ray/auth_token is missing"),
    "nothing_to_mount": (AWS, _set("file_mounts", "~/x", to="nowhere"), "file_mounts.~/x: nowhere is not there"),
    "head_without_auth": (
        AWS, _edit("head_start_ray_commands", "RAY_AUTH_MODE=token", "X=1"), f"{ON_HEAD} RAY_AUTH_MODE=token",
    ),
    "worker_without_auth": (
        LOCAL, _edit("worker_start_ray_commands", "=token", "=disabled"), f"{ON_WORKER} RAY_AUTH_MODE=token",
    ),
    "rays_setup": (AWS, _drop("setup_commands"), "setup_commands is missing: Ray's own would"),
    "rays_boto3": (AWS, _drop("head_setup_commands"), "head_setup_commands is missing: Ray's own would"),
    "nightly": (
        AWS, _set("setup_commands", to=["pip install ray-3.0.0.dev0-cp312.whl"]), "setup_commands[0] installs a",
    ),
    "mlflow_for_all": (
        LOCAL, _set("head_setup_commands", to=["mlflow server --host 0.0.0.0"]), "head_setup_commands[0] listens on",
    ),
    "mlflow_for_all_of_ipv6": (
        LOCAL, _set("head_setup_commands", to=["mlflow server --host=::"]), "head_setup_commands[0] listens on all",
    ),
    "no_dashboard_host": (
        AWS, _edit("head_start_ray_commands", "--dashboard-host=127.0.0.1", ""),
        f"{ON_HEAD} --dashboard-host=127.0.0.1",
    ),
    "trials_on_the_head": (
        LOCAL, _edit("head_start_ray_commands", "--num-cpus=0", ""), f"{ON_HEAD} --num-cpus=0",
    ),
    "no_autoscaler": (
        AWS, _edit("head_start_ray_commands", "--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
        f"{ON_HEAD} --autoscaling-config",
    ),
    "second_autoscaler": (
        LOCAL, _edit("head_start_ray_commands", "RAY_enable_autoscaler_v2=0", ""),
        f"{ON_HEAD} RAY_enable_autoscaler_v2=0",
    ),
    "rays_node_types": (
        AWS, lambda config: [config.pop(key) for key in ("available_node_types", "head_node_type")],
        "available_node_types is missing: Ray's own have no GPU",
    ),
    "no_image": (AWS, _drop("docker"), "docker is missing"),
    "latest_image": (AWS, _set("docker", "image", to="mine/x:latest"), "docker.image: mine/x:latest may be another"),
    "image_without_a_tag": (AWS, _set("docker", "image", to="mine:5000/x"), "docker.image: mine:5000/x may be another"),
    "workers_image": (
        AWS, _set(*GPU, "docker", to={"worker_image": "x"}), "available_node_types.gpu.docker.worker_image: x may be",
    ),
    "no_machine_image": (AWS, _drop(*GPU, "node_config", "ImageId"), "available_node_types.gpu.node_config.ImageId is"),
    "head_on_spot": (
        AWS, _set(*HEAD, "node_config", "InstanceMarketOptions", to={"MarketType": "spot"}),
        "available_node_types.head: a head on spot",
    ),
    "cpus_on_the_head": (
        AWS, _set(*HEAD, "resources", to={"CPU": 4, "GPU": 0}), "available_node_types.head.resources: trials would run",
    ),
    "another_market": (
        AWS, _set(*GPU, "node_config", "InstanceMarketOptions", "MarketType", to="sopt"),
        "available_node_types.gpu.node_config.InstanceMarketOptions is {'MarketType': 'sopt'}",
    ),
    "a_market_without_its_type": (
        AWS, _set(*GPU, "node_config", "InstanceMarketOptions", to=None),
        "available_node_types.gpu.node_config.InstanceMarketOptions is None; leave it out",
    ),
    "a_market_by_its_name": (
        AWS, _set(*GPU, "node_config", "InstanceMarketOptions", to="spot"),
        "available_node_types.gpu.node_config.InstanceMarketOptions is spot; leave it out",
    ),
    "a_worker_that_always_costs": (AWS, _set(*GPU, "min_workers", to=1), "available_node_types.gpu.min_workers is 1"),
    "a_worker_without_a_gpu": (
        AWS, _set(*GPU, "resources", to={"CPU": 4}), "available_node_types.gpu.resources: the autoscaler sees no GPU",
    ),
    "no_idle_timeout": (AWS, _drop("idle_timeout_minutes"), "idle_timeout_minutes is None: idle"),
    "idle_for_a_day": (AWS, _set("idle_timeout_minutes", to=1440), "idle_timeout_minutes is 1440: idle"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_finding_of_one_line(fault: str, filled: dict[str, Config], tmp_path: Path) -> None:
    name, break_it, begins = FAULTS[fault]
    config = copy.deepcopy(filled[name])
    break_it(config)
    (finding,) = lint(config, tmp_path)
    assert finding.startswith(begins) and "\n" not in finding


def test_every_rule_finds_some_fault(filled: dict[str, Config], tmp_path: Path) -> None:
    """No rule is dead."""
    silent = set(RULES)
    for name, break_it, _ in FAULTS.values():
        config = copy.deepcopy(filled[name])
        break_it(config)
        if "available_node_types" in config or config.get("provider", {}).get("type") == "local":
            silent -= {rule for rule in silent if _finds(rule, config)}
    assert not {rule.__name__ for rule in silent}


def _finds(rule: Callable[[Config], Any], config: Config) -> bool:
    try:
        return bool(list(rule(config)))
    except (KeyError, TypeError):  # Ray's loader refuses such a configuration before the rules run
        return False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no file given"),
        (["nowhere.yaml"], "error: nowhere.yaml: No such file"),
        ([str(ROOT)], "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_wrong_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    streams = capsys.readouterr()
    assert message in streams.err and streams.err.count("\n") == 1 and streams.out == ""


def test_a_file_that_is_no_yaml_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("a: [")
    assert main([str(tmp_path / "x.yaml")]) == 1
    assert capsys.readouterr().out.startswith(f"{tmp_path}/x.yaml: this is no YAML: ")
