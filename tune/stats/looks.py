"""When a sweep with `--repeats auto` has seen enough of an arm: looks after 3, 5 and 10 blocks. Pure arithmetic.

Each look asks three questions of the arms that still run, and spends a share of each question's allowed error: is the
arm's time another than the baseline's (all arms together), is it within SPEED_MARGIN (each arm), is its validation
error not worse (each arm)? The shares add up to ALPHA, so by Boole's inequality the error over all looks together is
at most ALPHA, whatever the scatter is, whoever stopped before, and whatever made them stop.

For the first question the arms are one Holm family (tune.stats.intervals.holm). An arm that stopped without being found
different still counts for that family, as if its p were 1: otherwise stopping the dull arms would make it easier for
the rest.

When an arm stops: `_stopped`. What it has a chance of: tune/stats/chances.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from tune.stats.chances import accuracy_chance, likely_scatter, speed_chance
from tune.stats.intervals import ALPHA, MIN_PAIRS, Bounds, Mean, holm, mean_of, ratio_interval, tested
from tune.stats.verdicts import (
    BOTH_DECIDED,
    FASTER,
    IS_SLOWER,
    LAST_LOOK,
    LITTLE_CHANCE,
    NO_PAIR,
    NOT_WORSE,
    SLOWER,
    UNDECIDED,
    WITHIN_MARGIN,
    WORSE,
)

SPEED_MARGIN = 0.01  # an interval inside +-1 % shows that two times are as good as equal
LEAST_CHANCE = 0.20  # of an open question's being decided at the last look; with less an arm stops


@dataclass(frozen=True, kw_only=True)
class Look:
    """A test of all arms that still run."""

    blocks: int  # after so many blocks
    alpha: float  # its share of each question's allowed error

    def __post_init__(self) -> None:
        assert self.blocks >= MIN_PAIRS


LOOKS = (Look(blocks=3, alpha=0.01), Look(blocks=5, alpha=0.015), Look(blocks=10, alpha=0.025))
assert math.isclose(sum(look.alpha for look in LOOKS), ALPHA)
FIRST_BLOCKS, MOST_BLOCKS = LOOKS[0].blocks, LOOKS[-1].blocks


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the looks have shown about one question, for one arm."""

    verdict: str | None = None  # a code of tune.stats.verdicts; None: too few pairs
    look: int | None = None  # the blocks of the look that decided, or of the latest one; None: no look yet
    alpha: float | None = None  # that look's share of the allowed error
    value: float | None = None  # of that look: the ratio of times, or the relative difference of errors
    interval: Bounds | None = None  # of the same
    level: float | None = None  # the error that the interval is allowed; of an error's, its upper bound
    count: int = 0  # pairs

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
    because: str | None = None  # a code of tune.stats.verdicts.STOP_WORDS
    chance: float | None = None  # with LITTLE_CHANCE: that of the likeliest open question


Pairs = Mapping[int, float]  # block, counted from 0 -> its pair's value; a block whose pair does not count is absent
Arms = Mapping[str, Standing]
Means = Mapping[str, Mean | None]


def standings(
    times: Mapping[str, Pairs],
    errors: Mapping[str, Pairs],
    *,
    ended: Mapping[str, Collection[int]],
    baseline: Collection[int],
    margin: float,
    stops: Arms | None = None,
) -> dict[str, Standing]:
    """Every arm after all looks that can be made. The same trials give the same answer, in whatever order they ended.

    A look is made once the baseline and each arm that still runs have ended all its blocks.

    times: log(baseline's time / arm's) by arm and block.
    errors: the arm's validation error over the baseline's, less 1, by arm and block; the same arms.
    ended: the blocks of which the arm's trial has ended, however it did; the same arms.
    baseline: the blocks of which the baseline's trial has ended.
    margin: an error at most this much above the baseline's counts as equal.
    stops: where arms stop, if something else decided that, as for another margin; None: these looks decide it.
    """
    arms = dict.fromkeys(times, Standing())
    for look in LOOKS:
        running = [arm for arm, standing in arms.items() if standing.stopped_at is None]
        blocks = set(range(look.blocks))
        if not running or not all(blocks <= set(each) for each in (baseline, *(ended[arm] for arm in running))):
            break
        seen_times, seen_errors = ({arm: _first(pairs[arm], look) for arm in running} for pairs in (times, errors))
        arms |= _speeds(look, seen_times, arms)
        arms |= _accuracies(look, seen_errors, arms, margin)
        if stops is None:
            arms |= _stopped(look, seen_times, seen_errors, arms, margin)
        else:
            arms |= {arm: _as(stops[arm], arms[arm]) for arm in running if stops[arm].stopped_at == look.blocks}
    return arms


