"""When heads are removed during a trial, and which: joins a schedule, a score and the removal."""

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


TAYLOR_BATCHES = 8  # training batches for a score that needs gradients


class Pruner:
    """Removes heads from one trial's model. Epochs count from 1."""

    def __init__(self, config: PruningConfig, *, epochs: int, seed: int, zeroing: Zeroing | None = None) -> None:
        self._config, self._seed, self._zeroing = config, seed, zeroing
        self._removed = self._plan(epochs)

    def _plan(self, epochs: int) -> tuple[int, ...]:
        """How many heads each layer has lost before epoch 1, 2, ..."""
        count = self._config.heads_to_remove
        if self._config.score in ("none", "static"):
            return (count,) * epochs
        return tuple(SCHEDULES[self._config.schedule](count, epochs))

    @property
    def final_from_epoch(self) -> int:
        """First epoch that runs with the final number of heads."""
        return 1 + self._removed.index(self._removed[-1])

    def heads_at_ends(self, heads: int) -> list[int]:
        """How many of `heads` a layer has in the first and in the last epoch; one number if that is the same."""
        return [heads - removed for removed in dict.fromkeys((self._removed[0], self._removed[-1]))]

    def heads_after(self, epoch: int, heads: int) -> dict[int, int]:
        """Each epoch after `epoch` that begins with a removal -> how many of `heads` every layer then has left.

        This is known beforehand: scores decide which heads are removed, never how many.
        """
        removed = enumerate(pairwise(self._removed[epoch - 1 :]), start=epoch + 1)
        return {later: heads - after for later, (before, after) in removed if after > before}

    def prune_before(
        self,
        epoch: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        training_losses: Callable[[], Iterator[Callable[[], Tensor]]],
    ) -> int:
        """Remove the heads that are due before `epoch`. Returns how many each layer lost now.

        Raises PublishedFault if the replaced study's pruning fails as it did there.

        training_losses: yields functions, each of which computes the differentiable loss of one training batch.
        """
        if self._zeroing is not None and epoch == 1:
            _zero_heads(self._zeroing, self._config.heads, model)
        kept = heads_per_layer(model)
        removed = self._heads_at_start(model) - len(kept[0])
        due = self._removed[epoch - 1] - removed
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
    """Before the first epoch. The study pruned dynamically before its 16th, which a short training does not reach."""
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
