"""S* as a textual-inversion embedding: exact at its position, in transformers and through diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from face2diffusion.f2d.prompt.embedding import (
    DEFAULT_POSITION,
    check_name,
    embedding_rows,
    save_embedding,
    warn_of_token,
)
from safetensors import safe_open
from support.random_pipeline import random_pipeline

WORDS = torch.randn(2, 768, generator=torch.Generator().manual_seed(1)) * 0.4 / 768**0.5
POSITIONS = torch.randn(77, 768, generator=torch.Generator().manual_seed(2)) * 0.01


def test_file_has_one_tensor_under_its_own_name_and_no_trace_of_the_photo(tmp_path: Path) -> None:
    assert (
        save_embedding(tmp_path / "friends" / "f2d_alice.safetensors", embedding_rows(WORDS, POSITIONS))
        == "f2d_alice"
    )
    with safe_open(tmp_path / "friends" / "f2d_alice.safetensors", "pt") as file:
        assert list(file.keys()) == ["f2d_alice"]
        assert file.metadata() == {"format": "pt"}
        rows = file.get_tensor("f2d_alice")
    assert rows.shape == (2, 768) and rows.dtype == torch.float32
    torch.testing.assert_close(rows + POSITIONS[DEFAULT_POSITION : DEFAULT_POSITION + 2], WORDS)


def test_words_that_stand_before_the_position_are_taken_as_they_are() -> None:
    assert torch.equal(embedding_rows(WORDS, POSITIONS, "before", position=9), WORDS)


@pytest.mark.parametrize("position", [0, -1, 75, 76, 1000])
def test_positions_outside_a_prompt_are_refused(position: int) -> None:
    with pytest.raises(ValueError, match=rf"position {position} is.*from 1 to 74"):
        embedding_rows(WORDS, POSITIONS, position=position)


def test_text_encoder_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="1024 wide, S\\* is 768 wide.*Stable Diffusion 1.x"):
        embedding_rows(WORDS, torch.zeros(77, 1024))


@pytest.mark.parametrize("name", ["alice", "friends/alice", "friends\\alice", "alice-2.v1_b", "日本"])
def test_names_that_prompts_can_hold_are_taken_as_they_are(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["my friend", "alice,bob", "alice(1)", "alice:1.2", "a\nb", "\ud800", ""])
def test_names_that_no_prompt_can_hold_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"cannot be used in a prompt. Use letters, digits and the signs",
    ):
        check_name(name)
    if name.isprintable() and name:
        with pytest.raises(ValueError, match="cannot be used in a prompt"):
            save_embedding(tmp_path / f"{name}.safetensors", WORDS)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_format_keeps_for_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="named '__metadata__'.*Choose another"):
        save_embedding(tmp_path / "friends" / "__metadata__.safetensors", WORDS)
    assert list(tmp_path.iterdir()) == []


def test_export_through_diffusers_gives_the_exact_conditioning_at_its_position(tmp_path: Path) -> None:
    """diffusers' `load_textual_inversion` of the export against S* in the pipeline, at two positions."""
    pipeline = random_pipeline()
    width = pipeline.diffusion.text_encoder.config.hidden_size
    words = torch.randn(2, width, generator=torch.Generator().manual_seed(3)) * 0.02
    pipeline.add_subject(words)
    # The small tokenizer knows letters only: three of them put S* where it is in "A photo of S*".
    exact = {text: pipeline.encode(text) for text in ("a b c S* in d", "S* in d")}
    save_embedding(
        tmp_path / "f2d_alice.safetensors",
        embedding_rows(words, pipeline.prompts.position_embedding.detach()),
    )
    diffusion = pipeline.diffusion
    diffusion.load_textual_inversion(str(tmp_path / "f2d_alice.safetensors"), token="<alice>")
    errors = {}
    for text, expected in exact.items():
        prompt = diffusion.maybe_convert_prompt(text.replace("S*", "<alice>"), diffusion.tokenizer)
        ids = diffusion.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            errors[text] = float((diffusion.text_encoder(ids)[0] - expected).norm() / expected.norm())
    assert errors["a b c S* in d"] < 1e-5
    assert errors["S* in d"] > 1e-3, "only its own position is exact"


def test_name_that_clip_has_as_a_token_is_warned_of() -> None:
    warning = warn_of_token("friends/alice", 1)
    assert "token 'alice'" in warning and "token='<alice>'" in warning and "'f2d_alice'" in warning
    assert warn_of_token("friends/f2d_alice", 5) == ""


def test_diffusers_refuses_the_names_that_are_warned_of(tmp_path: Path) -> None:
    """The random tokenizer's vocabulary has every letter as a word."""
    pipeline = random_pipeline()
    file = tmp_path / "f2d_x.safetensors"
    save_embedding(file, embedding_rows(torch.zeros(2, 768), pipeline.prompts.position_embedding.detach()))
    counts = {token: len(pipeline.prompts.content_ids(token)) for token in ("x", "f2d_x", "<x>")}
    with pytest.raises(ValueError, match="already in tokenizer vocabulary"):
        pipeline.diffusion.load_textual_inversion(str(file), token="x</w>")
    pipeline.diffusion.load_textual_inversion(str(file), token="<x>")
    assert [bool(warn_of_token(token, count)) for token, count in counts.items()] == [True, False, False]
