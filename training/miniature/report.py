"""The paper in small: its tables and figures on people and prompts that no stage of training has seen, as a page with plots."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...f2d.checkpoint import atomic_file, read
from ...f2d.image import load_photo
from ...f2d.miniature.prompts import NEUTRAL, PROMPTS, Facts, describe
from ...f2d.miniature.sheet import Panel, draw_sheet
from ...f2d.msid import load_msid
from ..evaluation.pages import Block, Cell, Figure, Heading, Row, Table, Text, to_markdown
from ..evaluation.plots import plot_upper_bound
from ..evaluation.statistics import Mean, bootstrap, bootstrap_mean, rank, upper_bound
from ..faces import open_faces
from ..verification import Similarities, area_under_curve, compare, draw_histograms, sample_triplets
from .album import HELD_OUT
from .measure import SHOWN, VARIANTS, Score, measure, photo_of, picture_path
from .photos import write_class_folders
from .recipe import MSF_DEPTHS, Miniature

SEEDS = (0, 1, 2)  # of the mappers
_PEOPLE, _FACES, _TRIPLETS = 8, 8, 10  # for Fig. 4: how many times the people who are drawn, photos of each, triplets of each
_ENCODERS = {"arcface": "ArcFace", "msid": "MSID"}  # of Fig. 4
_NOTHING = Mean(np.nan, np.nan, np.nan, 0, 0)
Scores = dict[int, list[Score]]  # by seed
Value = Callable[[Score], float]


@dataclass(frozen=True)
class Claim:
    """Something that the paper or the issue's targets say, and what was measured."""

    text: str
    held: bool
    measured: str
    value: float | None  # what differs between mappers; None where no mapper is concerned


def write_report(miniature: Miniature, seeds: Sequence[int] = SEEDS) -> Path:
    """Train what is missing, measure, and write `report/miniature.md` with its plots.

    Args:
        miniature: the recipe's folder.
        seeds: of the mappers, for every row.

    Returns:
        The page.
    """
    scores = {name: {seed: measure(miniature, variant, seed) for seed in seeds} for name, variant in VARIANTS.items()}
    folder = miniature.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    depths = {name: _verify(miniature, name, folder) for name in _ENCODERS}
    plain = _mean(scores["cgdr"], "class", lambda score: score.text)
    people, middle = miniature.config.report_people, _middle(scores["cgdr"][seeds[0]])
    claims = _claims(scores, depths, plain)
    alone = [_claims({name: {seed: found[seed]} for name, found in scores.items()}, depths, plain) for seed in seeds]
    blocks: list[Block] = [
        Text(_lead(miniature, seeds), "lead"),
        Heading("What held"),
        Table(
            ("Claim", "held", "measured", "each seed"),
            tuple(
                Row((Cell(claim.text), Cell("yes" if claim.held else "no"), Cell(claim.measured), Cell(_list(ones))), "measured")
                for claim, *ones in zip(claims, *alone, strict=True)
            ),
            words=True,
            caption="Measured: the mean over seeds; intervals: 95 %, bootstrap over people; differences are paired by person.",
        ),
        Figure(
            "people.jpg",
            _pictures(miniature, scores, seeds[0], [("cgdr", who, "") for who in range(people)], "People whom no training has seen"),
            "All of the people, drawn by CGDR, with the judges' scores.",
        ),
        Figure(
            "variants.jpg",
            _pictures(miniature, scores, seeds[0], [(name, middle, name) for name in VARIANTS], "One person, by all variants"),
            "The person of the median identity (CGDR), a row for each variant.",
        ),
        Heading("Encoders (Table 3)"),
        _table(scores, ("arcface", "arcface-msf", "cgdr"), ("ArcFace", "ArcFace w/ MSF", "MSID")),
        Heading("Identity by depth (Fig. 4)"),
        *_depth_figures(depths, folder),
        Heading("Expression guidance (Table 4)"),
        _table(scores, ("no-expression", "cgdr"), ("without", "with"), expressions=True),
        Heading("Losses (Table 5)"),
        _table(
            scores,
            ("reconstruction", "masked", "reconstruction-dsc", "cgdr"),
            ("Reconstruction", "Masked", "Reconstruction w/ DSC", "CGDR"),
        ),
        Heading("Best of N (Fig. 7)"),
        Figure(
            "best-of-n.svg",
            plot_upper_bound({name: _best(scores[name]) for name in ("cgdr", "reconstruction")}),
            "hMean of the best of N pictures; bands are 95 % confidence intervals.",
        ),
    ]
    for block in blocks:
        if isinstance(block, Figure):
            (folder / block.name).write_bytes(block.data)
    page = folder / "miniature.md"
    with atomic_file(page) as temporary:
        Path(temporary).write_text(to_markdown("The paper in miniature", blocks), encoding="utf-8")
    return page


