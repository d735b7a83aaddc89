"""A run folder: resolved config, TensorBoard log, and checkpoints that survive a kill at any moment.

run/config.json                  what was asked for, and fingerprints of the data; the same command resumes
run/mapper-00001000.safetensors  weights, as LoadFaceEncoder and f2d take them; the last K are kept
run/state-00001000.pt            what training needs beside them, the same in all processes
run/state-00001000-2-of-8.pt     what process 2 of 8 trains alone: its rows of MSID's classifier
run/checkpoint.json              the last complete checkpoint; its replacement is what commits a new one
run/checkpoint-before.json       the one before it, for the case that a file of the last one is damaged
run/tensorboard/, run/samples/

Only files that one of the two names can be resumed. What lies above the last one was never committed and is
removed at the start.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ...f2d.checkpoint import save
from ...f2d.files import TEMPORARY, atomic_file, write_json
from ...f2d.image import Photo
from ..config import changeable
from .processes import ALONE, Processes
from .signals import StopSignal
from .trackers import Tracker, check_trackers, open_trackers

logger = logging.getLogger(__name__)

_COMMITS = ("checkpoint.json", "checkpoint-before.json")
_NUMBERED = re.compile(r"(?:state|[a-z]+)-(\d{8})(?:-\d+-of-\d+)?\.(?:pt|safetensors)")
_DAMAGED = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Commit:
    """The content of `checkpoint.json`."""

    step: int
    weights: str  # file name
    parts: int  # processes whose own part is saved; 0 = there is nothing divided

    @property
    def state(self) -> str:
        """Name of the file with what is the same in all processes."""
        return _state_name(self.step)

    @property
    def part_names(self) -> list[str]:
        """Names of the files with what each process had alone."""
        return [_part_name(self.step, rank, self.parts) for rank in range(self.parts)]


@dataclass(frozen=True, eq=False)
class Saved:
    """A checkpoint as it was read."""

    state: dict[str, Any]
    parts: list[
        dict[str, Any]
    ]  # of all processes that there were; tensors are read from the files where they are used


def _state_name(step: int) -> str:
    return f"state-{step:08d}.pt"


def _part_name(step: int, rank: int, parts: int) -> str:
    return f"state-{step:08d}-{rank}-of-{parts}.pt"


class Run:
    """One run folder, seen from one process."""

    def __init__(
        self,
        out: str | os.PathLike,
        config: Any,
        keep: int = 3,
        processes: Processes | None = None,
        contents: Mapping[str, str] | None = None,
    ) -> None:
        """Open or make the folder, and begin to listen for SIGTERM and Ctrl-C.

        Args:
            out: the folder.
            config: a `TrainingConfig`; its fields go to config.json.
            keep: how many weight files to keep.
            processes: of the run; only the first writes what is shared. None = this one alone.
            contents: fingerprints of what is trained on, by name; these may lie at other paths when the run
                resumes, but not differ.

        Raises:
            ValueError: no folder is named, it holds a run with other settings or data, or an unknown tracker.
            ImportError: the package of a tracker is missing.
            OSError: the folder cannot be written to.
        """
        if not os.fspath(out):
            raise ValueError("--out is missing. Name a run folder.")
        self.folder, self.keep = Path(out), max(1, keep)
        self.processes = processes or ALONE
        self.committed: Commit | None = None
        self._before: Commit | None = None
        self._trackers: list[Tracker] | None = None  # opened with the first number
        self._report_to = config.report_to
        check_trackers(self._report_to)
        self._begun = (self.folder / "config.json").exists()
        begun = any((self.folder / name).exists() for name in _COMMITS)
        lock_config(self.folder, config, begun, self.processes.first, contents)
        self._signal = StopSignal()

    @property
    def stopping(self) -> bool:
        """Whether a signal asks this process to stop."""
        return self._signal.received

    # --- Resuming ---

    def load(self) -> Saved | None:
        """Read the last checkpoint that all processes can read, and remove what was never committed.

        Returns:
            The checkpoint; None before the first.

        Raises:
            ValueError: there are checkpoints, but all are damaged.
        """
        found = self.processes.share(list(self._read_commits()) if self.processes.first else None)
        for index, commit in enumerate(found):
            saved = self._read(commit) if commit else None
            if self.processes.any(saved is None):
                continue
            self.committed, self._before = commit, next(filter(None, found[index + 1 :]), None)
            if index and self.processes.first:
                logger.warning(
                    "The last checkpoint of '%s' is damaged; resuming from the one before it, at step %d.",
                    self.folder,
                    commit.step,
                )
            self._clean()
            return saved
        if found:
            raise ValueError(
                f"All checkpoints in '{self.folder}' are damaged. "
                "Restore the folder from a copy, or start over with another --out."
            )
        self._clean()
        return None

    def _read_commits(self) -> Iterator[Commit | None]:
        """Read both commits, the last one first; None for a damaged one."""
        for name in _COMMITS:
            file = self.folder / name
            if file.exists():
                try:
                    yield Commit(**json.loads(file.read_text(encoding="utf-8")))
                except _DAMAGED:
                    yield None

    def _read(self, commit: Commit) -> Saved | None:
        try:
            state = torch.load(self.folder / commit.state, map_location="cpu", weights_only=True)
            parts = [
                torch.load(self.folder / name, map_location="cpu", weights_only=True, mmap=True)
                for name in commit.part_names
            ]
        except _DAMAGED:
            return None
        return Saved(state, parts)

    def _clean(self) -> None:
        """Remove what a killed run has left above the committed step, and its temporary files."""
        if not self.processes.first:
            return
        for file in self.folder.glob(f"{TEMPORARY}*"):
            file.unlink()
        step = self.committed.step if self.committed else 0
        for file in self._numbered() if self._begun else ():  # else they are not ours
            if _step_of(file) > step:
                file.unlink()

    def _numbered(self) -> list[Path]:
        return sorted(file for file in self.folder.iterdir() if _NUMBERED.fullmatch(file.name))

    # --- Saving ---

    def save_part(self, step: int, part: Mapping[str, Any]) -> None:
        """Write what this process alone has; all must have done so before process 0 calls `save`."""
        self._save_tensors(_part_name(step, self.processes.rank, self.processes.world), part)

    def save_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Write what is the same in all processes; process 0 only, before it calls `save`."""
        self._save_tensors(_state_name(step), state)

    def _save_tensors(self, name: str, tensors: Mapping[str, Any]) -> None:
        with atomic_file(self.folder / name) as temporary, open(temporary, "wb") as file:
            try:
                torch.save(dict(tensors), file)
            except RuntimeError as error:  # PyTorch's writer hides what the disk reported
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def save(
        self,
        step: int,
        tensors: Mapping[str, torch.Tensor],
        kind: str,
        config: Any,
        divided: bool = False,
        **metadata: str,
    ) -> Path:
        """Write the weights, commit them with the states, then delete old ones; process 0 only.

        Args:
            step: how many are done.
            tensors: the weights, of any shape.
            kind: "mapper" or "msid".
            config: of the network.
            divided: whether each process has saved a part of its own.
            **metadata: more entries.

        Returns:
            The weight file.

        Raises:
            OSError: no space is left, or the folder cannot be written to; the last checkpoint is complete.
        """
        weights = self.folder / f"{kind}-{step:08d}.safetensors"
        save(weights, tensors, kind, config, step=str(step), **metadata)
        if self.committed is not None and self.committed.step != step:
            self._before = self.committed
            write_json(self.folder / _COMMITS[1], asdict(self._before), indent=None)
        self.committed = Commit(step, weights.name, self.processes.world if divided else 0)
        write_json(self.folder / _COMMITS[0], asdict(self.committed), indent=None)
        self._prune(kind)
        self.flush()
        return weights

    def _prune(self, kind: str) -> None:
        """Delete old weights, and the states that neither commit names."""
        for old in sorted(self.folder.glob(f"{kind}-*.safetensors"))[: -self.keep]:
            old.unlink()
        commits = [commit for commit in (self.committed, self._before) if commit]
        named = {name for commit in commits for name in (commit.state, *commit.part_names)}
        for file in self._numbered():
            if file.suffix == ".pt" and file.name not in named:
                file.unlink()

    # --- The log ---

    @property
    def trackers(self) -> list[Tracker]:
        """Where numbers go; they take back what a killed run logged after its last checkpoint."""
        if self._trackers is None:
            first = self.committed.step + 1 if self.committed else 0
            self._trackers = open_trackers(self._report_to, self.folder, first)
        return self._trackers

    def log(self, step: int, **scalars: float) -> None:
        """Log numbers to the trackers; process 0 only."""
        for tracker in self.trackers:
            tracker.log(step, scalars)

    def log_image(self, step: int, name: str, image: Photo) -> None:
        """Log an image (H, W, 3) to the trackers; process 0 only."""
        for tracker in self.trackers:
            tracker.log_image(step, name, image)

    def flush(self) -> None:
        """Write the log out."""
        for tracker in self._trackers or ():
            tracker.flush()

    def close(self) -> None:
        """Write the log out, and stop listening for signals."""
        for tracker in self._trackers or ():
            tracker.close()
        self._signal.close()


