"""Which trial a free GPU runs next, so that all trials of a block run on one GPU. Pure; knows nothing of Ray.

A block is the trials of one seed, in the order of the plan. A GPU takes a block, runs it to its end and takes the next.
If the GPU is lost, the rest of its block moves to one other GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tune.plan.plan import PlannedTrial

Record = Callable[[dict[str, str]], None]  # is given the GPU of every block that has begun, by the block's seed


@dataclass
class _Block:
    gpu: str | None  # on which it runs; None: not begun
    left: list[PlannedTrial] = field(default_factory=list)
    running: bool = False
    moved_because: str | None = None


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A trial for a GPU."""

    trial: PlannedTrial
    followed: bool  # whether another trial may follow on this GPU
    moved_because: str | None  # why its block does not run where it began; None: it does


class Blocks:
    """The trials that are left, by block.

    trials: in the order of the plan.
    begun: the GPU of each block that an earlier run of this sweep has begun, by seed.
    record: called before a block begins on a GPU, or moves to one.
    needed: which of some trials still have to run, in their order; one that has not to run now never has to again.
    may_begin: is given what is left of a block and whether it has begun, before its next trial. Once it refuses a new
        block, no other one begins; once it refuses the rest of one, no trial begins.
    """

    def __init__(
        self,
        trials: Sequence[PlannedTrial],
        *,
        begun: Mapping[str, str],
        record: Record,
        needed: Callable[[Iterable[PlannedTrial]], list[PlannedTrial]] = list,
        may_begin: Callable[[Sequence[PlannedTrial], bool], bool] = lambda block, begun: True,
    ) -> None:
        self._blocks: dict[str, _Block] = {}
        for trial in trials:
            seed = str(trial.seed)
            self._blocks.setdefault(seed, _Block(gpu=begun.get(seed))).left.append(trial)
        self._gpus, self._record, self._needed = dict(begun), record, needed
        self._may_begin, self._no_new, self._over = may_begin, False, False

    @property
    def done(self) -> bool:
        """Whether no trial is running, or left that may begin."""
        self._drop()
        return not any(block.running or self._goes_on(block) for block in self._blocks.values())

    def _goes_on(self, block: _Block) -> bool:
        return bool(block.left) and not self._over and not (self._no_new and block.gpu is None)

    def take(self, gpu: str, *, gpus: Collection[str] | None) -> Assignment | None:
        """The next trial for the free GPU `gpu`; None if no trial is left that may run on it.

        gpus: all GPUs that this sweep has now. None while that is unknown: no block moves then.
        """
        self._drop()
        seed = self._choose(gpu, gpus)
        if seed is None:
            return None
        block = self._blocks[seed]
        if not self._may_begin(block.left, block.gpu is not None):
            self._no_new, self._over = True, block.gpu is not None
            return None
        if block.gpu != gpu:
            if block.gpu is not None:
                block.moved_because = f"{block.gpu}, on which its block began, is gone"
            block.gpu = gpu
            self._gpus[seed] = gpu
            self._record(dict(self._gpus))
        block.running = True
        trial = block.left.pop(0)
        others = (other for other in self._blocks.values() if not other.running)
        followed = bool(block.left) or any(map(self._goes_on, others))
        return Assignment(trial=trial, followed=followed, moved_because=block.moved_because)

    def _drop(self) -> None:
        """Forget the trials that need not run any more."""
        for block in self._blocks.values():
            block.left = self._needed(block.left)

    def _choose(self, gpu: str, gpus: Collection[str] | None) -> str | None:
        """The block that began on `gpu` and has trials left, else the first that has no GPU."""
        waiting = {seed: block for seed, block in self._blocks.items() if self._goes_on(block) and not block.running}
        own = (seed for seed, block in waiting.items() if block.gpu == gpu)
        free = (
            seed for seed, block in waiting.items() if block.gpu is None or (gpus is not None and block.gpu not in gpus)
        )
        return next(own, None) or next(free, None)

    def ended(self, trial: PlannedTrial) -> None:
        """A trial that was taken has ended, however it did: its GPU is free."""
        self._blocks[str(trial.seed)].running = False

    def put_back(self, trial: PlannedTrial) -> None:
        """A trial that was taken lost its GPU: it is the next of its block again."""
        block = self._blocks[str(trial.seed)]
        block.running = False
        block.left.insert(0, trial)
