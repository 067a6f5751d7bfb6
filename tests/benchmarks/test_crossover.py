"""The crossover benchmark without a GPU: its cells, what it keeps and refuses, and what it says of recorded times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import crossover, graph_timing
from benchmarks.crossover_report import bounds, crossing, draw, ratio, tables

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"gpu": "a GPU", "cuda": "13.0", "versions": {"torch": "2.11"}}


def cell(length: int, width: int = 8, **ms: float | str) -> dict[str, Any]:
    """A recorded cell: a time in ms is every sample's, a text is the reason why there is none."""
    found = {
        name: {"unsupported": each} if isinstance(each, str) else {"errors": {}, "ms": [each] * 6}
        for name, each in ms.items()
    }
    return {"length": length, "width": width, "shape": [1, length, 16, width], "backends": found}


def results(*cells: dict[str, Any]) -> dict[str, Any]:
    options = {"precision": "bf16", "samples": 21, "backends": sorted(crossover.BACKENDS)}
    return {"environment": MACHINE, "options": options, "cells": list(cells)}


def found(*speeds: float, first: int = 8) -> str:
    """What is said of a backend that is so many times as fast as eager at 8, 16, 32, ..."""
    cells = [cell(first * 2**at, eager=speed, flash=1.0) for at, speed in enumerate(speeds)]
    return str(crossing([known for each in cells if (known := ratio(each, "flash", "eager"))]))


