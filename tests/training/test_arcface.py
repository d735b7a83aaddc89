"""Eq. 3, whole and with its classes divided among processes, and batch normalization over processes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from face2diffusion.training.losses import arcface_loss
from face2diffusion.training.msid.classifier import ShardedClassifier
from support import processes

CLASSES = 7  # 4 + 3 rows on two processes, 3 + 3 + 1 on three


@pytest.fixture
def cosines() -> torch.Tensor:
    return torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.8 - 0.9


LABELS = torch.tensor([0, 3, 6, 6, 2, 5])


# --- The loss ---


def test_without_margin_eq_3_is_cross_entropy(cosines: torch.Tensor) -> None:
    cosines.requires_grad_()
    loss, expected = arcface_loss(cosines, LABELS, 64, 0), F.cross_entropy(64 * cosines, LABELS)
    assert torch.equal(loss, expected)
    assert torch.allclose(*(torch.autograd.grad(value, cosines)[0] for value in (loss, expected)), atol=1e-12)


def test_the_margin_is_added_to_the_angle_of_the_true_class(cosines: torch.Tensor) -> None:
    logits = 30 * cosines
    for row, label in enumerate(LABELS):
        logits[row, label] = 30 * math.cos(math.acos(cosines[row, label]) + 0.4)
    assert torch.allclose(arcface_loss(cosines, LABELS, 30, 0.4), F.cross_entropy(logits, LABELS), atol=1e-12)


def test_the_loss_grows_with_the_margin_up_to_pi(cosines: torch.Tensor) -> None:
    for row, label in enumerate(LABELS):
        margins = torch.linspace(0, math.pi - math.acos(cosines[row, label]), 20)
        losses = [arcface_loss(cosines[row : row + 1], label[None], 64, float(margin)) for margin in margins]
        assert all(later > earlier for earlier, later in zip(losses, losses[1:], strict=False))


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 1.0])
def test_the_loss_falls_all_the_way_to_the_own_class(margin: float) -> None:
    """With cos(theta + m) alone it would fall towards the opposite side too, where all classes are as far: a
    collapsed encoder."""
    own = torch.linspace(-1, 1, 401, dtype=torch.float64)
    losses = [
        float(arcface_loss(torch.tensor([[cosine, -1.0, -1.0]], dtype=torch.float64), LABELS[:1], 8, margin))
        for cosine in own
    ]
    assert all(later < earlier for earlier, later in zip(losses, losses[1:], strict=False))
    assert losses[0] >= math.log(3)


def test_loss_and_gradient_are_finite_at_the_ends_of_the_range() -> None:
    cosines = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1 + 1e-6, 0.0]], requires_grad=True)
    loss = arcface_loss(cosines, torch.tensor([0, 0, 0]))
    loss.backward()
    assert loss.isfinite() and cosines.grad.isfinite().all()


def test_half_precision_cosines_are_taken_to_float32(cosines: torch.Tensor) -> None:
    assert arcface_loss(cosines.bfloat16(), LABELS).dtype == torch.float32


def test_gradient_agrees_with_differences(cosines: torch.Tensor) -> None:
    assert torch.autograd.gradcheck(
        lambda values: arcface_loss(values, LABELS, 8, 0.5), cosines.requires_grad_()
    )


# --- The classifier ---


def batches(classes: int, number: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draws = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(6, 8, generator=draws, dtype=torch.float64),
            torch.randint(classes, (6,), generator=draws),
        )
        for _ in range(number)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "classes", "sample_rate"), [(2, CLASSES, 1.0), (2, CLASSES, 0.4), (3, 4, 1.0), (2, 2100, 0.1)]
)
def test_divided_classifier_equals_the_whole_one(world: int, classes: int, sample_rate: float) -> None:
    """Three processes and four classes leave the last process without any."""
    job = batches(classes), classes, sample_rate, 0.5
    whole = processes.classify(*job)
    divided = processes.run(processes.classify, *job, world=world)
    assert len(divided) == world
    assert all(len(answer[0][1]) == len(whole[0][1]) // world for answer in divided)
    for step, (loss, features, rows) in enumerate(whole):
        parts = [answer[step] for answer in divided]
        assert [part[0] for part in parts] == pytest.approx([loss] * world, rel=1e-12)
        assert np.allclose(np.concatenate([part[1] for part in parts]), features, atol=1e-12)
        assert np.allclose(np.concatenate([part[2] for part in parts]), rows, atol=1e-12)


def test_classifier_is_eq_3_on_unit_vectors() -> None:
    (features, labels), *_ = batches(CLASSES, 1)
    classifier = ShardedClassifier(CLASSES, 8).double()
    weight = classifier.weight.detach().clone().requires_grad_()
    own = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss = classifier(own[0], labels)
    expected = arcface_loss(F.normalize(own[1]) @ F.normalize(weight).T, labels)
    assert torch.allclose(loss, expected, atol=1e-12)
    loss.backward()
    expected.backward()
    assert torch.allclose(own[0].grad, own[1].grad, atol=1e-12)
    assert torch.allclose(classifier.weight.grad, weight.grad, atol=1e-12)


def test_sampling_keeps_the_classes_of_the_batch_and_about_its_share() -> None:
    classifier = ShardedClassifier(2000, 8, sample_rate=0.1)
    features, labels = torch.randn(16, 8), torch.arange(16)
    classifier(features, labels, step=5).backward()
    used = classifier.weight.grad.abs().sum(dim=1) > 0
    assert used[:16].all()
    assert 150 < used.sum() < 280
    first = classifier(features, labels, step=5)
    assert torch.equal(first, classifier(features, labels, step=5))
    assert not torch.equal(first, classifier(features, labels, step=6))


def test_initial_rows_do_not_depend_on_the_number_of_processes() -> None:
    whole = ShardedClassifier(2500, 4, seed=3).weight
    parts = torch.cat([ShardedClassifier(2500, 4, seed=3, rank=rank, world=3).weight for rank in range(3)])
    assert torch.equal(whole, parts)
    assert whole.std().item() == pytest.approx(0.01, rel=0.05)


def test_classifier_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="at least 2 people; there are 1"):
        ShardedClassifier(1, 8)
    with pytest.raises(ValueError, match="sample rate 0 .*Use 1"):
        ShardedClassifier(5, 8, sample_rate=0)


# --- Batch normalization ---


@pytest.mark.slow
def test_batch_normalization_sees_the_batch_of_all_processes() -> None:
    draws = torch.Generator().manual_seed(2)
    batch, weights = torch.randn(6, 5, generator=draws) * 3 + 1, torch.randn(6, 5, generator=draws)
    output, gradient, mean, variance = processes.normalize(batch, weights)
    divided = processes.run(processes.normalize, batch, weights)
    assert np.allclose(np.concatenate([part[0] for part in divided]), output, atol=1e-6)
    assert np.allclose(np.concatenate([part[1] for part in divided]), gradient, atol=1e-6)
    for part in divided:
        assert np.allclose(part[2], mean, atol=1e-6)
        assert np.allclose(part[3], variance, atol=1e-6)
