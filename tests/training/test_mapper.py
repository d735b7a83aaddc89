"""Training the mapper on a small cache and a small random Stable Diffusion: what changes, what does not, and
going on after a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.checkpoint import read
from face2diffusion.f2d.diffusion.denoising import PromptDenoiser
from face2diffusion.f2d.networks.mapping import load_mapper
from face2diffusion.training.cli import main
from face2diffusion.training.config import PRESETS, MapperTrainingConfig
from face2diffusion.training.data.cache import LatentCache
from face2diffusion.training.engine.optimizer import MuonWithAdamW
from face2diffusion.training.engine.seeds import derive_seed
from face2diffusion.training.evaluation.sample_scores import load_sample_scorer
from face2diffusion.training.mapper import sample_sheets
from face2diffusion.training.mapper import train as training
from face2diffusion.training.mapper.couples import couple_prompts, join_side_by_side
from face2diffusion.training.mapper.dataset import MapperDataset
from face2diffusion.training.mapper.denoising import FrozenDiffusion
from face2diffusion.training.mapper.dropout import sampled_dropout
from face2diffusion.training.mapper.train import train_mapper
from PIL import Image
from safetensors.torch import load_file
from support import processes
from support.cache import write_cache
from support.official import write_mapper, write_msid
from support.random_pipeline import random_pipeline
from support.recognition import write_siglip
from support.short_run import short_run, write_inputs
from support.small_disk import run_on_small_disk
from torch.utils.data import default_collate

_MIDDLES = [*range(1, 7), *range(9, 15)]  # of two rows of 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model and a cache of 6 faces."""
    return write_inputs(tmp_path_factory.mktemp("training"), 6)


@pytest.fixture
def config(folder, tmp_path):
    """A short run."""
    return short_run(folder, tmp_path / "run", batch_size=4, log_every=1)


def quiet(message: str) -> None:
    """Say nothing."""


def weights_of(config: MapperTrainingConfig) -> dict[str, torch.Tensor]:
    """Train, and read the weights."""
    return load_file(train_mapper(config, quiet))


def assert_equal(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 0.0
) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert (tensor - second[name]).abs().max() <= tolerance, name


def test_only_the_mapper_changes(config, monkeypatch):
    seen = []
    monkeypatch.setattr(
        training, "FrozenDiffusion", lambda *args: seen.append(FrozenDiffusion(*args)) or seen[-1]
    )
    cache = LatentCache(config.cache)
    start = training.build_mapper(config, cache, 768).state_dict()
    trained = weights_of(config)
    assert start.keys() == trained.keys()
    assert all(not torch.equal(start[name], trained[name]) for name in start), (
        "both networks and the null expression learn"
    )
    fresh = FrozenDiffusion(config.base, config.prompt, config.class_prompt)
    assert seen[0].fingerprint() == fresh.fingerprint(), (
        "the U-Net and the text encoder are the same to the bit"
    )
    assert all(parameter.grad is None for parameter in seen[0].parameters())


def test_the_posterior_is_sampled_or_its_mean(config):
    """The other random draws of a sample stay the same."""
    cache = LatentCache(config.cache)
    sampled, mean = (
        MapperDataset(cache, replace(config, sample_posterior=flag), 1000)[3] for flag in (True, False)
    )
    means = cache.load(int(mean["index"]))["latent_mean"], cache.load(int(mean["index"]), True)["latent_mean"]
    assert any(torch.equal(mean["latent"], one.float()) for one in means)
    assert [name for name in sampled if not torch.equal(sampled[name], mean[name])] == ["latent"]


def test_the_slope_of_the_leaky_relu_is_saved(config):
    assert load_mapper(read(train_mapper(replace(config, slope=0.01, steps=1), quiet))).config.slope == 0.01
    assert (
        load_mapper(read(train_mapper(replace(config, out=f"{config.out}-2", steps=1), quiet))).config.slope
        == 0.2
    )


def test_the_null_expression_gets_gradient_from_dropped_rows_only(config):
    cache = LatentCache(config.cache)
    mapper = training.build_mapper(config, cache, 768)
    diffusion = FrozenDiffusion(config.base, config.prompt, config.class_prompt)
    samples = MapperDataset(cache, config, diffusion.steps)
    batch = torch.utils.data.default_collate([samples[number] for number in range(4)])
    for keep, touched in ((torch.ones(4), False), (torch.tensor([1, 0, 1, 1]), True)):
        mapper.zero_grad()
        training.compute_loss(diffusion, mapper, {**batch, "keep": keep}, config).backward()
        assert bool(mapper.null_exp.grad.abs().sum() > 0) is touched


