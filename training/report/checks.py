"""What limits a report's tables: deviations from the paper's protocol, gaps, and images that score zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..evaluation.benchmarks import PROMPTS
from ..evaluation.protocol import SEED_RULE, Protocol
from ..evaluation.results import HMEAN, Results
from .pages import Block, Cell, Heading, Row, Table, Text
from .published import preset_of

_LISTED = 12  # gaps named per kind
_PAPER_IDENTITIES = 100
_PAPER_SETTINGS = {"steps": 30, "cfg": 7.0, "sampler": "Euler ancestral"}
_DSC_SUBJECT_FROM = 0.2  # alpha 0.8 (Sec. E.2)
_DSC_PRESET = "reconstruction-dsc"
_GAPS = {
    "missing": "missing images",
    "broken": "damaged images",
    "unexpected": "images outside the protocol, not scored",
    "skipped": "faces without a usable photo, skipped",
}


def list_deviations(results: Results) -> list[str]:
    """List how an evaluation differs from the paper's protocol (Sec. 4.2).

    Args:
        results: of one method; of images from elsewhere, only number and size are known.

    Returns:
        Phrases such as "12 identities, not 100"; empty if nothing is known to differ.
    """
    if not results.of_paper:
        return ["prompts, base model and evaluators are the miniature's"]
    protocol, paper = results.protocol, Protocol(())
    found = [
        f"{own} {what}, not {expected}"
        for what, own, expected in (
            ("identities", len(protocol.identities), _PAPER_IDENTITIES),
            ("prompts", len(protocol.prompts), len(PROMPTS)),
            ("images per prompt", protocol.images_per_prompt, paper.images_per_prompt),
            ("px", protocol.size, paper.size),
        )
        if own != expected
    ]
    generation = results.details.get("generation")
    return found + list(_generation_deviations(results.method, generation)) if generation else found


def _generation_deviations(method: str, generation: dict) -> Iterator[str]:
    subject_from = _DSC_SUBJECT_FROM if preset_of(method) == _DSC_PRESET else 0.0
    for name, expected in {**_PAPER_SETTINGS, "subject_from": subject_from}.items():
        if (own := generation.get(name, expected)) != expected:
            yield f"{name.replace('_', ' ')} {own}, not {expected}"
    if generation.get("seeds") != SEED_RULE:
        yield (
            "all faces and prompts share the seeds 0, 1, 2, ... "
            "of an older version, so the intervals omit the "
            "variation of the initial noise"
        )


def report_deviations(results: Sequence[Results]) -> list[Block]:
    """Warn of methods that were not measured by the paper's protocol, and name the differences."""
    return [
        Text(f"{one.method} is off the paper's protocol: {'; '.join(found)}.", "warning")
        for one in results
        if (found := list_deviations(one))
    ]


def report_gaps(results: Sequence[Results]) -> list[Block]:
    """List missing and unusable inputs; no block if there are none."""
    blocks: list[Block] = []
    for one in results:
        for what, meaning in _GAPS.items():
            if listed := one.gaps[what]:
                names = [
                    f"{name} ({listed[name]})" if isinstance(listed, dict) else str(name)
                    for name in list(listed)[:_LISTED]
                ]
                more = f", and {len(listed) - _LISTED} more in the JSON" if len(listed) > _LISTED else ""
                blocks.append(Text(f"{one.method}, {meaning} ({len(listed)}): {', '.join(names)}{more}."))
    return [Heading("Gaps"), *blocks] if blocks else []


def report_zeros(results: Sequence[Results]) -> list[Block]:
    """Account for the images that score zero: without a face, or with a cosine of 0 or less."""
    benchmark = results[0].protocol.rules
    identity, text = benchmark.identity_metrics, benchmark.text_metrics
    columns = ("Method", "no face", *(f"{name} ≤ 0" for name in identity), *text, HMEAN)
    groups = (("with a face, cosine", len(identity)), ("score is 0", len(text) + 1))
    return [
        Heading("Images that score zero"),
        Text(
            "Shares of all scored images. An image without a face scores 0 in all identity metrics, a "
            "negative cosine counts as 0, and one zero makes hMean 0. In results of older versions, images "
            "without a face are counted among the cosines."
        ),
        Table(columns, tuple(map(_zeros_row, results)), (("", 1), *groups)),
    ]


def _zeros_row(results: Results) -> Row:
    faceless = results.faceless
    with_face = np.ones(len(results.images), bool) if faceless is None else ~faceless
    shares = [None if faceless is None else faceless.mean()]
    benchmark = results.protocol.rules
    for name in (*benchmark.metrics, HMEAN):
        values = results.column(name)
        known = np.isfinite(values)
        zero = (values == 0) & with_face if name in benchmark.identity_metrics else values == 0
        shares.append(zero[known].sum() / known.sum() if known.any() else None)
    cells = ("–" if share is None else f"{100 * share:.1f} %" for share in shares)
    return Row((Cell(results.method), *map(Cell, cells)), "measured")
