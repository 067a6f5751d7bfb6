"""The request of a command: fields, axes and a configuration file, merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.commands.main import main
from tune.commands.sweep import parser as sweep_parser
from tune.common.errors import DONE, WRONG_INPUT, WrongInput
from tune.config.axes import LONGEST_LABEL, MOST_ARMS, lay_over, split_values
from tune.config.repeats import AUTO, most_blocks
from tune.config.request import DRAWN, Request, build_request
from tune.config.sweeps import SWEEPS, get_sweep
from tune.config.yaml_file import read_config, write_config
from tune.machine.device import DeviceFacts
from tune.plan.plan import Plan, make_plan

CPU = DeviceFacts(device_type="cpu", name="some CPU")
CUSTOM = ["--sweep", "custom", "--dataset", "demo"]


def _request(*arguments: str) -> Request:
    return build_request(sweep_parser().parse_args(arguments))


def _plan(request: Request) -> Plan:
    return make_plan(request.sweep, overrides=request.overrides, repeats=request.repeats, seed=request.seed, device=CPU)


def _key(request: Request) -> str:
    return _plan(request).key(data_sha256="d", tracking_uri="u")


def test_the_path_of_a_file_is_made_absolute_however_it_is_given(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("sweep: pruning\ndataset: my.csv")
    forms = [["--set", "data.dataset=my.csv"], ["--dataset", "my.csv"], ["--config", "x.yaml"]]
    for form in forms:
        assert _request("--sweep", "pruning", *form).overrides == {"data.dataset": str(tmp_path / "my.csv")}
    assert _request("--sweep", "pruning", "--dataset", "demo").overrides == {"data.dataset": "demo"}
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")  # a configuration names its data from where it lies
    assert _request("--config", "../x.yaml").overrides == {"data.dataset": str(tmp_path / "folder" / ".." / "my.csv")}
    monkeypatch.chdir("/")
    assert _request("--config", str(tmp_path / "x.yaml")).overrides == {"data.dataset": str(tmp_path / "my.csv")}
    homeless = _request("--sweep", "pruning", "--dataset", "~nobody-of-this-name/my.csv")
    assert homeless.overrides["data.dataset"].startswith("/")


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("model.d_model=64", 64), ("pruning.heads=[4,8]", [4, 8]), ("train.engine=eager", "eager"),
        ("train.learning_rate=1e-4", 1e-4), ("train.patience=null", None), ("model.pre_norm=false", False),
        ("data.timestamp_column=2024", "2024"), ('data.timestamp_column="2024"', "2024"),
        ("data.timestamp_column=null", None), ("data.columns=load,2024", ["load", "2024"]),
    ],
)  # fmt: skip
def test_a_value_is_a_number_a_word_or_a_list_and_a_text_for_a_text_field(item: str, value: Any) -> None:
    assert list(_request(*CUSTOM, "--set", item).overrides.values()) == ["demo", value]


def test_every_arm_runs_at_every_combination_of_the_axes() -> None:
    request = _request("--sweep", "attention", "--over", "model.patch_length=12,24", "--over", "train.batch_size=32,64")
    assert len(request.sweep.arms) == 4 * len(get_sweep("attention").arms)
    assert request.sweep.baseline == "eager-patch_length=12-batch_size=32" == request.sweep.arms[0].label
    assert request.sweep.swept == {"model.attention", "model.patch_length", "train.batch_size"}


def test_the_axes_of_the_custom_sweep_are_its_arms() -> None:
    request = _request("--sweep", "custom", "--over", "pruning.heads=[0],[4,8]", "--set", "pruning.score=static")
    assert [arm.label for arm in request.sweep.arms] == ["heads=0", "heads=4_8"]
    assert [arm.changes for arm in request.sweep.arms] == [{"pruning.heads": [0]}, {"pruning.heads": [4, 8]}]


def test_values_that_look_alike_in_a_label_keep_labels_of_their_own() -> None:
    request = _request("--sweep", "custom", "--over", "pruning.heads=[1,2],[12],[1,-2]")
    assert len({arm.label for arm in request.sweep.arms}) == 3
    assert [arm.label for arm in _request("--sweep", "custom", "--over", "train.schedule=constant").sweep.arms] == [
        "train.schedule=constant"
    ]


def test_an_axis_over_a_space_is_one_more_dimension_of_it() -> None:
    request = _request("--sweep", "full", "--over", "train.learning_rate=1e-4,1e-3")
    assert [choice.label for choice in request.sweep.space["train.learning_rate"]] == [
        "learning_rate=0.0001", "learning_rate=0.001",
    ]  # fmt: skip
    assert [arm.changes["train.learning_rate"] for arm in request.sweep.arms] == [1e-4]
    assert request.sweep.baseline == "baseline"


@pytest.mark.parametrize(
    ("axis", "why"),
    [
        ("train.epochs=5,10", "errors after trainings of different length cannot be compared"),
        ("data.prediction_length=96,192", "errors at different horizons are of different tasks"),
    ],
)
def test_a_field_that_makes_errors_incomparable_is_no_axis_of_a_search(axis: str, why: str) -> None:
    with pytest.raises(WrongInput, match=f"^--over {axis.split('=')[0]}: the full sweep searches, and {why}; run one"):
        _request("--sweep", "full", "--over", axis)
    assert len(_request(*CUSTOM, "--over", axis).sweep.arms) == 2
    assert "data.context_length" in _request("--sweep", "full", "--over", "data.context_length=336,512").sweep.space


def test_a_drawn_arms_longest_name_is_checked_before_anything_runs() -> None:
    axes = ["model.dropout=0.1", "model.head_dropout=0.1", "model.attention_dropout=0.1", "train.learning_rate=1e-4"]
    arguments = [part for axis in axes for part in ("--over", axis)]
    with pytest.raises(WrongInput, match="^--over: the arm .* has a name of 1[0-9]{2} letters, at most 120 fit"):
        _request("--sweep", "full", *arguments)
    request = _request("--sweep", "full", *arguments[:2])
    longest = "-".join(max((c.label for c in choices), key=len) for choices in request.sweep.space.values())
    assert len(longest) <= LONGEST_LABEL


@pytest.mark.parametrize("name", [name for name in SWEEPS if not get_sweep(name).table])
def test_an_axis_can_lie_over_every_sweep(name: str) -> None:
    request = _request("--sweep", name, "--dataset", "demo", "--over", "train.learning_rate=1e-4,1e-3")
    plan = _plan(request)
    assert request.sweep.baseline in {trial.arm for trial in plan.trials}
    assert len({trial.trial_id for trial in plan.trials}) == len(plan.trials)
    assert len(plan.trials) == most_blocks(request.repeats) * len(request.sweep.arms)


def test_no_axes_change_nothing() -> None:
    assert lay_over(get_sweep("pruning"), {}) == get_sweep("pruning")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("12,24", ["12", "24"]), ("[4,8],[0]", ["[4,8]", "[0]"]), ('"a,b",c', ['"a,b"', "c"]), ("a", ["a"]),
        ("", [""]), ("1,,2", ["1", "", "2"]), ("1,", ["1", ""]), ("]a,b", ["]a", "b"]),
    ],
)  # fmt: skip
def test_an_axis_is_split_at_the_commas_between_its_values(text: str, parts: list[str]) -> None:
    assert split_values(text) == parts


@given(st.lists(st.integers() | st.lists(st.integers(), max_size=3), min_size=1, max_size=5))
def test_the_values_of_an_axis_come_back_as_they_were_written(values: list[Any]) -> None:
    assert [json.loads(part) for part in split_values(",".join(json.dumps(value) for value in values))] == values


def test_the_trials_of_a_space_are_drawn_as_often_as_asked_for() -> None:
    assert _request("--sweep", "full").trials == DRAWN
    assert _request("--sweep", "full", "--trials", "7").trials == 7
    assert _request("--sweep", "pruning").trials is None


def test_arms_that_are_compared_run_until_looks_end_them_and_a_single_one_runs_once() -> None:
    assert _request("--sweep", "pruning").repeats == _request("--sweep", "full").repeats == AUTO == "auto"
    assert _request(*CUSTOM, "--over", "train.learning_rate=1e-4,1e-3").repeats == AUTO
    assert _request(*CUSTOM).repeats == 1
    assert _request("--sweep", "pruning", "--repeats", "2").repeats == 2
    assert _request("--sweep", "seed_study").repeats == 3  # as the sweep says
    assert _request("--sweep", "seed_study", "--repeats", "auto").repeats == AUTO


def test_a_single_arm_has_nothing_for_a_look_to_compare(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match=r"--repeats auto: .* one arm; give a number, such as 1"):
        _request(*CUSTOM, "--repeats", "auto")
    with pytest.raises(WrongInput, match=r"line 2: --repeats auto: .* one arm"):
        _filed(tmp_path, "sweep: custom\nrepeats: auto")
    assert _filed(tmp_path, "sweep: pruning\nrepeats: auto").repeats == AUTO
    assert _filed(tmp_path, "sweep: pruning\nrepeats: 4").repeats == 4
    assert _filed(tmp_path, "sweep: pruning\nrepeats: 4", "--repeats", "auto").repeats == AUTO


def test_most_arms_can_be_planned_and_no_more() -> None:
    values = ",".join(str(number) for number in range(1, 101))
    axes = ["--over", f"train.epochs={values}", "--over", f"train.batch_size={values}"]
    assert len(_request(*CUSTOM, *axes).sweep.arms) == MOST_ARMS
    with pytest.raises(WrongInput, match="at most 10,000"):
        _request(*CUSTOM, *axes, "--over", "data.prediction_length=1,2")


FILES = [
    ["--sweep", "pruning", "--dataset", "demo", "--epochs", "3", "--repeats", "2", "--seed", "5"],
    [*CUSTOM, "--set", "model.d_model=32", "--over", "train.learning_rate=1e-4,1e-3", "--over", "model.num_heads=2,4"],
    [*CUSTOM, "--set", "pruning.heads=[1,2]", "--set", "pruning.score=static", "--set", "train.patience=null"],
    ["--sweep", "custom", "--dataset", "my.csv", "--set", "data.timestamp_column=1e4", "--set", "model.pre_norm=false"],
    ["--sweep", "pruning", "--dataset", "demo", "--repeats", "auto"],
    ["--sweep", "full", "--dataset", "demo", "--trials", "9", "--over", "train.learning_rate=1e-5"],
]


@pytest.mark.parametrize("arguments", FILES, ids=" ".join)
def test_a_saved_configuration_asks_for_the_same_plan(arguments: list[str], tmp_path: Path) -> None:
    typed = _request(*arguments)
    write_config(tmp_path / "saved.yaml", typed.as_config())
    read = _request("--config", str(tmp_path / "saved.yaml"))
    assert read == typed
    assert _key(read) == _key(typed)


def _filed(folder: Path, text: str, *arguments: str) -> Request:
    (folder / "x.yaml").write_text(text)
    return _request("--config", str(folder / "x.yaml"), *arguments)


def test_the_command_line_wins_over_the_file_field_by_field_and_says_so(tmp_path: Path) -> None:
    text = "sweep: custom\nepochs: 3\nseed: 4\nset: {model.d_model: 64, train.batch_size: 32}"
    text += "\nover: {model.ffn_dim: [8, 9]}"
    request = _filed(
        tmp_path, text, "--epochs", "5", "--seed", "6", "--over", "model.d_model=16,32", "--set", "model.ffn_dim=4"
    )
    assert request.overrides == {"train.batch_size": 32, "train.epochs": 5, "model.ffn_dim": 4}
    assert request.axes == {"model.d_model": (16, 32)} and request.seed == 6
    (note,) = request.notes
    for name in ("--seed", "train.epochs", "model.d_model", "model.ffn_dim"):
        assert name in note
    assert "train.batch_size" not in note


def test_a_file_alone_says_nothing_more(tmp_path: Path) -> None:
    assert _filed(tmp_path, "sweep: custom", "--repeats", "2").notes == ()


def test_a_configuration_can_be_saved_again_and_over_the_one_it_came_from(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the same command again goes on, so it says the same again
        assert main([*CUSTOM, "--plan", "--save-config", "a.yaml"]) == DONE
    changed = ["--plan", "--config", "a.yaml", "--epochs", "7", "--save-config"]
    assert main([*changed, "a.yaml"]) == DONE
    assert read_config(Path("a.yaml")).content["epochs"] == 7
    assert main([*CUSTOM, "--plan", "--save-config", "b.yaml"]) == DONE
    assert main([*changed, "b.yaml"]) == WRONG_INPUT
    assert "epochs" not in read_config(Path("b.yaml")).content


def test_no_backend_is_refused_for_the_number_of_a_files_channels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """862 channels at batch 128 are more sequences than the fused kernels' grids take: they compute them in pieces."""
    wide = tmp_path / "wide.csv"
    names = ",".join(f"c{at}" for at in range(862))
    wide.write_text(f"date,{names}\n2020-01-01 00:00:00,{','.join(['1.5'] * 862)}\n")
    asked = ["--sweep", "attention", "--dataset", str(wide), "--gpu-model", "H100", "--plan"]
    assert main(asked) == DONE
    refused = [line for line in capsys.readouterr().out.splitlines() if "UNSUPPORTED" in line]
    assert refused and all("flex needs a head_dim from 16" in line for line in refused)


