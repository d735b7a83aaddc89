"""The ComfyUI nodes: a thin skin over `f2d`."""

from comfy_api.latest import ComfyExtension, io

from .batch import F2DBatchConditioning, F2DListIdentities
from .export import F2DExportEmbedding
from .expression import ExpressionReference
from .files import register_folders
from .identities import F2DLoadIdentity, F2DMixIdentities, F2DSaveIdentity
from .identity import EncodeFaceIdentity
from .landmarks import F2DFaceLandmarks
from .loader import LoadFaceEncoder
from .pick_best import F2DPickBest
from .prompt import F2DConditioning, InjectSStar

NODES: list[type[io.ComfyNode]] = [
    LoadFaceEncoder,
    EncodeFaceIdentity,
    ExpressionReference,
    InjectSStar,
    F2DConditioning,
    F2DSaveIdentity,
    F2DLoadIdentity,
    F2DMixIdentities,
    F2DListIdentities,
    F2DBatchConditioning,
    F2DExportEmbedding,
    F2DFaceLandmarks,
    F2DPickBest,
]


class Face2DiffusionExtension(ComfyExtension):
    """What `comfy_entrypoint` gives to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Register the model folders and list the nodes."""
        register_folders()
        return NODES
