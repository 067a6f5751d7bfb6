"""cluster.yaml is accepted by the loader that `ray up` uses, and keeps clear of Ray's AWS defaults."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments import sweep_parser

CLUSTER = Path(__file__).resolve().parents[1] / "cluster.yaml"


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(CLUSTER.read_text()))
    validate_config(config)
    return config


def test_rays_own_loader_accepts_it_and_a_typo_is_refused(loaded: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(Exception, match="idle_timeout"):
        validate_config({**loaded, "idle_timeout_minuets": 5})


def test_trials_never_land_on_the_head(loaded: dict[str, Any]) -> None:
    head = loaded["available_node_types"][loaded["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}


def test_one_gpu_worker_is_always_there_and_more_are_bounded(loaded: dict[str, Any]) -> None:
    workers = [node for name, node in loaded["available_node_types"].items() if name != loaded["head_node_type"]]
    assert all(node["min_workers"] == 1 and node["max_workers"] <= loaded["max_workers"] for node in workers)
    assert all(node["resources"]["GPU"] == 1 for node in workers)


def test_the_command_in_its_header_runs_where_the_whole_folder_is_mounted(loaded: dict[str, Any]) -> None:
    (command,) = [line for line in CLUSTER.read_text().splitlines() if line.startswith("#   ray exec cluster.yaml ")]
    (inner,) = shlex.split(command.removeprefix("#   ray exec cluster.yaml "))
    folder, _, sweep = inner.partition(" && ")
    home = f"/home/{loaded['auth']['ssh_user']}"
    assert folder.removeprefix("cd ").replace("~", home) in loaded["file_mounts"]
    assert sweep_parser().parse_args(shlex.split(sweep)[2:]).address == "auto"


def test_no_command_of_rays_defaults_is_left(loaded: dict[str, Any]) -> None:
    commands = loaded["setup_commands"] + loaded["head_start_ray_commands"] + loaded["worker_start_ray_commands"]
    text = "\n".join(commands)
    assert "requirements.txt" in text
    assert ".whl" not in text and "0.0.0.0" not in text
