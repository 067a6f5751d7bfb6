"""Looks: what each decides, which arms they end, and that the same trials give the same answer in any order."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune.stats.intervals import ALPHA
from tune.stats.looks import FIRST_BLOCKS, LOOKS, MOST_BLOCKS, SPEED_MARGIN, Standing, standings

SURE, NOISY = 0.0005, 0.02  # scatter of a pair
GAIN = math.log(1.05)


def _pairs(value: float, scatter: float = SURE, blocks: int = MOST_BLOCKS) -> dict[int, float]:
    """Pairs around `value`, above it and below in turn."""
    return {block: value + scatter * (-1) ** block for block in range(blocks)}


def _looked(
    times: Mapping[str, Mapping[int, float]],
    errors: Mapping[str, Mapping[int, float]] | None = None,
    *,
    ended: int = MOST_BLOCKS,
    **given: Any,
) -> dict[str, Standing]:
    errors = errors or dict.fromkeys(times, _pairs(0.0))
    blocks = given.pop("ended_of", {})
    of = {arm: range(blocks.get(arm, ended)) for arm in times}
    return standings(times, errors, ended=of, baseline=range(given.pop("baseline", ended)), margin=0.01, **given)


def test_the_looks_spend_the_allowed_error_and_no_more() -> None:
    assert sum(look.alpha for look in LOOKS) == pytest.approx(ALPHA)
    assert [look.blocks for look in LOOKS] == sorted(look.blocks for look in LOOKS)


@pytest.mark.parametrize(
    ("gain", "verdict"), [(GAIN, "faster"), (-GAIN, "slower"), (0.0, "within_margin"), (0.002, "within_margin")]
)
def test_a_clear_arm_is_decided_at_the_first_look_and_leaves(gain: float, verdict: str) -> None:
    (arm,) = _looked({"arm": _pairs(gain)}).values()
    assert (arm.speed.verdict, arm.accuracy.verdict) == (verdict, "not_worse")
    assert (arm.speed.look, arm.stopped_at, arm.because) == (FIRST_BLOCKS, FIRST_BLOCKS, "both_decided")
    assert arm.speed.count == FIRST_BLOCKS  # of the pairs of its look
    assert arm.speed.interval is not None and arm.speed.value is not None
    assert arm.speed.interval[0] < arm.speed.value < arm.speed.interval[1]


def test_the_interval_shows_the_verdict() -> None:
    arms = _looked({"fast": _pairs(GAIN), "slow": _pairs(-GAIN), "same": _pairs(0.0)})
    intervals = {name: arm.speed.interval for name, arm in arms.items()}
    assert intervals["fast"] and intervals["fast"][0] > 1
    assert intervals["slow"] and intervals["slow"][1] < 1
    assert intervals["same"] and 1 / (1 + SPEED_MARGIN) < intervals["same"][0] < intervals["same"][1] < 1 + SPEED_MARGIN


def test_no_look_is_made_before_every_arm_that_runs_and_the_baseline_ended_its_blocks() -> None:
    times = {"fast": _pairs(GAIN), "late": _pairs(GAIN)}
    nothing = dict.fromkeys(times, Standing())
    assert _looked(times, ended=FIRST_BLOCKS - 1) == nothing
    assert _looked(times, ended_of={"late": FIRST_BLOCKS - 1}) == nothing
    assert _looked(times, baseline=FIRST_BLOCKS - 1) == nothing
    assert {arm.stopped_at for arm in _looked(times, ended=FIRST_BLOCKS).values()} == {FIRST_BLOCKS}


def test_pairs_beyond_a_look_do_not_count_for_it() -> None:
    odd = _pairs(GAIN, blocks=FIRST_BLOCKS) | {block: -1.0 for block in range(FIRST_BLOCKS, MOST_BLOCKS)}
    assert _looked({"arm": odd})["arm"] == _looked({"arm": _pairs(GAIN, blocks=FIRST_BLOCKS)})["arm"]


def test_an_arm_that_stopped_is_asked_nothing_more_and_others_go_on() -> None:
    times = {"fast": _pairs(GAIN), "open": _pairs(GAIN, 2 * NOISY)}
    arms = _looked(times, ended_of={"fast": FIRST_BLOCKS})
    assert arms["fast"].stopped_at == FIRST_BLOCKS
    assert arms["open"].stopped_at in (LOOKS[1].blocks, MOST_BLOCKS)
    assert arms["fast"] == _looked(times, ended=FIRST_BLOCKS)["fast"]


def test_a_slower_arm_leaves_though_its_error_is_open() -> None:
    open_error = {"arm": _pairs(0.005, NOISY)}
    (slow,) = _looked({"arm": _pairs(-GAIN)}, open_error).values()
    assert (slow.stopped_at, slow.because, slow.accuracy.verdict) == (FIRST_BLOCKS, "slower", "undecided")
    (fast,) = _looked({"arm": _pairs(GAIN)}, {"arm": _pairs(0.005, 0.004)}).values()
    assert fast.stopped_at is not None and fast.stopped_at > FIRST_BLOCKS  # what its error is decides its use


def test_an_arm_with_little_chance_leaves_and_says_how_little() -> None:
    (arm,) = _looked({"arm": _pairs(0.0, 5 * NOISY)}).values()
    assert (arm.stopped_at, arm.because, arm.speed.verdict) == (FIRST_BLOCKS, "little_chance", "undecided")
    assert arm.chance is not None and 0 <= arm.chance < 0.2


def test_an_arm_without_a_single_pair_leaves_and_makes_it_no_harder_for_others() -> None:
    times = {"arm": _pairs(0.05, 0.0035)}
    alone = _looked(times)["arm"]
    both = _looked(times | {"failed": {}}, {"arm": _pairs(0.0), "failed": {}})
    assert both["failed"].because == "no_pair" and both["failed"].stopped_at == FIRST_BLOCKS
    assert both["failed"].speed.verdict is None
    assert both["arm"] == alone


def test_the_last_look_ends_every_arm() -> None:
    scatter = {block: 0.02 + 0.025 * (-1) ** block for block in range(MOST_BLOCKS)}
    arms = _looked({"arm": scatter}, {"arm": _pairs(0.02, 0.05)})
    assert arms["arm"].stopped_at is not None
    assert all(arm.stopped_at is not None for arm in arms.values())


def test_stops_that_something_else_decided_are_kept() -> None:
    times = {"a": _pairs(GAIN), "b": _pairs(GAIN)}
    own = _looked(times)
    given = {"a": own["a"], "b": Standing(stopped_at=5, because="last_look")}
    looked = _looked(times, ended_of={"a": 3, "b": 5}, baseline=5, stops=given)
    assert (looked["a"].stopped_at, looked["b"].stopped_at, looked["b"].because) == (3, 5, "last_look")
    assert looked["b"].speed == own["b"].speed  # decided at 3


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**16), arms=st.integers(1, 4), scatter=st.sampled_from([0.002, 0.01, 0.03]))
def test_the_order_in_which_arms_are_given_changes_nothing(seed: int, arms: int, scatter: float) -> None:
    chance = random.Random(seed)

    def drawn() -> dict[str, dict[int, float]]:
        means = {f"a{number}": chance.choice([0.0, GAIN, -0.005]) for number in range(arms)}
        return {arm: {n: chance.gauss(mean, scatter) for n in range(MOST_BLOCKS)} for arm, mean in means.items()}

    times, errors = drawn(), drawn()
    there, back = _looked(times, errors), _looked(dict(reversed(times.items())), dict(reversed(errors.items())))
    assert there == back
    for arm in there.values():
        assert arm.stopped_at in [look.blocks for look in LOOKS]


def test_equal_arms_are_within_the_margin_or_undecided() -> None:
    chance = random.Random(1)
    times = {f"a{arm}": {block: chance.gauss(0, 0.003) for block in range(MOST_BLOCKS)} for arm in range(5)}
    errors = {f"a{arm}": {block: chance.gauss(0, 0.002) for block in range(MOST_BLOCKS)} for arm in range(5)}
    assert {arm.speed.verdict for arm in _looked(times, errors).values()} <= {"within_margin", "undecided"}