def _step_of(file: Path) -> int:
    found = _NUMBERED.fullmatch(file.name)
    return int(found[1]) if found else 0


def lock_config(
    folder: Path,
    config: Any,
    begun: bool = True,
    write: bool = True,
    contents: Mapping[str, str] | None = None,
) -> None:
    """Write settings to config.json; once something was made with them, only some may change.

    Args:
        folder: of the run.
        config: a dataclass.
        begun: whether something was made.
        write: whether to write, which one of the processes of a run does.
        contents: fingerprints of the data, by name, which may not differ.

    Raises:
        ValueError: the folder holds a run with other settings or data.
        OSError: the folder cannot be written to.
    """
    file = folder / "config.json"
    settings = {
        **json.loads(json.dumps(asdict(config))),
        **({"contents": dict(contents)} if contents else {}),
    }
    if begun and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        compared = [name for name in settings if name not in changeable(config) and name != "contents"]
        changed = list(_changes(before, settings, compared))
        changed += _changes(before.get("contents", {}), contents or {}, contents or ())
        if changed:
            raise ValueError(
                f"'{folder}' holds a run with other settings: {', '.join(changed)}. "
                "Use another --out, or the same settings."
            )
    if write:
        write_json(file, settings)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if (old := before.get(name, now[name])) != now[name]:
            yield f"{name} {_shorten(old)}, not {_shorten(now[name])}"


def _shorten(value: Any) -> str:
    return value[:8] if isinstance(value, str) and len(value) == 64 else repr(value)  # a fingerprint


def check_finished(folder: Path, step: int, steps: int) -> None:
    """Check that a run has done all its steps.

    Args:
        folder: of the run.
        step: how many are done.
        steps: how many there are to do.

    Raises:
        InterruptedError: a signal stopped it before.
    """
    if step < steps:
        raise InterruptedError(f"'{folder}' stopped at step {step} of {steps}. Rerun the command to resume.")
