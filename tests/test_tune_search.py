"""Plans: blocks, random order, defaults by device, reasons for what cannot run."""

from __future__ import annotations

from typing import Any

import pytest

from model.attention import BACKENDS
from tune.errors import WrongInput
from tune.hardware import DeviceFacts
from tune.search import Plan, make_plan, plan_rows
from tune.step import ENGINES
from tune.sweeps import SWEEPS, Arm, SweepConfig, get_sweep

CPU = DeviceFacts(device_type="cpu", name="some CPU")
H100 = DeviceFacts(device_type="cuda", name="NVIDIA H100", capability=(9, 0), gpus=1)


def _plan(sweep: SweepConfig | str = "pruning", device: DeviceFacts = CPU, **given: Any) -> Plan:
    chosen = get_sweep(sweep) if isinstance(sweep, str) else sweep
    options = {"overrides": {"data.dataset": "demo"}, "repeats": 1, "seed": 1} | given
    return make_plan(chosen, device=device, **options)


def _one(arm: dict[str, Any], device: DeviceFacts = CPU, **overrides: Any) -> Any:
    sweep = SweepConfig(name="one", question="?", baseline="a", arms=(Arm(label="a", changes=arm),))
    return _plan(sweep, device, overrides={"data.dataset": "demo"} | overrides).trials[0]


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("device", [CPU, H100], ids=lambda device: device.device_type)
def test_every_sweep_plans_with_unique_ids_and_its_baseline_among_the_arms(name: str, device: DeviceFacts) -> None:
    plan = _plan(name, device, repeats=3)
    ids = [trial.trial_id for trial in plan.trials]
    assert len(set(ids)) == len(ids) == 3 * len(get_sweep(name).arms)
    assert get_sweep(name).baseline in {trial.arm for trial in plan.trials}
    assert all(trial.trial_id.endswith(f"-s{trial.seed}") for trial in plan.trials)


@pytest.mark.parametrize("name", SWEEPS)
def test_no_two_arms_of_a_sweep_are_the_same_configuration(name: str) -> None:
    configs = [trial.config for trial in _plan(name).trials]
    assert all(first != second for index, first in enumerate(configs) for second in configs[:index])


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
    assert (on_gpu.model.preset, on_gpu.train.precision, on_gpu.train.engine) == ("study", "bf16", "compile")
    assert (on_cpu.model.attention, on_gpu.model.attention) == ("eager", "sdpa_efficient")


def test_the_stride_is_the_patch_length_unless_given() -> None:
    assert _one({"model.patch_length": 24}).config.model.patch_stride == 24
    assert _one({"model.patch_length": 16, "model.patch_stride": 8}).config.model.patch_stride == 8


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
        ("fp16", H100, "loss scaling"),
        ("bf16", DeviceFacts(device_type="cuda", name="T4", capability=(7, 5)), "bf16 needs compute capability 8.0"),
    ],
)
def test_a_precision_that_the_device_lacks_is_unsupported(precision: str, device: DeviceFacts, reason: str) -> None:
    assert reason in str(_one({"train.precision": precision}, device).unsupported)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_can_be_planned_on_an_h100_or_says_why_not(name: str) -> None:
    reason = _one({"model.attention": name}, H100).unsupported
    assert reason is None or len(reason) > 10


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
        ({"data.dataset": "ETTh3"}, "ETTh3"),
        ({"model.preset": "stdy"}, "unknown preset 'stdy'.*Did you mean 'study'"),
        ({"model.d_mdl": 3}, "unknown field 'model.d_mdl'.*Did you mean 'model.d_model'"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_choices_are_told_in_one_line(overrides: dict[str, Any], message: str) -> None:
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
