"""What a process of ours sets before anything heavy is imported, seen from processes that do it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from secret_kit import plant_modules
from uv_kit import as_uv_run

from tune.common.process_setup import keep_to_absolute_paths, prepare_process

ROOT = Path(__file__).resolve().parents[3]
PREPARED = "from tune.common.process_setup import prepare_process; prepare_process(); import os, signal, sys; "


def _python(folder: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python in `folder` that may leave core dumps of any size."""

    def allow() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)

    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **variables}, capture_output=True, text=True,
        preexec_fn=allow, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGQUIT, signal.SIGBUS])
def test_a_process_that_dies_of_a_fault_leaves_no_core(tmp_path: Path, number: signal.Signals) -> None:
    died = _python(tmp_path, f"{PREPARED} os.kill(os.getpid(), {int(number)})", A_SECRET="x")
    assert died.returncode == -number and list(tmp_path.iterdir()) == []


def test_what_such_a_process_starts_leaves_no_core_either(tmp_path: Path) -> None:
    started = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', 'import os; os.abort()'])"
    assert _python(tmp_path, PREPARED + started).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_same_fault_without_it_leaves_one_where_the_system_writes_cores_into_the_folder(tmp_path: Path) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|") or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip(f"cores go elsewhere here: core_pattern is {pattern}")
    died = _python(tmp_path, "import os; os.abort()", A_SECRET="x")
    assert died.returncode == -signal.SIGABRT and len(list(tmp_path.iterdir())) == 1


def test_where_no_core_is_allowed_at_all_a_process_starts_as_well(tmp_path: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
    assert _python(tmp_path, code + PREPARED).stderr == ""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "TkAgg", "no such backend"])
def test_the_drawing_backend_of_a_notebook_is_overruled(tmp_path: Path, backend: str) -> None:
    draw = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.savefig('a.png')"
    drawn = _python(tmp_path, PREPARED + draw, MPLBACKEND=backend)
    assert drawn.returncode == 0 and (tmp_path / "a.png").exists(), drawn.stderr


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("MPLBACKEND", "module://matplotlib_inline.backend_inline", "agg"),
        ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1", "0"),
        ("RAY_CHDIR_TO_TRIAL_DIR", "0", "1"),
        ("RAY_RUNTIME_ENV_HOOK", "nowhere.hook", None),
        ("RAY_TUNE_CALLBACKS", "nowhere.Callback", None),
        ("MLFLOW_DISABLE_TELEMETRY", "false", "false"),  # the user's own choice
        ("OMP_WAIT_POLICY", "ACTIVE", "ACTIVE"),
        ("PYTHONPATH", ":/a::b:./c:/d:", "/a:/d"),
        ("PYTHONPATH", ":", None),
        ("PYTHONPATH", "src", None),
        ("PYTHONPATH", "/a", "/a"),
    ],
)
def test_variables_that_a_sweep_cannot_live_with_are_overruled(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str, expected: str | None
) -> None:
    variables = dict(os.environ) | {name: given}
    monkeypatch.setattr("os.environ", variables)
    monkeypatch.setattr("tune.common.process_setup.no_core_dumps", lambda: None)
    prepare_process()
    assert variables.get(name) == expected


def test_an_environment_without_import_paths_gets_none() -> None:
    variables = {"HOME": "/"}
    keep_to_absolute_paths(variables)
    assert variables == {"HOME": "/"}


WHAT_RAY_DOES = """
from ray._private.runtime_env.uv_runtime_env_hook import _get_uv_run_cmdline
from ray._private.worker import _maybe_modify_runtime_env
print(_get_uv_run_cmdline() is not None, sorted(_maybe_modify_runtime_env({}, False)))
"""


@pytest.mark.parametrize(
    ("prepare", "changed"), [("", "['py_executable', 'working_dir']"), (PREPARED, "[]")], ids=["Ray alone", "prepared"]
)
def test_under_uv_run_ray_starts_workers_with_this_python_and_sends_no_folder(
    tmp_path: Path, prepare: str, changed: str
) -> None:
    words = as_uv_run(tmp_path, sys.executable, "-c", f"{prepare}{WHAT_RAY_DOES}")
    asked = subprocess.run(
        words, executable=sys.executable, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert asked.stdout.strip() == f"True {changed}", asked.stderr


NAMES = (
    "model",
    "tune",
    "data_pipeline/__init__.py",
    "argparse",
    "signal",
    "numpy",
    "json",
    "experiments",
    "sitecustomize",
)
HOW = {
    "as a script": ([str(ROOT / "experiments.py")], {}),
    "as a module": (["-m", "experiments"], {"PYTHONPATH": str(ROOT)}),
    "without its folder": (["-P", str(ROOT / "experiments.py")], {}),
    "with an empty entry": ([str(ROOT / "experiments.py")], {"PYTHONPATH": f"{ROOT}:"}),
    "with relative entries": ([str(ROOT / "experiments.py")], {"PYTHONPATH": "planted:./planted"}),
}


@pytest.mark.parametrize("how", HOW)
def test_a_command_imports_nothing_from_the_current_folder(tmp_path: Path, how: str) -> None:
    executed, (words, variables) = tmp_path / "executed", HOW[how]
    here = tmp_path / "here"
    names = [name for name in NAMES if how != "as a module" or name != "experiments"]  # Python runs that one itself
    names = [name for name in names if not variables or name != "sitecustomize"]  # and this one before anything else
    for folder in (here, here / "planted"):
        plant_modules(folder, executed, names)
    done = subprocess.run(
        [sys.executable, *words, "list", "--json", "-"],
        cwd=here, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not executed.exists(), executed.read_text()


def test_threads_of_a_step_wait_asleep_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    said = _python(
        tmp_path, f"import os; os.environ.pop('OMP_WAIT_POLICY', None); {PREPARED} print(os.environ['OMP_WAIT_POLICY'])"
    )
    assert said.stdout == "PASSIVE\n"
