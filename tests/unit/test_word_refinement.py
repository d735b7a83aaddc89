"""Refining words: the loss falls, only the words move, and an identity keeps what they gain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder, FaceExpression, FaceIdentity
from face2diffusion.f2d.checkpoint import read, save
from face2diffusion.f2d.cli import main
from face2diffusion.f2d.diffusion.denoising import PromptDenoiser
from face2diffusion.f2d.encoder import FaceEncoder as Encoder
from face2diffusion.f2d.face.alignment import ARCFACE_TEMPLATE
from face2diffusion.f2d.face.cropping import locate_face
from face2diffusion.f2d.face.identity_region import crop_identity, face_oval
from face2diffusion.f2d.face.landmarks import coarse_landmarks
from face2diffusion.f2d.identity import Refinement, describe_refined_mix, mix
from face2diffusion.f2d.loss_curve import draw_losses
from face2diffusion.f2d.miniature import narrow, portraits, widen_words
from face2diffusion.f2d.networks.mapping import MapperConfig, MappingNetwork
from face2diffusion.f2d.options import FaceChoice
from face2diffusion.f2d.word_refinement import (
    RefinementConfig,
    Target,
    make_target,
    measure_memory,
    refine_words,
)
from safetensors.torch import load_file
from support.random_pipeline import random_pipeline
from torch import Tensor

WIDTH = 16  # of the toy's words


@dataclass
class ToyDenoiser:
    """Predicts the face that the words spell, wherever it is asked."""

    weight: Tensor
    steps: int = 1000

    def parameters(self) -> list[Tensor]:
        return [self.weight]

    def add_noise(self, latent: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return latent + noise * time.view(-1, 1, 1, 1) / self.steps, latent

    def predict(self, noisy: Tensor, time: Tensor, words: Tensor) -> Tensor:
        return (words.flatten(1) @ self.weight).view(-1, 4, 4, 4).expand(len(noisy), -1, -1, -1)


@pytest.fixture
def toy() -> ToyDenoiser:
    return ToyDenoiser(torch.randn(2 * WIDTH, 64, generator=torch.Generator().manual_seed(1)) / 8)


@pytest.fixture
def target() -> Target:
    masks = torch.zeros(2, 1, 4, 4)
    masks[..., 1:3] = 1
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    return Target(latents[:1].repeat(2, 1, 1, 1), masks)


@pytest.fixture
def words() -> Tensor:
    return torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(3))


FAST = RefinementConfig(steps=40, strength=3.0, batch=4)


def losses_of(toy: ToyDenoiser, words: Tensor, targets: list[Target], config: RefinementConfig) -> list:
    seen: list = []
    refine_words(toy, words, targets, config, lambda *step: seen.append(step))
    return seen


# --- The steps ---


def test_the_loss_falls_and_only_the_words_change(toy, target, words):
    before = [tensor.clone() for tensor in (toy.weight, words, target.latents, target.masks)]
    seen = losses_of(toy, words, [target], FAST)
    assert [step for step, *_ in seen] == list(range(1, 41))
    assert seen[-1][1] < 0.5 * seen[0][1]
    assert all(
        torch.equal(*pair)
        for pair in zip(before, (toy.weight, words, target.latents, target.masks), strict=True)
    )
    assert toy.weight.grad is None


def test_a_step_is_a_share_of_the_words_size(toy, target, words):
    config = RefinementConfig(steps=1, strength=0.5, batch=4)
    size = words.square().mean().sqrt()
    for scale in (1.0, 100.0):
        moved = refine_words(toy, scale * words, [target], config) - scale * words
        torch.testing.assert_close(
            moved.abs() / (scale * size), torch.full_like(moved, 0.005), rtol=0.01, atol=0
        )


def test_outside_the_mask_the_words_keep_what_they_said(toy, target, words):
    nothing = Target(target.latents, torch.zeros_like(target.masks))
    assert torch.equal(refine_words(toy, words, [nothing], FAST), words), "there is nothing to learn"
    refined = refine_words(toy, words, [target], replace(FAST, steps=200, strength=1.0))
    before, after = ((each.flatten() @ toy.weight).view(4, 4, 4) for each in (words, refined))
    change, inside = (after - before).abs(), target.masks[0, 0].bool()
    assert change[:, inside].mean() > 1.5 * change[:, ~inside].mean()


def test_the_seed_and_the_step_determine_everything(toy, target, words):
    first, again, other = (
        refine_words(_noisy(toy), words, [target], replace(FAST, steps=3, seed=seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.randn(7)  # nothing depends on the global generator
    longer = losses_of(_noisy(toy), words, [target], replace(FAST, steps=5, seed=5))
    assert torch.equal(longer[2][2], first)


def _noisy(toy: ToyDenoiser) -> ToyDenoiser:
    """A toy that has to predict the noise, which the words cannot."""

    class Noisy(ToyDenoiser):
        def add_noise(self, latent: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            return latent, noise

    return Noisy(toy.weight)


@pytest.mark.parametrize("at_once", [1, 3])
def test_parts_of_a_batch_give_the_same_words(toy, target, words, at_once):
    whole, parts = (
        refine_words(toy, words, [target], replace(FAST, steps=2, at_once=size)) for size in (4, at_once)
    )
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


def test_each_step_sees_one_photo_and_half_of_it_mirrored(target, words):
    seen: list[Tensor] = []

    class Watching(ToyDenoiser):
        def add_noise(self, latent: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(latent[:, 0, 0, 0].sort().values)
            times.append(time.sort().values)
            return latent, latent

    times: list[Tensor] = []
    photos = [
        Target(
            torch.tensor([10.0 * place, 10.0 * place + 1]).view(2, 1, 1, 1).expand(2, 4, 4, 4), target.masks
        )
        for place in range(3)
    ]
    refine_words(Watching(torch.zeros(2 * WIDTH, 64)), words, photos, replace(FAST, steps=4))
    assert [step.tolist() for step in seen] == [
        [10.0 * place, 10.0 * place, 10.0 * place + 1, 10.0 * place + 1] for place in (0, 1, 2, 0)
    ]
    assert all(torch.equal(step // 250, torch.arange(4)) for step in times), "one time in each quarter"


def test_cancelling_stops_at_the_step(toy, target, words):
    def cancel(step: int, loss: float, words: Tensor) -> None:
        if step == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        refine_words(toy, words, [target], FAST, cancel)


def test_bad_settings_and_gradients_are_named(toy, target, words):
    with pytest.raises(ValueError, match="0 steps.*at least 1"):
        RefinementConfig(steps=0)
    with pytest.raises(ValueError, match="strength of 0 .*above 0"):
        RefinementConfig(strength=0.0)
    with pytest.raises(ValueError, match="no photo.*at least one"):
        refine_words(toy, words, [])
    broken = Target(torch.full_like(target.latents, torch.nan), target.masks)
    with pytest.raises(ValueError, match="step 1 is NaN.*bfloat16 or float32"):
        refine_words(toy, words, [broken], FAST)


def test_memory_counts_weights_and_what_the_graph_keeps(words):
    class Heavy(ToyDenoiser):
        """Keeps the weights in another type, whatever the batch, and an activation of each latent."""

        def predict(self, noisy: Tensor, time: Tensor, words: Tensor) -> Tensor:
            spelled = (words.double().flatten(1) @ self.weight.double()).mean()
            return spelled * (noisy.double() + 1)

    toy = Heavy(torch.zeros(2 * WIDTH, 64))
    latents = torch.zeros(2, 4, 16, 16)
    memory = measure_memory(toy, words, Target(latents, torch.ones(2, 1, 16, 16)))
    assert memory.weights == toy.weight.nbytes
    assert memory.per_batch == pytest.approx(1.5 * 2 * toy.weight.nbytes, rel=0.03)
    assert memory.per_sample == pytest.approx(1.5 * latents.nbytes, rel=0.03)
    assert memory.samples_within(memory.of_batch(3)) == 3 and memory.samples_within(1) == 1
    assert "2 noisy latents" in memory.describe(2)
    shared = measure_memory(ToyDenoiser(toy.weight), words, Target(latents[..., :4, :4], latents))
    assert shared.samples_within(2**30) > 8, "no sample needs anything of its own"


@pytest.mark.slow
def test_the_gradient_survives_a_diffusion_model_in_half_precision(words):
    """A mean over all elements would leave gradients that bfloat16 keeps but float16 does not."""
    pipeline = random_pipeline().diffusion
    start = 0.02 * torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
    target = Target(
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(2, 1, 8, 8)
    )
    config = RefinementConfig(steps=1, batch=2)
    full = refine_words(PromptDenoiser.from_pipeline(pipeline), start, [target], config) - start
    pipeline.unet.bfloat16()
    half = refine_words(PromptDenoiser.from_pipeline(pipeline), start, [target], config) - start
    assert (full.sign() == half.sign()).float().mean() > 0.9
    assert all(parameter.grad is None for parameter in pipeline.unet.parameters())


def test_the_curve_shows_the_losses_so_far():
    half, whole = (np.asarray(draw_losses([3.0, 2.0, 1.0], steps)) for steps in (5, 3))
    assert half.shape == (240, 480, 3)
    drawn = [np.flatnonzero((picture < 250).any(axis=(0, 2))).max() for picture in (half, whole)]
    assert drawn[0] < 280 and drawn[1] > 440
    draw_losses([1.0], 1)


# --- The region M ---


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_the_oval_covers_brows_and_mouth_ends_near_the_chin_and_turns_with_the_face(angle):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = 2 * (ARCFACE_TEMPLATE - 60) @ turn.T + 256
    oval, points = face_oval(landmarks, 512, 512), coarse_landmarks(landmarks)

    def inside(x: float, y: float) -> bool:
        return bool(oval[round(y), round(x)])

    side = slice(8, 29)  # brow, eye, nostril and lips, after the jaw
    assert all(inside(x, y) for x, y in [*points[side], *points[29:][side], *points[59:]])
    chin, mouth = points[58], landmarks[3:].mean(0)
    assert inside(*(mouth + 0.7 * (chin - mouth))) and not inside(*(mouth + 1.3 * (chin - mouth)))
    assert oval.sum() == pytest.approx(np.pi * 74 * 110, rel=0.01)


def test_a_mask_of_the_user_is_cropped_with_the_face(portrait, landmarks):
    located = locate_face(None, portrait, "detect", FaceChoice(landmarks=landmarks))
    oval = face_oval(landmarks, 512, 512)
    by_mask, by_landmarks = crop_identity(located, 64, oval), crop_identity(located, 64)
    assert np.array_equal(by_mask.image, by_landmarks.image)
    assert (by_mask.mask != by_landmarks.mask).mean() < 0.01
    assert np.array_equal(by_mask.mirrored().mask, by_mask.mask[:, ::-1])
    with pytest.raises(ValueError, match="100x50 px.*512x512"):
        crop_identity(located, 64, np.ones((50, 100), bool))
    with pytest.raises(ValueError, match="empty where the face is"):
        crop_identity(located, 64, np.zeros((512, 512), bool))
    with pytest.raises(ValueError, match="112 px.*whole photo"):
        crop_identity(locate_face(None, portrait[:112, :112], "112 px"), 64)


def test_a_target_has_the_photo_its_mirror_image_and_their_masks(portrait, landmarks):
    crop = crop_identity(locate_face(None, portrait, "detect", FaceChoice(landmarks=landmarks)), 64)

    def encode(pair: list[np.ndarray]) -> Tensor:
        assert np.array_equal(pair[1], pair[0][:, ::-1])
        return torch.zeros(2, 4, 8, 8)

    target = make_target(crop, encode)
    assert torch.equal(target.masks[1], target.masks[0].flip(-1)) and target.masks.shape == (2, 1, 8, 8)
    assert target.masks.mean().item() == pytest.approx(crop.mask.mean(), abs=1e-5)
    assert 0 < target.masks.unique().numel() > 2, "the edge is soft"


# --- Refined identities ---


@pytest.fixture
def expressive(small: FaceEncoder) -> Encoder:
    """The small encoder with a mapper that hears expressions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mapper = MappingNetwork(MapperConfig(id_dim=256, hidden_dim=32)).eval().requires_grad_(False)
    return Encoder(small.msid, mapper)


