"""Load Face Encoder."""

from comfy_api.latest import io

from ..f2d.miniature import FILES, WEIGHTS
from .model_folders import FAN, NONE, detector_files, full_path, state, weight_files
from .sockets import CATEGORY, Encoder, supported_fields

MINIATURE = "miniature (built in)"


class LoadFaceEncoder(io.ComfyNode):
    """Reads the networks that turn a photo into S*."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="LoadFaceEncoder",
            display_name="Load Face Encoder",
            category=CATEGORY,
            description="Loads the Face2Diffusion networks from models/face2diffusion: photo in, S* out.",
            inputs=[
                io.Combo.Input(
                    "msid",
                    options=[*weight_files("msid"), *_built_in("msid")],
                    tooltip="The multi-scale identity encoder: msid.pt of the authors, or a .safetensors of your own training.",
                ),
                io.Combo.Input(
                    "mapper",
                    options=[*weight_files("map"), *_built_in("mapper")],
                    tooltip="The mapping network from identity to S*: mapping.pt of the authors, or a .safetensors of your own training.",
                ),
                io.Combo.Input(
                    "expression",
                    options=[NONE, *weight_files("epoch"), *_built_in("expression")],
                    default=NONE,
                    tooltip="Deep3DFaceRecon's epoch_20.pth, for expression references. 'none': the prompt alone rules the expression.",
                ),
                io.Combo.Input(
                    "detector",
                    options=[*detector_files(), NONE, FAN],
                    tooltip="What finds the face: a YuNet .onnx file, or FAN (the authors' choice; needs the package face_alignment, which "
                    "fetches its weights when first used). 'none' does for pictures that are already aligned.",
                ),
            ],
            outputs=[
                Encoder.Output(
                    "encoder",
                    display_name="encoder",
                    tooltip="The networks, for Encode Face Identity and Expression Reference.",
                )
            ],
            **supported_fields(search_aliases=["face2diffusion", "f2d", "msid", "face embedding loader"]),
        )

    @classmethod
    def fingerprint_inputs(cls, msid: str, mapper: str, expression: str, detector: str) -> tuple:
        """Run again when a file has changed."""
        return tuple(state(name) for name in (msid, mapper, expression, detector))

    @classmethod
    def execute(cls, msid: str, mapper: str, expression: str, detector: str) -> io.NodeOutput:
        """Load the files."""
        from .managed_encoder import ManagedFaceEncoder

        encoder = ManagedFaceEncoder.load(
            _path(msid, "msid"),
            _path(mapper, "mapper"),
            None if expression == NONE else _path(expression, "expression"),
            None if detector == NONE else FAN if detector == FAN else full_path(detector),
        )
        return io.NodeOutput(encoder)


def _built_in(kind: str) -> list[str]:
    return [MINIATURE] if (WEIGHTS / FILES[kind]).exists() else []


def _path(name: str, kind: str) -> str:
    return str(WEIGHTS / FILES[kind]) if name == MINIATURE else full_path(name)