@pytest.mark.slow
def test_the_loss_falls_and_faces_part(config):
    config = replace(
        config, steps=60, batch_size=6, expression_drop=0.0, dropout=0.0, save_every=60, log_every=60
    )
    cache = LatentCache(config.cache)
    diffusion = FrozenDiffusion(config.base, config.prompt, config.class_prompt)
    samples = MapperDataset(cache, replace(config, seed=99), diffusion.steps)
    batch = torch.utils.data.default_collate([samples[number] for number in range(24)])
    start = training.build_mapper(config, cache, 768).eval()
    end = load_mapper(read(train_mapper(config, quiet)))
    with torch.no_grad():
        before, after = (
            float(training.compute_loss(diffusion, mapper, batch, config)) for mapper in (start, end)
        )
        spread = [mapper(batch["v_id"], batch["v_exp"]).std(dim=0).mean() for mapper in (start, end)]
    assert after < before, f"Expected the loss to fall from {before:.4f}, got {after:.4f}"
    assert spread[1] > spread[0]


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}])
def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(config, tmp_path, changes):
    config = replace(config, **changes)
    unbroken = weights_of(config)
    half = replace(config, out=str(tmp_path / "half"))
    train_mapper(replace(half, steps=2), quiet)
    assert_equal(weights_of(half), unbroken)


@pytest.mark.parametrize("couples_every", [0, 2])
def test_accumulated_steps_equal_one_large_batch(config, tmp_path, couples_every):
    config = replace(
        config, dropout=0.0, lr=1e-4, couples_every=couples_every
    )  # AdamW turns rounding noise in tiny gradients into steps of this size
    parts = replace(config, accumulate=2, out=str(tmp_path / "parts"))
    assert_equal(weights_of(config), weights_of(parts), 1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(config, preset):
    msid = f"{config.cache}/msid.pt"
    config = replace(config, steps=1, identity_msid=msid, **PRESETS[preset])
    trained = weights_of(config)
    assert ("null_exp" in trained) is config.expression_guidance


def test_the_length_is_counted_in_tokens_of_the_base_model(config):
    diffusion = FrozenDiffusion(config.base, config.prompt, config.class_prompt)
    embeddings = diffusion.text_encoder.get_input_embeddings().weight
    ids = diffusion.tokenizer(config.class_prompt).input_ids[1:-1]
    rows = embeddings[ids] + diffusion.prompts.position_embedding[1 : len(ids) + 1]
    mapper = load_mapper(read(train_mapper(replace(config, word_length=4.0, steps=1), quiet)))
    assert mapper.config.word_length == pytest.approx(4 * float(rows.norm(dim=1).mean()))
    again = replace(config, init=str(next(Path(config.out).glob("*.safetensors"))), out=f"{config.out}-2")
    assert load_mapper(read(train_mapper(replace(again, steps=1), quiet))).config == mapper.config


def test_the_scale_of_expressions_is_kept_when_a_training_starts_from_a_mapper(config):
    first = train_mapper(replace(config, expression_scale=3.0, steps=1), quiet)
    assert load_mapper(read(first)).config.exp_scale == 3
    again = replace(config, init=str(first), steps=1)
    for scale, kept in ((1.0, 3.0), (2.0, 2.0)):
        run = replace(again, expression_scale=scale, out=f"{config.out}-{scale}")
        assert load_mapper(read(train_mapper(run, quiet))).config.exp_scale == kept


def test_cross_photo_samples_take_v_id_from_the_persons_other_photos(config, monkeypatch):
    """Photos 0 to 2 are one person's, 3 and 4 another's, 5 is alone."""
    cache = LatentCache(config.cache)
    monkeypatch.setattr(cache, "name", lambda index: f"{'aaabbc'[index]}/{index}.jpg")
    samples = MapperDataset(cache, replace(config, cross_photo=1.0), 1000)
    plain = MapperDataset(cache, config, 1000)
    sources: dict[int, set[int]] = {index: set() for index in range(6)}
    for number in range(60):
        sample, same = samples[number], plain[number]
        found = [
            other
            for other in range(6)
            for flip in (False, True)
            if torch.equal(cache.load(other, flip)["v_id"], sample["v_id"])
        ]
        sources[int(sample["index"])].update(found)
        assert [name for name in sample if not torch.equal(sample[name], same[name])] in ([], ["v_id"])
    assert sources == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: {4}, 4: {3}, 5: {5}}


def test_cross_photo_needs_two_photos_of_a_person(config, monkeypatch):
    cache = LatentCache(config.cache)
    monkeypatch.setattr(cache, "name", lambda index: f"{index}/0.jpg")
    with pytest.raises(ValueError, match=r"6 folders.*folder per person"):
        MapperDataset(cache, replace(config, cross_photo=0.5), 1000)


