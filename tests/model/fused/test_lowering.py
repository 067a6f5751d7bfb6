"""Our operators are known to torch's compiler before it meets them in a graph."""

from __future__ import annotations

from typing import NoReturn

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from model.patchtst import build_model
from model.presets import build_fields

pytest.importorskip("triton", reason="triton is not installed")
from model.fused.encoder import fuse


@pytest.mark.parametrize("preset", ["study", "etth"])
def test_fusing_a_model_tells_inductor_of_every_operator_in_its_graph(preset: str) -> None:
    from torch._inductor.lowering import lowerings, maybe_layout_constraints

    model = fuse(build_model(**build_fields(preset), num_channels=7, prediction_length=96, attention="eager")).train()
    seen: set[torch._ops.OpOverload] = set()

    def keep(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> NoReturn:
        seen.update(node.target for node in graph.graph.nodes if str(node.target).startswith("patchtst"))
        raise AssertionError("only the graph is asked for")

    past = torch.randn(2, model.config.context_length, 7)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(BackendCompilerFailed):
        torch.compile(model, backend=keep, fullgraph=True)(past_values=past, future_values=torch.randn(2, 96, 7))
    assert len(seen) >= 4
    for operator in seen:
        overload = operator if isinstance(operator, torch._ops.OpOverload) else operator.default
        assert overload in lowerings, operator
        assert maybe_layout_constraints(overload) is not None, operator
