"""Which samples a process sees in which step."""

from __future__ import annotations

from collections.abc import Iterator


class ResumableBatchSampler:
    """Which samples this process sees, micro-batch after micro-batch; all processes together see each number once."""

    def __init__(
        self, batch_size: int, first_step: int, steps: int, rank: int, world: int, accumulate: int = 1
    ) -> None:
        """Divide the batches.

        Args:
            batch_size: of all processes and accumulated parts together.
            first_step: where to go on.
            steps: where to end.
            rank: of this process.
            world: number of processes.
            accumulate: parts that a process takes one after the other.

        Raises:
            ValueError: the batch cannot be divided.
        """
        parts = world * accumulate
        if batch_size % parts:
            raise ValueError(
                f"Expected a batch size divisible by processes x accumulate = {parts}, got {batch_size}. Change one of them."
            )
        self.batch_size, self.size, self.accumulate = batch_size, batch_size // parts, accumulate
        self.first_step, self.steps, self.rank, self.world = first_step, steps, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of sample numbers."""
        for step in range(self.first_step, self.steps):
            for part in range(self.accumulate):
                start = step * self.batch_size + (part * self.world + self.rank) * self.size
                yield list(range(start, start + self.size))

    def __len__(self) -> int:
        """Number of micro-batches."""
        return (self.steps - self.first_step) * self.accumulate