def person(encoder: FaceEncoder, seed: int = 0) -> FaceIdentity:
    return FaceIdentity(
        torch.randn(256, generator=torch.Generator().manual_seed(seed)), encoder.msid_fingerprint
    )


def test_a_refined_identity_gives_its_words_and_keeps_what_an_expression_changes(expressive, tmp_path):
    plain, wanted = person(expressive), torch.randn(2, 768)
    refined = expressive.refine(plain, wanted)
    torch.testing.assert_close(expressive.words(refined), wanted)
    expression = FaceExpression(torch.randn(64), 0.7)
    turned = expressive.words(plain, expression) - expressive.words(plain)
    assert turned.abs().max() > 0.01
    torch.testing.assert_close(expressive.words(refined, expression) - wanted, turned, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(expressive.words(expressive.refine(refined, wanted)), wanted)
    refined.save(tmp_path / "a.safetensors")
    loaded = expressive.load_identity(tmp_path / "a.safetensors")
    assert torch.equal(expressive.words(loaded), expressive.words(refined))
    assert set(read(tmp_path / "a.safetensors").tensors) == {"v_id", "offset"}, "and no photo"


def test_plain_identities_are_written_as_before_and_old_files_load(expressive, tmp_path):
    person(expressive).save(tmp_path / "a.safetensors")
    written = read(tmp_path / "a.safetensors")
    assert written.metadata["version"] == "1" and set(written.tensors) == {"v_id"}
    assert "mapper" not in written.metadata
    expressive.refine(person(expressive), torch.zeros(2, 768)).save(tmp_path / "b.safetensors")
    assert read(tmp_path / "b.safetensors").metadata["version"] == "2", "which older packs refuse"
    save(tmp_path / "old.safetensors", {"v_id": torch.ones(256)}, "identity", version="1", photos="3")
    assert FaceIdentity.load(tmp_path / "old.safetensors").refinement is None


def test_a_damaged_refinement_is_refused(tmp_path):
    for offset in (torch.zeros(768), torch.full((2, 768), torch.nan)):
        tensors = {"v_id": torch.ones(256), "offset": offset}
        save(tmp_path / "a.safetensors", tensors, "identity", version="2")
        with pytest.raises(ValueError, match="refinement.*Save it again"):
            FaceIdentity.load(tmp_path / "a.safetensors")


def test_a_refinement_belongs_to_one_mapper(small, expressive, tmp_path):
    refined = expressive.refine(person(expressive), torch.zeros(2, 768))
    with pytest.raises(ValueError, match="refined for the mapper.*Load that mapper"):
        small.words(refined)
    refined.save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="a.safetensors' was refined for the mapper"):
        small.load_identity(tmp_path / "a.safetensors")
    assert small.words(person(small)).shape == (2, 768)