def test_contexts_are_drawn_for_their_share_of_the_samples(config):
    cache = LatentCache(config.cache)
    samples = MapperDataset(cache, replace(config, context_share=0.5, contexts=("one", "two")), 1000)
    drawn = [int(samples[number]["context"]) for number in range(200)]
    assert set(drawn) == {0, 1, 2}
    assert 60 < drawn.count(0) < 140


def test_logit_normal_timesteps_prefer_the_middle_and_change_no_other_draw(config):
    cache = LatentCache(config.cache)
    samples = MapperDataset(cache, replace(config, timestep_sampling="logit-normal"), 1000)
    plain, times = MapperDataset(cache, config, 1000), []
    for number in range(400):
        sample, same = samples[number], plain[number]
        assert [name for name in sample if not torch.equal(sample[name], same[name])] in ([], ["time"])
        times.append(int(sample["time"]))
    assert 0 <= min(times) < 200 and 800 < max(times) < 1000
    assert 160 < sum(338 <= time < 662 for time in times) < 240, "half of them; uniform: a third"


def test_couples_are_the_middles_of_two_photos_side_by_side(config):
    samples = MapperDataset(LatentCache(config.cache), config, 1000)
    batch = default_collate([samples[number] for number in range(4)])
    latent = torch.arange(8.0).expand_as(batch["latent"])  # columns 0 to 7
    batch["latent"] = torch.stack([latent[0], latent[1] + 10, latent[2] + 20, latent[3] + 30])
    joined = join_side_by_side(batch)
    rows = [[*range(1, 7), *range(11, 17)], [*range(21, 27), *range(31, 37)]]
    for couple, row in zip(joined["latent"], rows, strict=True):
        assert torch.equal(couple, torch.tensor(row).float().expand_as(couple))
    assert joined["noise"].shape == joined["latent"].shape
    assert torch.equal(
        joined["mask"], torch.cat([batch["mask"][0::2], batch["mask"][1::2]], 3)[..., _MIDDLES]
    )
    assert torch.equal(joined["time"], batch["time"][0::2])
    assert torch.equal(joined["v_id"], batch["v_id"]), "the mapper sees single photos"


def test_every_second_step_has_couples_with_the_words_of_both_photos(config, monkeypatch):
    seen, predict = [], PromptDenoiser.predict

    def record(diffusion, noisy, time, words, context=None):
        seen.append((tuple(noisy.shape), words.detach()))
        return predict(diffusion, noisy, time, words, context)

    monkeypatch.setattr(PromptDenoiser, "predict", record)
    mapper = load_mapper(read(train_mapper(replace(config, couples_every=2, lr=1e-9, dropout=0.0), quiet)))
    shapes = [shape for shape, _ in seen]
    assert shapes == [(4, 4, 8, 8), (2, 4, 8, 12)] * 2
    samples = MapperDataset(LatentCache(config.cache), config, 1000)
    batch = default_collate([samples[number] for number in range(4, 8)])  # of the second step
    words = mapper(batch["v_id"], batch["v_exp"], batch["keep"])
    torch.testing.assert_close(seen[1][1], words.reshape(2, 4, -1), atol=1e-5, rtol=1e-4)


def test_the_prompt_of_a_couple_has_four_words_in_order(config):
    diffusion = FrozenDiffusion(config.base, config.prompt, config.class_prompt)
    couples = diffusion.with_couples(config.prompt, config.class_prompt)
    words = torch.randn(1, 4, diffusion.word_dim)
    states = couples.encode(words)
    changed = [
        place for place in range(77) if not torch.equal(states[0, place], couples.encode(-words)[0, place])
    ]
    assert changed[0] == couples.places[0]
    for person in range(2):
        other = words.clone()
        other[:, 2 * person] += 1
        first = next(
            place for place in range(77) if not torch.equal(couples.encode(other)[0, place], states[0, place])
        )
        assert first == couples.places[2 * person], "the text encoder is causal"
    plain = diffusion.prompts
    expected = plain.encode(torch.tensor([plain.pad(plain.content_ids("A photo of a person and a person"))]))
    assert torch.equal(couples.class_states, expected)


def test_couples_need_prompts_alike_and_pairs_of_photos(config):
    assert couple_prompts("S* at noon", "a man at noon") == ("S* and S* at noon", "a man and a man at noon")
    for class_prompt in ("A picture of a person", "A photo of ", "A photo"):
        with pytest.raises(ValueError, match="Write the same text"):
            couple_prompts("A photo of S*", class_prompt)
    with pytest.raises(ValueError, match="2 x processes x accumulate = 2 x 1 x 4"):
        train_mapper(replace(config, couples_every=2, accumulate=4), quiet)


