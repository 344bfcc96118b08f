"""Plots as SVG, for pages that need no network."""

from __future__ import annotations

import io

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


def figure(height: float) -> Figure:
    """An empty figure, as wide as a page.

    Args:
        height: in inches; it is 9 wide.
    """
    # Without pyplot, which would pick a window system and keep the figure alive.
    return Figure(figsize=(9, height), layout="constrained", dpi=150)


def svg(figure: Figure) -> str:
    """A figure as an element of a page."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
