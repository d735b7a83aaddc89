"""The frozen Stable Diffusion as training sees it."""

import pytest
import torch
from face2diffusion.f2d.diffusion.pipeline import F2DPipeline
from face2diffusion.f2d.prompt.injection import PLACEHOLDER
from face2diffusion.training.mapper.denoising import FrozenDiffusion
from support.random_pipeline import random_pipeline

PROMPTS = "A photo of S*", "A photo of a person"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "sd"
    random_pipeline().diffusion.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def diffusion(base):
    return FrozenDiffusion(base, *PROMPTS)


@pytest.fixture
def words():
    return torch.randn(2, 2, 768, generator=torch.Generator().manual_seed(0)) * 0.02


@pytest.mark.parametrize("positional", ["replace", "before"])
def test_training_encodes_s_star_as_the_pipeline_does(base, words, positional):
    pipeline = F2DPipeline.load(base, "cpu")
    pipeline.add_subject(words[1], PLACEHOLDER, positional)
    diffusion = FrozenDiffusion(base, *PROMPTS, positional)
    with torch.no_grad():
        states = diffusion.encode(words)
    assert torch.allclose(states[1], pipeline.encode(PROMPTS[0])[0], atol=1e-6)
    assert not torch.allclose(states[0], states[1], atol=1e-3)


def test_gradients_reach_the_words_and_nothing_else(diffusion, words):
    noisy, time = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    diffusion.predict(noisy, time, words.requires_grad_()).square().mean().backward()
    assert words.grad.abs().amax(dim=(1, 2)).min() > 0
    assert all(parameter.grad is None for parameter in diffusion.parameters())


def test_the_class_branch_holds_no_graph(diffusion):
    assert not diffusion.predict_class(
        torch.randn(1, 4, 8, 8, requires_grad=True), torch.tensor([5])
    ).requires_grad


def test_the_class_branch_sees_the_class_prompt(diffusion):
    pipeline = random_pipeline()
    noisy, time = torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        expected = diffusion.unet(noisy, time, pipeline.encode(PROMPTS[1])).sample
    assert torch.allclose(diffusion.predict_class(noisy, time), expected, atol=1e-5)


def test_a_context_follows_both_prompts(base, words):
    contexts = ("as a chef", "on a beach at night")
    diffusion = FrozenDiffusion(base, *PROMPTS, contexts=contexts)
    pipeline = F2DPipeline.load(base, "cpu")
    noisy, time = torch.randn(2, 4, 8, 8), torch.tensor([500, 20])
    with torch.no_grad():
        states = diffusion.encode(words, torch.tensor([2, 0]))
        class_states = torch.cat(
            [pipeline.encode(f"{PROMPTS[1]} {contexts[1]}"), pipeline.encode(PROMPTS[1])]
        )
        expected = diffusion.unet(noisy, time, class_states).sample
        for row, prompt in enumerate((f"{PROMPTS[0]} {contexts[1]}", PROMPTS[0])):
            pipeline.subjects.clear()
            pipeline.add_subject(words[row], PLACEHOLDER)
            assert torch.allclose(states[row], pipeline.encode(prompt)[0], atol=1e-6)
    assert torch.allclose(diffusion.predict_class(noisy, time, torch.tensor([2, 0])), expected, atol=1e-5)


def test_v_prediction_has_its_own_target(base, diffusion):
    latent, noise, time = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([0, 999])
    _, target = diffusion.add_noise(latent, noise, time)
    assert torch.equal(target, noise)
    other = FrozenDiffusion(base, *PROMPTS)
    other.schedule.register_to_config(prediction_type="v_prediction")
    _, target = other.add_noise(latent, noise, time)
    alpha = other.schedule.alphas_cumprod[time].view(2, 1, 1, 1)
    assert torch.allclose(target, alpha.sqrt() * noise - (1 - alpha).sqrt() * latent, atol=1e-6)


@pytest.mark.parametrize("prompt", ["A photo of someone", "S* and S*"])
def test_the_prompt_needs_s_star_once(base, prompt):
    with pytest.raises(ValueError, match="times in the prompt.*Write it once"):
        FrozenDiffusion(base, prompt, PROMPTS[1])


def test_other_base_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="No base model is given"):
        FrozenDiffusion("", *PROMPTS)
    with pytest.raises(ValueError, match="no model_index.json"):
        FrozenDiffusion(tmp_path, *PROMPTS)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with pytest.raises(ValueError, match="StableDiffusionXLPipeline.*SD 1.x"):
        FrozenDiffusion(tmp_path, *PROMPTS)
