"""How far the judges can be trusted: what they see in drawings, of which everything is known."""

from __future__ import annotations

import numpy as np

from ....f2d.miniature.evaluators import Attributes, Verifier
from ....f2d.miniature.prompts import KINDS
from ...report.pages import Cell, Row, Table
from ...report.statistics import bootstrap_mean
from ..world.samples import HELD_OUT, balanced_facts, drawing
from .averages import NOTHING, recognition
from .measure import held_out, photo_of

_DRAWINGS = 4  # of each person
_DRAWINGS_FROM = 62_000_000  # numbers of the drawings


def evaluate_on_drawings(verifier: Verifier, attributes: Attributes, people: int) -> Table:
    """Have the judges look at drawings of held-out people.

    Args:
        verifier: the judge of identity.
        attributes: the judge of jobs, places and expressions.
        people: how many; at most all who are held out count.

    Returns:
        How often they are right.
    """
    everyone = range(min(people, len(HELD_OUT)))
    known = verifier.embed([photo_of(who) for who in everyone])  # (people, F)
    cosines, right = [], []
    for who in everyone:
        numbers = range(_DRAWINGS_FROM + _DRAWINGS * who, _DRAWINGS_FROM + _DRAWINGS * (who + 1))
        drawings = [drawing(number, held_out(who), balanced_facts(number)) for number in numbers]
        pictures = [one.picture.image for one in drawings]
        cosines.append((verifier.embed(pictures) @ known.T).cpu().numpy())
        for one, seen in zip(drawings, attributes.recognize(pictures), strict=True):
            right.append([getattr(one.facts, kind) == getattr(seen, kind) for kind in KINDS])
    whose = np.repeat(everyone, _DRAWINGS)
    accuracies = [bootstrap_mean(column, whose) or NOTHING for column in np.array(right, float).T]
    found = [(mean.value, mean.low, mean.high) for mean in accuracies] + [
        recognition(np.concatenate(cosines), whose)
    ]
    cells = [Cell(f"{value:.3f}", detail=f"{low:.3f} to {high:.3f}") for value, low, high in found]
    return Table(
        ("", *(f"{kind.capitalize()} is right" for kind in KINDS), "AUC of identity"),
        (Row((Cell("Drawings"), *cells), "measured"),),
        caption=f"What the judges make of {len(whose)} drawings of {len(everyone)} people whom no training has seen; intervals: 95 %, bootstrap over people.",
    )
