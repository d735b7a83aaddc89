"""Widening is exact: a narrow network and its wide copy compute the same."""

from __future__ import annotations

import pytest
import torch
from face2diffusion.f2d.miniature import read_vocabulary
from face2diffusion.f2d.miniature.widen import (
    TEXT_LAYERS,
    TEXT_WIDTH,
    widen_text_encoder,
    widen_unet,
    widen_words,
)
from face2diffusion.training.miniature.models.text_to_image import build_text_encoder, build_unet
from face2diffusion.training.miniature.world.tokenizer import UNKNOWN, build_tokenizer


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_text_encoder(len(read_vocabulary()) + 1).eval()


def wide_clip():
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=3072,
        num_attention_heads=12,
        num_hidden_layers=TEXT_LAYERS,
        eos_token_id=49407,
    )
    model = CLIPTextModel(config).eval()
    return model, "text_model." if hasattr(model, "text_model") else ""


@torch.no_grad()
def test_the_text_encoder_computes_the_same_as_clip_l(encoder):
    ids = build_tokenizer()("A photo of S* as a chef", padding="max_length", max_length=77).input_ids
    clip_ids = list(read_vocabulary().values())
    model, prefix = wide_clip()
    model.load_state_dict(
        {
            prefix + name: tensor
            for name, tensor in widen_text_encoder(encoder.state_dict(), 12, clip_ids).items()
        }
    )
    narrow = encoder(torch.tensor([ids]))[0]
    wide = model(torch.tensor([[clip_ids[number] for number in ids]]))[0]
    torch.testing.assert_close(wide, widen_words(narrow), rtol=1e-4, atol=1e-5)
    assert wide.std() > 0.1, "the comparison sees something"


def test_rows_of_other_words_are_empty(encoder):
    table = widen_text_encoder(encoder.state_dict(), 12, list(read_vocabulary().values()))[
        "embeddings.token_embedding.weight"
    ]
    assert table.shape == (49408, 768)
    assert int((table.abs().sum(1) > 0).sum()) == len(read_vocabulary())


def test_the_unet_has_sd_shapes():
    wide = widen_unet(build_unet().state_dict(), 8)
    assert wide["input_blocks.0.0.weight"].shape == (320, 4, 3, 3)
    assert wide["time_embed.0.weight"].shape == (1280, 320)
    assert wide["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape == (320, 768)


def test_another_unet_is_refused():
    tensors = {name: tensor for name, tensor in build_unet().state_dict().items() if "mid_block" not in name}
    with pytest.raises(ValueError, match="not the miniature's U-Net.*mid_block"):
        widen_unet(tensors, 8)
    with pytest.raises(ValueError, match=r"other tensors .*extra"):
        widen_unet({**build_unet().state_dict(), "extra.weight": torch.zeros(1)}, 8)


def test_the_tokenizer_splits_as_clip_does():
    tokenizer, words = build_tokenizer(), list(read_vocabulary())

    def spoken(text: str) -> list[str]:
        return [words[n] if n < len(words) else UNKNOWN for n in tokenizer(text).input_ids[1:-1]]

    assert spoken("A photo of S* , a CHEF") == ["a", "photo", "of", "s", "*", ",", "a", "chef"]
    assert spoken("S1* and S2*") == ["s", "1", "*", "and", "s", "2", "*"]
    assert spoken("a spaceship") == ["a", UNKNOWN]
    assert tokenizer("").input_ids == [0, 1]
