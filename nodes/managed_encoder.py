"""The face encoder under ComfyUI's model management: its networks are moved and offloaded with all others."""

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher

from ..f2d.encoder import FaceEncoder, Network


class ManagedFaceEncoder(FaceEncoder):
    """A FaceEncoder whose networks live in ModelPatchers."""

    def __init__(self, *args, **kwargs) -> None:
        """Take the arguments of FaceEncoder; the networks stay on the offload device until they are used."""
        super().__init__(*args, **kwargs)
        self._patchers: dict[torch.nn.Module, ModelPatcher] = {}

    def to_device(self, network: Network) -> Network:
        """Load a whole network in float32 through ComfyUI: batch normalization has no cast operations."""
        if network not in self._patchers:
            devices = management.text_encoder_device(), management.text_encoder_offload_device()
            self._patchers[network] = ModelPatcher(network, *devices)
        management.load_models_gpu([self._patchers[network]], force_full_load=True)
        return network