def _first(pairs: Pairs, look: Look) -> Mean | None:
    """The mean of the pairs that a look sees."""
    return mean_of([value for block, value in sorted(pairs.items()) if block < look.blocks])


def _speeds(look: Look, means: Means, arms: Arms) -> dict[str, Standing]:
    now = tested({arm: mean for arm, mean in means.items() if not arms[arm].speed.decided})
    before = [arm for arm, each in arms.items() if each.speed.look is not None and arm not in now]
    absent = sum(arms[arm].speed.verdict not in (FASTER, SLOWER) for arm in before)
    steps = holm(now, alpha=look.alpha, absent=absent)
    found = {}
    for arm, mean in now.items():
        level, near = steps[arm].level, ratio_interval(mean, 2 * look.alpha)
        verdict, interval = UNDECIDED, ratio_interval(mean, level)
        if steps[arm].p_holm < look.alpha:
            verdict = FASTER if mean.value > 0 else SLOWER
        elif near[0] > 1 / (1 + SPEED_MARGIN) and near[1] < 1 + SPEED_MARGIN:
            verdict, interval, level = WITHIN_MARGIN, near, 2 * look.alpha
        answer = _answer(look, mean, verdict, math.exp(mean.value), interval, level)
        found[arm] = replace(arms[arm], speed=answer)
    return found


def _accuracies(look: Look, means: Means, arms: Arms, margin: float) -> dict[str, Standing]:
    now = tested({arm: mean for arm, mean in means.items() if not arms[arm].accuracy.decided})
    family = len({*now, *(arm for arm, each in arms.items() if each.accuracy.look is not None)})
    found = {}
    for arm, mean in now.items():
        low, high = mean.value - mean.reach(look.alpha / family), mean.value + mean.reach(look.alpha)
        verdict = NOT_WORSE if high < margin else WORSE if low > 0 else UNDECIDED
        found[arm] = replace(arms[arm], accuracy=_answer(look, mean, verdict, mean.value, (low, high), look.alpha))
    return found


def _answer(look: Look, mean: Mean, verdict: str, value: float, interval: Bounds, level: float) -> Answer:
    seen = mean.count
    return Answer(
        verdict=verdict, look=look.blocks, alpha=look.alpha, value=value, interval=interval, level=level, count=seen
    )


def _as(stop: Standing, arm: Standing) -> Standing:
    return replace(arm, stopped_at=stop.stopped_at, because=stop.because, chance=stop.chance)


def _stopped(look: Look, times: Means, errors: Means, arms: Arms, margin: float) -> dict[str, Standing]:
    """The arms that stop at this look.

    An arm stops when its speed and its error are decided, and at the last look. It also stops when it is slower: what
    its error is then changes no choice. Before the last look it stops if no open question has a fair chance of being
    decided there. The error is no open question where the speed is undecided without such a chance.
    """
    family = max(1, sum(each.speed.look is not None for each in arms.values()))
    found = {}
    time_scatter, error_scatter = likely_scatter(times.values()), likely_scatter(errors.values())
    for arm in times:
        now = arms[arm]
        chance: float | None = None
        if times[arm] is None and errors[arm] is None:
            because = NO_PAIR
        elif now.speed.decided and now.accuracy.decided:
            because = BOTH_DECIDED
        elif now.speed.verdict == SLOWER:
            because = IS_SLOWER
        elif look is LOOKS[-1]:
            because = LAST_LOOK
        else:
            chance = 1.0
            if not now.speed.decided:
                chance = speed_chance(times[arm], time_scatter, LOOKS[-1].alpha, family, math.log1p(SPEED_MARGIN))
            if not now.accuracy.decided and chance >= LEAST_CHANCE:
                of_error = accuracy_chance(errors[arm], error_scatter, LOOKS[-1].alpha, family, margin)
                chance = of_error if now.speed.decided else max(chance, of_error)
            if chance >= LEAST_CHANCE:
                continue
            because = LITTLE_CHANCE
        found[arm] = replace(now, stopped_at=look.blocks, because=because, chance=chance)
    return found