def test_without_a_gpu_it_says_so_in_one_line_and_exits_2(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "benchmarks/crossover.py", "--json", str(tmp_path / "new.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a CUDA GPU" in done.stderr and done.stderr.count("\n") == 1


def test_all_cells_have_the_same_tokens_up_to_half_a_sequence_and_the_studys_is_first() -> None:
    cells = list(crossover.cells(crossover.LENGTHS, crossover.WIDTHS))
    assert len(cells) == 36 and crossover.shape_of(*cells[0]) == (896, 42, 16, 8)
    for length, width in cells:
        sequences, _, heads, _ = crossover.shape_of(length, width)
        assert heads * width == 128 and abs(sequences * length - crossover.TOKENS) <= length / 2


def test_it_pays_from_where_the_ratio_rises_through_1_for_good() -> None:
    assert found(0.5, 0.5, 2.0, 3.0) == "23 (surely 32)"  # halfway between 16 and 32, over logarithms
    assert found(2.0, 0.5, 2.0) == "23 (surely 32)"
    assert found(1.1, 2.0, 3.0) == "all from 8 to 32"
    assert found(0.5, 2.0, 0.5) == "not up to 32"
    assert found(0.1, 0.2, first=512) == "not up to 1,024"


def test_an_interval_holds_the_median_by_ranks_and_one_around_1_is_not_sure() -> None:
    assert bounds(tuple(map(float, range(21)))) == (5.0, 15.0)
    turns = [0.9] * 10 + [1.1] * 11
    uncertain = cell(64, eager=1.0) | {"backends": {"eager": {"ms": turns}, "flash": {"ms": [1.0] * 21}}}
    known = ratio(uncertain, "flash", "eager")
    assert known is not None and (known.low, known.median, known.high) == (0.9, 1.1, 1.1)
    assert str(crossing([known])) == "not up to 64"


def test_a_backend_that_cannot_run_or_fails_keeps_its_reason_and_the_others_are_timed_in_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[int] = []

    def on_cpu(shape: tuple[int, ...], _: str, seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        tensors = [torch.randn(shape, generator=generator) for _ in range(4)]
        return [tensor.transpose(1, 2).requires_grad_() for tensor in tensors[:3]], tensors[3]

    def unsupported(backend: Any, *_: Any) -> str | None:
        return "it has no kernel here" if backend.name == "flex" else None

    def elapsed_ms(graph: int, _: int) -> float:
        timed.append(graph)
        return 2.0 * graph

    graphs = iter((1, 2))
    monkeypatch.setattr(crossover, "TOKENS", 64)
    monkeypatch.setattr(crossover, "make_inputs", on_cpu)
    monkeypatch.setattr(crossover, "unsupported", unsupported)
    stand_ins = {
        "capture": lambda _: next(graphs), "elapsed_ms": elapsed_ms, "repeats_of": lambda _: 1,
        "sets_to_flush": lambda _: 2,
    }  # fmt: skip
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(graph_timing, name, stand_in)
    words = ["--json", "x", "--precision", "fp32", "--samples", "6", "--backends", "sdpa_flash,flex"]
    kept = crossover.measure(8, 16, crossover.parse(words))["backends"]
    assert kept["flex"] == {"unsupported": "it has no kernel here"}
    assert "ValueError" in kept["sdpa_efficient"]["error"] or "Error" in kept["sdpa_efficient"]["error"]
    assert kept["eager"]["ms"] == [1.0] * 6 and kept["sdpa_flash"]["ms"] == [2.0] * 6
    assert timed == [1, 2, 2, 1] * 3 and max(kept["sdpa_flash"]["errors"].values()) < 1e-5


def test_a_file_that_was_measured_otherwise_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kept.json"
    crossover.save(file, results(cell(8, eager=1.0)))
    options = crossover.parse(["--json", str(file)])
    assert len(crossover.begin(options, MACHINE)["cells"]) == 1
    for machine, samples in ((MACHINE | {"gpu": "another GPU"}, 21), (MACHINE, 22)):
        options.samples = samples
        with pytest.raises(SystemExit, match="2"):
            crossover.begin(options, machine)
        assert "give another file" in capsys.readouterr().err
    file.write_text("[]")
    with pytest.raises(SystemExit, match="2"):
        crossover.stored(file)


@pytest.mark.parametrize("words", ["--widths 7", "--backends flashy", "--lengths 0", "--samples 5", "--plot a.html"])
def test_wrong_options_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        crossover.parse(["--json", "x", *words.split()])
    assert words.split()[1].split(".")[-1] in capsys.readouterr().err


def test_the_page_says_what_the_stored_result_says() -> None:
    page = (ROOT / "docs" / "crossover.md").read_text()
    stored = crossover.stored(ROOT / "docs" / "results" / "2026-12-01-crossover.json")["cells"]
    for reference, backends in (
        ("eager", ["sdpa_efficient", "sdpa_cudnn", "flash_attention_2", "sdpa_flash", "patch"]),
        ("sdpa_efficient", ["sdpa_cudnn", "flash_attention_2", "sdpa_flash", "patch"]),
    ):
        for width in crossover.WIDTHS:
            said = []
            for name in backends:
                known = [ratio(each, name, reference) for each in stored if each["width"] == width]
                said.append(str(crossing([each for each in known if each])))
            assert f"| {width} | {' | '.join(said)} |" in page
    for width in crossover.WIDTHS:
        known = [ratio(each, "flash_attention_2", "eager") for each in stored if each["width"] == width]
        in_order = sorted((each for each in known if each), key=lambda each: each.length)
        assert f"| {width} | {' | '.join(f'{each.median:.2f}' for each in in_order)} |" in page


def test_what_is_stored_is_shown_as_tables_and_a_plot_that_marks_the_crossing(tmp_path: Path) -> None:
    speeds = {16: 0.5, 32: 2.0, 64: 4.0}
    cells = [
        cell(length, width, eager=speed, sdpa_efficient=1.0, flash_attention_2=1.0, patch="too long")
        for length, speed in speeds.items() for width in (8, 64)
    ]  # fmt: skip
    text = tables(json.loads(json.dumps(results(*cells))))
    assert "| 8 | 23 (surely 32) | 23 (surely 32) |" in text
    assert "| 64 | 32 | 2.0000 | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00) |" in text
    assert "- patch: too long (6 cells)" in text
    draw(results(*cells), tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert ">23<" in drawn and "head width 64" in drawn and "flash_attention_2" in drawn
