"""Plans: blocks, random order, defaults by device, reasons for what cannot run."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.datasets import DATASETS
from model.attention import BACKENDS
from model.presets import PRESETS
from model.pruning import SCORES
from model.pruning.schedules import SCHEDULES
from tune.common.errors import WrongInput
from tune.config.sweeps import SWEEPS, Arm, SweepConfig, get_sweep
from tune.engine import ENGINES
from tune.machine.device import DeviceFacts
from tune.plan.plan import Plan, make_plan, plan_rows
from tune.plan.text import print_plan

CPU = DeviceFacts(device_type="cpu", name="some CPU")
H100 = DeviceFacts(device_type="cuda", name="NVIDIA H100", capability=(9, 0), gpus=1)


def _plan(sweep: SweepConfig | str = "pruning", device: DeviceFacts = CPU, **given: Any) -> Plan:
    chosen = get_sweep(sweep) if isinstance(sweep, str) else sweep
    options = {"overrides": {"data.dataset": "demo"}, "repeats": 1, "seed": 1} | given
    return make_plan(chosen, device=device, **options)


def _one(arm: dict[str, Any], device: DeviceFacts = CPU, **overrides: Any) -> Any:
    sweep = SweepConfig(name="one", question="?", baseline="a", arms=(Arm(label="a", changes=arm),))
    return _plan(sweep, device, overrides={"data.dataset": "demo"} | overrides).trials[0]


COMPARING = [name for name in SWEEPS if not get_sweep(name).table]  # test_table.py has the cells of a table


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("device", [CPU, H100], ids=lambda device: device.device_type)
def test_every_sweep_plans_with_unique_ids_and_its_baseline_among_the_arms(name: str, device: DeviceFacts) -> None:
    plan = _plan(name, device, repeats=3)
    ids = [trial.trial_id for trial in plan.trials]
    assert len(set(ids)) == len(ids) == 3 * len(get_sweep(name).arms)
    assert get_sweep(name).baseline in {trial.arm for trial in plan.trials}
    assert all(trial.trial_id.endswith(f"-s{trial.seed}") for trial in plan.trials)


@pytest.mark.parametrize("name", COMPARING)
def test_no_two_arms_of_a_sweep_are_the_same_configuration(name: str) -> None:
    configs = [trial.config for trial in _plan(name).trials]
    assert all(first != second for index, first in enumerate(configs) for second in configs[:index])


SPACES = [(name, dimension) for name in SWEEPS for dimension in get_sweep(name).space]


@pytest.mark.parametrize(("name", "dimension"), SPACES)
def test_every_choice_of_a_space_makes_a_valid_arm(name: str, dimension: str) -> None:
    sweep = get_sweep(name)
    first = {other: choices[0].label for other, choices in sweep.space.items()}
    labels = [choice.label for choice in sweep.space[dimension]]
    arms = tuple(sweep.drawn(first | {dimension: label}) for label in labels)
    plan = _plan(replace(sweep, arms=arms, baseline=arms[0].label), H100)
    assert len(set(labels)) == len(labels) == len({trial.config for trial in plan.trials}) > 1


def test_an_arm_is_drawn_with_one_choice_of_each_dimension_only() -> None:
    sweep = get_sweep("full")
    first = {name: choices[0].label for name, choices in sweep.space.items()}
    for wrong in ({}, first | {"attention": "nope"}, first | {"colour": "red"}):
        with pytest.raises(KeyError):
            sweep.drawn(wrong)


def test_the_pruning_sweep_holds_the_arms_it_promises() -> None:
    labels = {arm.label for arm in get_sweep("pruning").arms}
    assert labels == {
        "none", "static-0", "static-4-8", "magnitude-1-one_shot", "magnitude-2-one_shot", "magnitude-5-one_shot",
        "magnitude-8-one_shot", "taylor-5-one_shot", "random-5-one_shot", "magnitude-5-gradual", "taylor-5-gradual",
    }  # fmt: skip


def test_arms_of_a_seed_form_a_block_in_random_but_repeatable_order() -> None:
    plan = _plan(repeats=3)
    arms = len(get_sweep("pruning").arms)
    blocks = [plan.trials[start : start + arms] for start in range(0, len(plan.trials), arms)]
    assert [{trial.seed for trial in block} for block in blocks] == [{1}, {2}, {3}]
    orders = [[trial.arm for trial in block] for block in blocks]
    assert orders[0] != orders[1] != orders[2]
    assert [trial.trial_id for trial in _plan(repeats=3).trials] == [trial.trial_id for trial in plan.trials]


def test_arms_differ_only_in_what_they_say_they_change() -> None:
    plan = _plan()
    base = plan.trials[0].config.flat()
    for trial in plan.trials:
        changed = {name for name, value in trial.config.flat().items() if value != base[name]}
        assert changed <= get_sweep("pruning").swept


def test_defaults_follow_the_device() -> None:
    on_cpu, on_gpu = _one({}).config, _one({}, H100).config
    assert (on_cpu.model.preset, on_cpu.train.precision, on_cpu.train.engine) == ("tiny", "fp32", "eager")
    assert (on_gpu.model.preset, on_gpu.train.precision, on_gpu.train.engine) == ("study", "bf16", "graph")
    assert (on_cpu.model.attention, on_gpu.model.attention) == ("eager", "patch")


def test_the_stride_is_the_patch_length_unless_given() -> None:
    assert _one({"model.patch_length": 24}).config.model.patch_stride == 24
    assert _one({"model.patch_length": 16, "model.patch_stride": 8}).config.model.patch_stride == 8


def test_a_presets_stride_belongs_to_its_own_patches() -> None:
    assert (_one({"model.preset": "ettm"}).config.model.patch_length, PRESETS["ettm"]["model.patch_stride"]) == (16, 8)
    assert _one({"model.preset": "ettm"}).config.model.patch_stride == 8
    assert _one({"model.preset": "ettm", "model.patch_length": 24}).config.model.patch_stride == 24


def test_an_alias_becomes_the_backends_own_name() -> None:
    assert _one({"model.attention": "vanilla"}).config.model.attention == "eager"


def test_a_cell_that_cannot_run_stays_in_the_plan_with_its_reason_and_keeps_its_configuration() -> None:
    trial = _one({"model.attention": "sdpa_efficient"})
    assert trial.config.model.attention == "sdpa_efficient"
    assert trial.unsupported is not None and "CPU" in trial.unsupported
    assert plan_rows([trial])[0]["unsupported"] == trial.unsupported


@pytest.mark.parametrize(
    ("precision", "device", "reason"),
    [
        ("tf32", CPU, "tf32 needs an NVIDIA GPU"),
        ("fp16", CPU, "for GPUs"),
        ("bf16", DeviceFacts(device_type="cuda", name="T4", capability=(7, 5)), "bf16 needs compute capability 8.0"),
    ],
)
def test_a_precision_that_the_device_lacks_is_unsupported(precision: str, device: DeviceFacts, reason: str) -> None:
    assert reason in str(_one({"train.precision": precision}, device).unsupported)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_can_be_planned_and_says_whose_it_is_and_where_it_comes_from(name: str) -> None:
    spec = DATASETS[name]
    plan = _plan(overrides={"data.dataset": name})
    assert plan.runnable and plan.trials[0].config.data.dataset == name == spec.name
    assert spec.citation and (spec.generate is not None) != bool(spec.urls)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_score_can_be_planned_with_every_schedule(name: str, schedule: str) -> None:
    heads = {"pruning.score": name, "pruning.schedule": schedule, "pruning.heads_per_layer": 2}
    assert _one(heads).unsupported is None


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_can_be_planned_on_an_h100_or_says_why_not(name: str) -> None:
    reason = _one({"model.attention": name}, H100).unsupported
    assert reason is None or len(reason) > 10


@pytest.mark.parametrize(
    ("device", "language", "needing"),
    [(CPU, "C++", {"compile"}), (CPU, "C", set()), (H100, "C", {"eager", "compile", "graph"}), (H100, "C++", set())],
)
def test_arms_that_need_a_compiler_which_does_not_work_are_unsupported_and_the_others_are_not(
    device: DeviceFacts, language: str, needing: set[str]
) -> None:
    engines = {"eager", "compile"} | ({"graph"} if device is H100 else set())
    for broken, refused in (({language: "none here: install it"}, needing), ({}, set()), (None, set())):
        there = replace(device, compilers=broken)
        reasons = {name: _one({"train.engine": name}, there).unsupported for name in engines}
        assert {name for name, reason in reasons.items() if reason} == refused
        assert all("none here: install it" in reason for reason in reasons.values() if reason)


def test_a_backend_whose_package_is_missing_is_unsupported_with_the_reason_and_auto_passes_it_over() -> None:
    lacking = replace(H100, missing={"patch": "install it with pip", "sdpa_efficient": "install it with pip"})
    assert _one({"model.attention": "sdpa_efficient"}, lacking).unsupported == "install it with pip"
    assert _one({"model.attention": "auto"}, replace(H100, missing={})).config.model.attention != "eager"
    assert _one({"model.attention": "auto"}, lacking).config.model.attention == "eager"
    assert _one({"model.attention": "sdpa_efficient"}, replace(H100, missing=None)).unsupported is None


def test_a_preset_brings_its_recipe_and_what_is_given_by_hand_wins() -> None:
    config = _one({"model.preset": "ettm", "train.patience": None}, H100).config
    assert (config.train.schedule, config.train.pct_start, config.train.epochs) == ("one_cycle", 0.4, 100)
    assert (config.model.patch_length, config.model.patch_stride, config.num_patches) == (16, 8, 41)
    assert config.train.patience is None


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_can_be_planned(name: str) -> None:
    assert _one({"train.engine": name}, H100).config.train.engine == name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pruning.score": "taylor"}, "pruning.score is given by hand, but the pruning sweep sets it"),
        ({"train.seed": 3}, "train.seed is given by hand, but --seed and --repeats sets it"),
        ({"model.attention": "sdpa_flsh"}, "unknown attention 'sdpa_flsh'.*sdpa_flash"),
        ({"train.engine": "grph"}, "unknown engine 'grph'; allowed: compile, eager"),
        ({"train.schedule": "onecycle"}, "unknown learning rate schedule 'onecycle'.*Did you mean 'one_cycle'"),
        ({"data.dataset": "ETTh3"}, "ETTh3"),
        ({"model.preset": "stdy"}, "unknown preset 'stdy'.*Did you mean 'study'"),
        ({"model.preset": []}, r"unknown preset '\[\]'"),
        ({"model.preset": None}, "unknown preset 'None'"),
        ({"model.d_mdl": 3}, "unknown field 'model.d_mdl'.*Did you mean 'model.d_model'"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_choices_are_reported_in_one_line(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _plan(overrides=overrides)
    assert "\n" not in str(caught.value)


def test_an_unknown_sweep_suggests_the_nearest() -> None:
    with pytest.raises(WrongInput, match="Did you mean 'pruning'?"):
        get_sweep("prunning")


def test_the_key_changes_with_everything_that_changes_a_result_and_with_nothing_else() -> None:
    def key(plan: Plan, data: str = "d", uri: str = "u") -> str:
        return plan.key(data_sha256=data, tracking_uri=uri)

    base = key(_plan())
    assert key(_plan()) == base
    others = [
        key(_plan(), data="other"), key(_plan(), uri="other"), key(_plan(seed=2)), key(_plan(repeats=2)),
        key(_plan(device=H100)), key(_plan(overrides={"data.dataset": "demo", "train.epochs": 3})),
    ]  # fmt: skip
    assert len({base, *others}) == 1 + len(others)


NAMES = ("data.dataset", "data.feed", "model.preset", "model.attention", "model.norm_type", "train.engine",
         "train.precision", "train.schedule", "pruning.score", "pruning.schedule")  # fmt: skip


@pytest.mark.parametrize("value", [[], {}, 5, None, True], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_name_where_a_name_is_expected_is_reported_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(WrongInput, match=name.split(".")[1]) as caught:
        _one({name: value})
    assert "\n" not in str(caught.value)


def test_neither_a_password_nor_the_current_directory_makes_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan()

    def key(uri: str) -> str:
        return plan.key(data_sha256="d", tracking_uri=uri)

    server = key("http://ann:old@host:5000")
    assert key("http://ann:new@host:5000") == key("http://host:5000") == server != key("http://ann:old@other:5000")
    absolute = key(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert key("sqlite:///mlflow.db") == absolute


def _same(epochs: int, *arms: Arm) -> dict[str, str | None]:
    sweep = SweepConfig(name="twins", question="?", baseline=arms[0].label, arms=arms)
    plan = _plan(sweep, overrides={"data.dataset": "demo", "train.epochs": epochs}, repeats=2)
    pairs = {(trial.arm, trial.same_as) for trial in plan.trials}
    assert len(pairs) == len(arms)  # the same in every block
    return dict(pairs)


def _schedule(schedule: str, heads: int = 5, score: str = "magnitude") -> Arm:
    changes = {"pruning.score": score, "pruning.heads_per_layer": heads, "pruning.schedule": schedule}
    return Arm(label=f"{score}-{heads}-{schedule}", changes=changes)


def test_two_schedules_that_remove_the_same_heads_at_the_same_time_are_one_computation() -> None:
    arms = _schedule("one_shot"), _schedule("gradual"), _schedule("gradual", heads=4)
    at_three = {"magnitude-5-one_shot": None, "magnitude-5-gradual": "magnitude-5-one_shot"}
    assert _same(3, *arms) == at_three | {"magnitude-4-gradual": None}
    assert set(_same(10, *arms).values()) == {None}


def test_a_schedule_makes_no_difference_where_nothing_is_scheduled() -> None:
    first, second = (Arm(label=name, changes={"pruning.schedule": name}) for name in ("one_shot", "gradual"))
    assert _same(10, first, second) == {"one_shot": None, "gradual": "one_shot"}


def test_two_arms_of_one_computation_both_run_and_the_plan_says_so() -> None:
    plan = _plan(overrides={"data.dataset": "demo", "train.epochs": 3})
    stream = io.StringIO()
    print_plan(plan, stream)
    assert "pruning-magnitude-5-gradual-s1  (same removals as magnitude-5-one_shot at 3 epochs)" in stream.getvalue()
    assert len(plan.runnable) == len(plan.trials)
    rows = {row["arm"]: row["same_as"] for row in plan_rows(plan.trials)}
    assert (rows["magnitude-5-gradual"], rows["magnitude-5-one_shot"]) == ("magnitude-5-one_shot", None)


def test_the_printed_plan_marks_what_is_swept_and_what_cannot_run() -> None:
    stream = io.StringIO()
    arms = tuple(Arm(label=name, changes={"model.attention": name}) for name in ("eager", "sdpa_efficient"))
    print_plan(_plan(SweepConfig(name="x", question="Which {brace}?", baseline="eager", arms=arms)), stream)
    text = stream.getvalue()
    assert "attention (swept)" in text and "x: Which {brace}?" in text and "(42 patches)" in text
    assert "x-sdpa_efficient-s1  UNSUPPORTED: " in text and "2 trials, 1 can run:" in text
