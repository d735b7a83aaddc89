"""The plots and image grids of a report."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image

from .labels import place_labels
from .statistics import BEST_OF, BestOf, Mean

# Distinct for color-blind readers too.
COLORS = ("#0b5cad", "#d55e00", "#009e73", "#cc79a7", "#e6a000", "#56b4e9", "#7a5195", "#444444")
_GRAY = "#8a939e"
_STYLE: Any = {
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
    "svg.hashsalt": "face2diffusion",  # makes the file reproducible
}
_LEADER: Any = {"arrowstyle": "-", "lw": 0.6, "color": "#8a939e", "shrinkA": 0, "shrinkB": 3}
_PUBLISHED: Any = {"fontsize": 8, "color": "#5b6470"}
_LABEL = 24  # characters of a method's name
_CELL_SIZE = 1.7  # inches, of a grid's images
_RESOLUTION = 256  # px, of a grid's images


def color_of(place: int) -> str:
    """Return a method's color by its place."""
    return COLORS[place % len(COLORS)]


def plot_upper_bound(curves: Mapping[str, Sequence[BestOf]]) -> bytes:
    """Plot the best of N against N (Fig. 7), with confidence bands.

    Args:
        curves: of `statistics.upper_bound`, by method.

    Returns:
        SVG.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure_with_axes(6.4, 3.9)
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
        axes.set(xlabel="N, images per {face, prompt}", ylabel="hMean of the best of N")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        return _svg(figure)


Points = Mapping[str, tuple[float, float]]  # x and y by method


def plot_trade_off(published: Points, measured: Points, x_label: str, y_label: str) -> bytes:
    """Plot identity-fidelity against text-fidelity.

    Args:
        published: text and identity score of the paper's rows.
        measured: likewise.
        x_label: the text metric.
        y_label: the identity metric.

    Returns:
        SVG.
    """
    with matplotlib.rc_context(_STYLE):
        return _svg(draw_trade_off(published, measured, x_label, y_label))


def draw_trade_off(published: Points, measured: Points, x_label: str, y_label: str) -> Figure:
    """Draw the figure of `plot_trade_off`, with labels that do not overlap."""
    figure, axes = _figure_with_axes(6.4, 4.2)
    for x, y in published.values():
        axes.plot(x, y, "o", mfc="white", mec=_GRAY, ms=6)
    for place, (x, y) in enumerate(measured.values()):
        axes.plot(x, y, "o", color=color_of(place), ms=8)
    axes.margins(0.12)
    axes.set(xlabel=x_label, ylabel=y_label)
    labels = [
        _label(axes, name, point, color_of(place)) for place, (name, point) in enumerate(measured.items())
    ]
    labels += [_label(axes, name, point) for name, point in published.items()]
    place_labels(figure, axes, labels, [*measured.values(), *published.values()])
    return figure


def plot_refinement(curves: Mapping[str, Mapping[str, Sequence[tuple[int, Mean]]]]) -> bytes:
    """Plot scores over gradient steps, a panel per score and a line per number of photos.

    Args:
        curves: by score and line: steps and the mean over people, with its interval.

    Returns:
        An SVG file.
    """
    figure = _new_figure(3.6 * len(curves), 3.2)
    for axes, (score, lines) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        for place, (name, points) in enumerate(lines.items()):
            steps, means = zip(*points, strict=True)
            axes.plot(steps, [mean.value for mean in means], color=color_of(place), marker="o", label=name)
            low, high = [mean.low for mean in means], [mean.high for mean in means]
            axes.fill_between(steps, low, high, color=color_of(place), alpha=0.12, linewidth=0)
        axes.set_xlabel("gradient steps on the two words")
        axes.set_title(score)
        axes.grid(alpha=0.3)
    axes.legend()
    return _svg(figure)


def plot_image_grid(face: Path, columns: Sequence[str], rows: Mapping[str, Sequence[Path | None]]) -> bytes:
    """Show one identity's face and images, a row per method and a column per prompt.

    Args:
        face: its file.
        columns: the prompts.
        rows: files by method, one per prompt; None = missing.

    Returns:
        JPEG.
    """
    width = len(columns) + 1
    figure = _new_figure(_CELL_SIZE * width, _CELL_SIZE * len(rows) + 0.55)
    cells = figure.subplots(len(rows), width, squeeze=False)
    for axes in cells.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for number, (line, (method, paths)) in enumerate(zip(cells, rows.items(), strict=True)):
        line[0].set_ylabel(_shorten(method), fontsize=10, fontweight="bold")
        if number:  # the face is shown once
            line[0].set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        else:
            _show_image(line[0], face)
        for axes, path in zip(line[1:], paths, strict=True):
            _show_image(axes, path)
    for axes, title in zip(cells[0], ["input", *columns], strict=True):
        axes.set_title("\n".join(textwrap.wrap(title, 22)), fontsize=8.5)
    file = io.BytesIO()
    figure.savefig(file, format="jpg", dpi=130, pil_kwargs={"quality": 88})
    return file.getvalue()


def _label(axes: Axes, method: str, point: tuple[float, float], color: str = "") -> Annotation:
    """Write a method's name beside its point: in bold and in its color, or a published one in gray."""
    style: Any = {"fontsize": 9, "fontweight": "bold", "color": color} if color else _PUBLISHED
    return axes.annotate(
        _shorten(method), point, (0, 0), textcoords="offset points", arrowprops=dict(_LEADER), **style
    )


def _shorten(method: str) -> str:
    return textwrap.shorten(method, _LABEL, placeholder="...")


def _show_image(axes: Axes, path: Path | None) -> None:
    if (image := _read(path)) is not None:
        axes.imshow(image)
        return
    axes.set_facecolor("#eceff2")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.text(0.5, 0.5, "missing", ha="center", va="center", color=_GRAY)


def _read(path: Path | None) -> np.ndarray | None:
    if path is None:
        return None
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except OSError:  # deleted in the meantime
        return None
    image.thumbnail((_RESOLUTION, _RESOLUTION), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _figure_with_axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _new_figure(width, height)
    return figure, figure.subplots()


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
