"""Eqs. 10 to 14, hMean and gMean against plain numbers and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from face2diffusion.training.evaluation.metrics import (
    clip_score,
    directional_clip_score,
    geometric_mean,
    harmonic_mean,
    identity_score,
    siglip_score,
)

scipy_stats = pytest.importorskip("scipy.stats", reason="needs SciPy: pip install scipy")


def sample(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a)) / np.sqrt(np.dot(b, b)))


@pytest.mark.parametrize("score", [identity_score, clip_score])
def test_cosines_below_zero_count_as_zero(score) -> None:
    first, second = sample(20, 5), sample(20, 5, seed=1)
    expected = [max(cosine(a, b), 0) for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    assert 0 in expected
    np.testing.assert_allclose(score(first, second), expected, atol=1e-12)
    np.testing.assert_allclose(score(first * 7, second / 3), expected, atol=1e-12)
    assert score(first, first).max() <= 1


def test_dclip_compares_directions_of_normalized_embeddings() -> None:
    image, base, text, base_text = (sample(20, 6, seed=seed) for seed in range(4))
    expected = []
    for row in zip(*(x.numpy() for x in (image, base, text, base_text)), strict=True):
        y, y_r, p, p_r = (x / np.linalg.norm(x) for x in row)
        expected.append(max(cosine(y - y_r, p - p_r), 0))
    np.testing.assert_allclose(directional_clip_score(image, base, text, base_text), expected, atol=1e-12)
    np.testing.assert_allclose(directional_clip_score(9 * image, base, text, base_text), expected, atol=1e-12)


def test_dclip_without_a_difference_is_zero() -> None:
    image, base, text, base_text = (sample(3, 6, seed=seed) for seed in range(4))
    assert directional_clip_score(base, base, text, base_text).tolist() == [0, 0, 0]
    assert directional_clip_score(image, base, text, text).tolist() == [0, 0, 0]


def test_siglip_is_the_sigmoid_of_the_scaled_cosine() -> None:
    image, text = sample(20, 6), sample(20, 6, seed=1)
    logits = [118.2 * cosine(a, b) - 12.7 for a, b in zip(image.numpy(), text.numpy(), strict=True)]
    scores = siglip_score(image, text, 118.2, -12.7)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.array(logits))), rtol=1e-9)
    assert (scores > 0).all(), "tiny, but not zero"


HAND_MADE = {
    "equal": ([0.3] * 6, 0.3, 0.3),
    "two": ([0.5, 0.25], 1 / 3, 0.125**0.5),
    "a zero": ([0.9, 0.0, 0.9], 0.0, 0.0),
    "no face": ([0.0, 0.0, 0.0, 0.25, 0.2, 0.4], 0.0, 0.0),
    "all zero": ([0.0, 0.0], 0.0, 0.0),
    "one metric": ([0.7], 0.7, 0.7),
    "a tiny SigLIP": ([0.5, 1e-6], 2 / (2 + 1e6), (0.5e-6) ** 0.5),
    "the smallest": ([1e-300, 1.0], 2e-300, 1e-150),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_means_by_hand(case: str) -> None:
    scores, harmonic, geometric = HAND_MADE[case]
    row = torch.tensor(scores, dtype=torch.float64)
    assert harmonic_mean(row).item() == pytest.approx(harmonic, rel=1e-12, abs=0)
    assert geometric_mean(row).item() == pytest.approx(geometric, rel=1e-12, abs=0)


def test_means_equal_scipy_row_by_row() -> None:
    scores = sample(50, 6).abs()
    scores[::7, 2] = 0
    np.testing.assert_allclose(harmonic_mean(scores), scipy_stats.hmean(scores.numpy(), axis=1), rtol=1e-12)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(
            geometric_mean(scores), scipy_stats.gmean(scores.numpy(), axis=1), rtol=1e-12
        )


@pytest.mark.parametrize("mean", [harmonic_mean, geometric_mean])
@pytest.mark.parametrize("scores", [[0.1, -0.1], [0.1, float("nan")], []])
def test_scores_that_are_none_are_refused(mean, scores: list[float]) -> None:
    with pytest.raises(ValueError, match="Scores are 0 and more.*Clip cosines at 0"):
        mean(torch.tensor(scores))
