"""The command as its user meets it, through main(), in this process. Nothing here starts Ray."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from compiler_kit import path_with_broken, path_without_compilers
from doctor_kit import check

from tune.cluster import connect
from tune.commands.main import COMMANDS, load_command, main
from tune.common.errors import DONE, INTERRUPTED, WRONG_INPUT, WrongInput
from tune.driver.options import Outcome
from tune.plan.plan import Plan
from tune.storage import open_sweep
from tune.storage.moved import Command
from tune.storage.outbox import Outbox

ROOT = Path(__file__).resolve().parents[3]
CUSTOM = ["--sweep", "custom", "--dataset", "demo"]
PLAN = [*CUSTOM, "--plan"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_plan_of_which_nothing_can_run_is_shown_and_says_why_in_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--gpus-per-trial", "0", "--set", "train.engine=graph"]) == WRONG_INPUT
    said = capsys.readouterr()
    assert "0 can run" in said.out
    assert said.err == (
        "error: no trial of this plan can run: graph replays a CUDA graph, which a CPU has none of; use compile or "
        "eager\n"
    )


def test_a_plan_shows_a_value_only_where_all_its_trials_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A preset fills fields that the command line does not name."""
    assert main([*PLAN, "--over", "model.preset=study,tiny", "--gpu-model", "H100"]) == DONE
    header = capsys.readouterr().out
    assert "preset (swept), patch 12 (42 patches)" in header and "512 -> 96 steps" in header
    assert "(swept) layers" in header
    assert main([*PLAN, "--over", "model.preset=study,etth", "--gpu-model", "H100"]) == DONE
    header = capsys.readouterr().out
    assert "(swept) -> 96 steps" in header and "patches" not in header


def test_a_plan_says_that_it_asks_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--address", "10.1.2.3:6379"]) == DONE
    assert "--address 10.1.2.3:6379: --plan asks no cluster; this plan is for this machine" in capsys.readouterr().err
    assert main([*PLAN, "--address", "auto", "--gpu-model", "H100"]) == DONE
    assert "this plan is for H100" in capsys.readouterr().err


class Started(Exception):
    """Ray would have started."""


def test_the_same_sweep_a_second_time_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys: list[str] = []
    real = Plan.key

    def key(plan: Plan, **given: str) -> str:
        keys.append(real(plan, **given))
        return keys[-1]

    def no_ray(address: str | None) -> None:
        raise Started

    monkeypatch.setattr(connect, "connected", no_ray)
    monkeypatch.setattr(Plan, "key", key)
    storage = tmp_path / "runs"
    sweep = open_sweep.create(storage, "custom", {"key": "another", "created_s": 1.0, "code": {}})
    running = Outbox(sweep.outbox)
    with pytest.raises(Started):  # what runs is another sweep
        main(CUSTOM)
    sweep.update(key=keys[-1])
    capsys.readouterr()
    for arguments in (CUSTOM, [*CUSTOM, "--resume", sweep.sweep_id]):
        assert main(arguments) == WRONG_INPUT
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{sweep.sweep_id} is running as process {os.getpid()}" in line
    with pytest.raises(WrongInput, match="is running as process"):  # where the cluster had to be asked for the plan
        open_sweep.choose_sweep(storage, command=Command(key=keys[-1]), environment={}, fresh=False, resume=None)
    with pytest.raises(Started):
        main([*CUSTOM, "--fresh"])
    running.close()
    with pytest.raises(Started):
        main(CUSTOM)


