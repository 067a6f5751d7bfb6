"""When heads leave during a trial, and which: joins a schedule, a score and the surgery."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from model.heads import heads_per_layer
from model.pruning import SCORES
from model.pruning.schedules import SCHEDULES
from model.pruning.surgery import remove_heads, select_heads
from tune.common.published import PublishedFault, Zeroing
from tune.config.trial_config import PruningConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


TAYLOR_BATCHES = 8  # training batches a gradient-based score is taken from


class Pruner:
    """The heads that leave one trial's model."""

    def __init__(self, config: PruningConfig, *, epochs: int, seed: int, zeroing: Zeroing | None = None) -> None:
        self._config, self._seed, self._zeroing = config, seed, zeroing
        self._removed = self._plan(epochs)

    def _plan(self, epochs: int) -> tuple[int, ...]:
        """Heads gone from each layer before epoch 1, 2, ..."""
        count = self._config.heads_to_remove
        if self._config.score in ("none", "static"):
            return (count,) * epochs
        return tuple(SCHEDULES[self._config.schedule](count, epochs))

    @property
    def final_from_epoch(self) -> int:
        """First epoch that runs with the final number of heads."""
        return 1 + self._removed.index(self._removed[-1])

    def heads_at_ends(self, heads: int) -> list[int]:
        """How many of `heads` a layer has in the first and in the last epoch; one number where that is the same."""
        return [heads - gone for gone in dict.fromkeys((self._removed[0], self._removed[-1]))]

    def heads_after(self, epoch: int, heads: int) -> dict[int, int]:
        """How many of `heads` each layer has left from each later epoch on in which some leave. `epoch` is from 1.

        The same in every layer, and known beforehand: scores decide which heads leave, never how many.
        """
        gone = enumerate(pairwise(self._removed[epoch - 1 :]), start=epoch + 1)
        return {later: heads - after for later, (before, after) in gone if after > before}

    def prune_before(
        self,
        epoch: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        training_losses: Callable[[], Iterator[Callable[[], Tensor]]],
    ) -> int:
        """Remove what is due before `epoch` (from 1). Returns how many heads left each layer now.

        Raises PublishedFault where the replaced study's pruning fails as it did there.

        training_losses: gives thunks that each compute the differentiable loss of one training batch.
        """
        if self._zeroing is not None and epoch == 1:
            _zero_heads(self._zeroing, self._config.heads, model)
        kept = heads_per_layer(model)
        already = self._heads_at_start(model) - len(kept[0])
        due = self._removed[epoch - 1] - already
        if due <= 0:
            return 0
        remove_heads(model, optimizer, self._choose(due, epoch, model, training_losses))
        return due

    def _choose(
        self,
        due: int,
        epoch: int,
        model: nn.Module,
        training_losses: Callable[[], Iterator[Callable[[], Tensor]]],
    ) -> dict[int, set[int]]:
        import torch

        kept = heads_per_layer(model)
        if self._config.score == "static":
            return {layer: set(self._config.heads) for layer in range(len(kept))}
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        scores = SCORES[self._config.score](model, loss_batches=training_losses(), generator=generator)
        return select_heads(scores, kept, due)

    @staticmethod
    def _heads_at_start(model: nn.Module) -> int:
        return model.config.num_attention_heads


def _zero_heads(zeroing: Zeroing, heads: Collection[int], model: nn.Module) -> None:
    """Before the first epoch. The study's dynamic pruning came before its 16th, which a short training has none of."""
    from model.as_published import zero_head_columns, zero_weakest_heads

    if zeroing == "given":
        zero_head_columns(model, heads)
        return
    try:
        zero_weakest_heads(model)
    except AttributeError as error:
        if "'device'" not in str(error):
            raise
        raise PublishedFault(f"AttributeError: {error}") from error
