"""Differences between methods, paired by face, prompt and seed, and the ranks that follow from them.

Two methods are compared on the images that both have. A method that loses its bad images would win there, so
a pair is refused where gaps are many or unevenly distributed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..evaluation.protocol import Slot
from ..evaluation.results import Results
from .statistics import Mean, bootstrap_mean

MOST_GAPS = 0.05  # share of the images that one of two methods may lack
CHANCE = 0.05  # probability below which uneven gaps are no chance


@dataclass(frozen=True)
class Difference:
    """One score of two methods on the images that both have."""

    first: str
    second: str
    mean: Mean | None  # of first - second; None where the comparison is refused
    shared: int  # images that both have
    only_first: int  # images that only the first has
    only_second: int
    expected: int  # images of the protocol

    @property
    def refused(self) -> bool:
        """Whether gaps prevent the comparison."""
        gaps = self.expected - self.shared
        return not self.shared or gaps > MOST_GAPS * self.expected or self.uneven < CHANCE

    @property
    def uneven(self) -> float:
        """Probability of gaps this uneven if both methods lose images equally often (McNemar, exact)."""
        single = self.only_first + self.only_second
        fewer = min(self.only_first, self.only_second)
        return min(1.0, 2 * sum(math.comb(single, count) for count in range(fewer + 1)) / 2**single)

    def describe(self) -> str:
        """Describe the gaps."""
        return (
            f"{self.first} and {self.second} share {self.shared} of {self.expected} images, "
            f"{self.only_first} has only {self.first}, {self.only_second} only {self.second}"
        )


def compare_pairs(results: Sequence[Results], score: str, draws: int) -> list[Difference]:
    """Compare all pairs of methods that were scored alike.

    Args:
        results: of the methods.
        score: a metric, hMean or gMean; methods without it are left out.
        draws: of the bootstrap.

    Returns:
        The pairs in order, with the differences of those that are not refused.
    """
    columns = {one.method: _values(one, score) for one in results}
    return [
        _compare(first.method, second.method, columns, draws)
        for first, second in combinations(results, 2)
        if not first.differs_from(second)
        and all(np.isfinite(list(columns[one.method].values())).any() for one in (first, second))
    ]


def _values(results: Results, score: str) -> dict[Slot, float]:
    """Return one score of all images of the protocol, NaN if there is none."""
    values = dict.fromkeys(results.protocol.slots(), math.nan)
    scored = zip((slot for slot, _ in results.images), results.column(score).tolist(), strict=True)
    return values | dict(scored)


def _compare(first: str, second: str, columns: Mapping[str, Mapping[Slot, float]], draws: int) -> Difference:
    slots = [slot for slot in columns[first] if slot in columns[second]]
    one, other = (np.array([columns[name][slot] for slot in slots]) for name in (first, second))
    has_first, has_second = np.isfinite(one), np.isfinite(other)
    both = has_first & has_second
    counts = (both.sum(), (has_first & ~has_second).sum(), (has_second & ~has_first).sum(), len(slots))
    unmeasured = Difference(first, second, None, *map(int, counts))
    if unmeasured.refused:
        return unmeasured
    identities = np.array([slot.identity for slot in slots])
    mean = bootstrap_mean(one - other, identities, draws=draws)
    return Difference(first, second, mean, *map(int, counts))


def rank_by_differences(differences: Sequence[Difference]) -> dict[str, int]:
    """Rank methods by the differences whose intervals exclude 0.

    Args:
        differences: of one score.

    Returns:
        1 + the number of methods that are better, for each method that differs from any other.
    """
    better: dict[str, int] = {}
    for difference in differences:
        sign = difference.mean.sign if difference.mean is not None else 0
        if sign:
            winner, loser = (difference.first, difference.second)[::sign]
            better.setdefault(winner, 0)
            better[loser] = better.get(loser, 0) + 1
    return {name: 1 + count for name, count in better.items()}
