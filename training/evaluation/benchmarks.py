"""Benchmarks: the prompts a method gets, and the metrics its images are scored with.

The paper's benchmark is that of Sec. 4.2 and Table 7. The miniature's runs without a download: Table 7 in the
words that the shipped small model knows, scored by its own two evaluators.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...f2d.miniature.prompts import PROMPTS as MINIATURE_SCENES
from ...f2d.miniature.prompts import describe
from ...f2d.prompt.injection import PLACEHOLDER
from .metrics import IDENTITY_METRICS, TEXT_METRICS

PROMPTS = (
    "A photo of S* as a firefighter",
    "A photo of S* as a cowboy",
    "A photo of S* as a chef",
    "A photo of S* as a racer",
    "A photo of S* as a king",
    "A photo of S* as a scientist",
    "A photo of S* as a tennis player",
    "A photo of S* as a DJ",
    "A photo of S* as a knight",
    "A photo of S* as a pilot",
    "A photo of S* walking in a city under an umbrella",
    "A photo of S* surrounded by tall bookshelves",
    "A photo of S* trying on hats in a vintage boutique",
    "A photo of S* sipping coffee at a café terrace",
    "A photo of S* in a busy subway station",
    "A photo of S* eating ice cream at a rooftop terrace",
    "A photo of S* playing the saxophone on a stage",
    "A photo of S* running in a meadow",
    "A photo of S* playing chess at a wooden table",
    "A photo of S* knitting in a comfortable armchair",
    "A photo of S* yawning during a study session",
    "A photo of S* smiling warmly at the camera",
    "A photo of S* with a hand covering their mouth",
    "A photo of S* hugging a friend tightly",
    "A photo of S* flexing muscles in a gym",
    "A photo of S* looking shocked",
    "A photo of S* giving a thumbs-up",
    "A photo of S* looking angry",
    "A photo of S* sitting cross-legged on a rock",
    "A photo of S* wearing an oversized sweater",
    "A photo of S* at the Great Wall of China",
    "A photo of S* exploring Machu Picchu",
    "A photo of S* sailing near the Sydney Opera House",
    "A photo of S* walking through the streets of Rome near the Colosseum",
    "A photo of S* at the Grand Canyon in sunset",
    "A photo of S* enjoying cherry blossoms in Tokyo",
    "A photo of S* on a gondola in Venice",
    "A photo of S* at the Taj Mahal in India",
    "A photo of S* at Mount Everest Base Camp",
    "A photo of S* in front of Niagara Falls",
)
LOCATIONS = range(30, 40)  # the "10 prompts that include famous locations" of Sec. 5
BASE_PROMPT = "A photo of S*"  # of y_r (Sec. 4.2)


@dataclass(frozen=True)
class Benchmark:
    """Prompts and metrics."""

    name: str
    prompts: tuple[str, ...]
    base_prompt: str  # of y_r, which dCLIP needs; "" = none
    identity_metrics: tuple[str, ...]
    text_metrics: tuple[str, ...]
    opening: str  # of all prompts
    source: str  # of the prompts, for reports

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics, over which hMean and gMean are computed."""
        return self.identity_metrics + self.text_metrics


PAPER = Benchmark("paper", PROMPTS, BASE_PROMPT, IDENTITY_METRICS, TEXT_METRICS, "A photo of S* ", "Table 7")
MINIATURE = Benchmark(
    "miniature",
    tuple(describe(scene, PLACEHOLDER) for scene in MINIATURE_SCENES),
    "",
    ("identity",),
    ("text",),
    "a photo of S* ",
    "Table 7 on the miniature",
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in (PAPER, MINIATURE)}
