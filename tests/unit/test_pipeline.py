"""The stand-alone pipeline on a small random Stable Diffusion."""

import json

import numpy as np
import pytest
import torch
from face2diffusion.f2d.diffusion.pipeline import F2DPipeline, GenerationConfig
from face2diffusion.f2d.diffusion.regions import Region, regional_prompts
from face2diffusion.f2d.diffusion.text_encoder import inserted_rows
from face2diffusion.f2d.image import make_grid, save_png
from face2diffusion.f2d.prompt.injection import insertion_rows
from face2diffusion.f2d.prompt.weights import split_weights
from PIL import Image
from safetensors.torch import save_file
from support.random_pipeline import random_pipeline
from support.single_file import small_sd1, write_single_file

SMALL = GenerationConfig(steps=2, width=64, height=64)
PROMPT = "A photo of S* here"  # with the random pipeline's tokenizer every letter is a token


@pytest.fixture(scope="module")
def pipeline():
    return random_pipeline()


@pytest.fixture
def words():
    return torch.randn(2, 768, generator=torch.Generator().manual_seed(0)) * 0.02


@pytest.fixture
def subject(pipeline, words):
    """The pipeline with S* = `words`, and without it afterwards."""
    pipeline.add_subject(words)
    yield pipeline
    pipeline.subjects.clear()


def place_of(pipeline, prompt):
    ids = pipeline.diffusion.tokenizer(prompt).input_ids
    return next(index for index in range(len(ids)) if ids[index : index + 2] == [338, 265])