def test_minutes_are_of_the_command_and_saved_with_it() -> None:
    request = _request("--sweep", "pruning", "--minutes", "2.5")
    assert request.minutes == 2.5 and request.as_config()["minutes"] == 2.5
    assert _request("--sweep", "pruning").minutes is None
    assert "minutes" not in _request("--sweep", "pruning").as_config()


def test_no_test_is_a_field_of_the_sweep_that_every_source_can_give(tmp_path: Path) -> None:
    once = _request("--sweep", "pruning", "--no-test")
    assert once.overrides == {"train.read_test": False}
    write_config(tmp_path / "a.yaml", once.as_config())
    assert _request("--config", str(tmp_path / "a.yaml")).overrides == once.overrides
    assert _key(once) != _key(_request("--sweep", "pruning"))
    assert "read_test" not in json.dumps(_plan(_request(*CUSTOM)).trials[0].config.identity())  # as before it existed
    with pytest.raises(WrongInput, match="train.read_test is given twice"):
        _request("--sweep", "pruning", "--no-test", "--set", "train.read_test=true")
    with pytest.raises(WrongInput, match="axis of --over"):
        _request("--sweep", "pruning", "--over", "train.read_test=true,false")
    words = ["--sweep", "pruning", "--dataset", "demo", "--no-test", "--save-forecasts", "--plan"]
    assert main(words) == WRONG_INPUT


