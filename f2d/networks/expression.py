"""The expression branch: Deep3DFaceRecon's coefficients (Sec. 3.3).

Dimension letters: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from timm import create_model
from torch import Tensor, nn

from ..checkpoint import Checkpoint
from .loading import fill, read_config

EXPRESSION_DIM = 64
_HEADS = {
    "identity": 80,
    "expression": EXPRESSION_DIM,
    "texture": 80,
    "angle": 3,
    "light": 27,
    "shift": 2,
    "depth": 1,
}
_EXPRESSION_HEAD = list(_HEADS).index("expression")  # columns 80:144 of the 257 coefficients
_WIDTHS = {"resnet50": 2048, "mobilenetv3_small_050": 288}  # of the backbones' last feature maps


@dataclass(frozen=True)
class ExpressionConfig:
    """Kind of the network; the default is Deep3DFaceRecon's."""

    backbone: str = "resnet50"  # timm's name; "mobilenetv3_small_050" is the miniature's

    def __post_init__(self) -> None:
        """Check the name."""
        if self.backbone not in _WIDTHS:
            raise ValueError(
                f"The backbone '{self.backbone}' is none of {', '.join(_WIDTHS)}. Choose another file."
            )


class ExpressionNetwork(nn.Module):
    """f_exp: Deep3DFaceRecon's ResNet-50 with seven 1x1 heads and the tensor names of `epoch_20.pth`."""

    def __init__(self, config: ExpressionConfig | None = None) -> None:
        """Build the network with random weights.

        Args:
            config: kind of the network; Deep3DFaceRecon's where left out.
        """
        super().__init__()
        self.config = config or ExpressionConfig()
        self.backbone: Any = create_model(self.config.backbone, num_classes=0, global_pool="")
        if hasattr(self.backbone, "conv_head"):
            self.backbone.conv_head = nn.Identity()  # a classifier's; the heads here look at the feature map
        width = _WIDTHS[self.config.backbone]
        self.final_layers = nn.ModuleList(nn.Conv2d(width, size, 1) for size in _HEADS.values())

    @property
    def expression_head(self) -> nn.Conv2d:
        """The one of the heads that is used."""
        return cast(nn.Conv2d, self.final_layers[_EXPRESSION_HEAD])

    def forward(self, face: Tensor) -> Tensor:
        """Compute v_exp = f_exp(x) (Sec. 3.3): columns 80 to 143 of the coefficients, as they are.

        Args:
            face: shape (B, 3, 224, 224), RGB in [0, 1].

        Returns:
            shape (B, 64).
        """
        x = self.backbone.forward_features(face)  # (B, 2048, 7, 7)
        x = x.mean((2, 3), keepdim=True)  # (B, 2048, 1, 1)
        return self.expression_head(x).flatten(1)  # (B, 64)


def load_expression(checkpoint: Checkpoint) -> ExpressionNetwork:
    """Build the expression network that a weight file holds, in evaluation mode on the CPU.

    Args:
        checkpoint: of kind "expression".

    Returns:
        The network, float32.

    Raises:
        ValueError: the file holds something else, or its tensors do not fit.
    """
    config = read_config(
        checkpoint.expect("expression"), ExpressionConfig, lambda tensors: ExpressionConfig()
    )
    return fill(ExpressionNetwork(config), checkpoint.tensors, checkpoint.path)
