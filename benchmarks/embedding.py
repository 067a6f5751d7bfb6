"""Embedding, head and loss of a step without its layers: PyTorch's embedding beside ours. Needs a GPU.

    python benchmarks/embedding.py                           # the study's model at batch 128, bf16
    python benchmarks/embedding.py --presets study,ettm --json embedding.json

Patches are embedded, with the statistics that batch norm takes; the result goes straight to the head; the loss is mean
squared error of forecasts scaled back; then the backward pass. All of it is compiled by torch.compile and captured in a
CUDA graph, as the graph engine runs it, once with PyTorch's embedding and once with ours. Samples take turns; inputs
rotate, so that none is in the cache. Below each row: its kernels, longest first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CHANNELS, HORIZON = 7, 96
SAMPLES = 21


def main() -> None:
    """Parse, measure, print; exit 2 without a GPU and for wrong options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="study", help="comma-separated (default %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="windows of a step (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write everything there")
    options = parser.parse_args()
    from model.presets import PRESETS

    presets = options.presets.split(",")
    if unknown := sorted(set(presets) - set(PRESETS)):
        parser.error(f"unknown preset {unknown[0]!r}: choose of {', '.join(PRESETS)}")
    import torch

    if not torch.cuda.is_available():
        print("benchmarks/embedding.py needs a CUDA GPU and finds none: run it where there is one", file=sys.stderr)
        sys.exit(2)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {options.batch}, bf16")
    results = {preset: measure(preset, options.batch) for preset in presets}
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def measure(preset: str, batch: int) -> list[dict[str, Any]]:
    """A row with PyTorch's embedding and one with ours, printed as they are done."""
    from benchmarks.graph_timing import capture, elapsed_ms, repeats_of, time_in_graph

    rows: list[dict[str, Any]] = []
    graphs = []
    for ours in (False, True):
        calls = steps(preset, batch, ours=ours)
        rows.append({"embedding": "ours" if ours else "PyTorch's", "times_us": []})
        rows[-1]["kernels"] = time_in_graph(calls[:1], samples=1, kernels=True).kernels
        graphs.append((capture(calls), len(calls)))
    repeats = max(repeats_of(graph) for graph, _ in graphs)
    for turn in range(SAMPLES):
        order = list(zip(rows, graphs, strict=True))
        for row, (graph, count) in order if turn % 2 == 0 else reversed(order):
            row["times_us"].append(1e3 * elapsed_ms(graph, repeats) / count)
    for row in rows:
        row["median_us"] = statistics.median(row["times_us"])
        kernels = len(row["kernels"])
        print(f"{preset:<8} {row['embedding']:<9} {row['median_us']:8.2f} us in {kernels} kernels", flush=True)
        for name, ms in row["kernels"].items():
            print(f"    {1e3 * ms:7.2f}  {name[:110]}")
    return rows


def steps(preset: str, batch: int, *, ours: bool) -> list[Callable[[], Any]]:
    """Forward and backward pass of embedding, head and loss, on four sets of inputs."""
    import torch

    from model.fused import embedding
    from model.fused.dropout import dropout_seed
    from model.patchtst import build_model
    from model.presets import build_fields

    embedding.embedding_reason = lambda encoder: None if ours else "PyTorch's is asked for"
    torch._dynamo.reset()
    torch.manual_seed(0)
    fields = build_fields(preset) | {"num_channels": CHANNELS, "prediction_length": HORIZON, "attention": "patch"}
    model = build_model(**fields, layers="fused").cuda().train()
    encoder, statistics_wanted = model.model.encoder, fields["pre_norm"] and fields["norm_type"] == "batchnorm"
    parts = [encoder.embedder, encoder.positional_encoder, model.head]
    leaves = [leaf for part in parts for leaf in part.parameters() if leaf.requires_grad]

    def loss(patches: Any, scale: Any, loc: Any, future: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            seed = dropout_seed(patches) if embedding.position_rate(encoder) else None
            rows, partials = embedding.embed(encoder, patches, statistics=statistics_wanted, seed=seed)
            forecast = model.head(rows.view(*patches.shape[:3], -1)) * scale + loc
            return torch.nn.functional.mse_loss(forecast, future), partials

    compiled = torch.compile(loss, fullgraph=True, dynamic=False)
    n, p = model.model.patchifier.num_patches, fields["patch_length"]
    sizes = ((batch, CHANNELS, n, p), (batch, 1, CHANNELS), (batch, 1, CHANNELS), (batch, HORIZON, CHANNELS))

    def call(inputs: list[Any]) -> Any:
        value, partials = compiled(*inputs)
        return value, partials, torch.autograd.grad(value, leaves)

    sets = [[torch.randn(size, device="cuda") for size in sizes] for _ in range(4)]
    return [lambda inputs=inputs: call(inputs) for inputs in sets]


if __name__ == "__main__":
    main()
