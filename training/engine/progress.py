"""How a training shows what it does: TensorBoard, and a progress bar on a terminal or lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import torch
from tqdm import tqdm

from .means import RunningMeans
from .processes import Processes
from .run_folder import Run


def on_terminal() -> bool:
    """Return whether a progress bar can be seen."""
    return sys.stderr.isatty()


class Progress:
    """Averages what the steps of an interval report, and shows it at the interval's end."""

    def __init__(
        self,
        run: Run,
        processes: Processes,
        log: Callable[[str], None],
        *,
        steps: int,
        first_step: int,
        batch_size: int,
        every: int,
        means: RunningMeans | None = None,
    ) -> None:
        """Begin the first interval.

        Args:
            run: whose TensorBoard log is written, by process 0.
            processes: of the run.
            log: called with each line if there is no terminal.
            steps: the last step.
            first_step: steps that are done.
            batch_size: images per step, of all processes.
            every: steps in an interval.
            means: filled by the steps of all processes; logged with the rest. None = nothing more.
        """
        self.run, self.processes, self.log_line = run, processes, log
        self.steps, self.batch_size, self.every = steps, batch_size, max(1, every)
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            desc=run.folder.name,
            unit="step",
            dynamic_ncols=True,
            disable=not (processes.first and on_terminal() and first_step < steps),
        )
        self._means = means or RunningMeans()
        self._begin()

    def _begin(self) -> None:
        self._sums: dict[str, float] = {}
        self._count, self._since = 0, time.perf_counter()

    def count(self, step: int, lr: float, **values: float) -> None:
        """Count a step; at the end of an interval, log the means of its values.

        Args:
            step: how many are done.
            lr: learning rate of this step.
            **values: of this step, by the name they are logged under.
        """
        self._count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if step % self.every == 0 or step == self.steps:
            details = self._means.take(self.processes)
            if self.processes.first:
                self._show(step, lr, details)
            self._begin()
        self._bar.update()

    def _show(self, step: int, lr: float, details: Mapping[str, float]) -> None:
        means = {name: total / self._count for name, total in self._sums.items()}
        seconds = (time.perf_counter() - self._since) / self._count
        rate = self.batch_size / seconds
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.processes.on_gpu else 0.0
        self.run.log(step, **means, **details, lr=lr, images_per_second=rate, memory_gib=memory)
        parts = [f"{name} {value:.4f}" for name, value in details.items() if "/" not in name]
        shown = "  ".join(
            [
                f"loss {means['loss']:.4f}",
                *parts,
                f"|g| {means['gradient_norm']:.3g}",
                f"lr {lr:.3g}",
                f"{rate:.1f} images/s",
            ]
        )
        if self._bar.disable:
            left = timedelta(seconds=round((self.steps - step) * seconds))
            self.log_line(f"{self.run.folder.name}: step {step}/{self.steps}  {shown}  {left} left")
        else:
            self._bar.set_postfix_str(shown, refresh=False)

    def note(self, message: str) -> None:
        """Log a message beside the progress."""
        if self.processes.first:
            with tqdm.external_write_mode():
                self.log_line(message)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()