@pytest.mark.parametrize("given", ["0", "-3", "inf", "nan"])
def test_minutes_that_are_no_time_are_refused_in_one_line(given: str) -> None:
    with pytest.raises(WrongInput, match=r"^--minutes (0|-3|inf|nan): give a number above 0, for example 30$"):
        _request("--sweep", "pruning", f"--minutes={given}")


def test_minutes_that_are_no_number_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match=r"^argument --minutes: ten is not a number; give one, such as 0\.4 \(see"):
        _request("--sweep", "pruning", "--minutes", "ten")
    file = tmp_path / "x.yaml"
    file.write_text("sweep: pruning\nminutes: ten\n")
    with pytest.raises(WrongInput, match=r"line 2: minutes: ten is not a number; give one, such as 0\.4$"):
        _request("--config", str(file))
    file.write_text("sweep: pruning\nminutes: 0\n")
    with pytest.raises(WrongInput, match=r"x\.yaml: line 2: --minutes 0: give a number above 0, for example 30$"):
        _request("--config", str(file))


def test_a_target_is_of_the_search_and_saved_with_it(tmp_path: Path) -> None:
    request = _request("--sweep", "full", "--target-val-mse", "0.4")
    assert request.target_val_mse == 0.4 and request.as_config()["target_val_mse"] == 0.4
    assert _request("--sweep", "full").target_val_mse is None
    assert "target_val_mse" not in _request("--sweep", "full").as_config()
    file = tmp_path / "x.yaml"
    file.write_text("sweep: full\ntarget_val_mse: 4e-1\n")
    assert _request("--config", str(file)).target_val_mse == 0.4
    replaced = _request("--config", str(file), "--target-val-mse", "0.3")
    assert replaced.target_val_mse == 0.3 and "the command line's --target-val-mse is used" in replaced.notes[0]


@pytest.mark.parametrize("given", ["0", "-0.1", "inf", "nan"])
def test_a_target_that_is_no_error_is_refused_in_one_line(given: str) -> None:
    with pytest.raises(WrongInput, match=r"^--target-val-mse \S+: give a validation MSE above 0, for example 0\.4$"):
        _request("--sweep", "full", f"--target-val-mse={given}")


def test_a_target_without_a_search_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match=r"^--target-val-mse 0\.4: it ends a search, as full does; the pruning sweep"):
        _request("--sweep", "pruning", "--target-val-mse", "0.4")
    file = tmp_path / "x.yaml"
    file.write_text("sweep: pruning\ntarget_val_mse: 0.4\n")
    with pytest.raises(WrongInput, match=r"x\.yaml: line 2: --target-val-mse 0\.4: it ends a search"):
        _request("--config", str(file))
