"""The wheel, installed into a folder: its command trains away from the checkout, and Python reads the results."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from sweep_kit import ROOT

from patchtst_sweeps import Sweep, WrongInput, forecast, load

WORDS = (  # noqa: SIM905
    "train --dataset demo --epochs 2 --patience 1 --seeds 1 --set data.context_length=96 "
    "--set data.prediction_length=24 --set model.d_model=16 --set model.num_heads=4 --set model.ffn_dim=16 "
    "--set train.batch_size=512 --set train.learning_rate=0.01"
).split()


@dataclass
class Installed:
    folder: Path

    def run(self, program: list[str], *words: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        return subprocess.run(
            [sys.executable, *program, *words], cwd=self.folder, capture_output=True, text=True, timeout=300,
            env=environment | {"PYTHONPATH": str(self.folder / "site")},
        )  # fmt: skip

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run([str(self.folder / "site" / "bin" / "patchtst-sweeps")], *words)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of the files that git has or would take, in a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheels = folder / "wheels"
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(folder / "source")]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = wheels.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    return Installed(folder)


@pytest.fixture(scope="module")
def trained(installed: Installed) -> subprocess.CompletedProcess[str]:
    return installed.command(*WORDS)


@pytest.fixture(scope="module")
def sweep(installed: Installed, trained: subprocess.CompletedProcess[str]) -> Sweep:
    assert trained.returncode == 0, trained.stderr
    return load("last", tracking_uri=f"sqlite:///{installed.folder}/mlflow.db")


def test_the_wheel_has_one_importable_package_and_all_code_in_its_private_folder(installed: Installed) -> None:
    (wheel,) = (installed.folder / "wheels").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"patchtst_sweeps"}
    for package in ("tune", "model", "data_pipeline"):
        ours = {f"patchtst_sweeps/_code/{file.relative_to(ROOT)}" for file in (ROOT / package).rglob("*.py")}
        assert ours <= names
    assert {"patchtst_sweeps/_code/experiments.py", "patchtst_sweeps/py.typed", "patchtst_sweeps/__init__.pyi"} <= names
    assert "patchtst_sweeps/_code/setup.py" not in names
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    required = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "Requires-Dist: torch~=2.11.0" in required and "pytest" not in required


def test_the_import_takes_the_code_of_the_installation(installed: Installed) -> None:
    code = "import patchtst_sweeps, tune; patchtst_sweeps.run; print(tune.__file__)"
    assert installed.run(["-c", code]).stdout.startswith(str(installed.folder / "site" / "patchtst_sweeps" / "_code"))


def test_a_package_that_hides_ours_is_named(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import patchtst_sweeps"
    said = installed.run(["-c", code]).stderr
    assert f"ImportError: patchtst_sweeps needs its own package 'model', and {tmp_path / 'model.py'} hides it" in said


@pytest.mark.soak
@pytest.mark.soak_only
@pytest.mark.timeout(3600)
def test_in_an_empty_environment_pip_installs_all_that_a_sweep_needs(installed: Installed, tmp_path: Path) -> None:
    """Downloads some GB."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (wheel,) = (installed.folder / "wheels").glob("*.whl")
    places = tmp_path / "venv" / "bin"
    subprocess.run([places / "pip", "install", "-q", "--disable-pip-version-check", wheel], check=True, timeout=3000)
    words = ["--sweep", "quick", "--dataset", "demo", "--epochs", "1", "--repeats", "1"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    }
    ended = subprocess.run(
        [places / "patchtst-sweeps", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "patch-48" in ended.stdout


def test_the_command_says_the_version_of_the_installation(installed: Installed) -> None:
    assert installed.command("--version").stdout.startswith("patchtst-sweeps 0.")


def test_help_errors_and_next_steps_name_the_command_and_no_file_of_a_checkout(
    installed: Installed, trained: subprocess.CompletedProcess[str]
) -> None:
    shown, refused = installed.command("--help"), installed.command("report", "--hlep")
    assert "usage: patchtst-sweeps " in shown.stdout and "  patchtst-sweeps report SWEEP_ID  " in shown.stdout
    assert refused.returncode == 2 and trained.returncode == 0
    for ended in (shown, refused, trained):
        assert "experiments.py" not in ended.stdout + ended.stderr


def test_train_ends_with_errors_beside_naive_ones_and_the_command_to_forecast(
    trained: subprocess.CompletedProcess[str], sweep: Sweep
) -> None:
    for words in ("Kept: the model of this training", "test MSE", "repeating the last day"):
        assert words in trained.stdout
    command = f"patchtst-sweeps predict {sweep.sweep_id} --input FILE.csv --output forecast.csv"
    assert f"Forecast: {command}" in trained.stdout
    assert (sweep.name, sweep.status, len(sweep.trials)) == ("train", "done", 1)
    assert sweep.epochs["epoch"].tolist() == [1, 2]


def test_the_model_that_is_kept_forecasts_a_frame(installed: Installed, sweep: Sweep) -> None:
    columns = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    times = pd.date_range("2024-01-01", periods=96, freq="h", name="date")
    frame = pd.DataFrame(1.0, columns=columns, index=times)
    made = forecast(sweep, frame, storage_path=installed.folder / "runs")
    assert list(made.columns) == ["date", *columns] and len(made) == 24
    assert made["date"][0] == times[-1] + pd.Timedelta(hours=1)


def test_an_unknown_sweep_is_wrong_input(sweep: Sweep) -> None:
    with pytest.raises(WrongInput, match="no sweep 'nothing' in experiment"):
        load("nothing", tracking_uri=sweep.tracking_uri)
