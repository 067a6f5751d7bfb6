"""From which sequence length FlashAttention pays: every attention backend, short sequences to long. Needs a GPU.

    python benchmarks/crossover.py --json crossover.json --budget-s 85      # the same command goes on where it stopped
    python benchmarks/crossover.py --json crossover.json --show --plot crossover.svg         # tables and plot; no GPU

One forward and backward pass in a CUDA graph, without mask and dropout. Heads x head width is 128. All lengths have the
same 37,632 tokens, those of the study's model at batch 128 (896 sequences of 42), up to half a sequence. So the bytes
of q, k and v are the same everywhere, and plain attention's scores grow with the length. "Cold": inputs rotate over
enough sets that a set is reused only after three times the cache.

Before a backend is timed, the first sequences of its output and gradients are compared with eager in fp64. Samples of
the backends take turns, in an order that changes each time. A ratio is of two samples of one turn: the reference's time
over the backend's, so above 1 the backend is faster. Its interval is the 95 % interval of the median over the turns. It
knows nothing of what differs from one process to the next.

Cells are length x width, the most telling first. Each is written when it is done, and cells of the file are not
measured again. A backend that cannot run a cell keeps its reason, and one that fails its error.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.attention_inputs import BYTES, Shape, exact, make_inputs
from benchmarks.attention_passes import environment, errors_of, function_of, one_pass, unsupported
from benchmarks.crossover_report import line, show
from model.attention import BACKENDS

LENGTHS = (42, 512, 128, 16, 1024, 64, 256, 8, 32)  # the most telling first
WIDTHS = (8, 16, 32, 64)
MODEL_WIDTH = 128  # heads x head width
TOKENS = 37_632
REFERENCES = ("eager", "sdpa_efficient")
COMPILED_IN_PYTHON = ("patch", "flex", "flash_attention_4")
MOST_SCORES = 2**25  # of the fp64 check: as many sequences as have no more, at most CHECKED
CHECKED = 64
SAMPLES = 21


def main() -> None:
    """Measure what the file lacks, then show it; exit 2 for wrong options, another file and a machine without a GPU."""
    options = parse(sys.argv[1:])
    begun = time.monotonic()
    if options.show:
        return show(stored(options.json), options.plot)
    import torch

    if not torch.cuda.is_available():
        refuse("it needs a CUDA GPU and finds none: run it on a machine with a GPU, or --show a file that it wrote")
    torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
    results = begin(options, environment())
    known = {(cell["length"], cell["width"]) for cell in results["cells"]}
    wanted = [cell for cell in cells(options.lengths, options.widths) if cell not in known]
    prepare(wanted, options)
    print(f"compiled after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    for at, (length, width) in enumerate(wanted):
        if time.monotonic() - begun > options.budget_s:
            left = f"{len(wanted) - at} of {len(wanted)} cells left out, --budget-s {options.budget_s:g} is used up"
            print(f"{left}: the same command goes on", file=sys.stderr)
            break
        results["cells"].append(measure(length, width, options))
        save(options.json, results)
        print(line(results["cells"][-1]), flush=True)
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:  # nothing can run in this process any more
            print(f"error: the GPU's context is lost ({error}): the same command goes on", file=sys.stderr)
            sys.exit(1)
    show(results, options.plot)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the results; cells that it holds are not run again")
    parser.add_argument("--precision", choices=sorted(BYTES), default="bf16")
    parser.add_argument("--backends", type=names, default=list(BACKENDS), help="comma-separated (default: all)")
    parser.add_argument("--lengths", type=numbers, default=list(LENGTHS), help="sequence lengths, comma-separated")
    parser.add_argument("--widths", type=numbers, default=list(WIDTHS), help=f"head widths; each divides {MODEL_WIDTH}")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="turns of a cell, 6 or more (default %(default)s)")
    parser.add_argument("--budget-s", type=float, default=600.0, help="no cell begins after this (default %(default)g)")
    parser.add_argument("--workers", type=int, default=min(14, os.cpu_count() or 1), help="processes that compile")
    parser.add_argument("--show", action="store_true", help="only show what --json holds")
    parser.add_argument("--plot", type=Path, help="write a plot there, as .svg, .png or .pdf")
    options = parser.parse_args(arguments)
    if wrong := [width for width in options.widths if MODEL_WIDTH % width]:
        parser.error(f"--widths {wrong[0]}: heads x width is {MODEL_WIDTH}, give numbers that divide it")
    if options.samples < 6:
        parser.error(f"--samples {options.samples}: the interval of a median needs 6 or more")
    if options.plot and options.plot.suffix not in (".svg", ".png", ".pdf"):
        parser.error(f"--plot {options.plot}: give a file that ends in .svg, .png or .pdf")
    return options


def names(given: str) -> list[str]:
    """The backends of a comma-separated list, the references first."""
    wanted = list(dict.fromkeys([*REFERENCES, *given.split(",")]))
    if unknown := sorted(set(wanted) - set(BACKENDS)):
        raise argparse.ArgumentTypeError(f"unknown backend {unknown[0]!r}: choose of {', '.join(BACKENDS)}")
    return wanted


def numbers(given: str) -> list[int]:
    """Positive whole numbers of a comma-separated list."""
    try:
        found = [int(number) for number in given.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{given!r}: give whole numbers from 1 on, as in 8,16")
    return found


def cells(lengths: list[int], widths: list[int]) -> Iterator[tuple[int, int]]:
    """Length and width of each cell, all widths of a length together."""
    return ((length, width) for length in dict.fromkeys(lengths) for width in dict.fromkeys(widths))


def shape_of(length: int, width: int) -> Shape:
    """Sequences, length, heads and head width of a cell."""
    return max(1, round(TOKENS / length)), length, MODEL_WIDTH // width, width


def begin(options: argparse.Namespace, machine: dict[str, Any]) -> dict[str, Any]:
    """The file's results, or new ones; exit 2 if the file was measured otherwise or elsewhere."""
    asked = {"precision": options.precision, "samples": options.samples, "backends": sorted(options.backends)}
    if not options.json.exists():
        return {"environment": machine, "options": asked, "cells": []}
    results = stored(options.json)
    there = results["environment"] | results["options"]
    here = machine | asked
    for name in ("gpu", "cuda", "versions", *asked):
        if there.get(name) != here[name]:
            refuse(
                f"--json {options.json} was measured with {name} {there.get(name)} and this run has {here[name]}: "
                "give another file"
            )
    return results