def test_s_star_overwrites_token_plus_position_embedding(subject, words):
    """The authors' way: a hook on the sum of both embeddings, in the test."""
    index, text = place_of(subject, PROMPT), subject.diffusion.text_encoder

    def overwrite(module, inputs, output):
        output = output.clone()
        output[:, index : index + 2] = words
        return output

    ids = subject.diffusion.tokenizer(
        PROMPT, padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    handle = getattr(text, "text_model", text).embeddings.register_forward_hook(overwrite)
    try:
        with torch.no_grad():
            expected = text(ids)[0]
    finally:
        handle.remove()
    assert (subject.encode(PROMPT) - expected).abs().max() < 1e-5


def test_own_embeddings_change_nothing(pipeline):
    plain = pipeline.encode(PROMPT)
    own = pipeline.prompts.token_embedding.weight[[338, 265]].detach()
    pipeline.add_subject(own, positional="before")
    try:
        assert torch.equal(pipeline.encode(PROMPT), plain)
    finally:
        pipeline.subjects.clear()


def test_strength_zero_is_the_class_prompt(pipeline, words):
    """The random tokenizer spells: its class words are the first two letters of 'a person'."""
    pipeline.add_subject(words, strength=0.0)
    try:
        assert torch.equal(pipeline.encode("of S* here"), encode_class_ids(pipeline, "of S* here"))
    finally:
        pipeline.subjects.clear()


def encode_class_ids(pipeline, prompt):
    """Encode the prompt with the class words' first two token ids in place of S*."""
    ids = pipeline.diffusion.tokenizer(prompt, padding="max_length", max_length=77).input_ids
    index = place_of(pipeline, prompt)
    ids[index : index + 2] = pipeline.diffusion.tokenizer("a person").input_ids[1:3]
    with torch.no_grad():
        return pipeline.diffusion.text_encoder(torch.tensor([ids]))[0]


def test_two_people_stand_at_their_places(pipeline, words):
    pipeline.add_subject(words, "S1*")
    pipeline.add_subject(-words, "S2*")
    try:
        both, swapped = pipeline.encode("S1* and S2*"), pipeline.encode("S2* and S1*")
    finally:
        pipeline.subjects.clear()
    assert not torch.allclose(both, swapped)


def test_gradients_reach_inserted_rows(pipeline, words):
    rows = insertion_rows(words.requires_grad_(), torch.zeros(2, 768))
    with inserted_rows(pipeline.prompts.token_embedding, (0, [1, 2]), rows):
        pipeline.diffusion.text_encoder(torch.full((1, 77), 320))[0].sum().backward()
    assert words.grad is not None
    assert words.grad.abs().min() > 0


def test_an_image_depends_on_its_seed_not_on_its_batch(subject):
    single = subject.generate(PROMPT, SMALL, seed=5, progress=False)[0]
    batch = subject.generate(PROMPT, SMALL, seed=4, count=3, batch_size=3, progress=False)
    assert single.parameters["seed"] == batch[1].parameters["seed"] == 5
    assert np.abs(single.image.astype(int) - batch[1].image).max() <= 1
    assert np.abs(single.image.astype(int) - batch[0].image).max() > 1


def generate_with(pipeline, *regions):
    (generated,) = pipeline.generate_encoded(
        ["of this"], pipeline.encode("of this"), [3], SMALL, progress=False, regions=regions
    )
    return generated


def test_a_region_with_the_whole_prompt_or_without_area_changes_nothing(pipeline):
    plain = generate_with(pipeline).image.astype(int)
    same = Region("of this", pipeline.encode("of this"), torch.ones(8, 8))
    nowhere = Region("other words", pipeline.encode("other words"), torch.zeros(8, 8))
    generated = generate_with(pipeline, same, nowhere)
    assert np.abs(generated.image - plain).max() <= 1
    assert generated.parameters["regions"] == ["of this", "other words"]
    assert not pipeline.diffusion.unet._forward_hooks


def test_a_region_has_its_own_prompt(pipeline):
    unet, noise = pipeline.diffusion.unet, torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    negative, whole, other = (pipeline.encode(text) for text in ("", "of this", "other words"))
    mask = torch.zeros(16, 16)
    mask[:, :8] = 1

    def predict(positive):
        return unet(noise, 500, encoder_hidden_states=torch.cat([negative, positive]), return_dict=False)[0]

    with torch.no_grad():
        plain, alone = predict(whole), predict(other)
        with regional_prompts(unet, [Region("other words", other, mask)], 1):
            mixed = predict(whole)
    assert torch.equal(mixed[0], plain[0]), "the negative prompt is for all of the image"
    assert torch.equal(mixed[1, :, :, 4:], plain[1, :, :, 4:])
    assert torch.allclose(mixed[1, :, :, :4], (plain[1, :, :, :4] + alone[1, :, :, :4]) / 2, atol=1e-5)
    assert (alone - plain)[1].abs().max() > 1e-3


def test_s_star_changes_the_image(pipeline, words):
    images = []
    for scale in (1, -1):
        pipeline.add_subject(words * scale)
        images.append(pipeline.generate(PROMPT, SMALL, progress=False)[0].image)
        pipeline.subjects.clear()
    assert not np.array_equal(*images)


@pytest.mark.parametrize(("subject_from", "class_steps"), [(0.0, 0), (0.2, 6), (0.5, 15)])
def test_delayed_subject_conditioning_uses_the_class_prompt_first(subject, subject_from, class_steps):
    """Sec. E.2: alpha = 0.8 holds the face back for the first 6 of 30 steps."""
    seen = []
    unet = subject.diffusion.unet
    handle = unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"][-1].clone()),
        with_kwargs=True,
    )
    try:
        subject.generate(
            PROMPT, GenerationConfig(steps=30, width=64, height=64, subject_from=subject_from), progress=False
        )
    finally:
        handle.remove()
    with_face = subject.encode(PROMPT)[0]
    assert [torch.equal(states, with_face) for states in seen] == [False] * class_steps + [True] * (
        30 - class_steps
    )


def test_the_png_tells_how_it_was_made(subject, tmp_path):
    generated = subject.generate(PROMPT, SMALL, seed=7, progress=False)[0]
    save_png(tmp_path / "a.png", generated.image, generated.text)
    with Image.open(tmp_path / "a.png") as image:
        stored = json.loads(image.text["face2diffusion"])
        assert image.text["parameters"].startswith(PROMPT)
        assert image.size == (64, 64)
    assert stored["seed"] == 7
    assert (stored["steps"], stored["cfg"], stored["sampler"]) == (2, 7.0, "Euler ancestral")