@pytest.mark.parametrize("interpolation", ["spherical", "linear"])
def test_a_mix_takes_each_refinement_by_its_weight(expressive, interpolation, caplog):
    caplog.set_level("INFO", logger="face2diffusion")
    first, second = (expressive.refine(person(expressive, seed), torch.randn(2, 768)) for seed in (1, 2))
    both = expressive.mix([first, second], [1, 3], interpolation)
    wanted = 0.25 * first.refinement.offset + 0.75 * second.refinement.offset
    torch.testing.assert_close(both.refinement.offset, wanted)
    assert not caplog.messages
    plain = person(expressive, 3)
    some = expressive.mix([first, plain], [1, 1], interpolation)
    torch.testing.assert_close(some.refinement.offset, 0.5 * first.refinement.offset)
    assert "1 of 2 identities in this mix are refined" in caplog.messages[0]
    assert describe_refined_mix([first, plain], [1, 0]) == ""
    assert expressive.mix([first, plain], [1, 0], interpolation) is first
    assert expressive.mix([plain, person(expressive, 4)], [1, 1], interpolation).refinement is None


def test_refinements_for_different_mappers_do_not_mix(expressive):
    people = [
        replace(person(expressive), refinement=Refinement(torch.zeros(2, 768), mapper))
        for mapper in ("1234567890", "abcdefghij")
    ]
    with pytest.raises(ValueError, match="12345678, abcdefgh.*same mapper"):
        mix(people, [1, 1], depths=4)


