"""Workers from zero for real: Ray's own autoscaler, its provider of pretended nodes, in a network of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cluster_kit import ROOT, lacking, need_system

pytestmark = pytest.mark.cluster

HEAD, WORKER = "ray.head.default", "gpu"
CLUSTER = {
    "cluster_name": "pretended",
    "max_workers": 2,
    "idle_timeout_minutes": 10,
    "provider": {
        "type": "fake_multinode",
        "foreground_node_launch": True,
        "launch_multiple": True,
        "disable_launch_config_check": True,
        "disable_node_updaters": True,
    },
    "available_node_types": {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
        WORKER: {"resources": {"CPU": 3, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": HEAD,
    "upscaling_speed": 4.0,
    **dict.fromkeys(("auth", "docker", "file_mounts"), {}),
    **dict.fromkeys(("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands"), []),
    **{f"{when}setup_commands": [] for when in ("", "head_", "worker_")},
    **{f"{node}_start_ray_commands": [] for node in ("head", "worker")},
}

# Everything here ends with the shell: it is the first process of its namespace.
SCRIPT = """\
set -eu
ip link set lo up
mount --bind "$1/ray" /tmp/ray
ray start --head --port=6379 --num-cpus=0 --include-dashboard=false --autoscaling-config="$1/cluster.yaml" >&2
python "$1/driver.py"
"""

DRIVER = """
from tune.cluster import connect, share as shares
with connect.connected("auto") as ray:
    before = len(ray.nodes())
    share = shares.choose_share(ray, gpus_per_trial=None, max_concurrent=MAX, joined=True, wait_s=180)
    print(before, share.cpus, share.gpus, share.at_a_time)
    groups = ray.util.placement_group_table().values()
    print(len(groups), {group["state"] for group in groups})
"""


@pytest.mark.timeout(600)
def test_a_head_without_workers_gets_as_many_gpus_as_trials_are_to_run_at_a_time(tmp_path: Path) -> None:
    need_system(*lacking())
    Path("/tmp/ray").mkdir(exist_ok=True)  # a place to mount on
    (tmp_path / "ray").mkdir()
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER))
    (tmp_path / "driver.py").write_text(DRIVER.replace("MAX", "2"))
    bin_dir = str(Path(sys.executable).parent)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PATH": f"{bin_dir}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    environment |= {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "0"}
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run(
        [*namespaces, "bash", "-c", SCRIPT, "bash", str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["1 3 1.0 2", "2 {'REMOVED'}"], done.stdout + done.stderr[-4000:]
    assert "waiting for 2 GPUs to join the cluster: 0 of at most 180 s" in done.stderr