def test_the_identity_loss_takes_the_encoder_of_the_cache_only(config, tmp_path):
    other = write_msid(tmp_path / "msid.pt", seed=1, patch_size=16, depth=4, layers=(0, 1, 2, 3))
    with pytest.raises(ValueError, match="msid weights"):
        train_mapper(replace(config, identity_weight=0.1, identity_msid=str(other)), quiet)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"context_share": 0.5, "contexts": ()}, "Add --contexts"),
        ({"context_share": 0.5, "loss": "masked"}, "--loss cgdr"),
        ({"context_share": 1.5}, "--context-share is 1.5"),
        ({"identity_weight": 1.0}, "Add --identity-msid"),
        ({"cross_photo": -0.1}, "--cross-photo is -0.1"),
        ({"couples_every": -1}, "--couples-every is -1"),
        ({"region_weight": 0.0}, "--region-weight is 0.0. Use a positive weight"),
        ({"region_weight": 8.0, "loss": "masked"}, "but --loss is masked. Use --loss cgdr"),
    ],
)
def test_impossible_settings_beyond_the_paper_are_refused(changes, advice):
    with pytest.raises(ValueError, match=advice):
        MapperTrainingConfig(**changes)


def test_losses_differ(config, tmp_path):
    runs = [
        weights_of(replace(config, loss=loss, out=str(tmp_path / loss)))
        for loss in ("cgdr", "reconstruction", "masked")
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(runs[first]["i2t_first.fc_out.bias"], runs[second]["i2t_first.fc_out.bias"])


def test_ema_is_what_is_saved(config, tmp_path):
    plain = weights_of(config)
    averaged = weights_of(replace(config, ema=0.5, out=str(tmp_path / "ema")))
    start = training.build_mapper(config, LatentCache(config.cache), 768).state_dict()
    name = "i2t_first.fc_out.bias"
    assert 0 < (averaged[name] - start[name]).norm() < (plain[name] - start[name]).norm()


def test_the_learning_rate_rises_and_falls(config):
    config = replace(config, steps=10, lr=1.0, warmup=2, decay=4)
    assert [training.learning_rate(config, step) for step in range(10)] == [
        0.5,
        1,
        1,
        1,
        1,
        1,
        1,
        0.75,
        0.5,
        0.25,
    ]
    rates = [training.learning_rate(replace(config, warmup=0, decay=1000), step) for step in range(10)]
    assert rates == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    constant = MapperTrainingConfig()
    assert {training.learning_rate(constant, step) for step in (0, 1, 50_000, 99_999)} == {1e-5}


def test_the_optimizer_takes_the_learning_rate(config):
    train_mapper(replace(config, decay=4), quiet)
    state = torch.load(Path(config.out) / "state-00000004.pt", weights_only=True)
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(config.lr / 4)


def test_muon_takes_the_matrices_and_adamw_the_rest_at_one_learning_rate(config):
    weights = weights_of(replace(config, optimizer="muon", decay=4, weight_decay=0.3, eps=1e-3))
    state = torch.load(Path(config.out) / "state-00000004.pt", weights_only=True)["optimizer"]
    muon, adamw = (state[name]["param_groups"][0] for name in ("muon", "adamw"))
    assert muon["lr"] == adamw["lr"] == pytest.approx(config.lr / 4)
    assert muon["weight_decay"] == adamw["weight_decay"] == 0.3
    assert adamw["eps"] == 1e-3
    matrices = [tensor for tensor in weights.values() if tensor.ndim == 2]
    assert len(muon["params"]) == len(matrices) == 6
    assert len(adamw["params"]) == 6 + 1  # biases, and the null expression


def test_a_step_of_muon_turns_all_directions_of_a_matrix_alike():
    """The step of a matrix has the size of AdamW's: 0.2 x learning rate per entry, on average."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(40, 20)
    before = layer.weight.detach().clone()
    config = MapperTrainingConfig(lr=0.1, weight_decay=0.0)
    optimizer = MuonWithAdamW(layer.parameters(), config)
    layer.weight.grad = torch.randn(20, 3) @ torch.diag(torch.tensor([100.0, 10.0, 1.0])) @ torch.randn(3, 40)
    layer.bias.grad = torch.ones(20)
    optimizer.step()
    step = (layer.weight - before).detach()
    sizes = torch.linalg.svdvals(step)[:3] / (0.1 * 0.2 * 40**0.5)
    assert sizes.min() > 0.6 and sizes.max() < 1.3, f"{sizes}, where the gradient's differ by a factor of 100"


def test_muon_needs_a_torch_that_has_it(config, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ImportError, match="needs torch 2.9 or newer, but .* is installed. Update torch"):
        train_mapper(replace(config, optimizer="muon"), quiet)


def test_the_run_folder(config):
    file = train_mapper(
        replace(config, steps=5, keep=1, sample_every=5, sample_steps=1, sample_faces=2), quiet
    )
    run = Path(config.out)
    assert file.name == "mapper-00000005.safetensors"
    assert sorted(path.name for path in run.glob("*.safetensors")) == [file.name], "the last one is kept"
    assert sorted(path.name for path in run.glob("state-*")) == ["state-00000004.pt", "state-00000005.pt"]
    assert json.loads((run / "config.json").read_text())["lr"] == config.lr
    assert list((run / "tensorboard").iterdir())
    assert Image.open(run / "samples" / "00000005.png").width > 3 * 64
    checkpoint = read(file)
    assert checkpoint.kind == "mapper"
    assert checkpoint.metadata["msid"] == LatentCache(config.cache).msid


def test_the_loader_node_takes_the_checkpoint_as_it_is(config, folder):
    file = train_mapper(config, quiet)
    encoder = FaceEncoder.load(folder / "cache" / "msid.pt", file)
    photo = np.full((112, 112, 3), 100, np.uint8)
    assert encoder.words(encoder.identify(photo, alignment="112 px")).shape == (2, 768)


def test_settings_of_a_run_cannot_change(config):
    train_mapper(config, quiet)
    with pytest.raises(ValueError, match=r"other settings: lr 0.001, not 0.1"):
        train_mapper(replace(config, lr=0.1, steps=8), quiet)


def test_a_loss_that_is_not_finite_stops_the_run(config, folder, tmp_path):
    write_cache(tmp_path / "bad", count=2, latent=float("nan"), vae=LatentCache(config.cache).vae)
    with pytest.raises(
        FloatingPointError,
        match=r"loss is nan at step 0 .*\(photos of the cache \d, .*; rank 0\).*No checkpoint yet",
    ):
        train_mapper(replace(config, cache=str(tmp_path / "bad")), quiet)
    assert not (tmp_path / "run" / "checkpoint.json").exists()


def test_a_full_disk_keeps_the_last_checkpoint(config, monkeypatch):
    train_mapper(replace(config, steps=2), quiet)
    before = sorted(path.name for path in Path(config.out).iterdir())

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("face2diffusion.f2d.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        train_mapper(config, quiet)
    monkeypatch.undo()
    assert set(before) <= {path.name for path in Path(config.out).iterdir()}
    assert read(train_mapper(config, quiet)).metadata["step"] == "4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": "nowhere"}, "nowhere"),
        ({"base": "nowhere"}, "'nowhere' is not a Stable Diffusion folder in diffusers layout"),
        ({"out": ""}, "--out is missing"),
        (
            {"batch_size": 3, "accumulate": 2},
            r"batch size 3 is not divisible by processes x accumulate = 1 x 2",
        ),
        ({"prompt": "A photo"}, "0 times in the prompt 'A photo'"),
        ({"sample_prompts": ("S*", "A photo")}, r"S\*"),
        ({"sample_prompts": ("S* " + 80 * "very ",)}, "takes at most 75"),
    ],
)
def test_bad_settings_say_what_is_wrong(config, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        train_mapper(replace(config, **change), quiet)


def test_a_cache_of_another_vae_is_refused(config, tmp_path):
    write_cache(tmp_path / "other", count=2)
    with pytest.raises(
        ValueError, match="vae weights .* are not those that the cache '.*other' was made with"
    ):
        train_mapper(replace(config, cache=str(tmp_path / "other")), quiet)


def test_stable_diffusion_2_goes_through_the_same_code(config, tmp_path):
    """Words 1024 wide, and v-prediction."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    diffusion = random_pipeline().diffusion
    text = diffusion.text_encoder.config.to_dict() | {"hidden_size": 1024, "num_attention_heads": 16}
    unet = {**diffusion.unet.config, "cross_attention_dim": 1024}
    diffusion.register_modules(
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        unet=UNet2DConditionModel.from_config(unet),
        scheduler=DDPMScheduler.from_config(diffusion.scheduler.config, prediction_type="v_prediction"),
    )
    diffusion.save_pretrained(tmp_path / "sd2")
    trained = weights_of(replace(config, base=str(tmp_path / "sd2"), steps=2))
    assert trained["i2t_first.fc_out.bias"].shape == (1024,)


def test_training_can_start_from_a_mapper_that_fits(config, tmp_path):
    write_mapper(tmp_path / "fits.pt", hidden_dim=32)
    write_mapper(tmp_path / "wide.pt", hidden_dim=32, word_dim=1024)
    trained = weights_of(replace(config, init=str(tmp_path / "fits.pt"), steps=1, lr=1e-9))
    assert_equal(trained, torch.load(tmp_path / "fits.pt"), 1e-6)
    with pytest.raises(
        ValueError,
        match=r"widths \(1536, 64, 1024\), but .* need \(1536, 64, 768\)",
    ):
        train_mapper(replace(config, init=str(tmp_path / "wide.pt"), out=str(tmp_path / "other")), quiet)


def test_the_command_shows_its_configuration(capsys, tmp_path):
    assert (
        main(
            [
                "mapper",
                "--preset",
                "masked",
                "--lr",
                "0.5",
                "--sample-prompts",
                "S*, old",
                "--sample-prompts",
                "a S*",
                "--dry-run",
            ]
        )
        == 0
    )
    shown = json.loads(capsys.readouterr().out)
    expected = asdict(MapperTrainingConfig(loss="masked", lr=0.5, sample_prompts=("S*, old", "a S*")))
    assert shown == json.loads(json.dumps(expected))
    assert main(["mapper", "--cache", "nowhere", "--base", "nowhere", "--out", str(tmp_path / "x")]) == 2


@pytest.mark.parametrize(("preset", "told"), [("plus-muon", True), ("plus", False)])
def test_a_preset_that_was_measured_with_altered_copies_says_so(config, capsys, preset, told):
    paths = ["--cache", config.cache, "--base", "nowhere", "--out", config.out]
    assert main(["mapper", "--preset", preset, *paths]) == 2
    captured = capsys.readouterr()
    assert ("has 0 altered copies" in captured.out + captured.err) is told
    assert ("--variants 1" in captured.out + captured.err) is told


# --- Several processes, and processes that are stopped ---


def command(config: MapperTrainingConfig, processes: int = 1) -> list[str]:
    """The command line of a run."""
    options = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in asdict(config).items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool) and value != ""
    ]
    launch = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        if processes > 1
        else []
    )
    return [sys.executable, *launch, "-m", "face2diffusion.training.cli", "mapper", *options]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def relative_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """How far weights are apart, in relation to the second."""
    one, other = (torch.cat([tensors[name].flatten() for name in second]) for tensors in (first, second))
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tolerance"), [("adamw", 1e-4), ("muon", 5e-3)])
def test_several_processes_train_what_one_does(config, tmp_path, optimizer, tolerance):
    """With the default dropout, whose masks follow the samples; Muon rounds to bfloat16."""
    config = replace(config, steps=20, save_every=20, optimizer=optimizer)
    assert config.dropout == MapperTrainingConfig().dropout > 0
    alone = weights_of(config)
    start = training.build_mapper(config, LatentCache(config.cache), 768).state_dict()
    moved = relative_difference(start, alone)
    for world in (2, 4):
        together = processes.run(
            processes.train_mapper, asdict(replace(config, out=str(tmp_path / f"{world}"))), world=world
        )
        assert processes.world_of(together) == world
        difference = relative_difference(load_file(together[0][0]), alone)
        print(f"{world} processes: {difference:.1e}, where training moved the weights by {moved:.1e}")
        assert difference < tolerance < 1e-2 < moved


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 4])
def test_a_run_resumes_with_another_number_of_processes(config, tmp_path, world):
    unbroken = weights_of(config)
    begun = asdict(replace(config, out=str(tmp_path / "half"), steps=2))
    assert processes.world_of(processes.run(processes.train_mapper, begun)) == 2
    resumed = processes.run(processes.train_mapper, {**begun, "steps": 4}, world=world)
    assert processes.world_of(resumed) == world
    assert "step 2 of 4" in "".join(resumed[0][1])
    assert relative_difference(load_file(resumed[0][0]), unbroken) < 1e-4


