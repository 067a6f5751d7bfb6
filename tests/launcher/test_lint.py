"""The lint of cluster files: each fault in one line, none for a file that is right."""

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
def test_as_shipped_only_placeholders_are_found(name: str, filled: dict[str, Config]) -> None:
    found = findings(ROOT / name)
    assert found and all("REPLACE-ME is left in it" in line for line in found)


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
# name of the fault -> (the file, how it gets there, how the one finding begins)
FAULTS: dict[str, tuple[str, Callable[[Config], None], str]] = {
    "unknown_top_key": (AWS, _set("idle_timeout", to=5), "Ray's loader refuses it: "),
    "no_head_type": (AWS, _set("head_node_type", to="hed"), "Ray's loader refuses it: "),
    "types_for_local": (LOCAL, _set("available_node_types", to={"x": {}}), "Ray's loader refuses it: "),
    "another_cloud": (AWS, _set("provider", "type", to="gcp"), "provider.type gcp: this lint knows aws and local"),
    "no_provider": (AWS, _drop("provider"), "no cluster: "),
    "unknown_provider_key": (AWS, _set("provider", "availability_zones", to="a"), "provider.availability_zones: Ray"),
    "aws_key_for_local": (LOCAL, _set("provider", "region", to="a"), "provider.region: Ray does not read it for local"),
    "loopback": (LOCAL, _set("provider", "head_ip", to="127.0.0.1"), "provider: 127.0.0.1: Ray joins another address"),
    "a_machine_twice": (LOCAL, _set("provider", "head_ip", to="10.0.0.2"), "provider: 10.0.0.2 is there 2 times"),
    "workers_left_out": (LOCAL, _set("max_workers", to=1), "Ray's loader refuses it: "),
    "no_ssh_key": (LOCAL, _set("auth", "ssh_private_key", to="~/.ssh/none"), "auth.ssh_private_key: ~/.ssh/none is"),
    "ssh_key_for_all": (LOCAL, _loose(".ssh", "key"), "auth.ssh_private_key: others may read"),
    "token_for_all": (AWS, _loose(".ray", "auth_token"), "file_mounts.~/.ray/auth_token: others may read"),
    "no_token": (AWS, _drop("file_mounts", "~/.ray/auth_token"), "file_mounts: nothing is shipped as ~/.ray"),
    "nothing_to_mount": (AWS, _set("file_mounts", "~/x", to="nowhere"), "file_mounts.~/x: nowhere is not there"),
    "head_without_auth": (
        AWS, _edit("head_start_ray_commands", "RAY_AUTH_MODE=token", "X=1"), "head_start_ray_commands[1]: `ray start`",
    ),
    "worker_without_auth": (
        LOCAL, _edit("worker_start_ray_commands", "=token", "=disabled"), "worker_start_ray_commands[1]: `ray start`",
    ),
    "rays_setup": (AWS, _drop("setup_commands"), "setup_commands: missing"),
    "rays_boto3": (AWS, _drop("head_setup_commands"), "head_setup_commands: missing"),
    "nightly": (
        AWS, _set("setup_commands", to=["pip install ray-3.0.0.dev0-cp312.whl"]), "setup_commands[0]: installs a",
    ),
    "mlflow_for_all": (
        LOCAL, _set("head_setup_commands", to=["mlflow server --host 0.0.0.0"]), "head_setup_commands[0]: listens on",
    ),
    "mlflow_for_all_of_ipv6": (
        LOCAL, _set("head_setup_commands", to=["mlflow server --host=::"]), "head_setup_commands[0]: listens on all",
    ),
    "no_dashboard_host": (
        AWS, _edit("head_start_ray_commands", "--dashboard-host=127.0.0.1", ""),
        "head_start_ray_commands[1]: --dashboard-host=127.0.0.1 is missing",
    ),
    "trials_on_the_head": (
        LOCAL, _edit("head_start_ray_commands", "--num-cpus=0", ""), "head_start_ray_commands[1]: --num-cpus=0 is",
    ),
    "no_autoscaler": (
        AWS, _edit("head_start_ray_commands", "--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
        "head_start_ray_commands[1]: --autoscaling-config= is missing",
    ),
    "second_autoscaler": (
        LOCAL, _edit("head_start_ray_commands", "RAY_enable_autoscaler_v2=0", ""),
        "head_start_ray_commands[1]: the second autoscaler",
    ),
    "no_image": (AWS, _drop("docker"), "docker: missing"),
    "latest_image": (AWS, _set("docker", "image", to="mine/x:latest"), "docker.image: mine/x:latest may be another"),
    "image_without_a_tag": (AWS, _set("docker", "image", to="mine:5000/x"), "docker.image: mine:5000/x may be another"),
    "workers_image": (
        AWS, _set(*GPU, "docker", to={"worker_image": "x"}), "available_node_types.gpu.docker.worker_image: x may be",
    ),
    "no_machine_image": (AWS, _drop(*GPU, "node_config", "ImageId"), "available_node_types.gpu.node_config.ImageId: "),
    "head_on_spot": (
        AWS, _set(*HEAD, "node_config", "InstanceMarketOptions", to={"MarketType": "spot"}),
        "available_node_types.head: the head on spot",
    ),
    "cpus_on_the_head": (
        AWS, _set(*HEAD, "resources", to={"CPU": 4, "GPU": 0}), "available_node_types.head.resources: trials would",
    ),
    "another_market": (
        AWS, _set(*GPU, "node_config", "InstanceMarketOptions", "MarketType", to="sopt"),
        "available_node_types.gpu: MarketType sopt",
    ),
    "a_market_without_its_type": (
        AWS, _set(*GPU, "node_config", "InstanceMarketOptions", to=None),
        "available_node_types.gpu.node_config.InstanceMarketOptions: nothing in it: leave it out",
    ),
    "a_market_by_its_name": (
        AWS, _set(*GPU, "node_config", "InstanceMarketOptions", to="spot"),
        "available_node_types.gpu.node_config.InstanceMarketOptions: spot: leave it out",
    ),
    "a_worker_that_always_costs": (AWS, _set(*GPU, "min_workers", to=1), "available_node_types.gpu.min_workers 1"),
    "a_worker_without_a_gpu": (
        AWS, _set(*GPU, "resources", to={"CPU": 4}), "available_node_types.gpu.resources: the autoscaler sees no GPU",
    ),
    "no_idle_timeout": (AWS, _drop("idle_timeout_minutes"), "idle_timeout_minutes None: above 0"),
    "idle_for_a_day": (AWS, _set("idle_timeout_minutes", to=1440), "idle_timeout_minutes 1440: above 0"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_in_one_line(fault: str, filled: dict[str, Config], tmp_path: Path) -> None:
    name, break_it, begins = FAULTS[fault]
    config = copy.deepcopy(filled[name])
    break_it(config)
    (found,) = lint(config, tmp_path)
    assert found.startswith(begins) and "\n" not in found


def test_every_rule_has_a_fault_that_it_finds(filled: dict[str, Config], tmp_path: Path) -> None:
    """With one rule left out, some fault goes unfound: no rule is dead."""
    silent = set(RULES)
    for name, break_it, _ in FAULTS.values():
        config = copy.deepcopy(filled[name])
        break_it(config)
        if "available_node_types" in config or config.get("provider", {}).get("type") == "local":
            silent -= {rule for rule in silent if _finds(rule, config)}
    assert {rule.__name__ for rule in silent} == {"_placeholders"}  # the test on the files as shipped has that one


def _finds(rule: Callable[[Config], Any], config: Config) -> bool:
    try:
        return bool(list(rule(config)))
    except (KeyError, TypeError):  # Ray's loader keeps such a configuration from the rules
        return False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "error: no file given"),
        (["nowhere.yaml"], "error: nowhere.yaml: No such file"),
        ([str(ROOT)], "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_wrong_input(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    streams = capsys.readouterr()
    assert said in streams.err and streams.err.count("\n") == 1 and streams.out == ""


def test_a_file_that_is_no_yaml_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("a: [")
    assert main([str(tmp_path / "x.yaml")]) == 1
    assert capsys.readouterr().out.startswith(f"{tmp_path}/x.yaml: no YAML: ")
