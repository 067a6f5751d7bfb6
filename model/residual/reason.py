"""Residual attention: a layer's scores are added to those of the layer before it, head by head, before the softmax.

RealFormer (He et al. 2020, arXiv 2012.11747), as the official PatchTST uses it (layers/PatchTST_backbone.py).
Importable without torch.
"""

from __future__ import annotations

COMPUTED = {"attention": "eager", "layers": "transformers", "recompute": "never", "as_published": None}
OFF = "model.residual_attention=false"
PRUNED = (
    "residual attention adds a head's scores to those of the same head in the next layer, so no head can leave: set "
    f"pruning.score=none or {OFF}"
)


def residual_reason(*, attention: str, layers: str, recompute: str, as_published: str | None) -> str | None:
    """Why layers that are computed so cannot hand on their scores, in one line; None where they can."""
    how = {"attention": attention, "layers": layers, "recompute": recompute, "as_published": as_published}
    wrong = next((name for name, value in how.items() if value != COMPUTED[name]), None)
    if wrong == "as_published":
        return f"an arm of the replaced study has no residual attention: set {OFF}"
    if wrong is not None:
        return (
            f"residual attention needs the scores of each layer in memory, and {wrong} {how[wrong]} keeps none: set "
            f"model.{wrong}={COMPUTED[wrong]} or {OFF}"
        )
    return None
