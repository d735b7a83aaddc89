"""The paper's claims about the method's parts and the miniature's targets, and whether they held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ....f2d.miniature.prompts import PROMPTS
from ...report.statistics import Mean, bootstrap
from ..recipe import MSF_DEPTHS
from .averages import (
    EXPRESSION,
    HMEAN,
    IDENTITY,
    TEXT,
    Filter,
    Scores,
    Value,
    any_prompt,
    average,
    collect,
    format_interval,
    paired_difference,
    recognition_auc,
    relative_loss,
    requests_expression,
    requests_no_expression,
)
from .depths import Depths, count_people, depth_auc
from .held_out_data import write_prompt

_Rows: TypeAlias = tuple[
    tuple[str, str, str, Value], ...
]  # claims: text, the larger row, the smaller row, the value
_TABLE_3: _Rows = (
    ("MSID's identity is above ArcFace's (Table 3)", "cgdr", "arcface", IDENTITY),
    ("Multi-scale features raise ArcFace's identity (Table 3)", "arcface-msf", "arcface", IDENTITY),
    ("Multi-scale features lower ArcFace's text accuracy (Table 3)", "arcface", "arcface-msf", TEXT),
    (
        "MSID's text accuracy is above that of ArcFace with multi-scale features (Table 3)",
        "cgdr",
        "arcface-msf",
        TEXT,
    ),
)
_TABLE_5: _Rows = (
    ("CGDR's text accuracy is above Reconstruction's (Table 5)", "cgdr", "reconstruction", TEXT),
    ("CGDR's text accuracy is above Masked's (Table 5)", "cgdr", "masked", TEXT),
    (
        "DSC raises the text accuracy of Reconstruction, its own base (Table 5)",
        "reconstruction-dsc",
        "reconstruction",
        TEXT,
    ),
    (
        "DSC loses identity against Reconstruction, its own base (Table 5)",
        "reconstruction",
        "reconstruction-dsc",
        IDENTITY,
    ),
    ("DSC's text accuracy is above CGDR's (Table 5)", "reconstruction-dsc", "cgdr", TEXT),
    ("DSC loses identity against CGDR (Table 5)", "cgdr", "reconstruction-dsc", IDENTITY),
)


@dataclass(frozen=True)
class Claim:
    """A statement that the measurements support or not."""

    text: str
    held: bool
    measured: str
    value: float | None  # of the mapper; None if the claim concerns no mapper


def check_claims(scores: dict[str, Scores], person: Scores, depths: Depths) -> list[Claim]:
    """Check all claims: a level holds if the mean reaches it, a difference if its whole interval does.

    Args:
        scores: of the variants.
        person: with the images of "a person".
        depths: of the encoders of Fig. 4.

    Returns:
        The claims, in the page's order.
    """
    return [
        *check_targets(scores["cgdr"], person),
        *_check_losses(scores),
        *_check_encoders(scores),
        *_check_depths(depths),
        *_check_expressions(scores),
    ]


def check_targets(cgdr: Scores, person: Scores) -> Iterator[Claim]:
    """Check the targets of the miniature's main mapper.

    Args:
        cgdr: its scores.
        person: with the images of "a person".

    Yields:
        The targets.
    """
    plain = [score for found in cgdr.values() for score in found if score.task == "plain"]
    auc = recognition_auc(
        np.array([score.cosines for score in plain]), np.array([score.who for score in plain])
    )
    text, base = average(cgdr, "prompt", TEXT), average(person, "class", TEXT)
    gap = paired_difference(collect(person, "class", TEXT), collect(cgdr, "prompt", TEXT))
    reference, requested = (
        average(cgdr, "reference", TEXT),
        average(cgdr, "prompt", EXPRESSION, requests_expression),
    )
    sample = f'"{write_prompt(PROMPTS[0])}", ...'
    yield Claim(
        "“A photo of S*” is recognized: AUC at least 0.95", auc[0] >= 0.95, format_interval(auc), auc[0]
    )
    yield Claim(
        f"Text accuracy at least 0.85 ({sample})", text.value >= 0.85, format_interval(text), text.value
    )
    yield Claim(
        "Text accuracy is within 0.05 of “a person”",
        gap.high <= 0.05,
        f"by {format_interval(gap)}; a person: {format_interval(base)}",
        gap.value,
    )
    yield Claim(
        "An expression reference is followed in at least 80 %",
        reference.value >= 0.8,
        format_interval(reference),
        reference.value,
    )
    yield Claim(
        "Without a reference the expression follows the prompt in at least 80 %",
        requested.value >= 0.8,
        format_interval(requested),
        requested.value,
    )


def _check_losses(scores: dict[str, Scores]) -> Iterator[Claim]:
    kept, total = (collect(scores[name], "prompt", IDENTITY) for name in ("cgdr", "reconstruction"))
    lost = relative_loss(kept, total)
    measured = f"by {format_interval(lost)} of {total[0].mean():.3f}"
    yield Claim(
        "CGDR loses at most 5 % of Reconstruction's identity (negative: a gain)",
        lost[2] <= 0.05,
        measured,
        lost[0],
    )
    yield from (_claim_higher(scores, *row) for row in _TABLE_5)
    masked = _difference(scores, "masked", "reconstruction", TEXT)
    yield Claim(
        "Masked's text accuracy is not above Reconstruction's (Table 5)",
        masked.high <= 0,
        f"by {format_interval(masked)}",
        masked.value,
    )
    yield _claim_highest(
        scores,
        "CGDR's hMean is the highest of the four (Table 5)",
        ("reconstruction", "masked", "reconstruction-dsc"),
    )


def _check_encoders(scores: dict[str, Scores]) -> Iterator[Claim]:
    yield from (_claim_higher(scores, *row) for row in _TABLE_3)
    yield _claim_highest(
        scores, "MSID's hMean is the highest of the three (Table 3)", ("arcface", "arcface-msf")
    )


def _check_depths(depths: Depths) -> Iterator[Claim]:
    msid, arcface = (depth_auc(depths[name][MSF_DEPTHS[0]]) for name in ("msid", "arcface"))
    gain = bootstrap(lambda people: msid(people) - arcface(people), count_people(depths))
    yield Claim(
        "MSID's shallow AUC is above ArcFace's (Fig. 4)", gain[1] > 0, f"by {format_interval(gain)}", None
    )


def _check_expressions(scores: dict[str, Scores]) -> Iterator[Claim]:
    for text, value, where in (
        ("Expression guidance raises text accuracy (Table 4)", TEXT, any_prompt),
        (
            "Expression guidance raises expression accuracy (Table 4) where a prompt names one",
            EXPRESSION,
            requests_expression,
        ),
        (
            "Expression guidance raises expression accuracy (Table 4) where a prompt names none: a face at "
            "rest",
            EXPRESSION,
            requests_no_expression,
        ),
    ):
        yield _claim_higher(scores, text, "cgdr", "no-expression", value, where)


def _claim_higher(
    scores: dict[str, Scores], text: str, first: str, second: str, value: Value, where: Filter = any_prompt
) -> Claim:
    gap = _difference(scores, first, second, value, where)
    return Claim(text, gap.low > 0, f"by {format_interval(gap)}", gap.value)


def _claim_highest(scores: dict[str, Scores], text: str, others: Sequence[str]) -> Claim:
    """Check that the full method has a higher hMean than all others; shows the smallest difference."""
    gaps = [_difference(scores, "cgdr", name, HMEAN) for name in others]
    least = min(gaps, key=lambda gap: gap.value)
    return Claim(text, all(gap.low > 0 for gap in gaps), f"by {format_interval(least)}", least.value)


def _difference(
    scores: dict[str, Scores], first: str, second: str, value: Value, where: Filter = any_prompt
) -> Mean:
    return paired_difference(*(collect(scores[name], "prompt", value, where) for name in (first, second)))
