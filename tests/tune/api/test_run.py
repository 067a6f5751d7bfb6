"""`run`: its arguments are the command's options, and the command's exit is an error of a type. No sweep runs here."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sweep_kit import ROOT

import patchtst_sweeps
from patchtst_sweeps import SweepError, Unfinished, WrongInput, run
from tune.api.run import as_words
from tune.commands import sweep as command
from tune.config.request import Request, build_request

NOT_ARGUMENTS = {
    "help",
    "plan",
    "submit",
    "save_config",
    "verbose",
    "json",
    "csv",
}  # what no results follow from, or run adds


def requested(fields: dict[str, Any] | None = None, axes: dict[str, Any] | None = None, **given: Any) -> Request:
    words = as_words({"sweep": "custom", **given}, fields or {}, axes or {})
    return build_request(command.parser().parse_args(words))


def test_the_arguments_are_the_options_of_the_command() -> None:
    options = {action.dest for action in command.parser()._actions}
    assert set(inspect.signature(run).parameters) == options - NOT_ARGUMENTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.learning_rate", 1e-5),
        ("model.d_model", 64),
        ("train.patience", None),
        ("model.pre_norm", False),
        ("model.attention", "eager"),
        ("data.columns", ["a,b", "c", "null"]),
        ("data.separator", ","),
        ("data.separator", "~"),
        ("data.timestamp_column", "null"),
        ("data.timestamp_column", "a, b = [c]"),
        ("data.timestamp_column", '"q'),
        ("pruning.heads", [0, 2]),
    ],
)
def test_a_value_arrives_as_it_was_given(name: str, value: Any) -> None:
    assert requested({name: value}).overrides == {name: value}


def test_the_values_of_an_axis_arrive_one_by_one() -> None:
    axes = {"model.d_model": [16, 32], "model.attention": ("eager", "sdpa_efficient"), "train.patience": [None, 3]}
    assert requested(axes=axes).axes == {name: tuple(values) for name, values in axes.items()}


def test_options_arrive_and_what_is_not_given_keeps_the_commands_default() -> None:
    given = {"sweep": "pruning", "dataset": Path("my file.csv"), "gpus_per_trial": 0, "fresh": True, "isolate": False}
    words = as_words(given, {}, {})
    arguments = command.parser().parse_args(words)
    assert (arguments.dataset, arguments.gpus_per_trial, arguments.fresh) == ("my file.csv", 0, True)
    assert (arguments.isolate, arguments.repeats, arguments.wait_for_gpus) == (False, None, 600)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"over": {"model.d_model": 64}}, r"over model.d_model=64: give a list of values"),
        ({"over": {"model.attention": "eager"}}, r"over model.attention='eager': give a list of values"),
        ({"set": {"model.d_model": object()}}, "is no value of a field"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_told_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongInput, match=message):
        run("custom", **given)


def test_what_the_command_refuses_is_raised_with_its_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongInput, match=r"^unknown sweep 'prunin'; allowed: .* Did you mean 'pruning'\?$"):
        run("prunin")
    assert not list(tmp_path.iterdir())
    assert "error:" not in capsys.readouterr().err  # it is the exception's


class Program:
    """A stand-in for experiments.py: a script that ends as it is told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "experiments.py"
        monkeypatch.setattr("tune.api.run.REPO_ROOT", folder)

    def does(self, text: str) -> None:
        self.file.write_text(f"import os, signal, sys, time\n{text}")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("ends", "kind", "message"),
    [
        ("print('error: no such data', file=sys.stderr); sys.exit(2)", WrongInput, "^no such data$"),
        ("print('s-1 is not finished; it goes on', file=sys.stderr); sys.exit(130)", Unfinished, "s-1 is not finished"),
        ("print('interrupted by SIGTERM', file=sys.stderr); sys.exit(143)", Unfinished, "by SIGTERM"),
        ("raise RuntimeError('a bug')", SweepError, "exit code 1:\n(?s:.*)RuntimeError: a bug"),
        ("os.kill(os.getpid(), signal.SIGKILL)", SweepError, "exit code -9"),
    ],
)
def test_each_end_of_the_process_is_an_error_of_its_type(program: Program, ends: str, kind: Any, message: str) -> None:
    program.does(ends)
    with pytest.raises(kind, match=message):
        run("custom", quiet=True)


def test_progress_is_written_to_this_stderr_unless_quiet(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    program.does("print('half', file=sys.stderr); print('table'); sys.exit(130)")
    for quiet, shown in ((False, "half\n"), (True, "")):
        with pytest.raises(Unfinished):
            run("custom", quiet=quiet)
        assert capsys.readouterr() == ("", shown)


def test_ctrl_c_stops_the_sweep_before_it_is_raised(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pressed(io.StringIO):
        def write(self, text: str) -> int:
            if "up" in text:
                raise KeyboardInterrupt
            return len(text)

    stopped = tmp_path / "stopped"
    program.does(
        "try:\n    print('up', file=sys.stderr, flush=True)\n    time.sleep(300)\n"
        f"except KeyboardInterrupt:\n    open({str(stopped)!r}, 'w')\n"
    )
    monkeypatch.setattr(sys, "stderr", Pressed())
    with pytest.raises(KeyboardInterrupt):
        run("custom")
    assert stopped.exists()


def test_the_stub_file_has_the_signatures_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "patchtst_sweeps", "--mypy-config-file", "pyproject.toml"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_each_name_of_the_library_is_there_and_has_a_docstring() -> None:
    for name in patchtst_sweeps.__all__:
        assert getattr(patchtst_sweeps, name).__doc__, name
    assert set(patchtst_sweeps.__all__) <= set(dir(patchtst_sweeps))
    with pytest.raises(AttributeError, match="it has run, load, forecast"):
        patchtst_sweeps.lod  # noqa: B018
