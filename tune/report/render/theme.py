"""Colours of the report. Those of THEME have a light and a dark form; the page's SVG takes them by name.

Verdicts are blue, orange and grey, which colour-blind readers tell apart, and never without a sign and words.
"""

from __future__ import annotations

from tune.report.row_verdict import COSTLY, EVEN, GOOD, SLOW, UNSURE

TEXT, SOFT, LINE = "#1f2328", "#59636e", "#d5dae0"
OF_VERDICT = {GOOD: "#0a66b0", COSTLY: "#9a4f86", SLOW: "#b84f00", EVEN: "#47525e", UNSURE: "#747d87"}

THEME = {  # name -> light, dark
    "text": (TEXT, "#e6edf3"),
    "soft": (SOFT, "#9aa4ae"),
    "line": (LINE, "#363d46"),
    GOOD: (OF_VERDICT[GOOD], "#63b3f5"),
    COSTLY: (OF_VERDICT[COSTLY], "#e39bcb"),
    SLOW: (OF_VERDICT[SLOW], "#f59f57"),
    EVEN: (OF_VERDICT[EVEN], "#b3bdc7"),
    UNSURE: (OF_VERDICT[UNSURE], "#8f99a3"),
    "page": ("#ffffff", "#0d1117"),
    "card": ("#f6f8fa", "#161b22"),
}


def variables(dark: bool) -> str:
    """The theme as CSS variables."""
    return " ".join(f"--{name}: {both[dark]};" for name, both in THEME.items())