@pytest.mark.slow
def test_torchrun_starts_processes_that_know_each_other(config):
    done = subprocess.run(
        command(config, 2), check=True, capture_output=True, text=True, timeout=180, env=ENVIRONMENT
    )
    lines = done.stdout.splitlines()
    assert sum("step 0 of 4, 2 processes on cpu" in line for line in lines) == 1, done.stdout
    assert sum("step 4/4" in line for line in lines) == 1


@pytest.mark.slow
def test_processes_share_the_samples(config, tmp_path):
    config = replace(config, steps=1, sample_every=1, sample_steps=1, sample_faces=2)
    train_mapper(config, quiet)
    together = replace(config, out=str(tmp_path / "together"))
    answers = processes.run(processes.train_mapper, asdict(together))
    assert processes.world_of(answers) == 2
    sheets = [
        np.asarray(Image.open(Path(run.out) / "samples" / "00000001.png")) for run in (config, together)
    ]
    assert sheets[0].shape == sheets[1].shape
    assert np.abs(sheets[0].astype(int) - sheets[1]).mean() < 1


# --- Dropout ---


def test_dropout_follows_the_sample(config):
    """The same sample loses the same units in any batch, others lose others, and a share of `p` is lost."""
    mapper = training.build_mapper(replace(config, hidden_dim=2000), LatentCache(config.cache), 768).train()
    seeds = torch.tensor([derive_seed(0, 2, number) for number in range(64)])
    kept: list[torch.Tensor] = []
    linear = mapper.i2t_first.layers[1][0]  # sees what the first dropout has left
    linear.register_forward_hook(lambda module, inputs, output: kept.append(inputs[0] != 0))
    x = torch.ones(64, 1536)
    for rows in (slice(0, 64), slice(10, 12)):
        with sampled_dropout(mapper, seeds[rows]):
            mapper(x[rows])
    entire, part = kept
    assert torch.equal(entire[10:12], part)
    assert not torch.equal(entire[0], entire[1])
    assert entire.float().mean().item() == pytest.approx(0.9, abs=0.005)
    rates = entire.float().mean(dim=0)  # of each unit
    assert rates.std().item() == pytest.approx((0.09 / 64) ** 0.5, rel=0.1)
    with sampled_dropout(mapper.eval(), seeds):
        assert torch.equal(mapper(x), mapper(x))