def _pictures(miniature: Miniature, scores: dict[str, Scores], seed: int, rows: Sequence[tuple[str, int, str]], title: str) -> bytes:
    """Show people under some prompts, a row for each variant and person, with what it is called: a JPEG."""
    sheet = []
    for name, who, called in rows:
        found = {(score.task, score.prompt): score for score in reversed(scores[name][seed]) if score.who == who}  # the first of each
        panels = [Panel(photo_of(who), f"photo\n{called}")]
        for prompt in SHOWN:
            path = picture_path(miniature, name, seed, who, prompt)
            if path.exists():
                task, facts = ("plain", Facts()) if prompt < 0 else ("prompt", PROMPTS[prompt])
                score = found[task, prompt]
                scored = {"identity": score.identity} | ({"text": score.text} if prompt >= 0 else {})
                panels.append(Panel(load_photo(path), describe(facts, "S*"), scored))
        sheet.append(panels)
    buffer = BytesIO()
    Image.fromarray(draw_sheet(sheet, title, f"mappers of seed {seed}")).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _middle(scores: Sequence[Score]) -> int:
    """Find the person of the median identity."""
    identities: dict[int, list[float]] = {}
    for score in scores:
        if score.task == "prompt":
            identities.setdefault(score.who, []).append(score.identity)
    return sorted(identities, key=lambda who: np.mean(identities[who]))[len(identities) // 2]


def _lead(miniature: Miniature, seeds: Sequence[int]) -> str:
    config = miniature.config
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return (
        f"{date.today()}, {device}, torch {torch.__version__}, Python {platform.python_version()}: {config.report_people} people whom no stage of "
        f"training has seen, one photo each, {min(config.report_prompts, len(PROMPTS))} prompts, mappers of {len(seeds)} seeds. Made by "
        "`f2d-train miniature report`. The judges of identity and of what is to be seen are trained apart, on other people, with another "
        "architecture. Identity is the judge's cosine between photo and picture; text is the share of what a prompt asks for that is seen; "
        "hMean is their harmonic mean for each picture, then averaged. This is a drawn world: it shows whether the method's parts do what the "
        "paper says of them, not how good the paper's model is."
    )


def _values(scores: Scores, task: str, value: Value, where: Callable[[Score], bool] = lambda score: True) -> tuple[np.ndarray, np.ndarray]:
    """Average over seeds: values by person and prompt, each of shape (P,), and whose they are."""
    cells: dict[tuple[int, int], list[float]] = {}
    for found in scores.values():
        for score in found:
            if score.task == task and where(score):
                cells.setdefault((score.who, score.prompt), []).append(value(score))
    return np.array([np.mean(values) for values in cells.values()]), np.array([who for who, _ in cells])


def _mean(scores: Scores, task: str, value: Value, where: Callable[[Score], bool] = lambda score: True) -> Mean:
    values, people = _values(scores, task, value, where)
    return bootstrap_mean(values, people) or _NOTHING


def _difference(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> Mean:
    """How far the first is above the second, person by person."""
    people = np.unique(first[1])
    gaps = np.array([first[0][first[1] == who].mean() - second[0][second[1] == who].mean() for who in people])
    return bootstrap_mean(gaps, people) or _NOTHING


def _asks_expression(score: Score) -> bool:
    return PROMPTS[score.prompt].expression != NEUTRAL


def _asks_none(score: Score) -> bool:
    return not _asks_expression(score)


def _show(mean: Mean | tuple[float, float, float]) -> str:
    value, low, high = (mean.value, mean.low, mean.high) if isinstance(mean, Mean) else mean
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _list(claims: Sequence[Claim]) -> str:
    return ", ".join(f"{claim.value:.3f}" for claim in claims if claim.value is not None) or "–"


def _table(scores: dict[str, Scores], names: Sequence[str], titles: Sequence[str], expressions: bool = False) -> Table:
    columns: dict[str, tuple[str, Value, Callable[[Score], bool]]] = {
        "Identity": ("prompt", lambda score: score.identity, lambda score: True),
        "Text": ("prompt", lambda score: score.text, lambda score: True),
        "hMean": ("prompt", lambda score: score.hmean, lambda score: True),
    }
    if expressions:
        columns["Expression asked for is seen"] = ("prompt", lambda score: score.expression, _asks_expression)
        columns["At rest where none is asked for"] = ("prompt", lambda score: score.expression, _asks_none)
        columns["Reference followed"] = ("reference", lambda score: score.text, lambda score: True)
    found = {name: [_mean(scores[name], *column) for column in columns.values()] for name in names}
    ranks = [rank({name: cells[i].value for name, cells in found.items()}) for i in range(len(columns))]
    rows = []
    for name, title in zip(names, titles, strict=True):
        cells = [Cell(title)]
        for i, mean in enumerate(found[name]):
            shown = f"{mean.value:.3f}" if mean.pictures else "–"
            cells.append(Cell(shown, ranks[i].get(name, 0), f"{mean.low:.3f} to {mean.high:.3f}" if mean.pictures else ""))
        rows.append(Row(tuple(cells), "measured"))
    return Table(("", *columns), tuple(rows))


def _best(scores: Scores) -> list:
    values, people, prompts = [], [], []
    drawn = {(s.who, s.prompt) for found in scores.values() for s in found if s.task == "best"}
    for seed, found in scores.items():
        for score in found:
            if score.task in ("best", "prompt") and (score.who, score.prompt) in drawn:
                values.append(score.hmean)
                people.append(score.who)
                prompts.append(1000 * seed + score.prompt)
    return upper_bound(np.array(values), np.array(people), np.array(prompts), (1, 2, 4, 8))


def _verify(miniature: Miniature, name: str, folder: Path) -> dict[int, Similarities]:
    """Compare held-out people's faces at each depth, over several draws of triplets."""
    people = HELD_OUT[: max(_PEOPLE * miniature.config.report_people, 2)]
    faces = open_faces(write_class_folders(miniature.folder / "held-out", people, _FACES), remap=True)
    encoder = load_msid(read(miniature.encoder(name)), MSF_DEPTHS)
    triplets = np.concatenate([sample_triplets(faces.labels, seed) for seed in range(_TRIPLETS)])
    found = compare(encoder, faces, triplets)
    draw_histograms(found, folder / f"depths-{name}.png", _ENCODERS[name])
    return found


def _depth_aucs(found: Similarities) -> Callable[[np.ndarray], float]:
    """Return the AUC as a function of which people's triplets count."""
    positive, negative = (array.reshape(_TRIPLETS, -1) for array in (found.positive, found.negative))
    return lambda people: area_under_curve(positive[:, people].ravel(), negative[:, people].ravel())


def _depth_figures(depths: dict[str, dict[int, Similarities]], folder: Path) -> Iterable[Block]:
    rows = []
    for name, title in _ENCODERS.items():
        cells = [Cell(title)]
        for found in depths[name].values():
            auc, low, high = bootstrap(_depth_aucs(found), len(found.positive) // _TRIPLETS)
            cells.append(Cell(f"{100 * auc:.2f} %", detail=f"{100 * low:.2f} to {100 * high:.2f}"))
        rows.append(Row(tuple(cells), "measured"))
    count = len(depths["msid"][MSF_DEPTHS[0]].positive)
    yield Table(
        ("AUC", *(f"depth {depth}" for depth in MSF_DEPTHS)),
        tuple(rows),
        caption=f"{count} triplets of {count // _TRIPLETS} people whom no training has seen; intervals: 95 %, bootstrap over people.",
    )
    for name, title in _ENCODERS.items():
        caption = f"Cosines of {title}'s features: anchor and positive, anchor and negative."
        yield Figure(f"depths-{name}.png", (folder / f"depths-{name}.png").read_bytes(), caption)


def recognition(scores: Scores) -> tuple[float, float, float]:
    """Compute the AUC of "a photo of S*": own photo against the photos of all others.

    Args:
        scores: by seed.

    Returns:
        AUC in [0, 1], and the ends of its 95 % interval over people.
    """
    plain = [score for found in scores.values() for score in found if score.task == "plain"]
    cosines, who = np.array([score.cosines for score in plain]), np.array([score.who for score in plain])  # (P, people), (P,)
    own = np.eye(cosines.shape[1], dtype=bool)[who]

    def auc(people: np.ndarray) -> float:
        places = np.concatenate([np.flatnonzero(who == one) for one in people])
        return area_under_curve(cosines[places][own[places]], cosines[places][~own[places]])

    return bootstrap(auc, cosines.shape[1])


def _claims(scores: dict[str, Scores], depths: dict[str, dict[int, Similarities]], plain: Mean) -> list[Claim]:
    cgdr, reconstruction = scores["cgdr"], scores["reconstruction"]
    auc = recognition(cgdr)
    text = _mean(cgdr, "prompt", lambda s: s.text)
    reference = _mean(cgdr, "reference", lambda s: s.text)
    asked = _mean(cgdr, "prompt", lambda s: s.expression, _asks_expression)

    def above(first: str, second: str, value: Value, where: Callable[[Score], bool] = lambda s: True) -> Mean:
        return _difference(_values(scores[first], "prompt", value, where), _values(scores[second], "prompt", value, where))

    identity, words = (lambda s: s.identity), (lambda s: s.text)
    kept, whole = _mean(cgdr, "prompt", identity), _mean(reconstruction, "prompt", identity)
    gap, lost = plain.value - text.value, whole.value - kept.value
    gain, dsc = above("cgdr", "reconstruction", words), above("cgdr", "reconstruction-dsc", identity)
    guided, rested = (above("cgdr", "no-expression", lambda s: float(s.expression), where) for where in (_asks_expression, _asks_none))
    msid, arcface = (_depth_aucs(depths[name][MSF_DEPTHS[0]]) for name in ("msid", "arcface"))
    shallow = bootstrap(lambda people: msid(people) - arcface(people), len(depths["msid"][MSF_DEPTHS[0]].positive) // _TRIPLETS)
    sample = f'"{describe(PROMPTS[0], "S*")}", ...'
    return [
        Claim("“A photo of S*” is recognised: AUC at least 0.95", auc[0] >= 0.95, _show(auc), auc[0]),
        Claim(f"Text accuracy at least 0.85 ({sample})", text.value >= 0.85, _show(text), text.value),
        Claim("and within 0.05 of “a person”", gap <= 0.05, f"by {gap:.3f}; a person: {_show(plain)}", gap),
        Claim("An expression reference is followed in at least 80 %", reference.value >= 0.8, _show(reference), reference.value),
        Claim("Without one the expression follows the prompt", asked.value >= 0.8, _show(asked), asked.value),
        Claim("CGDR's text accuracy is above reconstruction's (Table 5)", gain.low > 0, f"by {_show(gain)}", gain.value),
        Claim("at a loss of at most 5 % of identity (below zero: a gain)", lost <= 0.05 * whole.value, f"by {lost:.3f}: {_show(kept)}, reconstruction {_show(whole)}", lost),
        Claim("DSC loses identity against CGDR (Table 5)", dsc.low > 0, f"by {_show(dsc)}", dsc.value),
        Claim("MSID's shallow AUC is above ArcFace's (Fig. 4)", shallow[1] > 0, f"by {_show(shallow)}", None),
        Claim("Expression guidance raises expression accuracy (Table 4) where a prompt names an expression", guided.low > 0, f"by {_show(guided)}", guided.value),
        Claim("and where it names none, which is a face at rest, whatever the photo's", rested.low > 0, f"by {_show(rested)}", rested.value),
    ]  # fmt: skip
