"""The figures of a report."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .statistics import BEST_OF, BestOf

COLORS = (
    "#0b5cad",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e6a000",
    "#56b4e9",
    "#7a5195",
    "#444444",
)  # told apart by the color-blind too
_GRAY = "#8a939e"
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6470",
    "axes.labelcolor": "#1b1f24",
    "xtick.color": "#5b6470",
    "ytick.color": "#5b6470",
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "axes.axisbelow": True,
    "svg.hashsalt": "face2diffusion",  # the same report is the same file
}
_CELL = 1.7  # in, of a grid's pictures
_SHOWN = 256  # px, of a grid's pictures


def color_of(place: int) -> str:
    """Give each method a color of its own."""
    return COLORS[place % len(COLORS)]


def plot_upper_bound(curves: Mapping[str, Sequence[BestOf]]) -> bytes:
    """Draw the best of N against N (Fig. 7), with confidence bands.

    Args:
        curves: of `statistics.upper_bound`, by method.

    Returns:
        SVG.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(6.4, 3.9)
        for place, (method, points) in enumerate(curves.items()):
            n, color = [point.n for point in points], color_of(place)
            axes.fill_between(
                n,
                [point.mean.low for point in points],
                [point.mean.high for point in points],
                color=color,
                alpha=0.15,
                lw=0,
            )
            axes.plot(
                n, [point.mean.value for point in points], "o-", color=color, label=method, lw=1.8, ms=5
            )
        axes.set_xscale("log", base=2)
        ticks = [n for n in BEST_OF if n <= max(point.n for points in curves.values() for point in points)]
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.set(xlabel="N, pictures for each {face, prompt}", ylabel="hMean of the best of N")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        return _svg(figure)


def plot_trade_off(
    published: Mapping[str, tuple[float, float]], measured: Mapping[str, tuple[float, float]]
) -> bytes:
    """Draw identity-fidelity (AdaFace) against text-fidelity (CLIP).

    Args:
        published: (CLIP, AdaFace) by method.
        measured: likewise.

    Returns:
        SVG.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(6.4, 4.2)
        for name, (x, y) in published.items():
            axes.plot(x, y, "o", mfc="white", mec=_GRAY, ms=6)
            axes.annotate(name, (x, y), (6, 3), textcoords="offset points", fontsize=8, color="#5b6470")
        for place, (name, (x, y)) in enumerate(measured.items()):
            axes.plot(x, y, "o", color=color_of(place), ms=8)
            axes.annotate(
                name,
                (x, y),
                (7, -10),
                textcoords="offset points",
                fontsize=9,
                fontweight="bold",
                color=color_of(place),
            )
        axes.margins(0.12)
        axes.set(xlabel="CLIP (text)", ylabel="AdaFace (identity)")
        return _svg(figure)


def draw_grid(face: Path, columns: Sequence[str], rows: Mapping[str, Sequence[Path | None]]) -> bytes:
    """Set the pictures of one identity side by side: the face, then a row for each method and a column for each prompt.

    Args:
        face: its file.
        columns: the prompts.
        rows: files by method, one for each prompt; None = there is none.

    Returns:
        JPEG.
    """
    width = len(columns) + 1
    figure, _ = _figure(_CELL * width, _CELL * len(rows) + 0.55, axes=False)
    cells = figure.subplots(len(rows), width, squeeze=False)
    for axes in cells.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for number, (line, (method, pictures)) in enumerate(zip(cells, rows.items(), strict=True)):
        line[0].set_ylabel(textwrap.shorten(method, 24, placeholder="..."), fontsize=10, fontweight="bold")
        for axes, path in zip(line, [face, *pictures], strict=True):
            if number and axes is line[0]:  # the face is shown once
                axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
                continue
            if (picture := _read(path)) is None:
                axes.set_facecolor("#eceff2")
                axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
                axes.text(0.5, 0.5, "missing", ha="center", va="center", color=_GRAY)
            else:
                axes.imshow(picture)
    for axes, title in zip(cells[0], ["input", *columns], strict=True):
        axes.set_title("\n".join(textwrap.wrap(title, 22)), fontsize=8.5)
    file = io.BytesIO()
    figure.savefig(file, format="jpg", dpi=130, pil_kwargs={"quality": 88})
    return file.getvalue()


def _read(path: Path | None) -> np.ndarray | None:
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError:  # gone since
        return None
    picture.thumbnail((_SHOWN, _SHOWN), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _figure(width: float, height: float, axes: bool = True) -> tuple[Figure, matplotlib.axes.Axes | None]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots() if axes else None


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
