"""Which of the known trials begin, and when none does any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blocks_kit import plan_of
from ray.tune.search import Searcher

from tune.driver.listed import Listed
from tune.plan.plan import PlannedTrial


class Asked:
    """Keeps what it was asked, and refuses when told to."""

    def __init__(self, refuse_at: int = 10**6) -> None:
        self.blocks: list[tuple[list[str], bool]] = []
        self.refuse_at = refuse_at

    def __call__(self, block: Sequence[PlannedTrial], begun: bool) -> bool:
        self.blocks.append(([trial.trial_id for trial in block], begun))
        return len(self.blocks) <= self.refuse_at


def _suggestion(trial: PlannedTrial, followed: bool) -> dict[str, Any]:
    return {"id": trial.trial_id, "followed": followed}


def test_trials_begin_in_their_order_and_the_last_ones_are_followed_by_none() -> None:
    trials = plan_of(arms=2, repeats=2).trials
    searcher = Listed(trials, _suggestion, at_a_time=2, may_begin=Asked())
    given = [searcher.suggest(str(number)) for number in range(5)]
    assert [each["id"] for each in given[:4]] == [trial.trial_id for trial in trials]
    assert [each["followed"] for each in given[:4]] == [True, True, False, False]
    assert given[4] == Searcher.FINISHED


def test_a_block_is_asked_for_as_a_whole_once_and_then_for_its_rest() -> None:
    trials, asked = plan_of(arms=2, repeats=2).trials, Asked()
    searcher = Listed(trials, _suggestion, at_a_time=1, may_begin=asked, in_blocks=True)
    names = [searcher.suggest(str(number))["id"] for number in range(4)]
    assert asked.blocks == [(names[:2], False), (names[1:2], True), (names[2:], False), (names[3:], True)]


def test_after_a_refusal_no_trial_begins() -> None:
    trials, asked = plan_of(arms=2, repeats=2).trials, Asked(refuse_at=2)
    searcher = Listed(trials, _suggestion, at_a_time=1, may_begin=asked, in_blocks=True)
    assert [searcher.suggest(str(number)) == Searcher.FINISHED for number in range(5)] == [False, False, *[True] * 3]
    assert len(asked.blocks) == 3
