"""Measures all rows of the comparison, and compares them in pairs, person by person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ...report.comparison import Difference, rank_by_differences
from ...report.statistics import Mean
from ..study.averages import Scores, Value, collect, paired_difference
from .bench import Bench, Mapper
from .methods import Method
from .outcome import Outcome

SEEDS = (0, 1)  # of trainings and images


@dataclass(frozen=True)
class Measured:
    """A row of the tables with its outcomes."""

    row: Method | Mapper
    outcomes: dict[tuple[int, int], Outcome]  # by seed and person

    @property
    def scores(self) -> Scores:
        """All scores by seed."""
        by_seed: Scores = {}
        for (seed, _), outcome in self.outcomes.items():
            by_seed.setdefault(seed, []).extend(outcome.scores)
        return by_seed

    def average(self, value: Callable[[Outcome], float]) -> float:
        """Average a property of the outcomes."""
        return float(np.mean([value(outcome) for outcome in self.outcomes.values()]))


def measure_rows(
    bench: Bench, rows: Sequence[Method | Mapper], seeds: Sequence[int], folder: Path
) -> list[Measured]:
    """Measure all rows, one seed after the other; a rerun resumes.

    Args:
        bench: with the people.
        rows: mappers and per-person methods.
        seeds: of trainings and images.
        folder: of the outcomes.

    Returns:
        The rows with their outcomes.

    Raises:
        InterruptedError: a signal stopped a training.
    """
    found = [Measured(row, {}) for row in rows]
    for seed in seeds:
        for who in range(len(bench.people)):
            for measured in found:
                file = outcome_file(folder, measured.row, seed, who)
                measured.outcomes[seed, who] = bench.measure(measured.row, who, seed, file)
    return found


def outcome_file(folder: Path, row: Method | Mapper, seed: int, who: int) -> Path:
    """Return the file of a row's outcome for a seed and a person."""
    return folder / row.name / f"{seed}-{who}.json"


def subtract(first: Measured, second: Measured, value: Value) -> Mean:
    """Compute the mean of first - second, paired by person, over all prompts and seeds."""
    return paired_difference(*(collect(measured.scores, "prompt", value) for measured in (first, second)))


def rank_rows(rows: Sequence[Measured], value: Value) -> dict[str, int]:
    """Rank rows, by name, where paired intervals exclude 0."""
    differences = []
    for first, second in combinations(rows, 2):
        mean = subtract(first, second, value)
        differences.append(
            Difference(first.row.name, second.row.name, mean, mean.samples, 0, 0, mean.samples)
        )
    return rank_by_differences(differences)
