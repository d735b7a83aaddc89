"""Averages of scores over pictures and seeds, and how two rows differ, person by person."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import numpy as np

from ....f2d.miniature.prompts import NEUTRAL, PROMPTS
from ...msid.verification import area_under_curve
from ...report.statistics import Mean, bootstrap, bootstrap_mean
from .measure import Score

Scores = dict[int, list[Score]]  # by seed
Value = Callable[[Score], float]
Where = Callable[[Score], bool]
Cells = tuple[
    np.ndarray, np.ndarray
]  # values by person and prompt, of shape (P,), and whose they are, of shape (P,)
Interval = tuple[float, float, float]  # a value, and the ends of its 95 % interval

IDENTITY, TEXT, HMEAN, EXPRESSION = map(attrgetter, ("identity", "text", "hmean", "expression"))
NOTHING = Mean(np.nan, np.nan, np.nan, 0, 0)


def anywhere(score: Score) -> bool:
    """Take every picture."""
    return True


def asks_expression(score: Score) -> bool:
    """Take the prompts that name an expression."""
    return PROMPTS[score.prompt].expression != NEUTRAL


def asks_none(score: Score) -> bool:
    """Take the prompts that name no expression."""
    return not asks_expression(score)


def collect(scores: Scores, task: str, value: Value, where: Where = anywhere) -> Cells:
    """Average over seeds.

    Args:
        scores: of one row.
        task: of `Score`.
        value: of a picture.
        where: which pictures count.

    Returns:
        A value for each person and prompt, and whose it is, each of shape (P,).
    """
    cells: dict[tuple[int, int], list[float]] = {}
    for found in scores.values():
        for score in found:
            if score.task == task and where(score):
                cells.setdefault((score.who, score.prompt), []).append(value(score))
    return np.array([np.mean(values) for values in cells.values()]), np.array([who for who, _ in cells])


def average(scores: Scores, task: str, value: Value, where: Where = anywhere) -> Mean:
    """Average over seeds, prompts and people, with an interval over people; arguments as for `collect`."""
    return bootstrap_mean(*collect(scores, task, value, where)) or NOTHING


def difference(first: Cells, second: Cells) -> Mean:
    """Compute how far the first is above the second, paired by person."""
    gaps = _by_person(first) - _by_person(second)
    return bootstrap_mean(gaps, np.arange(len(gaps))) or NOTHING


def share_lost(first: Cells, second: Cells) -> Interval:
    """Compute which share of the second the first lacks, paired by person; below 0 where it has more."""
    kept, whole = _by_person(first), _by_person(second)
    return bootstrap(lambda people: 1 - kept[people].mean() / whole[people].mean(), len(whole))


def _by_person(cells: Cells) -> np.ndarray:
    """Average each person's values: shape (people,)."""
    values, people = cells
    return np.array([values[people == who].mean() for who in np.unique(people)])


def recognition(cosines: np.ndarray, who: np.ndarray) -> Interval:
    """Compute the AUC of pictures of people: the own photo against the photos of all others.

    Args:
        cosines: shape (P, people), of each picture with the photo of each person.
        who: shape (P,), whose picture it is; everyone has one or more.

    Returns:
        AUC in [0, 1], with its interval over people.
    """
    own = np.eye(cosines.shape[1], dtype=bool)[who]

    def auc(people: np.ndarray) -> float:
        places = np.concatenate([np.flatnonzero(who == one) for one in people])
        return area_under_curve(cosines[places][own[places]], cosines[places][~own[places]])

    return bootstrap(auc, cosines.shape[1])


def show(found: Mean | Interval) -> str:
    """Write a value and its interval, such as "0.979 [0.967, 0.989]"."""
    value, low, high = (found.value, found.low, found.high) if isinstance(found, Mean) else found
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
