"""The ComfyUI nodes: a thin skin over `f2d`.

Functions of the nodes import OpenCV, timm and the networks inside their bodies: ComfyUI imports this package
when it starts, and those imports take seconds that only graphs with such a node should pay for.
"""

from comfy_api.latest import ComfyExtension, io

from .combine_identities import F2DListIdentities, F2DMixIdentities
from .conditioning import F2DBatchConditioning, F2DConditioning
from .encode_identity import EncodeFaceIdentity
from .export_embedding import F2DExportEmbedding
from .expression_reference import ExpressionReference
from .face_landmarks import F2DFaceLandmarks
from .face_regions import F2DCropFaces, F2DPasteFaces
from .inject import InjectSStar
from .load_encoder import LoadFaceEncoder
from .model_folders import register_folders
from .pick_best import F2DPickBest
from .refine_identity import F2DRefineIdentity
from .save_load_identity import F2DLoadIdentity, F2DSaveIdentity

NODES: list[type[io.ComfyNode]] = [
    LoadFaceEncoder,
    EncodeFaceIdentity,
    F2DRefineIdentity,
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
    F2DCropFaces,
    F2DPasteFaces,
    F2DPickBest,
]


class Face2DiffusionExtension(ComfyExtension):
    """The extension that `comfy_entrypoint` returns to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Register the model folders and list the nodes."""
        register_folders()
        return NODES
