"""When a sweep with `--repeats auto` has seen enough of an arm: looks after 3, 5 and 10 blocks. Pure arithmetic.

Each look tests the arms that still run, and spends its own share of the allowed error. The shares add up to ALPHA, so
by Boole's inequality the error over all looks together is at most ALPHA, whatever the scatter is, whoever stopped
before, and whatever made them stop. At a look the arms are one Holm family (tune.stats.intervals.holm). An arm that
stopped without being found different still counts for that family, as if its p were 1: otherwise stopping the dull
arms would make it easier for the rest.

An arm stops once both its questions are decided: speed (faster, slower or within the margin) and validation error (not
worse, or worse). After 5 blocks it also stops if neither open question has a fair chance of being decided at 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from scipy.special import ndtr, stdtrit

from tune.stats.intervals import ALPHA, MIN_PAIRS, Bounds, Mean, holm, mean_of, ratio_interval, tested
from tune.stats.verdicts import FASTER, NOT_WORSE, SLOWER, UNDECIDED, WITHIN_MARGIN, WORSE

SPEED_MARGIN = 0.01  # an interval inside +-1 % shows that two times are as good as equal
LEAST_CHANCE = 0.20  # of an open question's being decided at the last look; with less an arm stops


@dataclass(frozen=True, kw_only=True)
class Look:
    """A test of all arms that still run."""

    blocks: int  # after so many blocks
    alpha: float  # its share of the allowed error

    def __post_init__(self) -> None:
        assert self.blocks >= MIN_PAIRS


LOOKS = (Look(blocks=3, alpha=0.01), Look(blocks=5, alpha=0.015), Look(blocks=10, alpha=0.025))
assert math.isclose(sum(look.alpha for look in LOOKS), ALPHA)
MOST_BLOCKS = LOOKS[-1].blocks

BOTH_DECIDED, LITTLE_CHANCE, LAST_LOOK = "both decided", "little chance of more", "last look"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the looks have shown about one question, for one arm."""

    verdict: str | None = None  # a code of tune.stats.verdicts; None: too few pairs
    look: int | None = None  # the blocks of the look that decided, or of the latest one; None: no look yet
    interval: Bounds | None = None  # of that look: a ratio of times, or a relative difference of errors
    level: float | None = None  # the error that the interval's side is allowed

    @property
    def decided(self) -> bool:
        """Whether no later look asks again."""
        return self.verdict not in (None, UNDECIDED)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One arm after the looks so far."""

    speed: Answer = Answer()
    accuracy: Answer = Answer()
    stopped_at: int | None = None  # blocks after which the arm runs no more; None: it still runs
    because: str | None = None  # one of BOTH_DECIDED, LITTLE_CHANCE, LAST_LOOK
    chance: float | None = None  # with LITTLE_CHANCE: that of the likeliest open question


Pairs = Mapping[int, float]  # block, counted from 0 -> its pair's value; a block whose pair does not count is absent


def standings(
    times: Mapping[str, Pairs], errors: Mapping[str, Pairs], *, blocks: int, margin: float
) -> dict[str, Standing]:
    """Every arm after all looks that `blocks` finished blocks allow. The same pairs give the same answer.

    times: log(baseline's time / arm's) by arm and block.
    errors: the arm's validation error over the baseline's, less 1, by arm and block; the same arms.
    margin: an error at most this much above the baseline's counts as equal.
    """
    arms = dict.fromkeys(times, Standing())
    for look in LOOKS:
        if look.blocks > blocks:
            break
        running = [arm for arm, standing in arms.items() if standing.stopped_at is None]
        arms |= _speeds(look, {arm: _first(times[arm], look) for arm in running}, arms)
        arms |= _accuracies(look, {arm: _first(errors[arm], look) for arm in running}, arms, margin)
        for arm in running:
            arms[arm] = _stopped(
                look, arms[arm], _first(times[arm], look), _first(errors[arm], look), margin, len(arms)
            )
    return arms


def _first(pairs: Pairs, look: Look) -> Mean | None:
    """The mean of the pairs that a look sees."""
    return mean_of([value for block, value in sorted(pairs.items()) if block < look.blocks])


def _speeds(look: Look, means: Mapping[str, Mean | None], arms: Mapping[str, Standing]) -> dict[str, Standing]:
    open_means = {arm: mean for arm, mean in means.items() if not arms[arm].speed.decided}
    differ = sum(standing.speed.verdict in (FASTER, SLOWER) for standing in arms.values())
    now = tested(open_means)
    steps = holm(open_means, alpha=look.alpha, absent=len(arms) - differ - len(now))
    found = {}
    for arm, mean in now.items():
        interval = ratio_interval(mean, steps[arm].level)
        verdict = UNDECIDED
        if steps[arm].p_holm < look.alpha:
            verdict = FASTER if mean.value > 0 else SLOWER
        elif interval[0] > 1 / (1 + SPEED_MARGIN) and interval[1] < 1 + SPEED_MARGIN:
            verdict = WITHIN_MARGIN
        answer = Answer(verdict=verdict, look=look.blocks, interval=interval, level=steps[arm].level)
        found[arm] = replace(arms[arm], speed=answer)
    return found


def _accuracies(
    look: Look, means: Mapping[str, Mean | None], arms: Mapping[str, Standing], margin: float
) -> dict[str, Standing]:
    found = {}
    for arm, mean in tested(means).items():
        if arms[arm].accuracy.decided:
            continue
        low, high = mean.value - mean.reach(look.alpha / len(arms)), mean.value + mean.reach(look.alpha)
        verdict = NOT_WORSE if high < margin else WORSE if low > 0 else UNDECIDED
        answer = Answer(verdict=verdict, look=look.blocks, interval=(low, high), level=look.alpha)
        found[arm] = replace(arms[arm], accuracy=answer)
    return found


def _stopped(look: Look, arm: Standing, time: Mean | None, error: Mean | None, margin: float, family: int) -> Standing:
    if arm.speed.decided and arm.accuracy.decided:
        return replace(arm, stopped_at=look.blocks, because=BOTH_DECIDED)
    if look is LOOKS[-1]:
        return replace(arm, stopped_at=look.blocks, because=LAST_LOOK)
    if look is LOOKS[-2]:
        chances = [_speed_chance(time, family)] if not arm.speed.decided else []
        chances += [_accuracy_chance(error, margin, family)] if not arm.accuracy.decided else []
        if max(chances) < LEAST_CHANCE:
            return replace(arm, stopped_at=look.blocks, because=LITTLE_CHANCE, chance=max(chances))
    return arm


def _speed_chance(mean: Mean | None, family: int) -> float:
    """The chance that the last look decides an arm's speed, if the pairs to come scatter around the present mean."""
    future = _Future.of(mean)
    if future is None:
        return 1.0
    reach = future.reach(LOOKS[-1].alpha / family / 2)
    near = math.log1p(SPEED_MARGIN) - reach
    differs = future.above(reach) + future.below(-reach)
    return differs + (future.below(near) - future.below(-near) if near > 0 else 0.0)


