"""A chart as SVG for the page, or as a PNG file: the same drawing (tune.report.render.paint)."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from tune.common.errors import WrongInput
from tune.report.charts import Chart
from tune.report.render.theme import THEME

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_SCALE = 1.5  # pixels of a PNG for each of the page
COLOURS_KEPT = 256  # makes a file a third as large, at the cost of the mixed colours at the edges of letters
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
BY_NAME = {light: f"var(--{name})" for name, (light, _) in THEME.items() if name not in ("page", "card")}


def check_can_draw() -> None:
    """Raises WrongInput if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise WrongInput(
            "the report's charts need the package matplotlib, which is not installed: pip install -r requirements.txt"
        ) from None


def svg(chart: Chart, *, narrow: bool) -> str:
    """An element for an HTML page. Its colours are the page's, so they follow its dark mode.

    Raises:
        WrongInput: matplotlib is not installed.
    """
    stream = io.StringIO()
    name = f"{chart.key}-{'narrow' if narrow else 'wide'}"
    figure = _painted(chart, narrow=narrow, name=name, stream=stream)
    assert figure is not None
    return _for_page(stream.getvalue(), name)


def png(chart: Chart) -> bytes:
    """The wide picture of a chart that has data, on white.

    Raises:
        WrongInput: matplotlib is not installed.
    """
    stream = io.BytesIO()
    _painted(chart, narrow=False, name="", stream=stream)
    return _compressed(stream.getvalue())


def _painted(chart: Chart, *, narrow: bool, name: str, stream: io.StringIO | io.BytesIO) -> Figure:
    """Draw the chart into the stream; without a name as PNG."""
    check_can_draw()
    import matplotlib

    from tune.report.render.paint import FONT, PX, paint

    with matplotlib.rc_context(FONT | {"svg.hashsalt": name}):
        figure = paint(chart, narrow=narrow)
        if name:
            figure.savefig(stream, format="svg", metadata=NO_METADATA, transparent=True)
        else:
            figure.savefig(stream, format="png", dpi=PX * PNG_SCALE, facecolor="white")
    return figure


def _for_page(text: str, name: str) -> str:
    """What matplotlib wrote, without what a file needs and a page does not."""
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL).replace("xlink:href", "href")
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'style="[^"]*"', lambda style: _by_name(style[0]), text)
    return re.sub(r"\n\s*", "\n", text).strip()


def _by_name(style: str) -> str:
    return re.sub(r"#[0-9a-f]{6}", lambda found: BY_NAME.get(found[0], found[0]), style)


def _compressed(picture: bytes) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    stream = io.BytesIO()
    image.quantize(COLOURS_KEPT, method=Image.Quantize.MAXCOVERAGE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
