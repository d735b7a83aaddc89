"""The ComfyUI nodes: a thin skin over `f2d`."""

from comfy_api.latest import ComfyExtension, io

from .expression import ExpressionReference
from .files import register_folder
from .identity import EncodeFaceIdentity
from .loader import LoadFaceEncoder
from .pick_best import F2DPickBest
from .prompt import F2DConditioning, InjectSStar

NODES: list[type[io.ComfyNode]] = [LoadFaceEncoder, EncodeFaceIdentity, ExpressionReference, InjectSStar, F2DConditioning, F2DPickBest]


class Face2DiffusionExtension(ComfyExtension):
    """What `comfy_entrypoint` gives to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Register the model folder and list the nodes."""
        register_folder()
        return NODES
