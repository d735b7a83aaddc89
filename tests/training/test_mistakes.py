"""The miniature's mapper, set back, is trained on for a moment: each mistake in the training code shows in
what comes out.

What is measured does not use the training code: people whom the run has not seen, S* put into the prompt by
the stand-alone pipeline, and the U-Net's predictions compared inside and outside the identity region.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from face2diffusion.f2d.checkpoint import read, save
from face2diffusion.f2d.diffusion import denoising
from face2diffusion.f2d.diffusion.pipeline import F2DPipeline
from face2diffusion.f2d.miniature import FILES, SIZE, WEIGHTS, load_pipeline, narrow
from face2diffusion.f2d.networks.expression import load_expression
from face2diffusion.f2d.networks.mapping import load_mapper
from face2diffusion.f2d.prompt import injection
from face2diffusion.training.config import MapperTrainingConfig, PrepareConfig
from face2diffusion.training.data.cache import LatentCache
from face2diffusion.training.data.prepare import prepare
from face2diffusion.training.mapper import denoising as diffusion
from face2diffusion.training.mapper import train as mapper
from face2diffusion.training.mapper.denoising import FrozenDiffusion
from face2diffusion.training.miniature.world.photo_folders import write_photos

pytestmark = pytest.mark.slow

PROMPT, CLASS = "a photo of S*", "a photo of a person"
TRAINED, MEASURED = 64, 24  # photos, each of another person
LOUDER = 16.0  # than the shipped network is, so that a moment is enough to hear v_exp
MOVED = 2.7  # spread of what is added to the words, in relation to that of their own entries
TIMES = (400, 600)


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def caches(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("mistakes")
    expression = load_expression(read(WEIGHTS / FILES["expression"]))
    for parameter in expression.expression_head.parameters():
        parameter.mul_(LOUDER)
    save(folder / "expression.safetensors", expression.state_dict(), "expression", expression.config)

    def make(name: str, count: int, first: int) -> Path:
        return prepare(
            PrepareConfig(
                photos=str(write_photos(folder / name, count, first)),
                out=str(folder / f"cache-{name}"),
                base=str(WEIGHTS / "base"),
                msid=str(WEIGHTS / FILES["msid"]),
                expression=str(folder / "expression.safetensors"),
                layout="fastcomposer",
                aligned=True,
                image_size=SIZE,
                batch_size=16,
                precision="bf16",
                workers=1,
            ),
            quiet,
        )

    return make("trained", TRAINED, 0), make("measured", MEASURED, 500_000)


@pytest.fixture(scope="module")
def start(caches, tmp_path_factory) -> Path:
    """The shipped mapper in the narrow text encoder's width, deaf to expressions and with its words moved
    away: only training can change that."""
    checkpoint, generator = read(WEIGHTS / FILES["mapper"]), torch.Generator().manual_seed(0)
    network = load_mapper(checkpoint)
    for word in (network.i2t_first, network.i2t_last):
        linear = word.layers[0][0]
        linear.bias += linear.weight[:, network.config.id_dim :] @ network.null_exp
        linear.weight[:, network.config.id_dim :] = 0
        word.fc_out.weight.data, word.fc_out.bias.data = (
            narrow(word.fc_out.weight.T).T,
            narrow(word.fc_out.bias[None])[0],
        )
    network.null_exp.zero_()
    photos = LatentCache(caches[1])
    v_id = torch.stack([photos.load(index, False)["v_id"] for index in range(MEASURED)]).float()
    spread = MOVED * network(v_id).std()
    for word in (network.i2t_first, network.i2t_last):
        word.fc_out.bias += spread * torch.randn(word.fc_out.bias.shape, generator=generator)
    config = replace(network.config, word_dim=len(network.i2t_first.fc_out.bias))
    file = tmp_path_factory.mktemp("start") / "mapper.safetensors"
    save(
        file,
        network.state_dict(),
        "mapper",
        config,
        msid=checkpoint.metadata["msid"],
        loss=checkpoint.metadata["loss"],
    )
    return file


def train(cache: Path, start: Path, out: Path) -> Path:
    config = MapperTrainingConfig(
        cache=str(cache),
        base=str(WEIGHTS / "base"),
        out=str(out),
        init=str(start),
        prompt=PROMPT,
        class_prompt=CLASS,
        batch_size=16,
        steps=24,
        lr=1e-3,
        decay=24,
        precision="bf16",  # a third less time
        workers=0,
    )
    return mapper.train_mapper(config, quiet)


def encode(pipeline: F2DPipeline, words: torch.Tensor) -> torch.Tensor:
    """Encode the prompt with S* as pictures are drawn: words of shape (B, 2, D) to shape (B, 77, D)."""
    states = []
    for two in words:
        pipeline.subjects.clear()
        pipeline.add_subject(two)
        states.append(pipeline.encode(PROMPT))
    return torch.cat(states)


@torch.no_grad()
def measure(file: Path, cache: Path) -> dict[str, float]:
    """Compare the errors of the U-Net's predictions.

    face: in the identity region, with S* in relation to "a person"; below 1 the face is known.
    scene: outside it, how far S* is from "a person", in relation to how far the noise is; at 0 the scene is
        left alone.
    heard: in the identity region, how much larger the error is with the v_exp that is least like theirs, in
        standard errors over people.
    """
    network, photos, pipeline = load_mapper(read(file)), LatentCache(cache), load_pipeline()
    items = [photos.load(index, False) for index in range(len(photos))]
    v_id, v_exp, latent, mask = (
        torch.stack([item[name] for item in items]).float()
        for name in ("v_id", "v_exp", "latent_mean", "mask")
    )
    mask = mask[:, None]
    unlike = v_exp[torch.cdist(v_exp, v_exp).argmax(1)]
    own, other = encode(pipeline, network(v_id, v_exp)), encode(pipeline, network(v_id, unlike))
    states = {"own": own, "other": other, "class": pipeline.encode(CLASS).expand_as(own)}
    schedule = FrozenDiffusion(WEIGHTS / "base", PROMPT, CLASS).schedule
    errors = {name: torch.zeros(len(items)) for name in (*states, "moved", "missed")}
    for time in TIMES:
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(time))
        times = torch.full((len(items),), time)
        noisy = schedule.add_noise(latent, noise, times)
        predicted = {
            name: pipeline.diffusion.unet(noisy, times, state).sample for name, state in states.items()
        }
        for name, prediction in predicted.items():
            errors[name] += ((prediction - noise) * mask).square().sum((1, 2, 3))
        errors["moved"] += ((predicted["own"] - predicted["class"]) * (1 - mask)).square().sum((1, 2, 3))
        errors["missed"] += ((noise - predicted["class"]) * (1 - mask)).square().sum((1, 2, 3))
    gaps = errors["other"] - errors["own"]
    return {
        "face": (errors["own"].sum() / errors["class"].sum()).item(),
        "scene": (errors["moved"].sum() / errors["missed"].sum()).item(),
        "heard": (gaps.mean() / (gaps.std() / len(gaps) ** 0.5).clamp_min(1e-6)).item(),
    }


@pytest.fixture(scope="module")
def right(caches, start, tmp_path_factory) -> dict[str, float]:
    trained, measured = caches
    found = measure(train(trained, start, tmp_path_factory.mktemp("right")), measured)
    print(f"\nright {found}")
    return found


def test_training_learns_the_face_leaves_the_scene_and_hears_the_expression(right, caches, start):
    before = measure(start, caches[1])
    print(f"\nbefore {before}")
    assert before["heard"] == 0
    assert right["face"] < 0.955 < before["face"], (right, before)
    assert right["scene"] < 0.1 and right["heard"] > 1, right


def invert_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = mapper.cgdr_loss
    monkeypatch.setattr(
        mapper,
        "cgdr_loss",
        lambda prediction, noise, of_class, mask, *weighting: loss(
            prediction, noise, of_class, 1 - mask, *weighting
        ),
    )


def swap_class_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class's prediction comes from the prompt with the letters "S*", not from "a person"."""
    make = diffusion.FrozenDiffusion
    monkeypatch.setattr(
        mapper, "FrozenDiffusion", lambda base, prompt, class_prompt, *rest: make(base, prompt, prompt, *rest)
    )


