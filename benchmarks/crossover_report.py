"""What the cells of benchmarks/crossover.py say: ratios with intervals, from which length on a backend pays, a plot."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

REFERENCES = ("eager", "sdpa_efficient")
FLASH = ("flash_attention_2", "sdpa_flash")  # the first that was measured is the plot's "FlashAttention"
COLOURS = {
    "eager": "#666666", "sdpa_efficient": "#4477aa", "sdpa_flash": "#ee6677", "sdpa_cudnn": "#228833",
    "flash_attention_2": "#aa3377", "flash_attention_3": "#ee8866", "flash_attention_4": "#999933", "flex": "#ccbb44",
    "patch": "#66ccee",
}  # fmt: skip
STYLE = {"svg.hashsalt": "crossover", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}

Cell = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A reference's time over a backend's, at one length: above 1 the backend is faster."""

    length: int
    median: float
    low: float
    """Of the median's 95 % interval over the turns."""
    high: float


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """From which length on a backend is faster than the reference, at one head width."""

    longest: int
    """Of the lengths measured; nothing is said beyond."""
    length: float | None
    """Where the ratio last rises through 1, between two lengths, by a straight line over logarithms. None: nowhere."""
    surely_from: int | None
    """From this measured length on, every interval lies above 1. None: not even at the longest."""

    def __str__(self) -> str:
        if self.surely_from is None:
            return f"not up to {self.longest:,}"
        if self.length is None:
            return f"all from {self.surely_from:,} to {self.longest:,}"
        return f"{self.length:.0f} (surely {self.surely_from:,})"


def ratio(cell: Cell, backend: str, reference: str) -> Ratio | None:
    """Of one cell; None where one of the two has no times."""
    ours, theirs = (cell["backends"].get(name, {}).get("ms") for name in (backend, reference))
    if not ours or not theirs:
        return None
    turns = sorted(of / to for of, to in zip(theirs, ours, strict=True))
    low, high = bounds(tuple(turns))
    return Ratio(length=cell["length"], median=median(turns), low=low, high=high)


@cache
def bounds(values: tuple[float, ...]) -> tuple[float, float]:
    """The 95 % interval of a median, by ranks: it assumes no distribution."""
    from scipy.stats import quantile_test

    found = quantile_test(values, q=1.0, p=0.5).confidence_interval(0.95)
    return float(found.low), float(found.high)


def crossing(ratios: Iterable[Ratio]) -> Crossing | None:
    """Of the ratios of one backend at one head width; None without any."""
    found = sorted(ratios, key=lambda each: each.length)
    if not found:
        return None
    surely = [each.length for each in itertools.takewhile(lambda each: each.low > 1, reversed(found))]
    length = None
    for before, after in itertools.pairwise(found):
        if before.median <= 1 < after.median:
            share = math.log(before.median) / (math.log(before.median) - math.log(after.median))
            length = before.length * (after.length / before.length) ** share
        elif after.median <= 1:
            length = None
    return Crossing(longest=found[-1].length, length=length, surely_from=surely[-1] if surely else None)


def line(cell: Cell) -> str:
    """One cell for the terminal: times in ms, and ratios to eager."""
    said = []
    for name, entry in cell["backends"].items():
        found = ratio(cell, name, REFERENCES[0])
        if "error" in entry:
            said.append(f"{name} failed: {entry['error'][:80]}")
        elif entry.get("ms"):
            shown = f" {found.median:.3f} ({found.low:.3f} to {found.high:.3f})" if found and name != "eager" else ""
            said.append(f"{name} {median(entry['ms']):.4f} ms{shown}")
    return f"{cell['length']} x {cell['width']}: {'; '.join(said)}"


def show(results: dict[str, Any], plot: Path | None) -> None:
    """Print the tables as Markdown, and write the plot if one is asked for."""
    print(tables(results))
    if plot is not None:
        draw(results, plot)
        print(f"wrote {plot}")


