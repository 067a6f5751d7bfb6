"""The chart of README: how many times as fast as the baseline each arm of a recorded sweep is, with its interval.

python docs/tools/chart.py        # docs/images/attention_h200.svg, from the result in docs/results
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
RESULT = DOCS / "results" / "2026-11-30-attention-5-ETTm1-h200.json"
TARGET = DOCS / "images" / "attention_h200.svg"
COLOURS = {"faster": "#0b7285", "slower": "#b35900"}  # told apart in grey and by the colour-blind
STYLE = {"svg.hashsalt": "chart", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11}


def chart(result: dict[str, Any]) -> str:
    """The chart of a result as `--json` writes it, as SVG; the same text for the same result."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    timed = {arm: each for arm, each in result["comparisons"].items() if each["interval"]}
    arms = sorted(timed.items(), key=lambda item: item[1]["ratio"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.axvline(1, color="#777777", linewidth=1, linestyle="--")
        for height, (_, compared) in enumerate(arms):
            colour = COLOURS.get(compared["verdict"], "#555555")
            low, high = compared["interval"]
            axes.barh(height, compared["ratio"] - 1, left=1, height=0.55, color=colour, alpha=0.35)
            axes.plot([low, high], [height, height], color=colour, linewidth=4, solid_capstyle="butt")
            text = f"{compared['ratio']:.2f}x ({low:.2f}-{high:.2f}), {compared['verdict']}"
            right = compared["ratio"] > 1
            axes.annotate(text, (high if right else 1, height), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(arms)), [name for name, _ in arms])
        axes.set_xlim(0.5, 2.9)
        axes.set_xticks([0.5, 1, 1.5, 2, 2.5])
        axes.set_xlabel(f"times as fast as {result['baseline']}, {result['data']['dataset']}, {result['device']}")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    TARGET.write_text(chart(json.loads(RESULT.read_text())))
