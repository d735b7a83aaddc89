"""What the paper says of the method's parts and what the miniature is to reach, and whether it held."""

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
    Scores,
    Value,
    Where,
    anywhere,
    asks_expression,
    asks_none,
    average,
    collect,
    difference,
    recognition,
    share_lost,
    show,
)
from .depths import Depths, count_people, depth_auc
from .measure import prompt_of

_Rows: TypeAlias = tuple[tuple[str, str, str, Value], ...]  # claims: which row is above which, in what
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
    """Something that the paper or the issue's targets say, and what was measured."""

    text: str
    held: bool
    measured: str
    value: float | None  # what differs between mappers; None where no mapper is concerned


def check_claims(scores: dict[str, Scores], person: Scores, depths: Depths) -> list[Claim]:
    """Check all claims: a level holds where the mean reaches it, a difference where its whole interval does.

    Args:
        scores: of the variants.
        person: with the pictures of "a person".
        depths: of the encoders of Fig. 4.

    Returns:
        The claims, in the page's order.
    """
    return [
        *check_targets(scores["cgdr"], person),
        *_losses(scores),
        *_encoders(scores),
        *_depths(depths),
        *_expressions(scores),
    ]


def check_targets(cgdr: Scores, person: Scores) -> Iterator[Claim]:
    """Check what the miniature's main mapper is to reach.

    Args:
        cgdr: its scores.
        person: with the pictures of "a person".

    Yields:
        The targets.
    """
    plain = [score for found in cgdr.values() for score in found if score.task == "plain"]
    auc = recognition(np.array([score.cosines for score in plain]), np.array([score.who for score in plain]))
    text, base = average(cgdr, "prompt", TEXT), average(person, "class", TEXT)
    gap = difference(collect(person, "class", TEXT), collect(cgdr, "prompt", TEXT))
    reference, asked = average(cgdr, "reference", TEXT), average(cgdr, "prompt", EXPRESSION, asks_expression)
    sample = f'"{prompt_of(PROMPTS[0])}", ...'
    yield Claim("“A photo of S*” is recognized: AUC at least 0.95", auc[0] >= 0.95, show(auc), auc[0])
    yield Claim(f"Text accuracy at least 0.85 ({sample})", text.value >= 0.85, show(text), text.value)
    yield Claim(
        "and within 0.05 of “a person”",
        gap.high <= 0.05,
        f"by {show(gap)}; a person: {show(base)}",
        gap.value,
    )
    yield Claim(
        "An expression reference is followed in at least 80 %",
        reference.value >= 0.8,
        show(reference),
        reference.value,
    )
    yield Claim("Without one the expression follows the prompt", asked.value >= 0.8, show(asked), asked.value)


def _losses(scores: dict[str, Scores]) -> Iterator[Claim]:
    kept, whole = (collect(scores[name], "prompt", IDENTITY) for name in ("cgdr", "reconstruction"))
    lost = share_lost(kept, whole)
    measured = f"by {show(lost)} of {whole[0].mean():.3f}"
    yield Claim(
        "CGDR loses at most 5 % of Reconstruction's identity (below zero: a gain)",
        lost[2] <= 0.05,
        measured,
        lost[0],
    )
    yield from (_higher(scores, *row) for row in _TABLE_5)
    masked = _above(scores, "masked", "reconstruction", TEXT)
    yield Claim(
        "Masked's text accuracy is not above Reconstruction's (Table 5)",
        masked.high <= 0,
        f"by {show(masked)}",
        masked.value,
    )
    yield _highest(
        scores,
        "CGDR's hMean is the highest of the four (Table 5)",
        ("reconstruction", "masked", "reconstruction-dsc"),
    )


def _encoders(scores: dict[str, Scores]) -> Iterator[Claim]:
    yield from (_higher(scores, *row) for row in _TABLE_3)
    yield _highest(scores, "MSID's hMean is the highest of the three (Table 3)", ("arcface", "arcface-msf"))


def _depths(depths: Depths) -> Iterator[Claim]:
    msid, arcface = (depth_auc(depths[name][MSF_DEPTHS[0]]) for name in ("msid", "arcface"))
    gain = bootstrap(lambda people: msid(people) - arcface(people), count_people(depths))
    yield Claim("MSID's shallow AUC is above ArcFace's (Fig. 4)", gain[1] > 0, f"by {show(gain)}", None)


def _expressions(scores: dict[str, Scores]) -> Iterator[Claim]:
    for text, value, where in (
        ("Expression guidance raises text accuracy (Table 4)", TEXT, anywhere),
        (
            "Expression guidance raises expression accuracy (Table 4) where a prompt names an expression",
            EXPRESSION,
            asks_expression,
        ),
        ("and where it names none, which is a face at rest, whatever the photo's", EXPRESSION, asks_none),
    ):
        yield _higher(scores, text, "cgdr", "no-expression", value, where)


def _higher(
    scores: dict[str, Scores], text: str, first: str, second: str, value: Value, where: Where = anywhere
) -> Claim:
    gap = _above(scores, first, second, value, where)
    return Claim(text, gap.low > 0, f"by {show(gap)}", gap.value)


def _highest(scores: dict[str, Scores], text: str, others: Sequence[str]) -> Claim:
    """Check that MSID with CGDR, which is one row, has a higher hMean than each of the others; shown is the least difference."""
    gaps = [_above(scores, "cgdr", name, HMEAN) for name in others]
    least = min(gaps, key=lambda gap: gap.value)
    return Claim(text, all(gap.low > 0 for gap in gaps), f"by {show(least)}", least.value)


def _above(scores: dict[str, Scores], first: str, second: str, value: Value, where: Where = anywhere) -> Mean:
    return difference(*(collect(scores[name], "prompt", value, where) for name in (first, second)))