def stored(path: Path) -> dict[str, Any]:
    """The results in a file; exit 2 if there are none."""
    try:
        results = json.loads(path.read_text())
        results["cells"], results["options"], results["environment"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        refuse(f"--json {path} cannot be read as results of this program ({type(error).__name__}): give another file")
    return results


def save(path: Path, results: dict[str, Any]) -> None:
    """The results, written whole or not at all."""
    beside = path.with_suffix(path.suffix + ".part")
    beside.write_text(json.dumps(results, default=str) + "\n")
    beside.replace(path)


def refuse(reason: str) -> Any:
    """One line on stderr, exit 2."""
    print(f"benchmarks/crossover.py: {reason}", file=sys.stderr)
    sys.exit(2)


def prepare(wanted: list[tuple[int, int]], options: argparse.Namespace) -> None:
    """Compile in processes what is compiled in Python, so that the disk has it when it is timed."""
    jobs = [(name, cell, options.precision) for cell in wanted for name in options.backends]
    jobs = [job for job in jobs if job[0] in COMPILED_IN_PYTHON and runs(*job)]
    if jobs:
        until = time.monotonic() + options.budget_s / 2
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        with multiprocessing.get_context("spawn").Pool(min(options.workers, len(jobs))) as pool:
            for job in [pool.apply_async(compile_one, job) for job in jobs]:
                job.wait(max(0.0, until - time.monotonic()))  # what is not ready is compiled when its turn comes


def runs(name: str, cell: tuple[int, int], precision: str) -> bool:
    """Whether the backend can run the cell here."""
    return unsupported(BACKENDS[name], shape_of(*cell), precision) is None


def compile_one(name: str, cell: tuple[int, int], precision: str) -> None:
    """One pass, for what it leaves on the disk. What it raises is raised again when the backend is measured."""
    one_pass(function_of(BACKENDS[name]), *make_inputs(shape_of(*cell), precision, 0))()


def measure(length: int, width: int, options: argparse.Namespace) -> dict[str, Any]:
    """A cell: of each backend its errors and times in ms, or why it cannot run, or how it failed."""
    from benchmarks.graph_timing import capture, elapsed_ms, repeats_of, sets_to_flush

    shape = sequences, _, heads, _ = shape_of(length, width)
    count = sets_to_flush(4 * sequences * length * MODEL_WIDTH * BYTES[options.precision])
    inputs = [make_inputs(shape, options.precision, seed) for seed in range(count)]
    part = min(CHECKED, sequences, max(1, MOST_SCORES // (heads * length**2)))
    true = exact([leaf[:part] for leaf in inputs[0][0]], inputs[0][1][:part])
    found: dict[str, dict[str, Any]] = {}
    graphs: dict[str, tuple[Any, int]] = {}
    for name in options.backends:
        try:
            if reason := unsupported(BACKENDS[name], shape, options.precision):
                found[name] = {"unsupported": reason}
                continue
            attend = function_of(BACKENDS[name])
            calls = [one_pass(attend, *each) for each in inputs]
            errors = errors_of([tensor[:part] for tensor in calls[0]()], true, options.precision)
            graph = capture(calls)
            graphs[name] = graph, repeats_of(graph)
            found[name] = {"errors": {key: float(f"{error:.3g}") for key, error in errors.items()}, "ms": []}
        except Exception as error:  # a backend keeps its error, the others go on
            found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    for turn in range(options.samples):
        for name in list(graphs) if turn % 2 == 0 else reversed(list(graphs)):
            found[name]["ms"].append(float(f"{elapsed_ms(*graphs[name]) / count:.5g}"))
    return {
        "length": length, "width": width, "shape": list(shape), "sets": count, "checked": part, "backends": found,
    }  # fmt: skip


if __name__ == "__main__":
    main()
