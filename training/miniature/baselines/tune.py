"""Chooses learning rates and steps on held-out people that the tables do not report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ....f2d.files import write_json
from ....f2d.miniature.prompts import PROMPTS
from ...config import MiniatureConfig
from ..recipe import folder_of
from ..study.held_out_data import TUNING_PLACES
from ..study.scores import Score
from .bench import Bench
from .methods import METHODS, Method, choose_methods
from .personal_model import PersonalModel

PEOPLE = TUNING_PLACES[:2]
TUNING_PROMPTS = range(2, len(PROMPTS), 8)  # places in PROMPTS
_STEPS = (100, 200)
_RATES = {
    "textual-inversion": (3e-3, 1e-2),
    "custom-diffusion": (3e-4, 1e-3),
    "dreambooth": (3e-5, 1e-4),
    "oft": (1e-3, 3e-3),
    "perfusion": (3e-3, 1e-2),
}  # DVAR has TextualInversion's


@dataclass(frozen=True)
class Trial:
    """A method's means over the tuning people, with one learning rate and number of steps."""

    method: str
    lr: float
    steps: int
    identity: float
    text: float
    hmean: float


def tune_baselines(config: MiniatureConfig, log: Callable[[str], None]) -> Path:
    """Try learning rates and steps on tuning people; a rerun resumes.

    Args:
        config: with the folder and the methods.
        log: called with each progress message.

    Returns:
        The folder of the trials, one file per method and learning rate.

    Raises:
        ValueError: `config.out` is empty, or an unknown method.
        InterruptedError: a signal stopped a training.
    """
    folder, methods = folder_of(config) / "tuning", choose_methods(config.baselines)
    bench = Bench(PEOPLE, TUNING_PROMPTS, config.bf16, log)
    for method in methods:
        for lr in _RATES.get(method.name, ()):
            file = folder / f"{method.name}-{lr:g}.json"
            if not file.exists():
                trials = _try(bench, replace(method, lr=lr))
                write_json(file, [asdict(trial) for trial in trials])
                log("\n".join(map(str, trials)))
    return folder


def read_trials(folder: Path) -> list[Trial]:
    """Read all trials, in the order of the methods."""
    files = [folder / f"{name}-{lr:g}.json" for name in METHODS for lr in _RATES.get(name, ())]
    entries = [entry for file in files if file.exists() for entry in json.loads(file.read_text())]
    return [Trial(**entry) for entry in entries]


def _try(bench: Bench, method: Method) -> list[Trial]:
    """Measure one learning rate after several numbers of steps of the same trainings."""
    scores: dict[int, list[Score]] = {steps: [] for steps in _STEPS}
    for who in range(len(bench.people)):
        with TemporaryDirectory() as run:
            for steps in _STEPS:  # each resumes the one before, since the learning rate is constant
                model = PersonalModel(bench.base, replace(method, steps=steps))
                bench.optimize(model, who, 0, run)
                scores[steps] += bench.score(model.build_pipeline(bench.models.pipeline), who, 0, None)
    return [_average(method, steps, found) for steps, found in scores.items()]


def _average(method: Method, steps: int, scores: Sequence[Score]) -> Trial:
    means = [float(np.mean([getattr(s, name) for s in scores])) for name in ("identity", "text", "hmean")]
    return Trial(method.name, method.lr, steps, *means)
