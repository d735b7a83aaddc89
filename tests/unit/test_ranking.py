"""Best of N: likeness, CLIP's joint space, and the order that follows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d.diffusion.clip_weights import read_text_projection
from face2diffusion.f2d.ranking import draw_score, likeness, rank, text_likeness
from safetensors.torch import save_file

PHOTOS = [np.full((32, 32, 3), value, np.uint8) for value in (10, 20, 30)]
DIRECTIONS = {"like": (1.0, 0.0), "unlike": (0.0, 1.0), "opposite": (-1.0, 0.0), "near": (3.0, 4.0)}


def compare(*faces: tuple[str, ...]) -> list[float]:
    """Likeness to (1, 0) of pictures with the named faces."""
    vectors: list[torch.Tensor] = []

    class Directions:
        reference = torch.tensor([2.0, 0.0])

        def crop(self, photo: np.ndarray, face: str) -> np.ndarray:
            vectors.append(torch.tensor(DIRECTIONS[face]))
            return photo

        def embed(self, crops: list[np.ndarray]) -> torch.Tensor:
            return torch.stack(vectors)

    return likeness(PHOTOS[: len(faces)], faces, Directions()).tolist()


def test_the_face_most_like_the_person_counts() -> None:
    assert compare(("unlike", "near", "opposite"), (), ("opposite",)) == pytest.approx([0.6, 0, 0])
    assert compare((), ()) == [0, 0]
    assert compare(("like",)) == [1]


def test_order_follows_the_harmonic_mean() -> None:
    ranking = rank([torch.tensor([0.9, 0.5, 0.0, 0.0])], torch.tensor([0.1, 0.3, 0.3, 0.4]))
    np.testing.assert_allclose(ranking.score, [2 * 0.9 * 0.1 / 1.0, 2 * 0.5 * 0.3 / 0.8, 0, 0], rtol=1e-6)
    assert ranking.order == [1, 0, 3, 2], "without a face the text decides"
    assert str(ranking).splitlines()[0] == "1. image 2: 0.375 = identity 0.500 x text 0.300"


def test_judges_of_identity_are_put_together_first() -> None:
    ranking = rank([torch.tensor([0.2]), torch.tensor([0.6])], torch.tensor([0.3]))
    np.testing.assert_allclose(ranking.identity, 2 / (1 / 0.2 + 1 / 0.6), rtol=1e-6)
    np.testing.assert_allclose(ranking.score, 0.3, rtol=1e-6)


def test_without_text_identity_decides_and_it_says_so() -> None:
    ranking = rank([torch.tensor([0.1, 0.7])], None)
    assert ranking.order == [1, 0]
    assert str(ranking).startswith("By identity alone")
    assert "1. image 2: identity 0.700" in str(ranking)


# --- CLIP's joint space -------------------------------------------------------------------------------------

MATRIX = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))  # (C, T)


@pytest.mark.parametrize(
    "key", ["text_projection.weight", "clip_l.transformer.text_projection.weight", "text_projection"]
)
@pytest.mark.parametrize("ending", [".safetensors", ".SAFETENSORS", ".pt"])
def test_the_projection_is_read_from_every_layout(tmp_path: Path, key: str, ending: str) -> None:
    tensors = {
        key: (MATRIX if key.endswith("weight") else MATRIX.T).contiguous().half(),
        "logit_scale": torch.ones(1),
    }
    file = tmp_path / f"clip{ending}"
    save_file(tensors, file) if ending.lower() == ".safetensors" else torch.save(tensors, file)
    torch.testing.assert_close(read_text_projection(file), MATRIX.half().float())


def test_text_is_compared_in_the_joint_space() -> None:
    images, text = torch.randn(5, 6), torch.randn(1, 4)
    projected = (MATRIX.numpy() @ text[0].numpy()) / np.linalg.norm(MATRIX.numpy() @ text[0].numpy())
    expected = [max(float(image @ projected / np.linalg.norm(image)), 0) for image in images.numpy()]
    np.testing.assert_allclose(text_likeness(images, text, MATRIX), expected, atol=1e-6)


def test_parts_of_different_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 5\), .* takes \(1, 4\)\. Use the CLIP"):
        text_likeness(torch.ones(2, 6), torch.ones(1, 5), MATRIX)
    with pytest.raises(ValueError, match=r"CLIP Vision.* shape \(2, 7\), .*\(B, 6\)\. Load"):
        text_likeness(torch.ones(2, 7), torch.ones(1, 4), MATRIX)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 6\)"):
        text_likeness(torch.ones(2, 3, 6), torch.ones(1, 4), MATRIX)


@pytest.mark.parametrize(
    "keys", [[], ["text_projection", "b.text_projection.weight"], ["text_model.projection.weight"]]
)
def test_a_file_without_one_projection_is_refused(tmp_path: Path, keys: list[str]) -> None:
    save_file({key: MATRIX.clone() for key in [*keys, "other"]}, tmp_path / "sd.safetensors")
    with pytest.raises(ValueError, match="sd.safetensors' has [02] tensors 'text_projection', not one"):
        read_text_projection(tmp_path / "sd.safetensors")


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10" * 20)
    with pytest.raises(ValueError, match="cut.safetensors' is damaged"):
        read_text_projection(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError, match="CLIP's text encoder"):
        read_text_projection(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("shape", [(16, 16, 3), (64, 512, 3), (512, 64, 3), (768, 512, 3)])
def test_the_score_is_written_at_the_top(shape: tuple[int, int, int]) -> None:
    photo = np.full(shape, 128, np.uint8)
    drawn = draw_score(photo, "1: 0.375 = identity 0.500 x text 0.300", True)
    assert drawn.shape == shape
    assert (photo == 128).all(), "the picture itself stays as it is"
    changed = np.flatnonzero((drawn != photo).any(axis=(1, 2)))
    assert changed[0] == 0
    assert changed[-1] < shape[0] / 4
    assert tuple(drawn[0, -1]) == (40, 220, 90)
