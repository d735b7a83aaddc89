"""A run folder: resolved config, TensorBoard log, checkpoints that survive a kill, and a clean way to stop.

run/config.json                  what was asked for; the same command resumes
run/mapper-00001000.safetensors  weights, as LoadFaceEncoder and f2d take them; the last K are kept
run/state-00001000-0.pt          what training needs beside them, one file a process
run/checkpoint.json              the last whole checkpoint; written last
run/tensorboard/, run/samples/
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...f2d.checkpoint import save
from ...f2d.files import atomic_file
from ..config import changeable


class Run:
    """One run folder, seen from one process."""

    def __init__(
        self, out: str | os.PathLike, config: Any, keep: int = 3, rank: int = 0, world: int = 1
    ) -> None:
        """Open or make the folder, and begin to listen for SIGTERM and Ctrl-C.

        Args:
            out: the folder.
            config: a dataclass; its fields go to config.json.
            keep: how many checkpoints to keep.
            rank: of this process; only process 0 writes what is shared.
            world: number of processes.

        Raises:
            ValueError: no folder is named, or it holds a run with other settings.
            OSError: the folder cannot be written to.
        """
        if not os.fspath(out):
            raise ValueError("Expected --out with a run folder, got none.")
        self.folder, self.keep, self.rank, self.world = Path(out), keep, rank, world
        self.stopping = False
        self._writer: Any = None
        lock_config(self.folder, config, begun=(self.folder / "checkpoint.json").exists(), write=rank == 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopping:  # a second Ctrl-C does not wait for the step to end
            raise KeyboardInterrupt
        self.stopping = True

    @property
    def last(self) -> dict[str, Any] | None:
        """The last whole checkpoint: its `step`, `world` and `weights`; None before the first."""
        file = self.folder / "checkpoint.json"
        if not file.exists():
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["world"] != self.world:
            raise ValueError(
                f"Expected {found['world']} process(es), as when '{self.folder}' was saved, got {self.world}. Start as many."
            )
        return found

    def load_state(self) -> dict[str, Any] | None:
        """Read what this process saved with the last checkpoint; None before the first."""
        last = self.last
        if last is None:
            return None
        return torch.load(self._state_file(last["step"], self.rank), map_location="cpu", weights_only=True)

    def _state_file(self, step: int, rank: int) -> Path:
        return self.folder / f"state-{step:08d}-{rank}.pt"

    def save_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Write this process's state; every process must have done so before process 0 calls `save`."""
        with atomic_file(self._state_file(step, self.rank)) as temporary:
            torch.save(dict(state), temporary)

    def save(
        self, step: int, tensors: Mapping[str, torch.Tensor], kind: str, config: Any, **metadata: str
    ) -> Path:
        """Write the weights, then name them as the last checkpoint, then delete old ones; process 0 only.

        Args:
            step: how many are done.
            tensors: the weights, of any shape.
            kind: "mapper" or "msid".
            config: of the network.
            **metadata: more entries.

        Returns:
            The weight file.

        Raises:
            OSError: no space is left, or the folder cannot be written to; the last checkpoint is whole.
        """
        weights = self.folder / f"{kind}-{step:08d}.safetensors"
        save(weights, tensors, kind, config, step=str(step), **metadata)
        with atomic_file(self.folder / "checkpoint.json") as temporary:
            Path(temporary).write_text(
                json.dumps({"step": step, "world": self.world, "weights": weights.name}) + "\n",
                encoding="utf-8",
            )
        self._prune(kind)
        return weights

    def _prune(self, kind: str) -> None:
        for old in sorted(self.folder.glob(f"{kind}-*.safetensors"))[: -self.keep]:
            old.unlink()
            for state in self.folder.glob(f"state-{old.stem.rpartition('-')[2]}-*.pt"):
                state.unlink()
        newest = sorted(self.folder.glob("state-*-0.pt"))[-1:]
        for state in self.folder.glob("state-*-*.pt"):  # only the last state can be resumed
            if newest and state.stem.split("-")[1] < newest[0].stem.split("-")[1]:
                state.unlink()

    @property
    def writer(self) -> Any:
        """TensorBoard's SummaryWriter, made when it is first used."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder / "tensorboard"))
        return self._writer

    def log(self, step: int, **scalars: float) -> None:
        """Write numbers to TensorBoard; process 0 only."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the log and stop listening for signals."""
        if self._writer is not None:
            self._writer.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)


def lock_config(folder: Path, config: Any, begun: bool = True, write: bool = True) -> None:
    """Write settings to config.json; where something was made with those that are there, only some may differ.

    Args:
        folder: of the run.
        config: a dataclass.
        begun: whether something was made.
        write: whether to write, which one of the processes of a run does.

    Raises:
        ValueError: the folder holds a run with other settings.
        OSError: the folder cannot be written to.
    """
    file, settings = folder / "config.json", json.loads(json.dumps(asdict(config)))
    if begun and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [
            name
            for name in settings
            if name not in changeable(config) and before.get(name, settings[name]) != settings[name]
        ]
        if changed:
            named = ", ".join(f"{name} {before[name]!r}, not {settings[name]!r}" for name in changed)
            raise ValueError(
                f"Expected the settings of the run in '{folder}' ({named}), got others. Use another --out, or the same settings."
            )
    if write:
        with atomic_file(file) as temporary:
            Path(temporary).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def check_finished(folder: Path, step: int, steps: int) -> None:
    """Check that a run has come to its end.

    Args:
        folder: of the run.
        step: how many are done.
        steps: how many there are to do.

    Raises:
        InterruptedError: a signal stopped it before; the same command goes on.
    """
    if step < steps:
        raise InterruptedError(f"Stopped '{folder}' at step {step} of {steps}; the same command goes on.")
