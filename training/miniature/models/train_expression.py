"""Trains the miniature's f_exp, with Deep3DFaceRecon's crop and output layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ....f2d.face.alignment import align_expression
from ....f2d.face.ffhq import ffhq_landmarks
from ....f2d.image import to_unit
from ....f2d.networks.expression import EXPRESSION_DIM, ExpressionConfig, ExpressionNetwork
from ...engine.fit import FitConfig, fit
from ..world.render import SIZE
from ..world.samples import render_sample, sample_balanced_attributes

BACKBONE = "mobilenetv3_small_050"
_FIRST_SAMPLE = 50_000_000
_OUTPUT_SCALE = (
    8.0  # unscaled, six numbers below 1 are too small beside a v_id of length 20 to be learned soon
)


def pad_coefficients(expression: tuple[float, ...]) -> np.ndarray:
    """Pad a scene's expression with zeros to f_exp's 64 coefficients: shape (64,), float32."""
    padded = np.zeros(EXPRESSION_DIM, np.float32)
    padded[: len(expression)] = expression
    return padded


def train_expression(config: FitConfig, log: Callable[[str], None] = print) -> ExpressionNetwork:
    """Train on rendered samples with their true coefficients.

    Args:
        config: the run.
        log: called with each progress message.

    Returns:
        The network, in evaluation mode; its output is 8 times the coefficients.
    """
    torch.manual_seed(config.seed)
    network = ExpressionNetwork(ExpressionConfig(BACKBONE))
    landmarks = ffhq_landmarks(SIZE)

    def loss_of(step: int) -> Tensor:
        first = _FIRST_SAMPLE + step * config.batch_size
        samples = [
            render_sample(number, attributes=sample_balanced_attributes(number))
            for number in range(first, first + config.batch_size)
        ]
        faces = to_unit([align_expression(sample.rendering.image, landmarks) for sample in samples])
        expressions = [pad_coefficients(sample.scene.figures[0].expression) for sample in samples]
        predicted = network(faces.to(next(network.parameters()).device)).float()
        target = torch.from_numpy(np.stack(expressions)).to(predicted.device)
        return functional.mse_loss(predicted, target) * EXPRESSION_DIM

    fit(network, loss_of, config, log)
    with torch.no_grad():
        for parameter in network.expression_head.parameters():
            parameter.mul_(_OUTPUT_SCALE)
    return network