def test_dropout_keeps_the_mean():
    network = torch.nn.Sequential(torch.nn.Dropout(0.25)).train()
    with sampled_dropout(network, torch.arange(100)):
        dropped = network(torch.ones(100, 400))
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])


# --- Precision ---


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_resumes_to_the_bit(config, tmp_path, precision):
    config = replace(config, precision=precision)
    unbroken = weights_of(config)
    half = replace(config, out=str(tmp_path / "half"))
    train_mapper(replace(half, steps=2), quiet)
    state = torch.load(tmp_path / "half" / "state-00000002.pt", weights_only=True)
    assert bool(state["scaler"]) is (precision == "fp16")
    assert_equal(weights_of(half), unbroken)


def test_only_the_unet_is_in_half_precision(config, monkeypatch):
    """The text encoder is exact, and autocast is over before the U-Net, which needs none."""
    seen = {}

    def watch(self, *args):
        seen.update(autocast=torch.is_autocast_enabled("cpu"), states=args[2].dtype)
        return predict(self, *args)

    predict = FrozenDiffusion._predict
    monkeypatch.setattr(FrozenDiffusion, "_predict", watch)
    diffusion = FrozenDiffusion(config.base, config.prompt, config.class_prompt)
    diffusion.place("cpu", torch.bfloat16)
    assert diffusion.unet.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in diffusion.text_encoder.parameters()} == {torch.float32}
    cache, config = LatentCache(config.cache), replace(config, precision="bf16")
    samples = MapperDataset(cache, config, diffusion.steps)
    batch = torch.utils.data.default_collate([samples[number] for number in range(2)])
    training.compute_loss(diffusion, training.build_mapper(config, cache, 768), batch, config)
    assert seen == {"autocast": False, "states": torch.float32}


