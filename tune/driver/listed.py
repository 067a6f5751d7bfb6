"""Known trials behind Tune's Searcher: the next one begins when another ends, if there is time for it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from tune.plan.plan import PlannedTrial

Suggestion = Callable[[PlannedTrial, bool], dict[str, Any]]  # trial, whether another follows on its device
MayBegin = Callable[[Sequence[PlannedTrial], bool], bool]  # what is left of a block, whether it has begun


class Listed(Searcher):
    """Suggests trials in their order. Nothing is searched.

    suggestion: what Tune is given for a trial.
    at_a_time: how many run at a time: the last ones are followed by none.
    may_begin: asked before each trial, or before each block of trials of one seed if they are `in_blocks`. Once it
        refuses, no trial follows.
    """

    def __init__(
        self,
        trials: Sequence[PlannedTrial],
        suggestion: Suggestion,
        *,
        at_a_time: int,
        may_begin: MayBegin,
        in_blocks: bool = False,
    ) -> None:
        super().__init__()
        self._waiting, self._suggestion, self._at_a_time = deque(trials), suggestion, at_a_time
        self._may_begin, self._in_blocks = may_begin, in_blocks
        self._begun: set[int] = set()  # seeds

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher beside its state; ours is never read back

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the plan and the outbox say what is left."""

    def suggest(self, trial_id: str) -> Any:
        """The next trial, or FINISHED."""
        if not self._waiting:
            return Searcher.FINISHED
        first = self._waiting[0]
        block = [first]
        if self._in_blocks:  # whose trials follow each other
            block = list(itertools.takewhile(lambda trial: trial.seed == first.seed, self._waiting))
        if not self._may_begin(block, self._in_blocks and first.seed in self._begun):
            self._waiting.clear()
            return Searcher.FINISHED
        self._begun.add(first.seed)
        trial = self._waiting.popleft()
        return self._suggestion(trial, len(self._waiting) >= self._at_a_time)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: no result changes what runs next."""
