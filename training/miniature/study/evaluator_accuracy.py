"""The evaluators' accuracy on rendered samples, whose ground truth is known."""

from __future__ import annotations

import numpy as np

from ....f2d.miniature.evaluators import Attributes, Verifier
from ....f2d.miniature.prompts import KINDS
from ...report.pages import Cell, Row, Table
from ...report.statistics import bootstrap_mean
from ..world.samples import HELD_OUT_PEOPLE, render_sample, sample_balanced_attributes
from .averages import NO_MEAN, recognition_auc
from .held_out_data import held_out_person, render_photo

_SAMPLES_PER_PERSON = 4
_FIRST_SAMPLE = 62_000_000


def measure_evaluators(verifier: Verifier, attributes: Attributes, people: int) -> Table:
    """Run the evaluators on rendered samples of held-out people.

    Args:
        verifier: the identity evaluator.
        attributes: the evaluator of jobs, places and expressions.
        people: how many; all held-out people if there are fewer.

    Returns:
        Their accuracy and AUC.
    """
    people = min(people, len(HELD_OUT_PEOPLE))
    references = verifier.embed([render_photo(who) for who in range(people)])  # (people, F)
    cosines, correct = [], []
    for who in range(people):
        first = _FIRST_SAMPLE + _SAMPLES_PER_PERSON * who
        samples = [
            render_sample(number, held_out_person(who), sample_balanced_attributes(number))
            for number in range(first, first + _SAMPLES_PER_PERSON)
        ]
        images = [sample.rendering.image for sample in samples]
        cosines.append((verifier.embed(images) @ references.T).cpu().numpy())
        for sample, recognized in zip(samples, attributes.recognize(images), strict=True):
            correct.append([getattr(sample.attributes, kind) == getattr(recognized, kind) for kind in KINDS])
    whose = np.repeat(range(people), _SAMPLES_PER_PERSON)
    accuracies = [bootstrap_mean(column, whose) or NO_MEAN for column in np.array(correct, float).T]
    intervals = [(mean.value, mean.low, mean.high) for mean in accuracies]
    intervals.append(recognition_auc(np.concatenate(cosines), whose))
    cells = [Cell(f"{value:.3f}", detail=f"{low:.3f} to {high:.3f}") for value, low, high in intervals]
    return Table(
        ("", *(f"{kind.capitalize()} accuracy" for kind in KINDS), "Identity AUC"),
        (Row((Cell("Rendered samples"), *cells), "measured"),),
        caption=f"The evaluators on {len(whose)} rendered samples of {people} held-out people; "
        "intervals: 95 %, bootstrap over people.",
    )