# --- The command ---


def test_words_widen_and_narrow_without_loss():
    words = torch.randn(2, 192)
    assert torch.equal(narrow(widen_words(words)), words) and widen_words(words).shape == (2, 768)


def test_the_command_refines_a_portrait_of_the_miniature(tmp_path, capsys):
    out, identity = tmp_path / "s.safetensors", tmp_path / "i.safetensors"
    photo = next(iter(portraits().values()))
    arguments = ["refine", str(photo), "--model", "miniature", "--steps", "1", "--size", "64"]
    assert main([*arguments, "--out", str(out), "--identity", str(identity)]) == 0
    from face2diffusion.f2d.miniature import load_encoder

    encoder = load_encoder()
    plain = encoder.words(encoder.identify(photo, alignment="FFHQ"))
    words = load_file(out)["words"]
    torch.testing.assert_close(words, encoder.words(encoder.load_identity(identity)))
    moved = (words - plain).abs() / narrow(plain).square().mean().sqrt()
    assert moved.max() == pytest.approx(0.004, rel=0.02) and torch.equal(words[:, 0], words[:, 3])
    shown = capsys.readouterr().out
    assert "GB of memory" in shown and "Step 1 of 1: loss" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "1", "--strength", "0"], "above 0"),
        (["--mask", "a.png", "--mask", "b.png"], "1 photo(s) and 2 mask(s)"),
        (["--size", "100"], "multiple of 64"),
        (["--aligned", "112 px"], "whole photo"),
        (["--out", "words.pt"], ".safetensors"),
    ],
)
def test_bad_options_end_with_one_line(options, message, tmp_path: Path, capsys):
    photo = next(iter(portraits().values()))
    out = ["--out", str(tmp_path / "s.safetensors")]
    assert main(["refine", str(photo), "--model", "miniature", *out, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_the_miniature_an_encoder_is_needed(tmp_path, capsys):
    assert main(["refine", "a.jpg", "--model", "sd", "--out", str(tmp_path / "s.safetensors")]) == 2
    assert "--msid and --mapper" in capsys.readouterr().err
