"""Networks under ComfyUI's model management: moved and offloaded with all others."""

from typing import Generic

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher

from ..f2d.encoder import FaceEncoder, Network


class ManagedNetwork(Generic[Network]):
    """A network and its ModelPatcher, which live and die together.

    A network that outlives its patcher is a leak to ComfyUI, which then collects all garbage at each load.
    """

    def __init__(self, network: Network) -> None:
        """Take a network; it stays on the offload device until it is loaded."""
        self._network = network
        devices = management.text_encoder_device(), management.text_encoder_offload_device()
        self._patcher = ModelPatcher(network, *devices)

    def load(self) -> Network:
        """Load the whole network in float32 through ComfyUI: batch normalization has no cast operations."""
        management.load_models_gpu([self._patcher], force_full_load=True)
        return self._network


class ManagedFaceEncoder(FaceEncoder):
    """A FaceEncoder whose networks are managed."""

    def __init__(self, *args, **kwargs) -> None:
        """Take the arguments of FaceEncoder."""
        super().__init__(*args, **kwargs)
        self._managed: dict[torch.nn.Module, ManagedNetwork] = {}

    def to_device(self, network: Network) -> Network:
        """Load a network of this encoder."""
        if network not in self._managed:
            self._managed[network] = ManagedNetwork(network)
        return self._managed[network].load()
