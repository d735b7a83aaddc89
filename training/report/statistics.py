"""How sure a mean is, what the best of N pictures is worth, and who ranks where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BEST_OF = (1, 2, 4, 8, 16)  # N of Fig. 7
_LEVEL = 0.95
_DRAWS = 10_000
_CHUNK = 1000  # draws at once
_FEW_DRAWS = 1000  # for what is computed anew in each


@dataclass(frozen=True)
class Mean:
    """A mean over pictures, with its confidence interval."""

    value: float
    low: float
    high: float
    pictures: int
    identities: int


def bootstrap_mean(
    values: np.ndarray, identities: np.ndarray, level: float = _LEVEL, draws: int = _DRAWS, seed: int = 0
) -> Mean | None:
    """Average over pictures, and bootstrap over identities: the pictures of one face are no independent samples.

    Args:
        values: shape (P,); NaN where there is none.
        identities: shape (P,), whose picture it is.
        level: of the interval (percentile bootstrap), in (0, 1).
        draws: of as many identities as there are, with replacement.
        seed: of the draws.

    Returns:
        The mean; its interval is NaN for fewer than two identities. None without any value.
    """
    there = np.isfinite(values)
    if not there.any():
        return None
    values = values[there]
    _, groups = np.unique(identities[there], return_inverse=True)
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
    """Compute anything that is no mean, such as an AUC, and bootstrap it over identities.

    Args:
        statistic: takes numbers of identities, shape (I,), with repetitions.
        identities: how many there are.
        level: of the interval (percentile bootstrap), in (0, 1).
        draws: of as many identities as there are, with replacement; for the same seed the same ones.
        seed: of the draws.

    Returns:
        The statistic of all identities, and the ends of its interval, NaN for fewer than two.
    """
    value, low, high = statistic(np.arange(identities)), np.nan, np.nan
    if identities > 1:
        generator = np.random.default_rng(seed)
        found = [statistic(generator.integers(identities, size=identities)) for _ in range(draws)]
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return value, float(low), float(high)


@dataclass(frozen=True)
class BestOf:
    """The upper bound for one N."""

    n: int
    mean: Mean  # its `pictures` are pairs


def upper_bound(
    values: np.ndarray,
    identities: np.ndarray,
    prompts: np.ndarray,
    sizes: Sequence[int] = BEST_OF,
    draws: int = _DRAWS,
) -> list[BestOf]:
    """Average the best of N pictures over all {image, prompt} pairs (Fig. 7).

    With M > N pictures of a pair, the best of N is averaged over all choices of N among them, in closed form: with the values in rising
    order, the i-th (from 1) is the best of N in C(i - 1, N - 1) of C(M, N) choices. So N = 1 is the plain mean over the pairs.

    Args:
        values: shape (P,), hMean of each picture; NaN where there is none.
        identities: shape (P,).
        prompts: shape (P,).
        sizes: N, rising.
        draws: of the bootstrap.

    Returns:
        One for each N that any pair has pictures for; pairs with fewer are left out of it.
    """
    there = np.isfinite(values)
    if not there.any():
        return []
    values, keys = (
        values[there],
        np.stack(
            [np.unique(array[there], return_inverse=True)[1] for array in (identities, prompts)], axis=1
        ),
    )
    pairs, groups = np.unique(keys, axis=0, return_inverse=True)
    ordered = [np.sort(values[groups.reshape(-1) == group]) for group in range(len(pairs))]
    found = []
    for n in sizes:
        enough = [place for place, pair in enumerate(ordered) if len(pair) >= n]
        weights = {count: _best_weights(count, n) for count in {len(ordered[place]) for place in enough}}
        best = np.array([ordered[place] @ weights[len(ordered[place])] for place in enough])  # (pairs,)
        mean = bootstrap_mean(best, pairs[enough, 0], draws=draws)
        if mean is not None:
            found.append(BestOf(n, mean))
    return found


def _best_weights(count: int, n: int) -> np.ndarray:
    """Chance of each of `count` values in rising order to be the best of n of them, (count,)."""
    weights = np.zeros(count)
    weights[-1] = n / count  # C(count - 1, n - 1) / C(count, n)
    for place in range(
        count - 1, n - 1, -1
    ):  # C(place - 1, n - 1) = C(place, n - 1) * (place - n + 1) / place
        weights[place - 1] = weights[place] * (place - n + 1) / place
    return weights


def rank(values: Mapping[str, float], places: int = 3, lower_is_better: bool = False) -> dict[str, int]:
    """Find the first, second and third; equal values share a place.

    Args:
        values: by name; NaN does not take part.
        places: how many.
        lower_is_better: for FID and the like.

    Returns:
        place by name, from 1.
    """
    known = {
        name: -value if lower_is_better else value for name, value in values.items() if np.isfinite(value)
    }
    standing = {name: 1 + sum(other > value for other in known.values()) for name, value in known.items()}
    return {name: place for name, place in standing.items() if place <= places}