def drop_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    get = mapper.MapperDataset.__getitem__
    monkeypatch.setattr(
        mapper.MapperDataset,
        "__getitem__",
        lambda samples, number: get(samples, number) | {"keep": torch.tensor(False)},
    )


def price(found: dict[str, float]) -> float:
    """How far the scene is moved in relation to what is known of the face."""
    return found["scene"] / (1 - found["face"])


@pytest.mark.parametrize(
    ("mistake", "shows"),
    [
        (invert_mask, lambda found, right: found["face"] > (1 + right["face"]) / 2),
        (swap_class_prompt, lambda found, right: price(found) > 1.3 * price(right)),
        (drop_expression, lambda found, right: found["heard"] < 0.5),
    ],
    ids=["inverted mask", "swapped class prompt", "expression always dropped"],
)
def test_a_mistake_shows(right, caches, start, tmp_path, monkeypatch, mistake: Callable, shows: Callable):
    mistake(monkeypatch)
    file = train(caches[0], start, tmp_path / "run")
    monkeypatch.undo()
    found = measure(file, caches[1])
    print(f"\n{mistake.__name__} {found}")
    assert not shows(right, right)
    assert shows(found, right), (found, right)


@torch.no_grad()
def test_a_position_embedding_in_the_wrong_place_shows(start, caches, monkeypatch):
    photos, pipeline = LatentCache(caches[1]), load_pipeline()
    v_id = torch.stack([photos.load(index, False)["v_id"] for index in range(8)]).float()
    words = 1.5 * torch.nn.functional.normalize(
        load_mapper(read(start))(v_id), dim=-1
    )  # as long as tokens; the position embedding counts
    drawn, person = encode(pipeline, words), pipeline.encode(CLASS)

    def off() -> float:
        """How far training's encoding is from that of pictures, in relation to how far "a person" is."""
        return (
            (FrozenDiffusion(WEIGHTS / "base", PROMPT, CLASS).encode(words) - drawn).norm()
            / (drawn - person).norm()
        ).item()

    assert off() < 1e-4
    monkeypatch.setattr(
        denoising,
        "insertion_rows",
        lambda words, positions, how: injection.insertion_rows(words, positions, "before"),
    )
    assert off() > 0.2
