"""A mapper is trained for a moment in the miniature, and what it has learned is measured: each mistake in the training code shows.

What is measured does not use the training code: people whom the run has not seen, S* put into the prompt by the stand-alone pipeline, and the
U-Net's predictions compared inside and outside the identity region.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from face2diffusion.f2d import injection
from face2diffusion.f2d.checkpoint import read
from face2diffusion.f2d.mapping import load_mapper
from face2diffusion.f2d.miniature import FILES, SIZE, WEIGHTS, load_pipeline
from face2diffusion.training import diffusion, mapper
from face2diffusion.training.cache import LatentCache
from face2diffusion.training.config import MapperTrainingConfig, PrepareConfig
from face2diffusion.training.miniature.photos import write_photos
from face2diffusion.training.prepare import prepare

PROMPT, CLASS = "a photo of S*", "a photo of a person"
TRAINED, MEASURED = 256, 32  # photos
TIMES = (300, 500, 700)


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def caches(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("mistakes")

    def make(name: str, count: int, first: int) -> Path:
        return prepare(
            PrepareConfig(
                photos=str(write_photos(folder / name, count, first)),
                out=str(folder / f"cache-{name}"),
                base=str(WEIGHTS / "base"),
                msid=str(WEIGHTS / FILES["msid"]),
                expression=str(WEIGHTS / FILES["expression"]),
                layout="fastcomposer",
                aligned=True,
                image_size=SIZE,
                batch_size=16,
                workers=1,
            ),
            quiet,
        )

    return make("trained", TRAINED, 0), make("measured", MEASURED, 500_000)


def train(cache: Path, out: Path) -> Path:
    config = MapperTrainingConfig(
        cache=str(cache),
        base=str(WEIGHTS / "base"),
        out=str(out),
        prompt=PROMPT,
        class_prompt=CLASS,
        batch_size=16,
        steps=80,
        lr=2e-3,
        warmup=10,
        hidden_dim=256,
        dropout=0.0,
        save_every=1000,
        workers=0,
    )
    return mapper.train_mapper(config, quiet)


@torch.no_grad()
def measure(file: Path, cache: Path) -> dict[str, float]:
    """Compare the errors of the U-Net's predictions.

    face: in the identity region, with S* in relation to "a person"; below 1 the face has been learned.
    scene: outside it, how far S* is from "a person", in relation to how far the noise is; near 0 the scene is left alone.
    expression: in the identity region, with somebody else's v_exp in relation to their own; above 1 v_exp is heard.
    """
    network, photos, pipeline = load_mapper(read(file)), LatentCache(cache), load_pipeline()
    items = [photos.load(index, False) for index in range(len(photos))]
    v_id, v_exp = (torch.stack([item[name] for item in items]).float() for name in ("v_id", "v_exp"))
    latent, mask = (torch.stack([item[name] for item in items]).float() for name in ("latent_mean", "mask"))
    mask = mask[:, None]

    def encode(words: torch.Tensor) -> torch.Tensor:
        pipeline.subjects.clear()
        pipeline.add_subject(words, positional=network.config.positional)
        return pipeline.encode(PROMPT)

    own = torch.cat([encode(words) for words in network(v_id, v_exp)])
    other = torch.cat([encode(words) for words in network(v_id, v_exp.roll(1, 0))])
    neutral = pipeline.encode(CLASS).expand_as(own)
    schedule = mapper.FrozenDiffusion(WEIGHTS / "base", PROMPT, CLASS).schedule
    sums = dict.fromkeys(("face own", "face other", "face class", "scene own", "scene noise"), 0.0)
    for time in TIMES:
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(time))
        times = torch.full((len(latent),), time)
        noisy = schedule.add_noise(latent, noise, times)
        predicted = {
            name: pipeline.diffusion.unet(noisy, times, states).sample
            for name, states in (("own", own), ("other", other), ("class", neutral))
        }
        for name, prediction in predicted.items():
            sums[f"face {name}"] += ((prediction - noise) * mask).square().sum().item()
        sums["scene own"] += ((predicted["own"] - predicted["class"]) * (1 - mask)).square().sum().item()
        sums["scene noise"] += ((noise - predicted["class"]) * (1 - mask)).square().sum().item()
    return {
        "face": sums["face own"] / sums["face class"],
        "scene": sums["scene own"] / sums["scene noise"],
        "expression": sums["face other"] / sums["face own"],
    }


def invert_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mapper.cgdr_loss
    monkeypatch.setattr(mapper, "cgdr_loss", lambda prediction, noise, of_class, mask: right(prediction, noise, of_class, 1 - mask))


def swap_class_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class's prediction is made from the prompt with S*, as the letters are, not from "a person"."""

    def encode_prompt(self, noisy, time):
        with torch.no_grad():
            return self.unet(noisy, time, self.text_encoder(self.prompt_ids)[0].expand(len(noisy), -1, -1)).sample

    monkeypatch.setattr(diffusion.FrozenDiffusion, "predict_class", encode_prompt)


def drop_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mapper.Samples.__getitem__

    def dropped(self, number: int) -> dict[str, torch.Tensor]:
        return right(self, number) | {"keep": torch.tensor(False)}

    monkeypatch.setattr(mapper.Samples, "__getitem__", dropped)


def add_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """The position embedding is added to words that are to stand in its place too."""
    right = injection.insertion_rows
    monkeypatch.setattr(diffusion, "insertion_rows", lambda words, positions, positional: right(words, positions, "before"))


LEARNED = {"face": (0.0, 0.8), "scene": (0.0, 0.3), "expression": (1.05, 9.0)}


def outside(found: dict[str, float]) -> set[str]:
    """Which numbers are not as they are to be."""
    return {name for name, (low, high) in LEARNED.items() if not low <= found[name] <= high}


@pytest.fixture(scope="module")
def right(caches, tmp_path_factory) -> dict[str, float]:
    trained, measured = caches
    return measure(train(trained, tmp_path_factory.mktemp("right")), measured)


def test_the_method_learns_face_scene_and_expression(right):
    assert not outside(right), right


@pytest.mark.parametrize(
    ("mistake", "shows"),
    [(invert_mask, {"face", "scene"}), (swap_class_prompt, {"scene"}), (drop_expression, {"expression"}), (add_position, {"face"})],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_shows(right, caches, tmp_path, monkeypatch, mistake: Callable[[pytest.MonkeyPatch], None], shows: set[str]):
    trained, measured = caches
    mistake(monkeypatch)
    file = train(trained, tmp_path)
    monkeypatch.undo()
    found = measure(file, measured)
    print(mistake.__name__, found, right)
    assert outside(found) >= shows, (found, right)