def test_the_sampler_is_the_authors(pipeline):
    scheduler = pipeline.diffusion.scheduler
    scheduler.set_timesteps(30)
    assert type(scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    assert float(scheduler.sigmas[0]) == pytest.approx(14.6146, abs=1e-4)
    assert (float(scheduler.timesteps[0]), float(scheduler.timesteps[-1])) == (999, 0)


def test_a_folder_in_diffusers_layout_gives_the_same_image(subject, words, tmp_path):
    subject.diffusion.save_pretrained(tmp_path / "sd")
    loaded = F2DPipeline.load(tmp_path / "sd", device="cpu")
    loaded.add_subject(words)
    images = [one.generate(PROMPT, SMALL, progress=False)[0].image for one in (subject, loaded)]
    assert np.array_equal(*images)


def test_a_grid_is_as_square_as_it_gets():
    grid = make_grid([np.zeros((10, 20, 3), np.uint8)] * 3, gap=2)
    assert grid.shape == (22, 42, 3)
    assert grid[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("A photo of a chef", "'A photo of a chef' does not contain 'S\\*'"),
        ("", "does not contain 'S\\*'"),
        ("A photo of classS*", "'classS\\*' in the prompt joins"),
        ("S* " + "x " * 80, "82 tokens.*at most 75"),
    ],
)
def test_bad_prompts_are_refused(subject, prompt, message):
    with pytest.raises(ValueError, match=message):
        subject.generate(prompt, SMALL, progress=False)