def test_the_help_of_a_command_of_two_words_needs_the_first_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["data", "--help"])
    assert "usage: experiments.py data show" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("patch_size", "'patch_size' is no command: did you mean --sweep patch_size?"),
        ("run", "'run' is no command: a sweep runs with --sweep NAME, as `list` names them"),
        ("reprot", "unknown command 'reprot'; allowed: "),
    ],
)
def test_a_first_word_that_is_no_command_is_told_what_to_write(
    word: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_the_version_names_the_project_and_its_commit(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert re.match(
        r"patchtst-sweeps \d+\.\d+\.\d+( \(commit [0-9a-f]{10}(, changed since)?\))?$", capsys.readouterr().out
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_a_module_that_holds_its_parser_and_what_it_runs(words: tuple[str, ...]) -> None:
    command = load_command(words)
    assert command.parser().prog == " ".join(("experiments.py", *words))
    assert callable(command.run)


def test_every_module_with_a_parser_and_a_run_is_a_command() -> None:
    files = (ROOT / "tune" / "commands").glob("*.py")
    commands = {
        file.stem
        for file in files
        if {"def parser(", "def run("} <= set(re.findall(r"^def \w+\(", file.read_text(), re.M))
    }
    assert commands == set(COMMANDS.values())


def test_parsing_a_sweeps_command_imports_no_other_commands_module() -> None:
    code = "import sys; from tune.commands.main import load_command; load_command(()).parser()\n"
    code += "print(*sorted(name for name in sys.modules if name.startswith('tune.commands.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    own = ("main", "parser", "report", "sweep", "sweep_checks")
    assert done.stdout.split() == [f"tune.commands.{name}" for name in own]


def test_an_unknown_sweep_of_the_store_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="Did you mean 'custom-1'"):
        sweep = open_sweep.create(tmp_path, "custom", {"key": "k", "created_s": 1.0, "code": {}})
        sweep.path.rename(tmp_path / "custom-1")
        open_sweep.find_known(tmp_path, "custm-1", given="--resume custm-1")


@pytest.mark.parametrize("meant", ["last", "custom", "custom-2"])
def test_a_sweep_of_a_folder_is_found_by_more_than_its_id(tmp_path: Path, meant: str) -> None:
    sweep = open_sweep.create(tmp_path, "custom", {"key": "k", "state": "ended", "created_s": 1.0, "code": {}})
    assert open_sweep.find_known(tmp_path, meant, given=f"flush {meant}") == sweep.sweep_id


def _stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_only_a_sweep_that_is_interrupted_goes_on_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tune.commands.listing.registries", _stop)
    monkeypatch.setattr("tune.commands.sweep.build_request", _stop)
    for arguments in (["list"], PLAN):
        assert main(arguments) == INTERRUPTED
        assert capsys.readouterr().err == "interrupted\n"
    assert main(CUSTOM) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted; the same command again goes on from here\n"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:///mlflow.db", "http://127.0.0.1:5000 after PROGRAM ui"),
        ("sqlite:///a b.db", "http://127.0.0.1:5000 after PROGRAM ui --tracking-uri 'sqlite:///a b.db'"),
        ("http://127.0.0.1:9/mlflow/", "http://127.0.0.1:9/mlflow"),
    ],
)
def test_the_way_to_the_mlflow_ui_can_be_pasted_and_names_a_store_that_is_not_the_usual_one(
    uri: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(sweep_id="custom-1", statuses={}, failures=(), interrupted=False, pending=0, unsent=0)
    monkeypatch.setattr("tune.driver.run.run_sweep", lambda *_, **__: outcome)
    monkeypatch.setattr("tune.commands.sweep.show_report", lambda *_, **__: None)
    monkeypatch.setattr("tune.commands.sweep.check_store", lambda *_, **__: None)
    monkeypatch.setattr("tune.commands.next_steps.program_words", lambda: "PROGRAM")
    assert main([*CUSTOM, "--quiet", "--tracking-uri", uri]) == DONE
    assert capsys.readouterr().out == f"MLflow UI: {said}\n"


def test_a_plan_looks_at_the_windows_of_data_that_are_converted_and_says_where_they_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (f"2020-01-{day:02} {hour:02}:00:00,{hour}" for day in range(1, 29) for hour in range(24))
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(["date,load", *rows]))
    monkeypatch.setattr(
        "data_pipeline.series.store.SETTLED_S", 0.0
    )  # else a file this young is never trusted by its times
    wide = ["--sweep", "custom", "--dataset", str(file), "--plan", "--set", "data.prediction_length=300"]
    before = sorted(tmp_path.rglob("*"))
    assert main(wide) == DONE
    assert "data   not read yet" in capsys.readouterr().out
    assert main(PLAN) == DONE
    assert "not read yet" not in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before  # a plan converts nothing
    assert main(["data", "show", str(file)]) == DONE
    assert main(wide) == WRONG_INPUT
    assert "split holds no window" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lacks", "command"), [("pydantic", ["list"]), ("torch", ["doctor"])], ids=["of its module", "of what it does"]
)
def test_a_python_without_the_packages_of_a_command_gets_one_line_that_says_what_to_do(
    lacks: str, command: list[str]
) -> None:
    code = f"import sys; sys.modules[{lacks!r}] = None; sys.argv = ['experiments.py', *{command}]; import runpy; "
    code += "runpy.run_path('experiments.py', run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == WRONG_INPUT and ended.stdout == ""
    assert f"has no package '{lacks}': run `make setup` and `. .venv/bin/activate`" in line


def test_the_first_imports_need_no_package_but_ours() -> None:
    code = "import sys; before = set(sys.modules); import tune.commands.main; "
    code += "print(*{name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"tune", "data_pipeline"}


@pytest.mark.parametrize("command", [["list"], ["doctor"], PLAN, [*PLAN, "--sweep", "full"]], ids=" ".join)
def test_a_result_of_json_may_be_written_again(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.commands.doctor.PARTS", {"fine": (check("fine"),)})  # all take 13 s of CPU
    for _ in range(2):
        assert main([*command, "--json", "found.json"]) == DONE


@pytest.mark.parametrize("what", ["fails", None])
def test_a_plan_says_which_arms_no_compiler_here_can_compile(
    what: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(path_with_broken(folder, what) if what else path_without_compilers(folder)))
    command = ["--sweep", "engine", "--dataset", "demo", "--gpus-per-trial", "0", "--repeats", "1", "--plan"]
    assert main([*command, "--storage-path", str(tmp_path / "runs"), "--json", "-"]) == DONE
    trials = {trial["arm"]: trial["unsupported"] for trial in json.loads(capsys.readouterr().out)["trials"]}
    assert trials["eager"] is None and "apt-get install g++" in trials["compile"]
    assert "CUDA graph" in trials["graph"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]