def test_a_model_that_predicts_the_sample_is_refused(config, folder, tmp_path):
    shutil.copytree(folder / "sd", tmp_path / "sd")
    file = tmp_path / "sd" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(ValueError, match='predicts "sample".*epsilon, v_prediction'):
        train_mapper(replace(config, base=str(tmp_path / "sd")), quiet)


# --- What may differ when a run resumes ---


def test_paths_may_change_but_not_what_lies_there(config, folder, tmp_path):
    train_mapper(replace(config, steps=2), quiet)
    moved = replace(config, cache=str(tmp_path / "moved"), base=str(tmp_path / "sd"), accumulate=2)
    shutil.copytree(folder / "cache", tmp_path / "moved")
    shutil.copytree(folder / "sd", tmp_path / "sd")
    assert train_mapper(moved, quiet).name == "mapper-00000004.safetensors"
    write_cache(tmp_path / "other", count=6, seed=1, vae=LatentCache(config.cache).vae)
    with pytest.raises(ValueError, match=r"other settings: cache \w{8}, not \w{8}\."):
        train_mapper(replace(config, cache=str(tmp_path / "other"), steps=6), quiet)


# --- Samples ---


def test_failing_samples_are_logged_and_the_run_goes_on(config, monkeypatch):
    lines: list[str] = []
    saved = []

    def fail(self, jobs, weights):
        saved.append(json.loads((Path(config.out) / "checkpoint.json").read_text())["step"])
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr(sample_sheets.SampleSheets, "_generate", fail)
    train_mapper(replace(config, sample_every=1, save_every=100), lines.append)
    assert saved == [1, 2, 3, 4], "saved before it is sampled"
    assert sum("Sampling failed" in line and "no memory is left" in line for line in lines) == 4
    assert json.loads((Path(config.out) / "checkpoint.json").read_text())["step"] == 4