def _accuracy_chance(mean: Mean | None, margin: float, family: int) -> float:
    """The same of an arm's validation error."""
    future = _Future.of(mean)
    if future is None:
        return 1.0
    alpha = LOOKS[-1].alpha
    return future.below(margin - future.reach(alpha)) + future.above(future.reach(alpha / family))


@dataclass(frozen=True, kw_only=True)
class _Future:
    """The mean at the last look: normal around the present one, with the present scatter taken as the true one."""

    mean: float
    scatter: float  # of one pair
    error: float  # of the last look's mean, given the pairs so far

    @classmethod
    def of(cls, mean: Mean | None) -> _Future | None:
        """None where too few pairs say anything."""
        if mean is None or mean.count < MIN_PAIRS:
            return None
        scatter, coming = mean.error * math.sqrt(mean.count), MOST_BLOCKS - mean.count
        return cls(mean=mean.value, scatter=scatter, error=max(scatter * math.sqrt(coming) / MOST_BLOCKS, 1e-12))

    def reach(self, tail: float) -> float:
        return float(stdtrit(MOST_BLOCKS - 1, 1 - tail)) * self.scatter / math.sqrt(MOST_BLOCKS)

    def below(self, bound: float) -> float:
        return float(ndtr((bound - self.mean) / self.error))

    def above(self, bound: float) -> float:
        return float(ndtr((self.mean - bound) / self.error))
