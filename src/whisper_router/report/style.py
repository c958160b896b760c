"""The look of all charts, in light and dark."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from whisper_router.files import replacing

WIDTH = 6.0  # inches: on a phone's 360 pixels 11 points are still read
DPI = 130
MARGIN = 0.1  # inches


@dataclass(frozen=True)
class Theme:
    """Colours that have contrast on their background."""

    name: str
    paper: str
    ink: str
    faint: str
    deciders: tuple[str, ...]
    good: str
    bad: str


LIGHT = Theme(
    "light",
    "#ffffff",
    "#222222",
    "#6b6b6b",
    ("#1f77b4", "#c65102", "#6a4fa3", "#00796b", "#b5176b", "#6d5a00"),
    "#2e7d32",
    "#c62828",
)
DARK = Theme(
    "dark",
    "#16181c",
    "#e6e6e6",
    "#a0a0a0",
    ("#6cb6ff", "#ffa657", "#b79cff", "#4dd0b5", "#ff7eb6", "#e3c84b"),
    "#7ddc84",
    "#ff7b72",
)

Draw = Callable[[Figure, Theme], None]


def _save(draw: Draw, theme: Theme, height: float, target: Path | io.BytesIO) -> None:
    settings: Any = {
        "axes.edgecolor": theme.faint,
        "axes.facecolor": theme.paper,
        "axes.labelcolor": theme.ink,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": theme.ink,
        "axes.titlesize": 12,
        "figure.facecolor": theme.paper,
        "font.size": 11,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "legend.labelcolor": theme.ink,
        "text.color": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
    }
    with mpl.rc_context(settings):
        margins = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
        figure = Figure(figsize=(WIDTH, height), layout=margins)
        draw(figure, theme)
        figure.savefig(target, dpi=DPI, format="png", metadata={"Software": None})


def write_chart(path: Path, draw: Draw, height: float) -> None:
    """Draw in light colours into a PNG file."""
    with replacing(path) as temporary:
        _save(draw, LIGHT, height, temporary)


def png(draw: Draw, height: float, theme: Theme) -> bytes:
    """Draw into the bytes of a PNG."""
    buffer = io.BytesIO()
    _save(draw, theme, height, buffer)
    return buffer.getvalue()


def legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """The legend under the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
