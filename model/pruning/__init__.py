"""SCORES: name -> how important each head is. Importable without torch.

A score is called as score(model, loss_batches=..., generator=...). It returns a tensor [K] per layer, one number for
each of the K heads left, in the order of `heads_per_layer`. The heads with the lowest scores are removed first.
"""

from __future__ import annotations

from model.pruning.scores import ScoreFunction, magnitude, random, taylor

SCORES: dict[str, ScoreFunction] = {"random": random, "magnitude": magnitude, "taylor": taylor}
