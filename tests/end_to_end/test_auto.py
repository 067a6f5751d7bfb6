"""`--repeats auto`, the default where arms are compared, as a person runs it: a look ends the sweep."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from sweep_kit import Ran, epochs, read, run

from tune.stats.looks import LOOKS

BASELINE, SLOW = "d_model=16", "d_model=256"  # so much slower that the first look mostly sees it
SMALL = (  # noqa: SIM905
    "--sweep custom --over model.d_model=16,256 --dataset demo --epochs 1 --set data.context_length=48 "
    "--set data.prediction_length=24 --set model.num_heads=2 --set model.ffn_dim=32"
).split()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(tmp_path_factory.mktemp("auto"), *SMALL, "--json", "result.json")


def test_the_sweep_ends_at_a_look_and_nothing_is_left_open(swept: Ran) -> None:
    assert swept.code == 0, swept.err
    record = swept.record()
    assert (record.status, record.tags["repeats"]) == ("done", "auto")
    assert {trial.status for trial in record.trials} == {"done"}
    seeds = Counter(trial.tags["arm"] for trial in record.trials)
    assert seeds[BASELINE] == seeds[SLOW] in [look.blocks for look in LOOKS]


def test_plan_progress_and_report_say_where_it_ended_and_why(swept: Ran) -> None:
    result = json.loads((swept.folder / "result.json").read_text())
    looks = result["comparisons"][SLOW]["looks"]
    blocks = looks["stopped_at"]
    assert "6 to 20 trials in 3 to 10 blocks" in swept.err
    assert f"look after {blocks} blocks: ends {SLOW} (" in swept.err
    assert f"{SLOW} after {blocks} blocks: " in read(swept.folder, "report", "last", "--verbose").out
    assert json.loads(swept.record().tags["look.d_model:256"]) == looks
    assert len(result["trials"]) == 2 * blocks


def test_every_epoch_is_there_once(swept: Ran) -> None:
    seen = epochs(swept.folder)
    assert len(seen) == len(set(seen)) == len(swept.record().trials)