def test_samples_are_generated_with_the_averaged_weights(config, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sample_sheets.SampleSheets, "_generate", lambda self, jobs, weights: seen.append(dict(weights)) or []
    )
    averaged = weights_of(replace(config, ema=0.5, sample_every=4, sample_faces=0))
    assert_equal(seen[0], averaged)


def test_samples_are_scored_against_the_cached_photos(config):
    """The scores go to the log; a face's photo is the decoded latent, the same for all its images."""
    seen, lines = [], []

    def load_scores(run, device):
        assert (run.out, device) == (config.out, "cpu")
        return lambda photos, images, prompts: seen.append((photos, images, prompts)) or {"AdaFace": 0.25}

    config = replace(config, steps=1, sample_every=1, sample_steps=1, sample_faces=2)
    train_mapper(config, lines.append, load_scores)
    ((photos, images, prompts),) = seen
    assert len(photos) == len(images) == len(prompts) == 2 * len(config.sample_prompts)
    assert prompts[: len(config.sample_prompts)] == list(config.sample_prompts)
    assert np.array_equal(photos[0], photos[1]) and not np.array_equal(photos[0], photos[-1])
    assert photos[0].shape == images[0].shape
    assert "step 1: samples: AdaFace 0.250" in lines


def test_a_run_scores_its_samples_with_the_evaluator_that_it_names(config, tmp_path):
    """SigLIP of random weights in the published layout."""
    lines = []
    weights = str(write_siglip(tmp_path / "siglip"))
    config = replace(config, steps=1, sample_every=1, sample_steps=1, sample_faces=1, sample_siglip=weights)
    train_mapper(config, lines.append, load_sample_scorer)
    (scores,) = [line for line in lines if line.startswith("step 1: samples: SigLIP")]
    assert 0 < float(scores.rsplit(maxsplit=1)[1]) < 1


def start_endless(config: MapperTrainingConfig, world: int) -> processes.Processes:
    """Start a training in processes of its own; return when it has saved."""
    job = processes.Processes(processes.train_mapper, asdict(replace(config, steps=100_000)), world=world)
    end = time.monotonic() + 90
    while not (Path(config.out) / "checkpoint.json").exists():
        assert all(process.is_alive() for process in job.processes), "a process ended too early"
        assert time.monotonic() < end, "no checkpoint after 90 s"
        time.sleep(0.02)
    return job


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(config, tmp_path):
    config = replace(config, steps=40, save_every=1000)
    endless = replace(config, steps=100_000, out=str(tmp_path / "run"))
    process = subprocess.Popen(command(endless), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    for line in process.stdout:
        if "step 3/" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(60) == 0
    assert "Rerun the command to resume" in rest
    saved = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert saved["step"] >= 3
    unbroken = weights_of(replace(config, steps=saved["step"] + 2, out=str(tmp_path / "unbroken")))
    assert_equal(weights_of(replace(endless, steps=saved["step"] + 2)), unbroken)


@pytest.mark.slow
def test_kill_9_loses_at_most_one_interval(config, tmp_path):
    config = replace(config, save_every=2)
    job = start_endless(config, world=1)
    job.processes[0].kill()
    assert job.wait() == [None]
    saved = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    unbroken = weights_of(replace(config, steps=saved["step"] + 1, out=str(tmp_path / "unbroken")))
    assert_equal(weights_of(replace(config, steps=saved["step"] + 1)), unbroken)


@pytest.mark.slow
def test_a_disk_that_is_really_full_keeps_the_last_checkpoint(config, tmp_path):
    config = replace(config, out=str(tmp_path / "disk"), steps=1000, keep=100)
    done = run_on_small_disk(
        command(config), tmp_path / "disk", "6m", tmp_path / "left", env=ENVIRONMENT, timeout=120
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"f2d-train: '{tmp_path / 'disk'}"), last
    assert "No space left" in last
    saved = json.loads((tmp_path / "left" / "checkpoint.json").read_text())
    assert read(tmp_path / "left" / saved["weights"]).metadata["step"] == str(saved["step"])
    (tmp_path / "disk").rmdir()
    (tmp_path / "left").rename(tmp_path / "disk")
    unbroken = weights_of(replace(config, steps=saved["step"] + 1, out=str(tmp_path / "unbroken")))
    assert_equal(weights_of(replace(config, steps=saved["step"] + 1)), unbroken)


@pytest.mark.slow
def test_killing_one_process_ends_the_run_with_an_error(config):
    job = start_endless(config, world=2)
    job.processes[1].kill()
    first, second = job.wait()
    assert isinstance(first, ConnectionError), first
    assert second is None
