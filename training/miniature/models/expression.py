"""The miniature's f_exp: reads expression coefficients off drawings, in Deep3DFaceRecon's crop and place among its outputs."""

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
from ..world.samples import balanced_facts, drawing

BACKBONE = "mobilenetv3_small_050"
_DRAWINGS_FROM = 50_000_000
_SPREAD = 8.0  # of the network's output: six numbers below 1 beside a v_id of length 20 would be learned late


def coefficients(expression: tuple[float, ...]) -> np.ndarray:
    """Set a drawn expression among the 64 coefficients, the others 0: shape (64,), float32."""
    found = np.zeros(EXPRESSION_DIM, np.float32)
    found[: len(expression)] = expression
    return found


def train_expressions(config: FitConfig, log: Callable[[str], None] = print) -> ExpressionNetwork:
    """Train on drawings with their true coefficients.

    Args:
        config: the run.
        log: called with each progress message.

    Returns:
        The network, in evaluation mode; it gives 8 times the coefficients.
    """
    torch.manual_seed(config.seed)
    network = ExpressionNetwork(ExpressionConfig(BACKBONE))
    landmarks = ffhq_landmarks(SIZE)

    def loss_of(step: int) -> Tensor:
        first = _DRAWINGS_FROM + step * config.batch_size
        drawings = [
            drawing(number, facts=balanced_facts(number))
            for number in range(first, first + config.batch_size)
        ]
        faces = to_unit([align_expression(one.picture.image, landmarks) for one in drawings])
        wanted = torch.from_numpy(
            np.stack([coefficients(one.scene.figures[0].expression) for one in drawings])
        )
        found = network(faces.to(next(network.parameters()).device)).float()
        return functional.mse_loss(found, wanted.to(found.device)) * EXPRESSION_DIM

    fit(network, loss_of, config, log)
    with torch.no_grad():
        for parameter in network.expression_head.parameters():
            parameter.mul_(_SPREAD)
    return network
