"""One page for one or more evaluations, in Markdown and HTML, from their JSON files.

    f2d-train report --results eval/f2d.json,eval/elite.json --out eval/report
    f2d-train report --results eval/f2d.json --encoders msid.pt --triplets vggface2 --out eval/report

The second line adds Fig. 4.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...f2d.files import write_bytes, write_text
from ..config import ReportConfig
from ..evaluation.protocol import PROMPTS
from ..evaluation.results import Results, check_comparable
from ..msid.verification import verify
from .checks import report_deviations, report_gaps, report_zeros
from .comparison import compare_pairs
from .figures import report_image_grids, report_upper_bound, report_verification
from .pages import Block, Cell, Figure, Heading, Row, Table, Text, to_html, to_markdown
from .tables import (
    Measured,
    compare_ablations,
    compare_costs,
    compare_locations,
    compare_methods,
    report_differences,
    summarize,
    warn_of_gaps,
)

TITLE = "Face2Diffusion: evaluation"


def write_evaluation_report(config: ReportConfig, log: Callable[[str], None] = print) -> Path:
    """Write `report.html`, `report.md` and the Markdown page's figures.

    Args:
        config: of the report.
        log: called with each progress message.

    Returns:
        The HTML page.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no results, a damaged or unknown file, or two results of one method.
        OSError: the folder cannot be written to.
    """
    _check(config)
    results = [Results.load(path) for path in config.results]
    twice = [name for name, count in Counter(one.method for one in results).items() if count > 1]
    if twice:
        raise ValueError(
            f"Two results have the method '{twice[0]}'. Rename one with --method of `f2d-train "
            "evaluate`, or omit one."
        )
    if len({one.protocol.benchmark for one in results}) > 1:
        raise ValueError(
            "--results are of the paper's benchmark and of the miniature's, whose scores differ in meaning. "
            "Report them separately."
        )
    encoders = _collect_verifications(config, log)
    log(f"Bootstrap over identities, {config.draws} draws ...")
    blocks = build_blocks(results, encoders, config)
    out = Path(config.out)
    for block in blocks:
        if isinstance(block, Figure):
            write_bytes(out / block.name, block.data)
    write_text(out / "report.md", to_markdown(TITLE, blocks))
    write_text(out / "report.html", to_html(TITLE, blocks))
    return out / "report.html"


def build_blocks(
    results: Sequence[Results], encoders: Sequence[tuple[dict[str, Any], bytes]], config: ReportConfig
) -> list[Block]:
    """Build the page.

    Args:
        results: of the methods.
        encoders: JSON and histograms of each encoder.
        config: of the report.

    Returns:
        Its blocks.
    """
    measured = [Measured.of(one, config.draws) for one in results]
    comparisons = {score: compare_pairs(results, score, config.draws) for score in results[0].scores}
    of_paper = results[0].of_paper
    return [
        *summarize(measured, check_comparable(results)),
        *report_deviations(results),
        *warn_of_gaps(comparisons),
        *compare_methods(measured, comparisons),
        *report_differences(comparisons, results[0].protocol.rules),
        *report_zeros(results),
        *compare_costs(measured),
        *(compare_ablations(measured) if of_paper else ()),
        *(compare_locations(measured) if of_paper else ()),
        *report_upper_bound(measured, config.draws),
        *report_verification(encoders),
        *report_image_grids(results, config),
        *report_gaps(results),
        *report_setup(measured),
    ]


def report_setup(measured: Sequence[Measured]) -> list[Block]:
    """Describe how each method was measured: evaluators, protocol and machine."""
    blocks: list[Block] = [Heading("How it was measured")]
    for scorer in {json.dumps(method.results.scorer): method.results.scorer for method in measured}.values():
        names = ", ".join(method.name for method in measured if method.results.scorer == scorer)
        rows = tuple(Row((Cell(evaluator), Cell(weights))) for evaluator, weights in scorer.items())
        blocks.append(Table(("Evaluator", "weights"), rows, caption=f"Evaluators of {names}", words=True))
    for method in measured:
        protocol, machine = method.results.protocol, method.results.details.get("machine") or {}
        generation = method.results.details.get("generation")
        blocks.append(
            Text(
                f"{method.name}: {len(protocol.identities)} identities × {len(protocol.prompts)} prompts of "
                f"{protocol.rules.source} × {protocol.images_per_prompt} images of {protocol.size} px, "
                f"generated {'by this project' if generation else 'elsewhere'}, scored on "
                f"{machine.get('device', 'an unknown machine')} with torch {machine.get('torch', '?')}."
            )
        )
        if generation:
            settings = {name.replace("_", " "): value for name, value in generation.items() if value != ""}
            rows = tuple(Row((Cell(name), Cell(str(value)))) for name, value in settings.items())
            blocks.append(
                Table(("Setting", "value"), rows, caption=f"How {method.name} was generated", words=True)
            )
    return blocks


def _check(config: ReportConfig) -> None:
    if not config.results:
        raise ValueError(
            "--results is missing. Set it to one or more JSON files of `f2d-train evaluate`, separated by "
            "commas."
        )
    if not config.out:
        raise ValueError("--out is missing. Set it to a folder for the pages.")
    if config.draws < 1 or config.grid_identities < 0:
        raise ValueError(
            f"--draws {config.draws} or --grid-identities {config.grid_identities} is out of range. Use at "
            "least 1 draw and 0 identities."
        )
    wrong = [prompt for prompt in config.grid_prompts if not 0 <= prompt < len(PROMPTS)]
    if wrong:
        raise ValueError(
            f"--grid-prompts has no prompt {wrong[0]}. Use places in Table 7, from 0 to {len(PROMPTS) - 1}."
        )
    if config.encoders and not config.triplets:
        raise ValueError(
            "--encoders needs --triplets. Set it to a folder of aligned faces with one subfolder per "
            "identity."
        )


def _collect_verifications(
    config: ReportConfig, log: Callable[[str], None]
) -> list[tuple[dict[str, Any], bytes]]:
    """Verify the given encoders; returns their JSONs and histograms after those of --verification."""
    files = [Path(path) for path in config.verification]
    for number, encoder in enumerate(config.encoders):
        folder = Path(config.out) / f"encoder-{number}"
        log(f"Verifying {encoder} ...")
        verify(encoder, config.triplets, folder, config.depths or None, log=log)
        files.append(folder / "verification.json")
    return [
        (
            _read_verification(path),
            path.with_suffix(".png").read_bytes() if path.with_suffix(".png").is_file() else b"",
        )
        for path in files
    ]


def _read_verification(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no verification.json at '{path}'. Check --verification.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        complete = found["triplets"] and all(
            0 <= depth["auc"] <= 1 and depth["depth"] for depth in found["depths"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' is damaged or not an encoder's verification.json ({error!r}). Verify the encoder "
            "again with --encoders."
        ) from error
    if not complete:
        raise ValueError(f"'{path}' lists no triplets. Verify the encoder again with --encoders.")
    return found
