"""Where a run's numbers and images go: TensorBoard, and Weights & Biases."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...f2d.image import Photo


class Tracker(Protocol):
    """Keeps curves and images of one run; no step appears twice after a kill."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log numbers by name."""

    def log_image(self, step: int, name: str, image: Photo) -> None:
        """Log an image (H, W, 3)."""

    def flush(self) -> None:
        """Write everything out."""

    def close(self) -> None:
        """Write everything out and end."""


class TensorBoard:
    """Event files in `tensorboard/` of the run folder."""

    package, install = "torch.utils.tensorboard", "tensorboard"

    def __init__(self, folder: Path, first_step: int) -> None:
        """Open the log; what a killed run logged from `first_step` on is taken back."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def log_image(self, step: int, name: str, image: Photo) -> None:
        """See `Tracker`."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        """See `Tracker`."""
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb, whose id stays in the run folder; wandb itself drops steps that it already has."""

    package, install = "wandb", "wandb"

    def __init__(self, folder: Path, first_step: int) -> None:
        """Begin the run, or continue the one of a killed process."""
        import wandb

        self._wandb, file = wandb, folder / "wandb-id.txt"
        number = file.read_text(encoding="ascii").strip() if file.exists() else None
        self._run = wandb.init(
            project="face2diffusion", name=folder.name, dir=str(folder), id=number, resume="allow"
        )
        file.write_text(f"{self._run.id}\n", encoding="ascii")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(scalars), step=step)

    def log_image(self, step: int, name: str, image: Photo) -> None:
        """See `Tracker`."""
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def flush(self) -> None:
        """See `Tracker`; wandb sends by itself."""

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def check_trackers(names: Sequence[str]) -> None:
    """Check that all trackers can be opened.

    Raises:
        ValueError: an unknown one.
        ImportError: its package is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(
                f"--report-to has no tracker '{name}'. Choose from {', '.join(TRACKERS)}, separated "
                "by commas."
            )
        try:
            importlib.import_module(TRACKERS[name].package)
        except ImportError as error:
            raise ImportError(
                f"{name} is not installed. Run `pip install {TRACKERS[name].install}`, or leave it out of "
                "--report-to."
            ) from error


def open_trackers(names: Sequence[str], folder: Path, first_step: int) -> list[Tracker]:
    """Open trackers.

    Args:
        names: keys of `TRACKERS`.
        folder: of the run.
        first_step: that has not been done yet; what a killed run logged from there on is logged again.
    """
    return [TRACKERS[name](folder, first_step) for name in names]
