"""The sweep seed_study as a person runs it on a CPU, with fewer arms and no loader processes: CI has two cores."""

from __future__ import annotations

import json

import pytest
from sweep_kit import ROOT, Ran, read, run

FEWER = """
import sys
from dataclasses import replace
sys.path.insert(0, {root!r})
from tune.commands.main import main
from tune.config import sweeps
study = sweeps.seed_study()
kept = ("eager", "vanilla-published", "flash-published", "dynamic-published")
arms = [replace(arm, changes={{**arm.changes, "data.num_workers": 0}}) for arm in study.arms if arm.label in kept]
sweeps.SWEEPS["seed_study"] = lambda: replace(study, arms=tuple(arms))
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
SMALL = (  # noqa: SIM905
    "--sweep seed_study --dataset demo --epochs 1 --repeats 1 --set data.context_length=48 "
    "--set data.prediction_length=24 --set model.d_model=16 --set model.num_heads=4 --set model.ffn_dim=16"
).split()


@pytest.fixture(scope="module", name="swept")
def swept_fixture(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("seed_study")
    (folder / "fewer.py").write_text(FEWER.format(root=str(ROOT)))
    return run(folder, *SMALL, "--json", "result.json", program=folder / "fewer.py")


def test_the_published_error_is_shown_and_does_not_fail_the_sweep(swept: Ran) -> None:
    assert swept.code == 0, swept.err
    record = swept.record()
    assert record.status == "done"
    trials = {trial.tags["arm"]: trial for trial in record.trials}
    statuses = {arm: trial.status for arm, trial in trials.items()}
    assert statuses == {
        "eager": "done", "vanilla-published": "done", "flash-published": "unsupported", "dynamic-published": "failed",
    }  # fmt: skip
    assert "dynamic-published: failed: AttributeError: 'PatchTSTAttention' object has no attribute" in swept.out
    assert trials["dynamic-published"].reason.startswith("AttributeError: ")


def test_mlflow_holds_the_tag_and_both_timers(swept: Ran) -> None:
    trials = {trial.tags["arm"]: trial for trial in swept.record().trials}
    assert {arm for arm, trial in trials.items() if trial.tags.get("as_published") == "true"} == trials.keys() - {
        "eager"
    }
    vanilla = trials["vanilla-published"]
    assert {"published/epoch_s", "time/train_s", "gate/prediction_error"} <= vanilla.metrics.keys()
    assert "published/epoch_s" not in trials["eager"].metrics
    every = read(swept.folder, "report", "last", "--verbose").out
    assert "vanilla-published (as published; passes the gate): " in every
    result = json.loads((swept.folder / "result.json").read_text())
    assert result["comparisons"] == {}  # nothing of ours stands beside the baseline here


def test_only_the_arm_of_ours_leaves_a_model(swept: Ran) -> None:
    from mlflow import MlflowClient

    client, record = MlflowClient(swept.uri), swept.record()
    models = client.search_logged_models([client.get_run(record.run_id).info.experiment_id])
    arms = {trial.run_id: trial.tags["arm"] for trial in record.trials}
    assert [arms[model.source_run_id] for model in models] == ["eager"]