def test_a_placeholder_of_one_token_needs_room_for_two(pipeline, words):
    pipeline.add_subject(words, "q")
    try:
        assert pipeline.encode("q " + "x " * 73).shape == (1, 77, 768)
        with pytest.raises(ValueError, match="76 tokens.*at most 75"):
            pipeline.encode("q " + "x " * 74)
    finally:
        pipeline.subjects.clear()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "0 steps.*at least 1"),
        ({"width": 100}, "100x512 px.*divisible by 8"),
        ({"height": 0}, "512x0 px.*divisible by 8"),
        ({"subject_from": 1.0}, "subject_from 1.0.*below 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**settings)


def test_words_of_another_width_are_refused(pipeline):
    with pytest.raises(ValueError, match=r"shape \(2, 1024\).*needs \(2, 768\)"):
        pipeline.add_subject(torch.zeros(2, 1024))


def test_a_taken_placeholder_is_refused(subject, words):
    with pytest.raises(ValueError, match="'s\\*' is already taken by another person"):
        subject.add_subject(words, "s*")


def test_another_pipeline_is_refused_by_name(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with pytest.raises(ValueError, match="StableDiffusionXLPipeline.*Choose an SD 1.x model"):
        F2DPipeline.load(tmp_path)
    with pytest.raises(ValueError, match="no model_index.json"):
        F2DPipeline.load(tmp_path.parent)


def test_a_single_file_gives_the_same_image_as_the_folder(words, tmp_path):
    diffusion = small_sd1()
    diffusion.save_pretrained(tmp_path / "folder")
    file = write_single_file(diffusion, tmp_path / "sd.safetensors")
    images = []
    for pipeline in (
        F2DPipeline.load(tmp_path / "folder", "cpu"),
        F2DPipeline.load(file, "cpu", config=tmp_path / "folder"),
    ):
        pipeline.add_subject(words)
        images.append(pipeline.generate(PROMPT, SMALL, progress=False)[0].image)
    assert images[0].std() > 1
    assert np.array_equal(*images)


def test_a_single_file_without_configs_says_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    file = write_single_file(small_sd1(), tmp_path / "sd.safetensors")
    with pytest.raises(FileNotFoundError, match="f2d download sd-config"):
        F2DPipeline.load(file, "cpu")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    small_sd1().save_pretrained(tmp_path / "folder")
    save_file({"lora_up.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(
        ValueError, match="lora.safetensors' does not load as a Stable Diffusion 1.x checkpoint.*another file"
    ):
        F2DPipeline.load(tmp_path / "lora.safetensors", "cpu", config=tmp_path / "folder")


def test_each_prompt_of_a_batch_can_have_rows_at_its_own_places(pipeline, words):
    """As the miniature's training inserts them: one pair of rows for each prompt, at different places."""
    ids = torch.tensor([[320] * 77, [320] * 77])
    index = torch.tensor([[0], [1]]), torch.tensor([[1, 2], [5, 6]])
    rows = torch.stack([words, -words])
    prompts = pipeline.prompts
    with torch.no_grad():
        both = prompts.encode(ids, index, rows)
        one = prompts.encode(ids[:1], (0, [1, 2]), words)
        two = prompts.encode(ids[:1], (slice(None), slice(5, 7)), -words[None])
    torch.testing.assert_close(both, torch.cat([one, two]), rtol=0, atol=1e-5)
    assert not torch.allclose(one, two, atol=1e-3)
    assert not prompts.token_embedding._forward_hooks


# --- Weights in prompts ---


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a hat", [("a hat", 1)]),
        ("a (red) hat", [("a ", 1), ("red", 1.1), (" hat", 1)]),
        ("a (red:1.3) hat", [("a ", 1), ("red", 1.3), (" hat", 1)]),
        ("((red)) hat", [("red", 1.1 * 1.1), (" hat", 1)]),
        ("(a (red:1.5) hat)", [("a ", 1.1), ("red", 1.5), (" hat", 1.1)]),
        ("(a (red) hat:0.5)", [("a ", 0.5), ("red", 0.5 * 1.1), (" hat", 0.5)]),
        ("(red: 0)", [("red", 0)]),
        ("(red:-0.5)", [("red", -0.5)]),
        ("(time 12:30)", [("time 12", 30)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        ("(red:nan)", [("red:nan", 1.1)]),
        ("a \\(red\\) hat", [("a (red) hat", 1)]),
        ("(\\(red\\):1.2)", [("(red)", 1.2)]),
        ("a (red hat", [("a ", 1), ("(red hat", 1)]),
        ("a red) hat", [("a red) hat", 1)]),
        ("()", []),
        ("", []),
    ],
)
def test_prompts_are_split_as_comfyui_splits_them(prompt, expected):
    assert split_weights(prompt) == [(text, pytest.approx(weight)) for text, weight in expected]


@pytest.mark.parametrize("weight", [1.3, 0.0, -1.0])
def test_weight_moves_each_token_away_from_the_empty_prompt(subject, weight):
    """Written out: z' = empty + weight (z - empty), for the tokens in the parentheses only."""
    plain, empty = subject.encode("a S* here"), subject.encode("")
    weighted = subject.encode(f"a (S*:{weight}) here")
    expected = plain.clone()
    for place in (2, 3):  # start, a, S1*, S2*
        expected[:, place] = empty[:, place] + weight * (plain[:, place] - empty[:, place])
    assert torch.allclose(weighted, expected, atol=1e-6)
    assert not torch.allclose(weighted, plain)


def test_weights_of_words_around_s_star_leave_it_at_its_place(subject):
    plain, empty = subject.encode("ab S* cd"), subject.encode("")
    weighted = subject.encode("(ab:1.4) S* (cd)")
    factors = torch.ones(77)
    factors[1:3], factors[5:7] = 1.4, 1.1
    assert torch.allclose(weighted, empty + factors[:, None] * (plain - empty), atol=1e-5)


def test_escaped_parentheses_are_letters(subject):
    ids = [token for token, *_ in subject.prompts.tokenize("\\(x\\)")]
    assert ids[1:4] == subject.prompts.content_ids("(x)")


def test_weighted_prompt_of_75_tokens_fits(subject):
    assert subject.encode("(S*:1.2) " + "(x) " * 73).shape == (1, 77, 768)
    with pytest.raises(ValueError, match="76 tokens.*at most 75"):
        subject.encode("(S*:1.2) " + "(x) " * 74)