def tables(results: dict[str, Any]) -> str:
    """Crossing lengths against each reference, then the ratios to eager by length, and why a backend has none."""
    cells = results["cells"]
    backends = [name for name in COLOURS if any(each["backends"].get(name, {}).get("ms") for each in cells)]
    widths = sorted({each["width"] for each in cells})
    blocks = [f"{results['environment']['gpu']}, {results['options']['precision']}, {len(cells)} cells"]
    for reference in REFERENCES:
        rivals = [name for name in backends if name not in ("eager", reference)]
        rows = [[str(width), *(_crossing(cells, width, name, reference) for name in rivals)] for width in widths]
        blocks.append(f"Faster than {reference} from this length on:\n\n{_table(['head width', *rivals], rows)}")
    rivals = [name for name in backends if name != "eager"]
    rows = [[str(each["width"]), str(each["length"]), _ms(each), *(_shown(each, name) for name in rivals)]
            for each in sorted(cells, key=lambda each: (each["width"], each["length"]))]  # fmt: skip
    heads = ["head width", "length", "eager, ms", *rivals]
    blocks.append(f"eager's time over the backend's, with its interval:\n\n{_table(heads, rows)}")
    reasons = Counter(f"{name}: {entry.get('unsupported') or entry['error']}"
                      for each in cells for name, entry in each["backends"].items() if not entry.get("ms"))  # fmt: skip
    untimed = "\n".join(f"- {reason} ({count} cells)" for reason, count in sorted(reasons.items()))
    return "\n\n".join([*blocks, *([f"Not timed:\n\n{untimed}"] if reasons else [])])


def draw(results: dict[str, Any], path: Path) -> None:
    """One panel for each head width: eager's time over each backend's by length; where FlashAttention passes 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = results["cells"]
    widths = sorted({each["width"] for each in cells})
    lengths = sorted({each["length"] for each in cells})
    with matplotlib.rc_context(STYLE):
        figure, grid = pyplot.subplots(
            -(-len(widths) // 2), min(2, len(widths)), figsize=(8.5, 3.1 * -(-len(widths) // 2)), layout="constrained",
            sharex=True, sharey=True, squeeze=False,
        )  # fmt: skip
        for axes, width in zip(grid.flat, widths, strict=False):
            _panel(axes, [each for each in cells if each["width"] == width])
            axes.set(title=f"head width {width}", xscale="log", yscale="log", xticks=lengths)
            axes.set_xticks(lengths, [str(length) for length in lengths], rotation=60)
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            axes.spines[["top", "right"]].set_visible(False)
        for axes in grid.flat[len(widths) :]:
            axes.set_axis_off()
        figure.supxlabel("sequence length (patches), all with the same number of tokens")
        figure.supylabel("times as fast as plain attention")
        labels = {label: mark for axes in grid.flat for mark, label in _legend(axes)}
        figure.legend(labels.values(), labels.keys(), frameon=False, loc="outside upper center", ncols=4)
        about = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=110, facecolor="white", metadata=about)
        pyplot.close(figure)


def _panel(axes: Any, cells: list[Cell]) -> None:
    axes.axhline(1, color=COLOURS["eager"], linewidth=1, label="eager (plain)")
    timed = {name for each in cells for name, entry in each["backends"].items() if entry.get("ms")}
    flash = next((name for name in FLASH if name in timed), None)
    for name in COLOURS:
        found = sorted(_ratios(cells, name, "eager"), key=lambda each: each.length)
        if name == "eager" or not found:
            continue
        middle = [each.median for each in found]
        spread = [[each.median - each.low for each in found], [each.high - each.median for each in found]]
        axes.errorbar(
            [each.length for each in found], middle, yerr=spread, color=COLOURS[name], label=name, marker="o",
            markersize=3, linewidth=2.2 if name == flash else 1, zorder=3 if name == flash else 2,
        )  # fmt: skip
        point = crossing(found)
        if name == flash and point and point.length:
            axes.plot(
                point.length, 1, "o", markersize=9, markerfacecolor="none", markeredgecolor=COLOURS[name], zorder=4
            )
            axes.annotate(f"{point.length:.0f}", (point.length, 1), xytext=(5, -13), textcoords="offset points",
                          color=COLOURS[name], fontweight="bold")  # fmt: skip


def _legend(axes: Any) -> list[tuple[Any, str]]:
    return list(zip(*axes.get_legend_handles_labels(), strict=True))


def _ratios(cells: list[Cell], backend: str, reference: str) -> list[Ratio]:
    return [found for each in cells if (found := ratio(each, backend, reference))]


def _crossing(cells: list[Cell], width: int, backend: str, reference: str) -> str:
    found = crossing(_ratios([each for each in cells if each["width"] == width], backend, reference))
    return "-" if found is None else str(found)


def _ms(cell: Cell) -> str:
    times = cell["backends"]["eager"].get("ms")
    return f"{median(times):.4f}" if times else "-"


def _shown(cell: Cell, backend: str) -> str:
    found = ratio(cell, backend, "eager")
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})" if found else "-"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    marks = ["---:"] * len(heads)
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, marks, *rows])
