"""Load Face Encoder: files to the networks that turn a photo into S*."""

from comfy_api.latest import io

from ..f2d.miniature import FILES, WEIGHTS
from .model_folders import detector_files, full_path, state, weight_files
from .schema_parts import LOADERS, NONE, check_inputs, search_aliases
from .sockets import Encoder

FAN = "FAN"
MINIATURE = "miniature (built in)"


class LoadFaceEncoder(io.ComfyNode):
    """Weight files to F2D_ENCODER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadFaceEncoder",
            display_name="Load Face Encoder",
            category=LOADERS,
            description="Loads the identity encoder, the mapper, an optional expression network and a face "
            "detector from models/face2diffusion.",
            inputs=[
                io.Combo.Input(
                    "msid",
                    options=[*weight_files("msid"), *_built_in("msid")],
                    tooltip="Multi-scale identity encoder: the authors' msid.pt, "
                    "or a .safetensors file you trained.",
                ),
                io.Combo.Input(
                    "mapper",
                    options=[*weight_files("map"), *_built_in("mapper")],
                    tooltip="Mapping network from identity to S*: the authors' mapping.pt, "
                    "or a .safetensors file you trained.",
                ),
                io.Combo.Input(
                    "expression",
                    options=[NONE, *weight_files("epoch"), *_built_in("expression")],
                    default=NONE,
                    tooltip="Expression network for Expression Reference: Deep3DFaceRecon's epoch_20.pth. "
                    "'none': the prompt alone controls the expression.",
                ),
                io.Combo.Input(
                    "detector",
                    options=[*detector_files(), NONE, FAN],
                    tooltip="Face detector: a YuNet .onnx file, or FAN, which the authors used (requires the "
                    "face_alignment package, which downloads its weights on first use). "
                    "'none' is enough for images that are already aligned.",
                ),
            ],
            outputs=[
                Encoder.Output(
                    "encoder",
                    display_name="encoder",
                    tooltip="Connect to Encode Face Identity, Load Identity or Expression Reference.",
                )
            ],
            **search_aliases("msid", "face embedding loader"),
        )

    @classmethod
    def validate_inputs(
        cls,
        msid: str | None = None,
        mapper: str | None = None,
        expression: str | None = None,
        detector: str | None = None,
    ) -> bool | str:
        """Refuse a graph that names missing files."""
        weights = (msid, mapper, None if expression == NONE else expression)
        return check_inputs(
            *((full_path, None if name == MINIATURE else name) for name in weights),
            (full_path, None if detector in (NONE, FAN) else detector),
        )

    @classmethod
    def fingerprint_inputs(cls, msid: str, mapper: str, expression: str, detector: str) -> tuple:
        """Run again when a file has changed."""
        return tuple(state(name) for name in (msid, mapper, expression, detector))

    @classmethod
    def execute(cls, msid: str, mapper: str, expression: str, detector: str) -> io.NodeOutput:
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
