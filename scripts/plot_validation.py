"""Plots the validation curves of runs of `f2d-train mapper --validation N`, for docs/training.md.

python scripts/plot_validation.py runs/cgdr runs/reconstruction --out docs/validation.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from face2diffusion.training.report.plots import color_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS = {
    "inside": "inside M, to the noise",
    "outside": "outside M, to the noise",
    "outside_class": "outside M, to the class prompt",
}


def plot(runs: Sequence[Path], out: Path) -> None:
    """Write a PNG with a panel for each error, and a curve for each run, named after its loss."""
    figure = Figure(figsize=(9.6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for place, run in enumerate(runs):
            entries = json.loads((run / "validation.json").read_text(encoding="utf-8"))
            loss = json.loads((run / "config.json").read_text(encoding="utf-8"))["loss"]
            steps, values = zip(*((entry["step"], entry[name]) for entry in entries), strict=True)
            axes.plot(steps, values, color=color_of(place), label=loss)
        axes.set(xlabel="step", title=title)
        axes.title.set_fontsize(9)
        axes.grid(color="#e6e9ed")
    figure.axes[0].set_ylabel("mean squared error")
    figure.axes[0].legend(frameon=False)
    figure.savefig(out, dpi=100)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders with validation.json")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    options = parser.parse_args(arguments)
    for run in options.runs:
        if not (run / "validation.json").is_file():
            parser.error(f"'{run}' has no validation.json. Train with --validation 64.")
    plot(options.runs, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
