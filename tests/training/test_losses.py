"""Properties of the mapper's losses."""

import pytest
import torch
from face2diffusion.f2d.denoising_loss import cgdr_loss
from face2diffusion.training.losses import masked_loss, reconstruction_loss

SHAPE = (2, 4, 8, 8)


@pytest.fixture
def draws():
    """Prediction, noise, the class's prediction, and a mask of zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    prediction, noise, class_prediction = (torch.randn(SHAPE, generator=generator) for _ in range(3))
    return prediction, noise, class_prediction, (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).float()


def test_eq_7_with_a_full_mask_is_eq_1(draws):
    prediction, noise, class_prediction, mask = draws
    assert torch.equal(
        cgdr_loss(prediction, noise, class_prediction, torch.ones_like(mask)),
        reconstruction_loss(prediction, noise),
    )


def test_eq_7_with_an_empty_mask_is_zero_where_the_predictions_agree(draws):
    prediction, noise, class_prediction, mask = draws
    assert cgdr_loss(prediction, noise, prediction, torch.zeros_like(mask)) == 0
    assert cgdr_loss(prediction, noise, class_prediction, torch.zeros_like(mask)) > 1


def test_eq_8_is_eq_7_with_the_background_predicted_by_the_model_itself(draws):
    prediction, noise, _, mask = draws
    assert torch.allclose(
        masked_loss(prediction, noise, mask), cgdr_loss(prediction, noise, prediction, mask)
    )


def test_eq_7_wants_noise_inside_and_the_class_outside(draws):
    """An inverted mask or swapped targets would show here."""
    _, noise, class_prediction, mask = draws
    perfect = noise * mask + class_prediction * (1 - mask)
    assert cgdr_loss(perfect, noise, class_prediction, mask) == 0
    assert cgdr_loss(perfect, noise, class_prediction, 1 - mask) > 1


def test_no_gradient_flows_into_the_class_prediction(draws):
    prediction, noise, class_prediction, mask = draws
    prediction.requires_grad_()
    class_prediction.requires_grad_()
    cgdr_loss(prediction, noise, class_prediction, mask).backward()
    assert prediction.grad is not None
    assert class_prediction.grad is None


def test_eq_8_has_no_gradient_outside_the_mask(draws):
    prediction, noise, _, mask = draws
    prediction.requires_grad_()
    masked_loss(prediction, noise, mask).backward()
    assert torch.equal(prediction.grad != 0, mask.bool().expand_as(prediction))


def test_the_region_weight_multiplies_the_errors_inside_the_mask_alone(draws):
    prediction, noise, class_prediction, mask = draws
    inside = masked_loss(prediction, noise, mask)
    outside = cgdr_loss(prediction, noise, class_prediction, mask) - inside
    weighted = cgdr_loss(prediction, noise, class_prediction, mask, region_weight=8.0)
    assert torch.allclose(weighted, 8 * inside + outside)


def test_a_relative_loss_counts_in_errors_of_the_class_inside_the_mask(draws):
    """The class's prediction everywhere has loss share-of-M; an image without M keeps its loss."""
    _, noise, class_prediction, mask = draws
    relative = cgdr_loss(class_prediction, noise, class_prediction, mask, relative=True)
    assert torch.allclose(relative, mask.mean())
    quiet = noise + 0.01 * (class_prediction - noise)
    assert torch.allclose(cgdr_loss(quiet, noise, quiet, mask, relative=True), relative)
    empty = torch.zeros_like(mask)
    assert torch.allclose(
        cgdr_loss(noise, noise, class_prediction, empty, relative=True),
        cgdr_loss(noise, noise, class_prediction, empty),
    )
