"""The ComfyUI nodes: a thin skin over `f2d`."""

from comfy_api.latest import ComfyExtension, io

from .combine_identities import F2DBatchConditioning, F2DListIdentities
from .conditioning import F2DConditioning, InjectSStar
from .encode_identity import EncodeFaceIdentity
from .export_embedding import F2DExportEmbedding
from .expression_reference import ExpressionReference
from .face_landmarks import F2DFaceLandmarks
from .load_encoder import LoadFaceEncoder
from .model_folders import register_folders
from .pick_best import F2DPickBest
from .save_load_identity import F2DLoadIdentity, F2DMixIdentities, F2DSaveIdentity

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
