"""What a sweep ends with: commands that can be copied, and that parse."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tune.commands.main import load_command, split_command
from tune.commands.next_steps import next_steps, program_words

ROOT = Path(__file__).resolve().parents[3]
QUICK = ["--sweep", "quick", "--dataset", "demo", "--repeats", "3"]


@pytest.fixture(autouse=True)
def started_as_a_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["experiments.py"])


def commands(lines: list[str]) -> list[list[str]]:
    """The words of each command behind experiments.py."""
    found = [shlex.split(line) for line in lines if line.startswith("    ")]
    assert all(words[1] == "experiments.py" for words in found)
    return [words[2:] for words in found]


def test_every_command_parses_and_the_last_repeats_the_sweep_with_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    lines = next_steps("quick-20261201-002719-e4f0", QUICK, "demo")
    assert lines[0] == "Next:" and max(map(len, lines)) <= 80
    found = commands(lines)
    for given in found:
        words, options = split_command(given)
        load_command(words).parser().parse_args(options)
    assert [words[0] for words in found] == ["report", "predict", "ui", "--sweep"]
    assert found[-1] == ["--sweep", "quick", "--repeats", "3", "--dataset", "my.csv"]


def test_a_sweep_of_a_file_leads_to_a_forecast_of_it() -> None:
    found = commands(next_steps("s", ["--sweep", "quick", "--dataset", "a b.csv"], "a b.csv"))
    assert ["predict", "s", "--input", "a b.csv", "--output", "forecast.csv"] in found
    assert not any("my.csv" in words for words in found)


def test_a_sweep_of_several_data_sets_names_no_file() -> None:
    found = commands(next_steps("s", ["--sweep", "custom", "--over", "data.dataset=demo,a.csv"], None))
    assert [words[0] for words in found] == ["report", "predict", "ui"]


def test_commands_find_the_store_and_folders_of_the_sweep_and_leave_out_what_was_for_once() -> None:
    folders = ["--tracking-uri=sqlite:////d/m.db", "--storage-path", "/d/runs"]
    report, predict, ui, again = commands(next_steps("s", [*QUICK, *folders, "--fresh", "--json", "a.json"], "demo"))
    assert report[-2:] == ui[-2:] == ["--tracking-uri", "sqlite:////d/m.db"]
    assert predict[-4:] == ["--tracking-uri", "sqlite:////d/m.db", "--storage-path", "/d/runs"]
    assert "--fresh" not in again and "--json" not in again and "/d/runs" in again


def test_python_is_named_as_a_shell_of_this_folder_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert program_words() == "python experiments.py"
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv/bin/python"))
    assert program_words() == ".venv/bin/python experiments.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "experiments.py")])
    assert program_words() == f"{ROOT}/.venv/bin/python {ROOT}/experiments.py"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
class TestMake:
    def test_alone_it_lists_every_target(self) -> None:
        said = _make()
        targets = {line.split()[1] for line in said.splitlines() if line.startswith("  make ")}
        assert {"help", "setup", "demo", "test", "ui", "lint-cluster"} <= targets
        assert "TORCH_INDEX" in said

    def test_a_demo_needs_the_runtime_packages_only(self) -> None:
        said = _make("-n", "-W", "requirements.txt", "demo")
        assert "-r requirements.txt" in said and "requirements-dev.txt" not in said
        assert "--sweep quick --dataset demo --repeats 3" in said
        assert "-r requirements-dev.txt" in _make("-n", "-W", "requirements.txt", "test")

    def test_a_given_index_is_where_torch_alone_comes_from(self) -> None:
        said = _make("-n", "-W", "requirements.txt", "setup", "TORCH_INDEX=https://torch.example/cpu")
        (line,) = [line for line in said.splitlines() if "--index-url" in line]
        assert "--index-url https://torch.example/cpu torch==" in line and "-r requirements.txt" not in line


def _make(*options: str) -> str:
    done = subprocess.run(["make", *options], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout
