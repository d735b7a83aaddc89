"""The miniature's checkpoint in a real, unpatched ComfyUI."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from face2diffusion.f2d.miniature import write_checkpoint
from face2diffusion.f2d.miniature.prompts import PROMPTS, describe
from face2diffusion.f2d.miniature.widen import widen_words
from face2diffusion.training.miniature.language import vocabulary
from support.miniature import write_random_base
from support.server import run_inside

pytestmark = pytest.mark.comfy


@torch.no_grad()
def test_it_computes_what_the_narrow_networks_compute(comfy_checkouts, tmp_path: Path):
    autoencoder, diffusion = write_random_base(tmp_path)
    write_checkpoint(tmp_path / "miniature.safetensors", tmp_path)
    prompts = [describe(facts, "a person") for facts in PROMPTS]
    tokens = [diffusion.tokenizer(prompt, padding="max_length", max_length=77).input_ids for prompt in prompts]
    states = diffusion.text_encoder(torch.tensor(tokens[:2]))[0]
    noisy, time, image = torch.randn(2, 4, 16, 16), torch.tensor([17, 803]), torch.rand(1, 3, 64, 64) * 2 - 1
    latent = autoencoder.encode(image)
    narrow = {
        "prompts": prompts,
        "states": widen_words(states),
        "noisy": noisy,
        "time": time,
        "noise": diffusion.unet(noisy, time, states).sample,
        "image": image,
        "latent": latent,
        "decoded": autoencoder.decode(latent),
    }
    torch.save(narrow, tmp_path / "narrow.pt")
    numbers = list(vocabulary().values())
    for checkout in comfy_checkouts:
        found = run_inside(checkout, "widened", [str(tmp_path / "miniature.safetensors"), str(tmp_path / "narrow.pt")])
        assert found["family"] == "SD15"
        assert found["ids"] == [[numbers[token] for token in row] for row in tokens], "our words are whole tokens of CLIP"
        assert max(found[part] for part in ("unet", "encoder", "decoder", "text")) < 2e-3, found
