"""SCORES: name -> how important each head is. Importable without torch.

Every score is called as score(model, loss_batches=..., generator=...) and returns one tensor per layer with a number
per head that is left, in the order of `heads_per_layer`; the lowest leave first.
"""

from __future__ import annotations

from model.pruning.scores import ScoreFunction, magnitude, random, taylor

SCORES: dict[str, ScoreFunction] = {"random": random, "magnitude": magnitude, "taylor": taylor}
