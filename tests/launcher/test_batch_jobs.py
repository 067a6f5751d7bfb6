"""The Slurm script queues again exactly when a sweep can go on; the Kubernetes manifest gives options that we have."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tune.commands.sweep import parser as sweep_parser
from tune.common.errors import TRIAL_FAILED, WRONG_INPUT

LAUNCHER = Path(__file__).resolve().parents[2] / "launcher"
# In place of a Python with a sweep: waits for a signal, or ends with the code that it is given
SWEEP = """#!/bin/bash
trap 'echo stopped by USR1 >> log; exit 138' USR1
trap 'echo stopped by TERM >> log; exit 143' TERM
echo "$@" >> log
[ -z "$ENDS_WITH" ] || exit "$ENDS_WITH"
while true; do sleep 0.1; done
"""
SCONTROL = '#!/bin/bash\necho "scontrol $@" >> log\n'


@pytest.fixture
def job(tmp_path: Path) -> Path:
    for name, text in {"python": SWEEP, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def started(job: Path, **variables: str) -> subprocess.Popen[bytes]:
    path = f"{job}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHON": str(job / "python"), "SLURM_JOB_ID": "7", **variables}
    return subprocess.Popen(["bash", str(LAUNCHER / "slurm-job.sh"), "--sweep", "pruning"], cwd=job, env=env)


def log(job: Path) -> list[str]:
    return (job / "log").read_text().splitlines() if (job / "log").exists() else []


@pytest.mark.parametrize(
    ("number", "code", "after"),
    [
        (signal.SIGUSR1, 138, ["stopped by USR1", "scontrol requeue 7"]),  # its time is nearly over
        (signal.SIGTERM, 143, ["stopped by TERM"]),  # scancel; Slurm itself queues a preempted job again
    ],
)
def test_a_signal_to_the_script_reaches_the_sweep(job: Path, number: int, code: int, after: list[str]) -> None:
    process = started(job)
    while not log(job):
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert log(job) == ["experiments.py --sweep pruning", *after]


@pytest.mark.parametrize("code", [0, TRIAL_FAILED, WRONG_INPUT, 130])
def test_a_sweep_that_ends_by_itself_is_not_queued_again(job: Path, code: int) -> None:
    assert started(job, ENDS_WITH=str(code)).wait(timeout=60) == code
    assert log(job) == ["experiments.py --sweep pruning"]


def manifest() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((LAUNCHER / "kubernetes-job.yaml").read_text())
    return content


def test_the_manifest_gives_options_that_the_command_has() -> None:
    (container,) = manifest()["spec"]["template"]["spec"]["containers"]
    assert container["command"][1].endswith("/experiments.py")
    assert sweep_parser().parse_args(container["args"]).sweep == "pruning"


def test_the_manifest_ends_the_job_for_what_starting_again_does_not_mend() -> None:
    (rule,) = [rule for rule in manifest()["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert rule["onExitCodes"]["values"] == [TRIAL_FAILED, WRONG_INPUT]


def test_the_manifests_folders_that_can_be_written_are_those_the_sweep_uses() -> None:
    pod = manifest()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    (temporary,) = [variable["value"] for variable in container["env"] if variable["name"] == "TMPDIR"]
    assert mounts == {container["workingDir"], temporary, "/dev/shm"}
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
