"""Confidence intervals, the upper bound by the best of N images, and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BEST_OF = (1, 2, 4, 8, 16)  # N of Fig. 7
_LEVEL = 0.95
_DRAWS = 10_000
_CHUNK = 1000  # draws computed together
_FEW_DRAWS = 1000  # for statistics that are computed for each draw


@dataclass(frozen=True)
class Mean:
    """A mean over images, with its confidence interval."""

    value: float
    low: float
    high: float
    samples: int  # images, or {image, prompt} pairs
    identities: int


def bootstrap_mean(
    values: np.ndarray, identities: np.ndarray, level: float = _LEVEL, draws: int = _DRAWS, seed: int = 0
) -> Mean | None:
    """Average over images, and bootstrap over identities, since images of one face are not independent.

    Args:
        values: shape (P,); NaN = no value.
        identities: shape (P,), of each image.
        level: of the interval (percentile bootstrap), in (0, 1).
        draws: number of resamplings of all identities, with replacement.
        seed: of the resampling.

    Returns:
        The mean, with a NaN interval for fewer than two identities; None without any value.
    """
    known = np.isfinite(values)
    if not known.any():
        return None
    values = values[known]
    _, groups = np.unique(identities[known], return_inverse=True)
    sums, counts = np.bincount(groups, values), np.bincount(groups)  # (I,)
    low = high = np.nan
    if len(sums) > 1:
        generator = np.random.default_rng(seed)
        chosen = [
            generator.integers(len(sums), size=(min(_CHUNK, draws - start), len(sums)))
            for start in range(0, draws, _CHUNK)
        ]
        means = np.concatenate([sums[drawn].sum(1) / counts[drawn].sum(1) for drawn in chosen])  # (draws,)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Mean(float(values.mean()), float(low), float(high), len(values), len(sums))


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    identities: int,
    level: float = _LEVEL,
    draws: int = _FEW_DRAWS,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Compute any statistic, such as an AUC, and bootstrap it over identities.

    Args:
        statistic: function of places of identities, shape (I,), with repetitions.
        identities: how many there are.
        level: of the interval (percentile bootstrap), in (0, 1).
        draws: number of resamplings of all identities, with replacement.
        seed: of the resampling.

    Returns:
        The statistic of all identities, and the ends of its interval, NaN for fewer than two.
    """
    value, low, high = statistic(np.arange(identities)), np.nan, np.nan
    if identities > 1:
        generator = np.random.default_rng(seed)
        samples = [statistic(generator.integers(identities, size=identities)) for _ in range(draws)]
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return value, float(low), float(high)


@dataclass(frozen=True)
class BestOf:
    """The upper bound for one N."""

    n: int
    mean: Mean  # over {image, prompt} pairs


def upper_bound(
    values: np.ndarray,
    identities: np.ndarray,
    prompts: np.ndarray,
    sizes: Sequence[int] = BEST_OF,
    draws: int = _DRAWS,
) -> list[BestOf]:
    """Average the best of N images over all {image, prompt} pairs (Fig. 7).

    With M > N images of a pair, the best of N is averaged over all choices of N among them, in closed form:
    in ascending order, the i-th value (from 1) is the best of N in C(i - 1, N - 1) of C(M, N) choices. So N =
    1 is the plain mean over the pairs.

    Args:
        values: shape (P,), hMean of each image; NaN = no value.
        identities: shape (P,).
        prompts: shape (P,).
        sizes: N, ascending.
        draws: of the bootstrap.

    Returns:
        A bound for each N that any pair has enough images for; pairs with fewer are excluded.
    """
    known = np.isfinite(values)
    if not known.any():
        return []
    values = values[known]
    keys = np.stack(
        [np.unique(array[known], return_inverse=True)[1] for array in (identities, prompts)], axis=1
    )
    pairs, groups = np.unique(keys, axis=0, return_inverse=True)
    ordered = [np.sort(values[groups.reshape(-1) == group]) for group in range(len(pairs))]
    bounds = []
    for n in sizes:
        enough = [place for place, pair in enumerate(ordered) if len(pair) >= n]
        weights = {count: _best_weights(count, n) for count in {len(ordered[place]) for place in enough}}
        best = np.array([ordered[place] @ weights[len(ordered[place])] for place in enough])  # (pairs,)
        mean = bootstrap_mean(best, pairs[enough, 0], draws=draws)
        if mean is not None:
            bounds.append(BestOf(n, mean))
    return bounds


def _best_weights(count: int, n: int) -> np.ndarray:
    """Compute each of `count` ascending values' probability to be the best of n of them: shape (count,)."""
    weights = np.zeros(count)
    weights[-1] = n / count  # C(count - 1, n - 1) / C(count, n)
    # C(place - 1, n - 1) = C(place, n - 1) * (place - n + 1) / place
    for place in range(count - 1, n - 1, -1):
        weights[place - 1] = weights[place] * (place - n + 1) / place
    return weights


def rank(values: Mapping[str, float], places: int = 3, lower_is_better: bool = False) -> dict[str, int]:
    """Rank the best; equal values share a rank.

    Args:
        values: by name; NaN is not ranked.
        places: the lowest rank.
        lower_is_better: for FID and the like.

    Returns:
        Rank by name, from 1.
    """
    known = {
        name: -value if lower_is_better else value for name, value in values.items() if np.isfinite(value)
    }
    ranks = {name: 1 + sum(other > value for other in known.values()) for name, value in known.items()}
    return {name: place for name, place in ranks.items() if place <= places}
