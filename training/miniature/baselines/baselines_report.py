"""A page that compares Face2Diffusion with per-person methods: the paper's Tables 1 and 2 in small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from ....f2d.files import write_text
from ....f2d.image import load_photo
from ....f2d.miniature.prompts import PROMPTS
from ....f2d.miniature.sheet import Panel, draw_sheet
from ...config import MiniatureConfig
from ...report.pages import Block, Cell, Figure, Heading, Row, Table, Text, to_markdown
from ..models.captions import NAMES
from ..recipe import Miniature, folder_of
from ..study.averages import GMEAN, HMEAN, IDENTITY, TEXT, average
from ..study.held_out_data import OPENING, TUNING_PLACES, write_prompt
from ..study.miniature_report import describe_machine, median_person
from . import dream_identity
from .bench import MAPPERS, SHOWN_PROMPTS, Bench, Mapper
from .measured_rows import SEEDS, Measured, measure_rows, outcome_file, rank_rows, subtract
from .methods import METHODS, Method, choose_methods
from .outcome import image_path
from .tune import PEOPLE, TUNING_PROMPTS, read_trials

_SCORES = {"Identity": IDENTITY, "Text": TEXT, "hMean": HMEAN, "gMean": GMEAN}
_RANKED = 3  # the lowest marked rank
_QUALITY = 70  # of the JPEG
_METHODS = (
    "DreamIdentity is a mapper too, trained as long as Face2Diffusion's, on MSID's features in place of a "
    "multi-scale ArcFace's, and without expressions: half of each batch are the photos, with the "
    f"reconstruction loss (Eq. 1), the other half images of {len(NAMES)} people whose names the base model "
    "knows, which it generates itself, in scenes that the prompt names. The methods below it train on one "
    "photo with the prompt “a photo of S*”, on one optimization loop with AdamW and a constant learning "
    "rate. TextualInversion trains the two words of S*, which start as “a person”; DVAR is the same with its "
    "stopping rule; Perfusion's key locking adds a vector per cross-attention layer and word to the values, "
    "and takes the keys from the prompt with “a person”. The other three call the person “<rare token> "
    "person”, and half of each batch shows other people as “a person”, whose photos are those of the "
    f"{len(TUNING_PLACES)} people of the tuning split: CustomDiffusion trains the rare token and the keys "
    "and values of cross-attention, DreamBooth the U-Net, OFT rotations of the attention weights. “w/ DSC” "
    "is FastComposer's delayed conditioning: “a person” stands for S* in the first fifth of the denoising."
)
_MISSING = (
    "ELITE needs OpenImages for its two stages of pretraining, E4T a large dataset of one domain and a tuned "
    "encoder per domain, CelebBasis the names of hundreds of celebrities that the base model can generate; "
    "this base model knows 32 names. FastComposer's encoder is trained with captions of several people per "
    "image; only its delayed conditioning is here. DreamIdentity's own encoder, the multi-scale features of "
    "ArcFace, is the row “ArcFace w/ MSF” of the page about the paper's parts."
)


def write_baselines_report(config: MiniatureConfig, log: Callable[[str], None]) -> Path:
    """Measure what is missing, and write `baselines.md` with its images.

    Args:
        config: with the folder, people, prompts, seeds and methods.
        log: called with each progress message.

    Returns:
        The page.

    Raises:
        ValueError: `config.out` is empty, or an unknown method.
        InterruptedError: a signal stopped a training; the same call resumes.
    """
    folder, seeds = folder_of(config), config.seeds or SEEDS
    prompts = range(0, min(config.report_prompts, len(PROMPTS)), config.prompt_stride)
    bench = Bench(range(config.report_people), prompts, config.bf16, log)
    rows = measure_rows(bench, _choose_rows(config, bench, log), seeds, folder / "outcomes")
    figure = Figure(
        "baselines.jpg",
        _draw_rows(bench, rows, seeds[0], folder / "outcomes"),
        "The person whose images by Face2Diffusion have the median identity, a row per method.",
    )
    blocks: list[Block] = [
        Text(_lead(bench, seeds), "lead"),
        Text(_METHODS),
        _scores_table(rows),
        _differences_table(rows),
        figure,
        Heading("Cost (Table 2)"),
        _cost_table(rows),
        Heading("Learning rates and steps"),
        *_tuning(folder / "tuning"),
        Heading("Not measured"),
        Text(_MISSING),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / figure.name).write_bytes(figure.data)
    page = folder / "baselines.md"
    write_text(page, to_markdown("Other methods on the miniature (Tables 1 and 2)", blocks))
    return page


def _choose_rows(config: MiniatureConfig, bench: Bench, log: Callable[[str], None]) -> list[Method | Mapper]:
    """List the mappers and methods; trains DreamIdentity, unless it is left out or finished."""
    methods = choose_methods(config.baselines, (dream_identity.NAME,))
    rows: list[Method | Mapper] = [*MAPPERS]
    if not config.baselines or dream_identity.NAME in config.baselines:
        models = dream_identity.load_dream_identity(Miniature(config, log), bench.models)
        rows.append(Mapper(dream_identity.NAME, dream_identity.TITLE, models=models))
    return [*rows, *methods]


def _lead(bench: Bench, seeds: Sequence[int]) -> str:
    return (
        f"{describe_machine('cpu')}: {len(bench.people)} held-out people, one photo each, "
        f"{_name_prompts(bench.prompts)}, one image "
        f"per prompt and seed, seeds {', '.join(map(str, seeds))} of trainings and noise. The base model and "
        "the mapper are the shipped ones; neither has seen these people, and no setting was chosen on them. "
        f"The prompts start with “{OPENING}”, which no training caption does. Identity is the verifier's "
        "cosine between photo and image; text is the share of the requested attributes that the image shows; "
        "hMean and gMean are their harmonic and geometric mean per image, then averaged. Made by `f2d-train "
        "miniature baselines`. It is a synthetic dataset, with training budgets of seconds: the order of the "
        "methods need not be that of Stable Diffusion."
    )


def _name_prompts(prompts: Sequence[int]) -> str:
    """Say which of PROMPTS they are: all, the first ones, or every n-th."""
    stride = prompts[1] - prompts[0] if len(prompts) > 1 else 1
    if len(prompts) == len(PROMPTS):
        return f"all {len(PROMPTS)} prompts"
    if stride == 1:
        return f"the first {len(prompts)} of the {len(PROMPTS)} prompts"
    nth = {2: "second", 3: "third"}.get(stride, f"{stride}th")
    return f"every {nth} of the {len(PROMPTS)} prompts ({len(prompts)})"


def _scores_table(rows: Sequence[Measured]) -> Table:
    ranks = {title: rank_rows(rows, value) for title, value in _SCORES.items()}
    lines = []
    for measured in rows:
        cells = [Cell(measured.row.title)]
        for title, value in _SCORES.items():
            mean, place = average(measured.scores, "prompt", value), ranks[title].get(measured.row.name, 0)
            interval = f"{mean.low:.3f} to {mean.high:.3f}"
            cells.append(Cell(f"{mean.value:.3f}", place if place <= _RANKED else 0, interval))
        lines.append(Row(tuple(cells), "measured"))
    return Table(
        ("", *_SCORES),
        tuple(lines),
        caption="Scores (Table 1). Intervals: 95 %, bootstrap over people. A rank is 1 + the number of rows "
        "that are better by an interval of the paired differences that excludes 0; a row that differs from "
        "no other has none.",
    )


def _differences_table(rows: Sequence[Measured]) -> Table:
    ours, lines = rows[0], []
    for measured in rows[1:]:
        means = [subtract(measured, ours, value) for value in _SCORES.values()]
        cells = [Cell(f"{mean.value:+.3f}", 0, f"{mean.low:+.3f} to {mean.high:+.3f}") for mean in means]
        lines.append(Row((Cell(measured.row.title), *cells), "measured"))
    return Table(
        ("", *_SCORES),
        tuple(lines),
        caption=f"Differences to {ours.row.title}, paired by person, prompt and noise; 95 % intervals. Of "
        f"{len(lines) * len(_SCORES)} such intervals, one in twenty misses its true value.",
    )


def _cost_table(rows: Sequence[Measured]) -> Table:
    lines = []
    for measured in rows:
        cells = (
            Cell(measured.row.title),
            Cell(f"{measured.average(lambda outcome: outcome.parameters):,.0f}"),
            Cell(f"{measured.average(lambda outcome: outcome.steps):.0f}"),
            Cell(f"{measured.average(lambda outcome: outcome.seconds):.2f}"),
        )
        lines.append(Row(cells, "measured"))
    return Table(
        ("", "Trained parameters", "Steps per person", "Seconds per person"),
        tuple(lines),
        caption="Seconds of processor time of one core to register a person, without generation. The "
        "mappers' parameters are trained once; for a new person they run once.",
    )


def _tuning(folder: Path) -> Iterator[Block]:
    """Show the trials on the tuning people, the chosen ones marked."""
    yield Text(
        f"Chosen by hMean on {len(PEOPLE)} other held-out people and {len(TUNING_PROMPTS)} prompts, seed 0, "
        "by `f2d-train miniature tune`; the chosen ones are bold. DVAR has TextualInversion's; window and "
        "threshold of its rule were not tuned. Where the best is at the edge of the trials, more tuning may "
        "raise it."
    )
    lines = []
    for trial in read_trials(folder):
        method = METHODS[trial.method]
        chosen = int((trial.lr, trial.steps) == (method.lr, method.steps))
        scores = (Cell(f"{value:.3f}") for value in (trial.identity, trial.text))
        cells = (Cell(method.title), Cell(f"{trial.lr:g}"), Cell(str(trial.steps)), *scores)
        lines.append(Row((*cells, Cell(f"{trial.hmean:.3f}", chosen)), "measured"))
    if lines:
        yield Table(("", "Learning rate", "Steps", "Identity", "Text", "hMean"), tuple(lines))


def _draw_rows(bench: Bench, rows: Sequence[Measured], seed: int, folder: Path) -> bytes:
    """Show the person of the median identity, a row per method: a JPEG."""
    who = median_person(rows[0].scores[seed])
    sheet: list[list[Panel]] = []
    for measured in rows:
        panels = [Panel(bench.photos[who], measured.row.title)]
        by_prompt = {score.prompt: score for score in measured.outcomes[seed, who].scores}
        for prompt in (prompt for prompt in SHOWN_PROMPTS if prompt in by_prompt):
            score = by_prompt[prompt]
            image = load_photo(image_path(outcome_file(folder, measured.row, seed, who), prompt))
            scores = {"identity": score.identity, "text": score.text}
            text = "" if sheet else write_prompt(PROMPTS[prompt])  # once, in the first row
            panels.append(Panel(image, text, scores))
        sheet.append(panels)
    buffer = BytesIO()
    drawn = Image.fromarray(draw_sheet(sheet, "One person, all methods", f"seed {seed}"))
    drawn.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
