"""The nodes' schemas without ComfyUI: stand-ins for its newest modules record what the schemas declare."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

FOLDERS = {
    "face2diffusion_identities": "face2diffusion/identities"
}  # other keys of folder_paths name their folder


@dataclass(frozen=True)
class Socket:
    """An input or output."""

    id: str
    type: str
    options: dict[str, Any]


@dataclass(frozen=True)
class SocketType:
    """A type of `comfy_api.latest.io`."""

    name: str

    def Input(self, id: str, **options: Any) -> Socket:  # noqa: N802 (ComfyUI's name)
        return Socket(id, self.name, options)

    Output = Input


@dataclass(frozen=True)
class Schema:
    """The fields of `io.Schema` that the nodes use."""

    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list[Socket]
    outputs: list[Socket]
    is_input_list: bool = False
    is_output_node: bool = False
    search_aliases: list[str] = field(default_factory=list)

    def ordered_inputs(self) -> list[Socket]:
        """Returns the inputs as ComfyUI shows them: the required ones first."""
        return sorted(self.inputs, key=lambda socket: socket.options.get("optional", False))


def read_schemas() -> dict[str, Schema]:
    """Returns the schemas of all nodes, by node id."""
    with stand_ins():
        nodes = importlib.import_module("face2diffusion.nodes")
        schemas = [node.define_schema() for node in nodes.NODES]
    return {schema.node_id: schema for schema in schemas}


@contextmanager
def stand_ins() -> Iterator[None]:
    """Puts the stand-ins in place for one import of `nodes`, and then forgets both."""
    stubs = {
        "comfy_api": {},
        "comfy_api.latest": {"io": _io(), "ui": SimpleNamespace(), "ComfyExtension": object},
        "comfy": {"__path__": []},
        "comfy.lora": {},
        "comfy.utils": {},
        "comfy_extras": {"__path__": []},
        "comfy_extras.nodes_mediapipe": {"__spec__": ModuleSpec("comfy_extras.nodes_mediapipe", None)},
        "comfy.model_management": {"throw_exception_if_processing_interrupted": None},
        "folder_paths": {"get_filename_list": _file_names},
    }
    if taken := sys.modules.keys() & {*stubs, "face2diffusion.nodes"}:
        raise RuntimeError(f"These modules are imported already: {', '.join(sorted(taken))}.")
    for name, members in stubs.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
    try:
        yield
    finally:
        for name in [
            name for name in sys.modules if name in stubs or f"{name}.".startswith("face2diffusion.nodes.")
        ]:
            del sys.modules[name]
        vars(sys.modules["face2diffusion"]).pop("nodes", None)


def _io() -> SimpleNamespace:
    names = ("Int", "Float", "String", "Boolean", "Combo", "Image", "Mask", "Clip", "Conditioning")
    types = {name: SocketType(name.upper()) for name in names}
    return SimpleNamespace(
        **types,
        ClipVision=SocketType("CLIP_VISION"),
        BoundingBox=SocketType("BOUNDING_BOX"),
        Custom=SocketType,
        NumberDisplay=SimpleNamespace(slider="slider"),
        ComfyNode=object,
        NodeOutput=object,
        Schema=Schema,
    )


def _file_names(key: str) -> list[str]:
    """Returns a weight file and a detector of a folder, whose names begin with the folder's path."""
    return [f"models/{FOLDERS.get(key, key)}/file{ending}" for ending in (".safetensors", ".onnx")]
