"""Our operators as torch's compiler meets them: calls of what they are, known before the first graph.

For an operator that it does not know, inductor builds a line of its log, and builds it where nobody reads that log. The
line spells out the arguments, theirs, and so on. An operator that stands behind three layers takes minutes that way
(PyTorch 2.11, torch/_inductor/graph.py, GraphLowering.call_function). What it registers afterwards is registered here.
"""

from __future__ import annotations

import torch

NAMESPACES = ("patchtst::", "patchtst_hopper::")


def register_operators() -> None:
    """Register every operator of ours that has been defined: call it after the modules that define them."""
    from torch._inductor.lowering import lowerings, make_fallback, tag_to_layout_constraint
    from torch._library.utils import get_layout_constraint_tag

    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith(NAMESPACES):
            continue
        namespace, operator = name.split("::")
        overload = getattr(getattr(torch.ops, namespace), operator).default
        if overload not in lowerings:
            constraint = tag_to_layout_constraint(get_layout_constraint_tag(overload, with_default=True))
            make_fallback(overload, layout_constraint=constraint, warn=False)
