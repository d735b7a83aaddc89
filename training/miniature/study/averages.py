"""Averages of scores over images and seeds, and differences between variants paired by person."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import numpy as np

from ....f2d.miniature.prompts import NEUTRAL, PROMPTS
from ...msid.verification import area_under_curve
from ...report.statistics import Mean, bootstrap, bootstrap_mean
from .scores import Score

Scores = dict[int, list[Score]]  # by seed
Value = Callable[[Score], float]
Filter = Callable[[Score], bool]
PersonValues = tuple[np.ndarray, np.ndarray]  # values by person and prompt, (P,), and their people, (P,)
Interval = tuple[float, float, float]  # a value, and the ends of its 95 % interval

IDENTITY, TEXT, HMEAN, GMEAN = map(attrgetter, ("identity", "text", "hmean", "gmean"))
EXPRESSION = attrgetter("expression")
NO_MEAN = Mean(np.nan, np.nan, np.nan, 0, 0)


def any_prompt(score: Score) -> bool:
    """Select every image."""
    return True


def requests_expression(score: Score) -> bool:
    """Select the prompts that name an expression."""
    return PROMPTS[score.prompt].expression != NEUTRAL


def requests_no_expression(score: Score) -> bool:
    """Select the prompts that name no expression."""
    return not requests_expression(score)


def collect(scores: Scores, task: str, value: Value, where: Filter = any_prompt) -> PersonValues:
    """Average over seeds.

    Args:
        scores: of one variant.
        task: of `Score`.
        value: of a score.
        where: selects the scores that count.

    Returns:
        A value per person and prompt, and the person, each of shape (P,).
    """
    cells: dict[tuple[int, int], list[float]] = {}
    for seed_scores in scores.values():
        for score in seed_scores:
            if score.task == task and where(score):
                cells.setdefault((score.who, score.prompt), []).append(value(score))
    return np.array([np.mean(values) for values in cells.values()]), np.array([who for who, _ in cells])


def average(scores: Scores, task: str, value: Value, where: Filter = any_prompt) -> Mean:
    """Average over seeds, prompts and people, with an interval over people; arguments as for `collect`."""
    return bootstrap_mean(*collect(scores, task, value, where)) or NO_MEAN


def paired_difference(first: PersonValues, second: PersonValues) -> Mean:
    """Compute the mean of first - second, paired by person."""
    differences = _person_means(first) - _person_means(second)
    return bootstrap_mean(differences, np.arange(len(differences))) or NO_MEAN


def relative_loss(first: PersonValues, second: PersonValues) -> Interval:
    """Compute 1 - first / second, paired by person; negative where the first is larger."""
    kept, total = _person_means(first), _person_means(second)
    return bootstrap(lambda people: 1 - kept[people].mean() / total[people].mean(), len(total))


def _person_means(values: PersonValues) -> np.ndarray:
    """Average each person's values: shape (people,)."""
    array, people = values
    return np.array([array[people == who].mean() for who in np.unique(people)])


def recognition_auc(cosines: np.ndarray, who: np.ndarray) -> Interval:
    """Compute the AUC of images of people: their own photo against all others' photos.

    Args:
        cosines: shape (P, people), of each image with the photo of each person.
        who: shape (P,), the person in each image; everyone has at least one.

    Returns:
        AUC in [0, 1], with its interval over people.
    """
    own = np.eye(cosines.shape[1], dtype=bool)[who]

    def auc(people: np.ndarray) -> float:
        rows = np.concatenate([np.flatnonzero(who == person) for person in people])
        return area_under_curve(cosines[rows][own[rows]], cosines[rows][~own[rows]])

    return bootstrap(auc, cosines.shape[1], limits=(0, 1))


def format_interval(found: Mean | Interval) -> str:
    """Format a value and its interval, such as "0.979 [0.967, 0.989]"."""
    value, low, high = (found.value, found.low, found.high) if isinstance(found, Mean) else found
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
