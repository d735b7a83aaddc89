"""The optimizers: AdamW for every training, and Muon for those that choose it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..config import TrainingConfig


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: TrainingConfig, fused: bool | None = None
) -> torch.optim.Optimizer:
    """Build AdamW.

    Args:
        parameters: what is trained.
        config: of the run.
        fused: update in one pass over the weights; None = where torch has it.

    Returns:
        The optimizer.
    """
    if fused is None:
        fused = torch.cuda.is_available() or not torch.backends.mps.is_available()
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused,
    )


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices and AdamW for all else, as one optimizer with one learning rate.

    Muon (Jordan et al. 2024) makes the momentum of each matrix orthogonal, so that a step turns all
    directions alike, the rare ones too. Its steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv
    2502.16982, Sec. 2.2), so that both take the same learning rate and weight decay. torch orthogonalizes in
    bfloat16, so another order of summing, as with more processes, changes the weights more than with AdamW.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: TrainingConfig) -> None:
        """Divide the parameters.

        Args:
            parameters: what is trained.
            config: of the run.

        Raises:
            ImportError: this torch has no Muon.
        """
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(
                f"--optimizer muon needs torch 2.9 or newer, but {torch.__version__} is installed. "
                "Update torch, or use --optimizer adamw."
            )
        parameters = list(parameters)
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        others = [parameter for parameter in parameters if parameter.ndim != 2]
        super().__init__(parameters, {})
        self.muon = torch.optim.Muon(
            matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = make_optimizer(others, config)
        self._share_groups()

    def _share_groups(self) -> None:
        """Show both optimizers' own groups, so that a learning rate that is set here reaches them."""
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch allows a closure
        """Take a step of both."""
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()
