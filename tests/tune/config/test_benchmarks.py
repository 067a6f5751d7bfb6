"""The cells of the sweep benchmark: a recipe and reported errors for each, chosen by --only."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.datasets import DATASETS
from model.presets import PRESETS
from tune.commands.main import main
from tune.commands.sweep import parser as sweep_parser
from tune.common.errors import WRONG_INPUT, WrongInput
from tune.config.benchmarks import BENCHMARKS, reported
from tune.config.request import Request, build_request
from tune.config.sweeps import get_sweep
from tune.config.yaml_file import write_config


def _request(*arguments: str) -> Request:
    return build_request(sweep_parser().parse_args(["--sweep", "benchmark", *arguments]))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_data_set_has_a_recipe_and_an_error_for_each_horizon(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert DATASETS[name].preset in PRESETS
    assert len(benchmark.horizons) == len(benchmark.published) == len(benchmark.tfb)
    assert benchmark.seeds.keys() <= set(benchmark.horizons)
    assert reported(name, benchmark.horizons[0]) == (benchmark.published[0], benchmark.tfb[0])
    assert reported(name, 7) == reported("my.csv", 96) == (None, None)


def test_the_usual_table_has_the_ett_sets_and_weather_with_seeds_fixed_beforehand() -> None:
    request = _request()
    seeds = {arm.label: arm.repeats for arm in request.sweep.arms}
    assert len(seeds) == 20 and seeds.pop("ETTh1-96") == seeds.pop("ETTm1-96") == 5 and set(seeds.values()) == {3}
    assert (request.seed, request.repeats) == (2021, 5)
    assert _request("--seed", "1", "--repeats", "2").seed == 1
    assert {arm.repeats for arm in _request("--repeats", "2").sweep.arms} == {2}


def test_only_names_data_sets_and_cells_also_those_that_are_not_usual(tmp_path: Path) -> None:
    request = _request("--only", "illness,ETTm1-96")
    assert [arm.label for arm in request.sweep.arms] == [
        "ETTm1-96", "illness-24", "illness-36", "illness-48", "illness-60",
    ]  # fmt: skip
    write_config(tmp_path / "a.yaml", request.as_config())
    again = build_request(sweep_parser().parse_args(["--config", str(tmp_path / "a.yaml")]))
    assert again.sweep.arms == request.sweep.arms and again.only == request.only


def test_an_axis_can_lie_over_a_table_whose_cells_keep_their_seeds() -> None:
    arms = _request("--only", "ETTh1-96,ETTh1-192", "--over", "train.learning_rate=1e-4,1e-3").sweep.arms
    assert [(arm.label, arm.repeats) for arm in arms] == [
        ("ETTh1-96-learning_rate=0.0001", 5), ("ETTh1-96-learning_rate=0.001", 5),
        ("ETTh1-192-learning_rate=0.0001", 3), ("ETTh1-192-learning_rate=0.001", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "ETTh9"], "unknown data set or cell"),
        (["--only", "ETTh1,ETTh1-96"], "ETTh1-96 is given twice"),
        (["--repeats", "auto"], "a table compares none"),
        (["--repeats", "0"], "give 1 or more"),
        (["--only", "ETTh1,"], "a name is empty"),
    ],
)
def test_what_a_table_cannot_run_is_refused_in_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(WrongInput, match=words):
        _request(*arguments)


def test_cells_and_csv_are_for_tables_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    usual = ["--sweep", "pruning", "--dataset", "demo"]
    assert main([*usual, "--only", "none", "--plan"]) == WRONG_INPUT
    assert "the pruning sweep runs all of its arms" in capsys.readouterr().err
    assert main([*usual, "--csv", str(tmp_path / "t.csv")]) == WRONG_INPUT
    assert "the pruning sweep is no table" in capsys.readouterr().err
    assert main(["--sweep", "benchmark", "--plan", "--dataset", "demo"]) == WRONG_INPUT
    assert "data.dataset is given by hand" in capsys.readouterr().err
    (tmp_path / "mine.csv").write_text("a,b\n")
    assert main(["--sweep", "benchmark", "--csv", str(tmp_path / "mine.csv")]) == WRONG_INPUT
    assert "--csv did not write it" in capsys.readouterr().err
    assert get_sweep("pruning").table is False
